//! `tessera server`: the coordinator.

use crate::cli::{self, invalid};
use crate::run::{Place, place};
use anyhow::Result;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tessera_server::{AdminAddress, Config, Error, Server, TlsFiles, parse_duration, parse_size};

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
    /// The coordinator's certificate; without it agents connect in plaintext, which is taken on loopback only.
    #[arg(long, value_name = "PEM", requires_all = ["tls_key", "client_ca"])]
    tls_cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "PEM")]
    tls_key: Option<PathBuf>,
    /// Authority that signs the agents' certificates.
    #[arg(long, value_name = "PEM")]
    client_ca: Option<PathBuf>,
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

pub(crate) fn main(arguments: Arguments) -> Result<ExitCode> {
    let tls = match (arguments.tls_cert, arguments.tls_key, arguments.client_ca) {
        (Some(cert), Some(key), Some(client_ca)) => Some(TlsFiles { cert, key, client_ca }),
        (None, None, None) => None,
        _ => return Err(invalid("TLS needs all three of --tls-cert, --tls-key and --client-ca")),
    };
    let mut config = Config {
        listen: arguments.listen,
        tls,
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
        // Whoever started this process reads here where it listens.
        cli::print(serde_json::json!({ "type": "ready", "listen": server.local_addr().to_string() }));
        server.run(cli::shutdown(arguments.with_parent)).await?;
        Ok(ExitCode::SUCCESS)
    })
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

    #[test]
    fn certificates_and_settings_are_invalid_and_a_taken_port_is_a_failure() {
        let code = |e| cli::exit_code_of(&unusable(e));
        assert_eq!(code(Error::Tls("--tls-key k: no such file".into())), ExitCode::from(4));
        assert_eq!(code(Error::Config("--heartbeat".into())), ExitCode::from(4));
        let error = std::io::ErrorKind::AddrInUse.into();
        assert_eq!(code(Error::Listen { flag: "--listen", at: "127.0.0.1:1".into(), error }), ExitCode::from(1));
    }
}
