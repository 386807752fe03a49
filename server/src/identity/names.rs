//! Under which names sites may reach the coordinator.

use rcgen::SanType;
use rustls_pki_types::ServerName;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The names in the coordinator's certificate: what the operator gives, this machine's own, and where it listens.
pub(crate) fn names(given: &[String], listen: IpAddr) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = given.iter().map(|name| normal(name)).collect();
    names.insert("localhost".into());
    names.extend([IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)].map(|ip| ip.to_string()));
    if !listen.is_unspecified() {
        names.insert(listen.to_string());
    }
    names.extend(machine());
    names
}

/// One spelling of a name: case does not count, nor how an IP address is written.
fn normal(name: &str) -> String {
    name.parse::<IpAddr>().map_or_else(|_| name.to_ascii_lowercase(), |ip| ip.to_string())
}

/// The name of this machine, if it has one that a certificate can hold.
pub(crate) fn machine() -> Option<String> {
    #[cfg(unix)]
    let name = rustix::system::uname().nodename().to_str().ok().map(str::to_owned);
    #[cfg(not(unix))]
    let name = std::env::var("COMPUTERNAME").ok();
    name.map(|name| normal(&name)).filter(|name| ServerName::try_from(name.as_str()).is_ok())
}

/// A name as certificates hold it. Names that are none are refused where settings are checked.
pub(crate) fn alternative(name: &str) -> Result<SanType, rcgen::Error> {
    match name.parse() {
        Ok(ip) => Ok(SanType::IpAddress(ip)),
        Err(_) => Ok(SanType::DnsName(name.try_into()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_given_and_those_known() {
        let given = ["Hub.Example.org".to_owned(), "::0001".to_owned(), "10.0.0.9".to_owned()];
        let all = names(&given, "192.0.2.7".parse().unwrap());
        for name in ["hub.example.org", "localhost", "127.0.0.1", "::1", "10.0.0.9", "192.0.2.7"] {
            assert!(all.contains(name), "{name} in {all:?}");
        }
        assert!(!names(&[], "0.0.0.0".parse().unwrap()).contains("0.0.0.0"));
        assert!(machine().is_none_or(|name| all.contains(&name)));
    }
}
