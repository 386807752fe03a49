//! What a coordinator is told when it starts.

use crate::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of one coordinator process.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where runs, journals and blobs are kept; None keeps everything in memory, and nothing survives the process.
    pub data_dir: Option<PathBuf>,
    /// Where agents connect; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Certificates; None serves plaintext, which only a loopback address may do.
    pub tls: Option<TlsFiles>,
    /// Where operators connect.
    pub admin: AdminAddress,
    /// How often both ends of an idle control stream say that they live. Three silent intervals end a connection.
    pub heartbeat: Duration,
    /// Largest blob that is taken, in bytes.
    pub max_blob_bytes: u64,
}

/// PEM files of the coordinator.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The coordinator's certificate chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authority that signs the certificates of agents.
    pub client_ca: PathBuf,
}

/// Where the administration service listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// A unix socket that only its owner may open.
    Socket(PathBuf),
    /// A loopback address; everybody on this machine may use it.
    Loopback(SocketAddr),
    /// Nowhere: only the process itself administers, through [`crate::Handle`].
    None,
}

impl Config {
    /// In memory, on a free loopback port, without a socket for operators: for tests and runs within one process.
    pub fn in_memory() -> Self {
        Self {
            data_dir: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: None,
            admin: AdminAddress::None,
            heartbeat: Duration::from_millis(500),
            max_blob_bytes: 4 << 30,
        }
    }

    /// As [`Self::in_memory`], but everything is kept in `dir`, where the socket for operators lies too.
    pub fn in_dir(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        Self { admin: AdminAddress::Socket(dir.join("admin.sock")), data_dir: Some(dir), ..Self::in_memory() }
    }

    /// Refuses settings that cannot be right together.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |ok: bool, why: String| if ok { Ok(()) } else { Err(Error::Config(why)) };
        refuse(self.tls.is_some() || self.listen.ip().is_loopback(), {
            let listen = self.listen;
            format!("listen address {listen} is reachable from outside: give certificates (tls), or listen on 127.0.0.1")
        })?;
        if let AdminAddress::Loopback(address) = self.admin {
            let why = format!("admin address {address} is reachable from outside: use a loopback address or a unix socket");
            refuse(address.ip().is_loopback(), why)?;
        }
        let heartbeat = self.heartbeat;
        refuse(
            (Duration::from_millis(50)..=Duration::from_secs(60)).contains(&heartbeat),
            format!("heartbeat {heartbeat:?} is not within 50ms to 60s"),
        )?;
        refuse(self.max_blob_bytes > 0, "max_blob_bytes is 0: no update could be taken".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_stays_on_this_machine() {
        let mut config = Config::in_memory();
        assert!(config.check().is_ok());
        config.listen = "0.0.0.0:4600".parse().unwrap();
        assert!(config.check().unwrap_err().to_string().contains("0.0.0.0:4600 is reachable from outside"));
        config.tls = Some(TlsFiles { cert: "c".into(), key: "k".into(), client_ca: "a".into() });
        assert!(config.check().is_ok());
        config.admin = AdminAddress::Loopback("10.0.0.1:1".parse().unwrap());
        assert!(config.check().unwrap_err().to_string().contains("admin address 10.0.0.1:1"));
    }
}
