//! `tessera server`: the coordinator.

use crate::cli::{self, invalid};
use anyhow::Result;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use tessera_server::{AdminAddress, Config, Error, Server, TlsFiles};

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
    let mut config = Config { listen: arguments.listen, tls, ..Config::in_dir(&arguments.data_dir) };
    if let Some(admin) = arguments.admin {
        config.admin = admin.parse().map_or_else(|_| AdminAddress::Socket(admin.into()), AdminAddress::Loopback);
    }
    cli::runtime()?.block_on(async {
        let server = Server::bind(config).await.map_err(|e| match e {
            Error::Config(_) => invalid(e),
            other => anyhow::Error::new(other),
        })?;
        // Whoever started this process reads here where it listens.
        cli::print(serde_json::json!({ "type": "ready", "listen": server.local_addr().to_string() }));
        server.run(cli::shutdown(arguments.with_parent)).await?;
        Ok(ExitCode::SUCCESS)
    })
}
