//! What a coordinator is told when it starts. Errors name a setting as the flag of `tessera server` that sets it.

use crate::error::Error;
use rustls_pki_types::ServerName;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tessera_common::param::Limits;

/// Longest that a site's certificate may be good: revocation aside, nothing else ends one that was stolen.
const MAX_CERTIFICATE_LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// Settings of one coordinator process.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where runs, journals and blobs are kept; None keeps everything in memory, and nothing survives the process.
    pub data_dir: Option<PathBuf>,
    /// Where agents connect; port 0 takes a free one.
    pub listen: SocketAddr,
    /// How connections of agents are protected.
    pub security: Security,
    /// How long a certificate is good that the coordinator's own authority gives to a site. Sites renew theirs when a third
    /// of that is left.
    pub certificate_life: Duration,
    /// Where operators connect.
    pub admin: AdminAddress,
    /// How often both ends of an idle control stream say that they live. Three silent intervals end a connection.
    pub heartbeat: Duration,
    /// Largest blob that is taken, in bytes.
    pub max_blob_bytes: u64,
    /// Bytes that stay free on the disk of the data folder: runs wait when an upload or a round would take from them.
    pub reserve_bytes: u64,
    /// How long a blob that no run needs is kept after it came or was asked for: its answer may be on the way.
    pub blob_grace: Duration,
}

/// How connections of agents are protected.
#[derive(Debug, Clone)]
pub enum Security {
    /// Not at all. Only a loopback address may do so.
    Plaintext,
    /// Not at all, at any address: whoever is on the network reads and changes everything.
    PlaintextAnywhere,
    /// TLS with certificates that somebody else makes.
    Files(TlsFiles),
    /// TLS with an authority of the coordinator's own, which it makes at its first start and keeps in the data folder.
    Own {
        /// Host names and IP addresses under which sites reach the coordinator, besides those that it knows.
        names: Vec<String>,
    },
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
            security: Security::Plaintext,
            certificate_life: Duration::from_secs(24 * 60 * 60),
            admin: AdminAddress::None,
            heartbeat: Duration::from_millis(500),
            max_blob_bytes: 4 << 30,
            reserve_bytes: 256 << 20,
            blob_grace: Duration::from_secs(60),
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
        self.check_security()?;
        if let AdminAddress::Loopback(address) = self.admin {
            let why =
                format!("admin address {address} is reachable from outside: use a loopback address or a unix socket (--admin)");
            refuse(address.ip().is_loopback(), why)?;
        }
        let heartbeat = self.heartbeat;
        refuse(
            (Duration::from_millis(50)..=Duration::from_secs(60)).contains(&heartbeat),
            format!("--heartbeat {heartbeat:?} is not within 50ms to 60s"),
        )?;
        let (bytes, most) = (self.max_blob_bytes, Limits::default().bytes);
        refuse(bytes > 0, "--max-blob is 0: no update could be taken".into())?;
        refuse(bytes <= most, format!("--max-blob is {bytes} bytes; agents take no model of more than {most} (16GiB)"))
    }
}

impl Config {
    fn check_security(&self) -> Result<(), Error> {
        let refuse = |ok: bool, why: String| if ok { Ok(()) } else { Err(Error::Config(why)) };
        let (listen, life) = (self.listen, self.certificate_life);
        match &self.security {
            Security::PlaintextAnywhere | Security::Files(_) => Ok(()),
            Security::Plaintext => refuse(
                listen.ip().is_loopback(),
                format!(
                    "listen address {listen} is reachable from outside, and this coordinator serves plaintext: let it make \
                     certificates of its own (leave out --plaintext), give --tls-cert, --tls-key and --client-ca, or listen on \
                     127.0.0.1 (--listen)"
                ),
            ),
            Security::Own { names } => {
                let no_folder = "certificates of the coordinator's own need a data folder to be kept in (--data-dir)";
                refuse(self.data_dir.is_some(), no_folder.into())?;
                for name in names {
                    let known = ServerName::try_from(name.as_str()).is_ok();
                    let why = || format!("--name {name:?} is neither a host name nor an IP address: give it without a port");
                    refuse(known, why())?;
                }
                refuse(
                    (Duration::from_secs(1)..=MAX_CERTIFICATE_LIFE).contains(&life),
                    format!("--certificate-life {life:?} is not within 1s to 90 days"),
                )
            }
        }
    }
}

