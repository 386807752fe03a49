//! Whom a certificate names. That the certificate is good is rustls's to check, before anything here is asked.

use super::denied::Denied;
use rustls_pki_types::CertificateDer;
use tessera_common::access::serves;
use tessera_common::id::{MemberName, Millis, is_valid_name};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

/// Most names that a certificate may serve: what is compared for every member of every request.
pub(crate) const MAX_SERVES: usize = 256;

/// The identity of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Common Name of its certificate.
    pub name: MemberName,
    /// Names of members in its certificate, or what they begin with and `*`.
    pub serves: Vec<String>,
    /// When its certificate ends.
    pub expires: Millis,
    /// Serial number of its certificate; of one of ours it begins with the enrolment.
    pub serial: Vec<u8>,
}

impl Peer {
    /// Reads a certificate.
    ///
    /// # Errors
    /// What is wrong with its names, and what they should be.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| "it is no X.509 certificate")?;
        let mut names = parsed.subject().iter_common_name();
        let needs = "it needs the site's name as its only Common Name";
        let (Some(name), None) = (names.next(), names.next()) else { return Err(needs.into()) };
        let name = name.as_str().map_err(|_| needs)?;
        let name: MemberName = name.parse().map_err(|error| format!("its Common Name cannot be a site's name: {error}"))?;
        let serves = patterns(&parsed)?;
        let expires = Millis::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0) * 1000;
        Ok(Self { name, serves, expires, serial: parsed.raw_serial().to_vec() })
    }

    /// Refuses a certificate that ended while its connection stayed.
    pub(crate) fn check_time(&self, now: Millis) -> Result<(), Denied> {
        let (name, at) = (self.name.clone(), self.expires);
        if now < at { Ok(()) } else { Err(Denied::Ended { name, at, now }) }
    }

    /// True if it may answer for `member`.
    pub(crate) fn may_serve(&self, member: &MemberName) -> bool {
        self.name == *member || serves(&self.serves, member)
    }
}

/// DNS names that can stand for members; others, such as a host name with an odd character, match nobody anyway.
fn patterns(certificate: &X509Certificate<'_>) -> Result<Vec<String>, String> {
    let names = certificate.subject_alternative_name().map_err(|_| "its alternative names are damaged or given twice")?;
    let names = names.iter().flat_map(|names| names.value.general_names.iter());
    let patterns = names.filter_map(|name| match name {
        GeneralName::DNSName(pattern) if is_pattern(pattern) => Some((*pattern).to_owned()),
        _ => None,
    });
    let patterns: Vec<String> = patterns.take(MAX_SERVES + 1).collect();
    if patterns.len() > MAX_SERVES { Err(format!("it names more than {MAX_SERVES} members")) } else { Ok(patterns) }
}

/// True for a member's name, and for the beginning of one with `*` behind it.
pub(crate) fn is_pattern(text: &str) -> bool {
    match text.strip_suffix('*') {
        Some(stem) => stem.is_empty() || is_valid_name(stem),
        None => is_valid_name(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair};

    fn certificate(names: &[&str], sans: &[&str]) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for name in names {
            params.distinguished_name.push(DnType::CommonName, DnValue::Utf8String((*name).into()));
        }
        params.subject_alt_names = sans.iter().map(|san| rcgen::SanType::DnsName((*san).try_into().unwrap())).collect();
        params.subject_alt_names.push(rcgen::SanType::IpAddress([10, 0, 0, 1].into()));
        params.serial_number = Some(vec![0x41, 2, 3].into());
        params.not_after = time::OffsetDateTime::from_unix_timestamp(1_900_000_000).unwrap();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn a_certificate_names_a_site_and_the_members_that_it_serves() {
        let peer = Peer::of(&certificate(&["north"], &["ward-*", "icu", "*", "a b", "x*y", "-*"])).unwrap();
        assert_eq!(peer.name.as_str(), "north");
        assert_eq!(peer.serves, ["ward-*", "icu", "*"]);
        assert_eq!((peer.expires, &peer.serial[..]), (1_900_000_000_000, &[0x41, 2, 3][..]));
        let narrow = Peer::of(&certificate(&["north"], &["ward-*"])).unwrap();
        let may = |name: &str| narrow.may_serve(&name.parse().unwrap());
        assert!(may("north") && may("ward-1") && !may("south") && !may("ward"));
    }

    #[test]
    fn a_certificate_without_one_good_name_is_refused() {
        for names in [&[][..], &["rcgen self signed cert"], &[""], &["../etc"]] {
            let error = Peer::of(&certificate(names, &["north"])).unwrap_err();
            assert!(error.contains("Common Name"), "{error}");
        }
        assert!(Peer::of(&CertificateDer::from(vec![0x30, 0x82, 0xff, 0xff, 1])).is_err());
        assert!(Peer::of(&CertificateDer::from(Vec::new())).is_err());
        let many: Vec<String> = (0..=MAX_SERVES).map(|i| format!("m{i}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(Peer::of(&certificate(&["north"], &many)).unwrap_err().contains("256"));
    }
}
