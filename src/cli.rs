//! Verbs, logging, exit codes.
//!
//! Standard output is data, standard error is for people. Exit codes: 0 done, 1 ran and failed, 2 usage, 3 not found,
//! 4 spec, config or data invalid, 6 unreachable (try again), 130 interrupted.

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// Federated learning for multimodal data where sites lack modalities.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true)]
pub(crate) struct Arguments {
    /// Say more on standard error; twice for even more. TESSERA_LOG takes a filter such as `tessera_server=debug`.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run a whole federation on this machine as real processes, compare methods, get tables and a report.
    #[cfg(all(feature = "server", feature = "client"))]
    Simulate(crate::simulate::Arguments),
    /// Run the coordinator.
    #[cfg(feature = "server")]
    Server(crate::server::Arguments),
    /// Run an agent, which trains on the data of the members that it serves.
    #[cfg(feature = "client")]
    Client(crate::client::Arguments),
    /// Submit, fork, list, show, follow, pause, resume, stop and replay runs at a coordinator on this machine.
    Run(crate::run::Arguments),
    /// Get the models that runs make.
    Model(crate::model::Arguments),
    /// Make a one-time token, with which a site enrols: it is printed, and nothing else.
    Enrol(crate::enrol::Arguments),
    /// Get a certificate for an observer or an admin on another machine, by a token.
    #[cfg(feature = "client")]
    Join(crate::join::Arguments),
    /// The members that a coordinator knows: look at them, cut one off, let it in again.
    Members(crate::members::Arguments),
    /// The coordinator's certificates: look at them, make new ones.
    Certificates(crate::certificates::Arguments),
    /// See whether an audit log is what was written.
    Audit(crate::audit::Arguments),
    /// Look for what is wrong, or soon will be: at a coordinator's folder, a running coordinator, an agent.
    Doctor(crate::doctor::Arguments),
    /// Look at data sets and cut them into members.
    #[cfg(feature = "client")]
    Data(crate::data::Arguments),
}

pub(crate) fn dispatch(verb: Verb) -> Result<ExitCode> {
    match verb {
        #[cfg(all(feature = "server", feature = "client"))]
        Verb::Simulate(arguments) => crate::simulate::main(arguments),
        #[cfg(feature = "server")]
        Verb::Server(arguments) => crate::server::main(arguments),
        #[cfg(feature = "client")]
        Verb::Client(arguments) => crate::client::main(arguments),
        Verb::Run(arguments) => crate::run::main(arguments),
        Verb::Model(arguments) => crate::model::main(arguments),
        Verb::Enrol(arguments) => crate::enrol::main(arguments),
        #[cfg(feature = "client")]
        Verb::Join(arguments) => crate::join::main(arguments),
        Verb::Members(arguments) => crate::members::main(arguments),
        Verb::Certificates(arguments) => crate::certificates::main(arguments),
        Verb::Audit(arguments) => crate::audit::main(arguments),
        Verb::Doctor(arguments) => crate::doctor::main(arguments),
        #[cfg(feature = "client")]
        Verb::Data(arguments) => crate::data::main(arguments),
    }
}

pub(crate) fn start_logging(verbose: u8) {
    let default = ["warn", "info", "debug"].get(usize::from(verbose)).copied().unwrap_or("trace");
    let filter = tracing_subscriber::EnvFilter::try_from_env("TESSERA_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(format!("{default},h2=warn,hyper=warn,tower=warn,sled=warn")));
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
}

/// What an error means for whoever called the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    NotFound,
    Invalid,
    Unreachable,
    Interrupted,
}

/// An error with an exit code of its own.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) text: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

/// An error of this kind, as `anyhow` wants it.
pub(crate) fn failure(kind: Kind, text: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Failure { kind, text: text.into() })
}

/// The spec, settings or data are not valid.
pub(crate) fn invalid(error: impl std::fmt::Display) -> anyhow::Error {
    failure(Kind::Invalid, error.to_string())
}

pub(crate) fn exit_code_of(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(match error.downcast_ref::<Failure>().map(|f| f.kind) {
        Some(Kind::NotFound) => 3,
        Some(Kind::Invalid) => 4,
        Some(Kind::Unreachable) => 6,
        Some(Kind::Interrupted) => 130,
        None => 1,
    })
}

pub(crate) fn report_error(error: &anyhow::Error) {
    say(format_args!("error: {error:#}"));
}

/// Writes a line of data to standard output. A reader that went away is not an error of ours.
pub(crate) fn print(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Writes a line for people to standard error.
pub(crate) fn say(line: impl std::fmt::Display) {
    // a closed standard error leaves nobody to tell
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Milliseconds since the Unix epoch, by this machine's clock.
pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A time in milliseconds since the Unix epoch, for people.
pub(crate) fn time(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| format!("{ms} ms after 1970"), |time| time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

/// A duration with its unit.
pub(crate) fn duration(text: &str) -> Result<std::time::Duration, String> {
    tessera_common::spec::duration(text)
        .map_err(|why| format!("{text:?} is not a duration with its unit, such as \"24h\" or \"30m\": {why}"))
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Text on one line. Members have a say in reasons, and must not steer the operator's terminal.
pub(crate) fn one_line(text: &str) -> String {
    text.split(char::is_control).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// "1 event", "3 events".
pub(crate) fn plural(n: u64, word: &str) -> String {
    if n == 1 { format!("1 {word}") } else { format!("{n} {word}s") }
}

/// Bytes for people: `17 B`, `1.50 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut amount = bytes as f64;
    let mut unit = None;
    for next in UNITS {
        // what would be shown as 1024.00
        if amount < 1023.995 {
            break;
        }
        amount /= 1024.0;
        unit = Some(next);
    }
    unit.map_or_else(|| format!("{bytes} B"), |unit| format!("{amount:.2} {unit}"))
}

/// Threads that wait for the disk. Each has an allocator of its own, which does not give back what it once took.
const DISK_THREADS: usize = 8;

/// A runtime for a verb that talks.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.worker_threads(2).max_blocking_threads(DISK_THREADS).enable_all().build()?)
}

/// Ready at Ctrl-C, SIGTERM, or, if `with_parent`, when standard input ends: the launcher holds its other end.
pub(crate) async fn shutdown(with_parent: bool) {
    let parent = async {
        if with_parent {
            let mut nothing = Vec::new();
            let _ = tokio::io::AsyncReadExt::read_to_end(&mut tokio::io::stdin(), &mut nothing).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = interrupted() => {}
        () = parent => {}
    }
}

/// Ready at Ctrl-C or SIGTERM.
pub(crate) async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
            (Ok(mut interrupt), Ok(mut terminate)) => {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            }
            _ => std::future::pending().await,
        }
    }
    #[cfg(not(unix))]
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1 << 20, "1.00 MiB"),
            ((1 << 20) - 1, "1.00 MiB"),
            (1_572_864, "1.50 MiB"),
            (3 << 30, "3.00 GiB"),
            (1 << 50, "1024.00 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn times_are_for_people() {
        assert_eq!(time(1_800_000_000_999), "2027-01-15 08:00:00 UTC");
        assert_eq!(time(u64::MAX), format!("{} ms after 1970", u64::MAX));
        assert_eq!(hex(&[0, 255, 16]), "00ff10");
        assert!(duration("24").unwrap_err().contains("24h"));
    }

    #[test]
    fn a_line_is_one_line() {
        assert_eq!(one_line("out\u{1b}[2J of\n\nmemory\t"), "out [2J of memory");
    }
}