/// A duration with its unit, such as `500ms` or `1m 30s`.
///
/// # Errors
/// What is wrong with the text, and what would be right.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    tessera_common::spec::duration(text)
        .map_err(|why| format!("{text:?} is not a duration with its unit, such as \"500ms\" or \"2s\": {why}"))
}

/// A whole number of bytes with its unit, such as `4GiB`.
///
/// # Errors
/// What is wrong with the text, and what would be right.
pub fn parse_size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u32); 5] = [("B", 0), ("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let refuse = || format!("{text:?} is not a size such as \"512MiB\" or \"4GiB\"; the units are B, KiB, MiB, GiB and TiB");
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).ok_or_else(refuse)?);
    let (_, shift) = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim())).ok_or_else(refuse)?;
    let number: u64 = number.parse().map_err(|_| refuse())?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text:?} is more than a number of bytes can be"))
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
        config.security = Security::PlaintextAnywhere;
        assert!(config.check().is_ok());
        config.security = Security::Files(TlsFiles { cert: "c".into(), key: "k".into(), client_ca: "a".into() });
        assert!(config.check().is_ok());
        config.admin = AdminAddress::Loopback("10.0.0.1:1".parse().unwrap());
        assert!(config.check().unwrap_err().to_string().contains("admin address 10.0.0.1:1"));
    }

    #[test]
    fn certificates_of_its_own_need_a_folder_and_names_that_can_be_in_them() {
        let own = |names: &[&str]| Security::Own { names: names.iter().map(|n| (*n).to_owned()).collect() };
        let error = Config { security: own(&[]), ..Config::in_memory() }.check().unwrap_err().to_string();
        assert!(error.contains("--data-dir"), "{error}");
        let good = Config { security: own(&["hub.example.org", "10.1.2.3", "::1"]), ..Config::in_dir("/x") };
        assert!(good.check().is_ok());
        for name in ["", "a b", "hub:7443", "https://hub", "*.example.org"] {
            let error = Config { security: own(&[name]), ..Config::in_dir("/x") }.check().unwrap_err().to_string();
            assert!(error.contains(&format!("--name {name:?}")), "{error}");
        }
        for life in [Duration::ZERO, Duration::from_secs(91 * 24 * 3600)] {
            let error = Config { certificate_life: life, ..good.clone() }.check().unwrap_err().to_string();
            assert!(error.contains("--certificate-life"), "{error}");
        }
    }

    #[test]
    fn numbers_that_cannot_be_right_are_refused_by_flag() {
        let beat = |ms| Config { heartbeat: Duration::from_millis(ms), ..Config::in_memory() }.check();
        assert!(beat(50).is_ok() && beat(60_000).is_ok());
        for ms in [0, 49, 60_001] {
            let error = beat(ms).unwrap_err().to_string();
            assert!(error.contains("--heartbeat") && error.contains("50ms to 60s"), "{error}");
        }
        let error = Config { max_blob_bytes: 0, ..Config::in_memory() }.check().unwrap_err().to_string();
        assert!(error.contains("--max-blob"), "{error}");
        let error = Config { max_blob_bytes: 1 << 35, ..Config::in_memory() }.check().unwrap_err().to_string();
        assert!(error.contains("--max-blob") && error.contains("16GiB"), "{error}");
    }

    #[test]
    fn durations_and_sizes_need_their_unit() {
        for (text, expected) in [("500ms", 500), ("2s", 2_000), ("1m 30s", 90_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(expected)));
        }
        for text in ["", "500", "fast", "-2s", "2 parsecs"] {
            let error = parse_duration(text).unwrap_err();
            assert!(error.contains(&format!("{text:?}")) && error.contains("500ms"), "{error}");
        }
        for (text, expected) in
            [("0B", 0), ("17b", 17), ("3KiB", 3 << 10), ("512 MiB", 512 << 20), ("4gib", 4 << 30), ("1TiB", 1 << 40)]
        {
            assert_eq!(parse_size(text), Ok(expected), "{text}");
        }
        for text in ["", "GiB", "4", "-4GiB", "1.5GiB", "4GB", "4 G", "99999999999999999999B", "20000000TiB"] {
            let error = parse_size(text).unwrap_err();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
