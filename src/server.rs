//! `tessera server`: the coordinator.

use crate::cli::{self, invalid};
use crate::run::{Place, place};
use anyhow::Result;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tessera_server::{AdminAddress, Config, Error, Security, Server, TlsFiles, parse_duration, parse_size};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Folder of journals, models and the index.
    #[arg(long, value_name = "DIR", env = "TESSERA_DATA_DIR", default_value = "tessera-data")]
    data_dir: PathBuf,
    /// Where agents connect; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", env = "TESSERA_LISTEN", default_value = "127.0.0.1:7443")]
    listen: SocketAddr,
    /// Where operators connect: a path for a socket, or a loopback address. `admin.sock` in the data folder if not given.
    #[arg(long, value_name = "PATH|ADDRESS", env = "TESSERA_ADMIN")]
    admin: Option<String>,
    /// Host name or IP address under which sites reach the coordinator, for the certificate that it makes; repeatable. In it
    /// anyway: localhost, the listen address, and the name of this machine.
    #[arg(long = "name", value_name = "HOST", env = "TESSERA_NAMES", value_delimiter = ',')]
    names: Vec<String>,
    /// How long the certificates of sites are good, with a unit; they renew them by themselves.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_duration)]
    certificate_life: Duration,
    /// A certificate for the coordinator that somebody else made, instead of one of its own authority.
    #[arg(long, value_name = "PEM", requires_all = ["tls_key", "client_ca"])]
    tls_cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "PEM", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Authority that signs the agents' certificates.
    #[arg(long, value_name = "PEM", requires = "tls_cert")]
    client_ca: Option<PathBuf>,
    /// No TLS and no certificates, on a loopback address only: for tests.
    #[arg(long)]
    plaintext: bool,
    /// As --plaintext, at any address: whoever is on the network can read and change everything.
    #[arg(long)]
    plaintext_that_anyone_on_the_network_can_read: bool,
    /// How often an idle connection says that it lives, with a unit, from 50ms to 60s. An agent that is silent three times as
    /// long is taken for gone.
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = parse_duration)]
    heartbeat: Duration,
    /// Largest model or update that is taken, with a unit: B, KiB, MiB or GiB.
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = parse_size)]
    max_blob: u64,
    /// Space that stays free on the disk of the data folder, with a unit; runs wait when a round would take from it.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = parse_size)]
    reserve: u64,
    /// End when standard input ends.
    #[arg(long, hide = true)]
    with_parent: bool,
}

/// How agents are met: by certificates of the coordinator's own unless something else is asked for.
fn security(arguments: &Arguments) -> Result<Security> {
    let Arguments {
        names, tls_cert, tls_key, client_ca, plaintext, plaintext_that_anyone_on_the_network_can_read: anywhere, ..
    } = arguments;
    let files = match (tls_cert, tls_key, client_ca) {
        (Some(cert), Some(key), Some(client_ca)) => {
            Some(TlsFiles { cert: cert.clone(), key: key.clone(), client_ca: client_ca.clone() })
        }
        (None, None, None) => None,
        _ => return Err(invalid("TLS with given files needs all three of --tls-cert, --tls-key and --client-ca")),
    };
    let mut others = Vec::new();
    for (flag, given) in [
        ("--tls-cert", files.is_some()),
        ("--plaintext", *plaintext),
        ("--plaintext-that-anyone-on-the-network-can-read", *anywhere),
    ] {
        if given {
            others.push(flag);
        }
    }
    match (&others[..], files) {
        ([], _) => Ok(Security::Own { names: names.clone() }),
        ([one, other, ..], _) => {
            Err(invalid(format!("{one} and {other} exclude each other: choose one way for agents to connect")))
        }
        ([flag], _) if !names.is_empty() => Err(invalid(format!(
            "--name is for the certificate that the coordinator makes itself, and with {flag} it makes none: leave out one of them"
        ))),
        (_, Some(files)) => Ok(Security::Files(files)),
        _ if *anywhere => Ok(Security::PlaintextAnywhere),
        _ => Ok(Security::Plaintext),
    }
}

