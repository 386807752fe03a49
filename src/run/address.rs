//! Where the admin interface is: a socket, or an address on this machine. Elsewhere takes a certificate.

use crate::cli::invalid;
use anyhow::Result;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What `--admin` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A unix socket.
    Socket(PathBuf),
    /// Addresses on loopback, in the order in which they are tried.
    Loopback(Vec<SocketAddr>),
}

/// True for `host:port`, with a name or a number as host.
pub(crate) fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    !host.is_empty() && !host.contains(['/', '\\']) && port.parse::<u16>().is_ok()
}

/// Understands `--admin`: what looks like `host:port` is an address, everything else a path.
///
/// # Errors
/// If the host is not known, or not this machine.
pub(crate) async fn place(text: &str) -> Result<Place> {
    if !is_address(text) {
        return Ok(Place::Socket(text.into()));
    }
    let found = tokio::net::lookup_host(text).await.map_err(|e| invalid(format!("--admin {text}: {e}")))?;
    let (mut loopback, elsewhere): (Vec<SocketAddr>, Vec<SocketAddr>) = found.partition(|a| a.ip().is_loopback());
    if loopback.is_empty() {
        let elsewhere: Vec<String> = elsewhere.iter().map(ToString::to_string).collect();
        let why = "from another machine connect with a certificate, --identity DIR, which `tessera join` makes; without one by \
                   the coordinator's socket, or on loopback, such as 127.0.0.1:7444";
        return Err(invalid(format!("--admin {text} is not on this machine ({}): {why}", elsewhere.join(", "))));
    }
    // 127.0.0.1 before ::1, so that both ends choose alike
    loopback.sort_by_key(SocketAddr::is_ipv6);
    loopback.dedup();
    Ok(Place::Loopback(loopback))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_host_and_a_port_are_an_address_and_the_rest_is_a_path() {
        for path in ["tessera-data/admin.sock", "admin.sock", "/run/t:7443", "./localhost:7443", "x:y", ":7443", "a:70000", ""] {
            assert_eq!(place(path).await.unwrap(), Place::Socket(path.into()), "{path}");
        }
        for (text, address) in [("127.0.0.1:7443", "127.0.0.1:7443"), ("[::1]:7", "[::1]:7"), ("127.9.9.9:1", "127.9.9.9:1")] {
            assert_eq!(place(text).await.unwrap(), Place::Loopback(vec![address.parse().unwrap()]), "{text}");
        }
        let Place::Loopback(addresses) = place("localhost:7443").await.unwrap() else { panic!("localhost is taken as a path") };
        assert!(!addresses.is_empty() && addresses.iter().all(|a| a.ip().is_loopback() && a.port() == 7443), "{addresses:?}");
    }

    #[tokio::test]
    async fn other_machines_are_refused() {
        let error = place("192.0.2.1:7443").await.unwrap_err().to_string();
        assert!(error.starts_with("--admin 192.0.2.1:7443 is not on this machine") && error.contains("--identity"), "{error}");
    }
}
