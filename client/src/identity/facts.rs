//! What a certificate says of itself.

use tessera_common::id::Millis;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What people want to know of a certificate. Nothing here is checked: rustls does that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Common name of its subject; empty if it has none.
    pub name: String,
    /// Host names and addresses that it is for, in the order of the certificate.
    pub names: Vec<String>,
    /// When it begins, in milliseconds since the Unix epoch.
    pub begins: Millis,
    /// When it ends, in milliseconds since the Unix epoch.
    pub ends: Millis,
}

impl Facts {
    /// Of a certificate in DER.
    ///
    /// # Errors
    /// If it is no certificate.
    pub fn of(der: &[u8]) -> Result<Self, String> {
        let (_, found) = X509Certificate::from_der(der).map_err(|e| format!("no certificate: {e}"))?;
        let name = found.subject().iter_common_name().next().and_then(|part| part.as_str().ok()).unwrap_or_default();
        let names = match found.subject_alternative_name() {
            Ok(Some(names)) => names.value.general_names.iter().filter_map(shown).collect(),
            Ok(None) | Err(_) => Vec::new(),
        };
        let ms = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
        let validity = found.validity();
        let (begins, ends) = (ms(validity.not_before.timestamp()), ms(validity.not_after.timestamp()));
        Ok(Self { name: name.to_owned(), names, begins, ends })
    }
}

/// A public key in DER, as its certificate has it.
pub(super) fn public_key(der: &[u8]) -> Option<Vec<u8>> {
    X509Certificate::from_der(der).ok().map(|(_, found)| found.public_key().raw.to_vec())
}

fn shown(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| std::net::Ipv4Addr::from(b).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|b| std::net::Ipv6Addr::from(b).to_string()),
        },
        _ => None,
    }
}

/// Milliseconds since the Unix epoch, by this machine's clock.
pub fn now() -> Millis {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}

/// A time for people, to the second: `2026-11-25T12:00:00Z`.
pub fn when(time: Millis) -> String {
    let second = i64::try_from(time / 1000).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(second).map_or_else(|_| format!("{second} s after 1970"), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::tests::authority;
    use super::*;

    #[test]
    fn a_certificate_tells_its_names_and_dates() {
        let authority = authority("tests");
        let mut params = rcgen::CertificateParams::new(vec!["a.example.org".to_owned(), "10.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "north");
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 1, 2);
        let key = rcgen::KeyPair::generate().unwrap();
        let found = Facts::of(params.signed_by(&key, &authority.issuer).unwrap().der()).unwrap();
        assert_eq!((found.name.as_str(), found.names.as_slice()), ("north", &["a.example.org".into(), "10.0.0.1".into()][..]));
        assert_eq!(found.ends - found.begins, 86_400_000);
        assert_eq!(when(found.begins), "2026-01-01T00:00:00Z");
        assert!(Facts::of(b"hello").unwrap_err().starts_with("no certificate"));
    }
}