pub(crate) fn main(arguments: Arguments) -> Result<ExitCode> {
    let security = security(&arguments)?;
    // looked at before the start makes one
    let first = !arguments.data_dir.join("identity").join("authority.pem").exists();
    let mut config = Config {
        listen: arguments.listen,
        security,
        certificate_life: arguments.certificate_life,
        heartbeat: arguments.heartbeat,
        max_blob_bytes: arguments.max_blob,
        reserve_bytes: arguments.reserve,
        ..Config::in_dir(&arguments.data_dir)
    };
    cli::runtime()?.block_on(async {
        if let Some(admin) = arguments.admin {
            config.admin = match place(&admin).await? {
                Place::Socket(path) => AdminAddress::Socket(path),
                // there is always one, and one is enough to listen at
                Place::Loopback(addresses) => addresses.first().copied().map_or(AdminAddress::None, AdminAddress::Loopback),
            };
        }
        let server = Server::bind(config).await.map_err(unusable)?;
        let (listen, authority) = (server.local_addr().to_string(), server.authority());
        if let Some(fingerprint) = authority.as_ref().filter(|_| first) {
            cli::say(welcome(fingerprint));
        }
        // Whoever started this process reads here where it listens.
        cli::print(serde_json::json!({ "type": "ready", "listen": listen, "authority": authority }));
        server.run(cli::shutdown(arguments.with_parent)).await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// What an operator reads at the first start.
fn welcome(fingerprint: &str) -> String {
    format!(
        "A new authority was made for this coordinator, SHA-256 {fingerprint}; `tessera enrol NAME` makes a token for a site."
    )
}

/// Settings and certificates that cannot be used have an exit code of their own.
fn unusable(error: Error) -> anyhow::Error {
    match error {
        Error::Config(_) | Error::Tls(_) => invalid(error),
        Error::Io { .. }
        | Error::Locked(_)
        | Error::Listen { .. }
        | Error::Journal { .. }
        | Error::Replay { .. }
        | Error::Store(_)
        | Error::Transport(_) => anyhow::Error::new(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(line: &[&str]) -> Result<Arguments, String> {
        let words = std::iter::once("server").chain(line.iter().copied());
        Line::try_parse_from(words).map(|l| l.arguments).map_err(|e| e.to_string())
    }

    #[test]
    fn flags_with_units_have_defaults_and_name_themselves() {
        let defaults = parse(&[]).unwrap();
        assert_eq!((defaults.heartbeat, defaults.max_blob), (Duration::from_millis(500), 4 << 30));
        let set = parse(&["--heartbeat", "2s", "--max-blob", "512MiB"]).unwrap();
        assert_eq!((set.heartbeat, set.max_blob), (Duration::from_secs(2), 512 << 20));
        for (flag, value) in [("--heartbeat", "500"), ("--max-blob", "4"), ("--max-blob", "4GB")] {
            let error = parse(&[flag, value]).unwrap_err();
            assert!(error.contains(flag) && error.contains("such as"), "{error}");
        }
    }

    fn chosen(line: &[&str]) -> Result<Security, String> {
        security(&parse(line).unwrap()).map_err(|e| e.to_string())
    }

    #[test]
    fn agents_need_certificates_unless_something_else_is_asked_for() {
        assert!(matches!(chosen(&[]), Ok(Security::Own { names }) if names.is_empty()));
        let named = chosen(&["--name", "hub.example.org", "--name", "10.0.0.5"]);
        assert!(matches!(named, Ok(Security::Own { names }) if names == ["hub.example.org", "10.0.0.5"]));
        assert!(matches!(chosen(&["--plaintext"]), Ok(Security::Plaintext)));
        assert!(matches!(chosen(&["--plaintext-that-anyone-on-the-network-can-read"]), Ok(Security::PlaintextAnywhere)));
        let files = ["--tls-cert", "c", "--tls-key", "k", "--client-ca", "a"];
        assert!(matches!(chosen(&files), Ok(Security::Files(f)) if f.cert == std::path::Path::new("c")));
        assert!(parse(&files[..4]).unwrap_err().contains("--client-ca"));
        assert!(parse(&files[2..4]).unwrap_err().contains("--tls-cert"));
    }

    #[test]
    fn ways_that_exclude_each_other_are_refused() {
        let files = ["--tls-cert", "c", "--tls-key", "k", "--client-ca", "a"];
        let error = chosen(&[&files[..], &["--plaintext"]].concat()).unwrap_err();
        assert_eq!(error, "--tls-cert and --plaintext exclude each other: choose one way for agents to connect");
        for flag in ["--plaintext", "--plaintext-that-anyone-on-the-network-can-read"] {
            let error = chosen(&[flag, "--name", "hub"]).unwrap_err();
            assert!(error.contains(&format!("with {flag} it makes none")), "{error}");
        }
    }

    #[test]
    fn certificates_and_settings_are_invalid_and_a_taken_port_is_a_failure() {
        let code = |e| cli::exit_code_of(&unusable(e));
        assert_eq!(code(Error::Tls("--tls-key k: no such file".into())), ExitCode::from(4));
        assert_eq!(code(Error::Config("--heartbeat".into())), ExitCode::from(4));
        let error = std::io::ErrorKind::AddrInUse.into();
        assert_eq!(code(Error::Listen { flag: "--listen", at: "127.0.0.1:1".into(), error }), ExitCode::from(1));
    }
}
