//! The coordinator's own authority: it signs the coordinator's certificate and those of sites.
//!
//! `authority.pem` holds its certificate first, then those of authorities before it that are still trusted, and for each
//! change of authority a cross certificate: the new key, signed by the old one. The coordinator shows them all. So a site
//! that trusts only an old authority still finds a way to it, and one that knows only a fingerprint finds what has it.

use super::denied::Denied;
use super::{keep, names};
use crate::error::Error;
use crate::tls::{self, Presented};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKey, PublicKeyData, SanType,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use tessera_common::id::{MemberName, Millis};
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;

/// How much a site's clock may be behind ours.
const SKEW: Millis = 5 * 60 * 1000;
const DAY: Millis = 24 * 60 * 60 * 1000;
const AUTHORITY_LIFE: Millis = 3652 * DAY;
/// An authority that ends sooner is replaced: everybody who renews until then learns of the new one.
pub(crate) const AUTHORITY_LEFT: Millis = 180 * DAY;
const SERVER_LIFE: Millis = 90 * DAY;
/// Authorities before the present one that are trusted at most. Paths through more would be longer than verifiers follow.
const MAX_OLDER: usize = 3;
/// Longest signing request, in bytes.
const MAX_REQUEST: usize = 16 << 10;
/// Bytes of a serial number that stand for the enrolment, and bytes that follow.
pub(crate) const ENROLMENT: usize = 8;
/// Ends the names of files that are not in their place yet.
const NEXT: &str = ".next";

/// The authority, the ones before it, and where it is kept.
pub(crate) struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    current: CertificateDer<'static>,
    /// Newest first.
    older: Vec<CertificateDer<'static>>,
    /// Newest first: `cross[i]` holds the key of the authority after `older[i]`.
    cross: Vec<CertificateDer<'static>>,
    pub ends: Millis,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("dir", &self.dir).field("ends", &self.ends).finish_non_exhaustive()
    }
}

impl Authority {
    /// True if there is one in the folder, whole or not.
    pub(crate) fn exists(dir: &Path) -> bool {
        dir.join("authority.pem").exists() || dir.join("authority.key").exists()
    }

    /// Reads the authority of the folder, or makes one.
    pub(crate) fn open(dir: &Path, now: Millis) -> Result<Self, Error> {
        recover(dir)?;
        let (pem, key) = (dir.join("authority.pem"), dir.join("authority.key"));
        match (pem.exists(), key.exists()) {
            (false, false) => {
                let made = Made::new(now)?;
                save(dir, &made, &[], &[])?;
            }
            (true, true) => {}
            (false, true) => return Err(unusable(&pem, "it is missing")),
            (true, false) => return Err(unusable(&key, "it is missing")),
        }
        Self::load(dir)
    }

    fn load(dir: &Path) -> Result<Self, Error> {
        let (pem, path) = (dir.join("authority.pem"), dir.join("authority.key"));
        keep::close(&path).map_err(Error::io("cannot protect", &path))?;
        let text = fs::read_to_string(&path).map_err(Error::io("cannot read", &path))?;
        let key = KeyPair::from_pem(&text).map_err(|_| unusable(&path, "there is no private key in it"))?;
        let mut all = read_chain(&pem).map_err(|why| unusable(&pem, &why))?.into_iter();
        let current = all.next().ok_or_else(|| unusable(&pem, "no certificate in it"))?;
        if !holds(&current, &key) {
            return Err(unusable(&pem, "its first certificate does not belong to authority.key"));
        }
        let ends = tls::expires(&current).map_err(|why| unusable(&pem, &why))?;
        let issuer = Issuer::from_ca_cert_der(&current, key).map_err(|e| unusable(&pem, &e.to_string()))?;
        let (older, cross) = all.partition(self_issued);
        Ok(Self { dir: dir.to_owned(), issuer, current, older, cross, ends })
    }

    /// SHA-256 of its certificate.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        let digest = ring::digest::digest(&ring::digest::SHA256, &self.current);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        bytes
    }

    /// This authority, and those before it that have not ended. Verifiers do not look at dates of what they trust.
    pub(crate) fn trusted(&self, now: Millis) -> Vec<CertificateDer<'static>> {
        let older = self.older.iter().filter(|old| tls::expires(old).is_ok_and(|ends| now < ends));
        std::iter::once(&self.current).chain(older).cloned().collect()
    }

    /// Until when there may be sites that trust no authority but the one that the next rotation forgets: until `life` after
    /// the one that came after it. None while none is forgotten.
    pub(crate) fn needed_until(&self, now: Millis, life: Millis) -> Option<Millis> {
        let after = self.trusted(now);
        let next = after.get(MAX_OLDER).and_then(|_| after.get(MAX_OLDER - 1))?;
        Some(tls::begins(next).unwrap_or(now).saturating_add(SKEW).saturating_add(life))
    }

    /// Replaces the authority; those that trust this one go on trusting the next one.
    pub(crate) fn rotate(&mut self, now: Millis) -> Result<(), Error> {
        let made = Made::new(now)?;
        let mut params = authority_params(&made.name, now)?;
        params.not_after = date(self.ends.min(now + AUTHORITY_LIFE))?;
        params.use_authority_key_identifier_extension = true;
        let bridge = params.signed_by(&made.key, &self.issuer).map_err(cannot_make)?;
        let mut older = self.trusted(now);
        let mut cross = vec![bridge.der().clone()];
        cross.extend(self.cross.iter().cloned());
        older.truncate(MAX_OLDER);
        cross.truncate(older.len());
        save(&self.dir, &made, &older, &cross)?;
        *self = Self::load(&self.dir)?;
        Ok(())
    }

    /// A certificate for a site's key. Returns it and when it ends.
    pub(crate) fn sign(
        &self,
        key: &PublicKey,
        name: &MemberName,
        serves: &[String],
        enrolment: &[u8; ENROLMENT],
        now: Millis,
        life: Millis,
    ) -> Result<(CertificateDer<'static>, Millis), Denied> {
        let refuse = |why: String| {
            tracing::error!(member = %name, %why, "a certificate cannot be made");
            Denied::Certificate(why)
        };
        let expires = now.saturating_add(life).min(self.ends) / 1000 * 1000;
        let mut params = CertificateParams::default();
        params.not_before = date(now.saturating_sub(SKEW)).map_err(|e| refuse(e.to_string()))?;
        params.not_after = date(expires).map_err(|e| refuse(e.to_string()))?;
        let mut serial = enrolment.to_vec();
        serial.extend_from_slice(&random::<ENROLMENT>().map_err(|e| refuse(e.to_string()))?);
        params.serial_number = Some(serial.into());
        params.distinguished_name = common_name(name.as_str());
        let names = std::iter::once(name.as_str()).chain(serves.iter().map(String::as_str));
        let names: BTreeSet<&str> = names.collect();
        for name in names {
            params.subject_alt_names.push(SanType::DnsName(name.try_into().map_err(|e: rcgen::Error| refuse(e.to_string()))?));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let signed = params.signed_by(key, &self.issuer).map_err(|e| refuse(e.to_string()))?;
        Ok((signed.into(), expires))
    }

    /// What to show to new connections: the coordinator's certificate in the folder, or a new one if that is not for these
    /// names, not from this authority, has little of its life left, or cannot be read.
    pub(crate) fn present(&self, names: &BTreeSet<String>, now: Millis) -> Result<Presented, Error> {
        match self.load_server(names, now) {
            Ok(presented) => Ok(presented),
            Err(why) => {
                tracing::info!(%why, "the coordinator makes a certificate for itself");
                self.present_new(names, now)
            }
        }
    }

    /// What to show to new connections, with a new certificate.
    pub(crate) fn present_new(&self, names: &BTreeSet<String>, now: Millis) -> Result<Presented, Error> {
        let key = KeyPair::generate().map_err(cannot_make)?;
        let mut params = CertificateParams::default();
        params.not_before = date(now.saturating_sub(SKEW))?;
        params.not_after = date((now + SERVER_LIFE).min(self.ends))?;
        params.serial_number = Some(serial()?.into());
        params.distinguished_name = common_name("Tessera coordinator");
        params.subject_alt_names = names.iter().map(|n| names::alternative(n)).collect::<Result<_, _>>().map_err(cannot_make)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let signed = params.signed_by(&key, &self.issuer).map_err(cannot_make)?;
        // A crash in between leaves a pair that does not match, and the next start makes a new one.
        for (name, text) in [("server.key", key.serialize_pem()), ("server.pem", signed.pem())] {
            let path = self.dir.join(name);
            keep::replace(&path, text.as_bytes()).map_err(Error::io("cannot write", &path))?;
        }
        self.assemble(signed.into(), &key, now).map_err(|why| unusable(&self.dir.join("server.pem"), &why))
    }

    fn load_server(&self, names: &BTreeSet<String>, now: Millis) -> Result<Presented, String> {
        let (pem, path) = (self.dir.join("server.pem"), self.dir.join("server.key"));
        let leaf = read_chain(&pem)?.into_iter().next().ok_or("server.pem is empty")?;
        let text = fs::read_to_string(&path).map_err(|e| format!("server.key cannot be read: {e}"))?;
        keep::close(&path).map_err(|e| format!("server.key cannot be protected: {e}"))?;
        let key = KeyPair::from_pem(&text).map_err(|_| "server.key holds no private key")?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&leaf).map_err(|_| "server.pem holds no certificate")?;
        let (_, ours) = x509_parser::parse_x509_certificate(&self.current).map_err(|_| "authority.pem is damaged")?;
        if !holds(&leaf, &key) {
            return Err("server.pem does not belong to server.key".into());
        }
        if parsed.issuer().as_raw() != ours.subject().as_raw() {
            return Err("it is from another authority".into());
        }
        if tls::expires(&leaf)? < now + SERVER_LIFE / 3 {
            return Err("it ends soon".into());
        }
        if alternatives(&leaf)? != *names {
            return Err("the coordinator's names changed".into());
        }
        self.assemble(leaf, &key, now)
    }

    fn assemble(&self, leaf: CertificateDer<'static>, key: &KeyPair, now: Millis) -> Result<Presented, String> {
        let expires = tls::expires(&leaf)?;
        let trusted = self.trusted(now);
        let chain: Vec<_> = std::iter::once(leaf).chain(self.cross.iter().cloned()).chain(trusted.iter().cloned()).collect();
        let roots = tls::roots(trusted).map_err(|e| e.to_string())?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let config = tls::assemble(chain, key, roots).map_err(|e| e.to_string())?;
        Ok(Presented { config, expires })
    }
}

/// A new authority that is not in its folder yet.
struct Made {
    name: String,
    key: KeyPair,
    certificate: CertificateDer<'static>,
}

impl Made {
    fn new(now: Millis) -> Result<Self, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(cannot_make)?;
        // Names differ, so that a verifier never takes one authority for the next.
        let name = format!("Tessera authority {}", hex(&random::<4>()?));
        let certificate = authority_params(&name, now)?.self_signed(&key).map_err(cannot_make)?.into();
        Ok(Self { name, key, certificate })
    }
}

fn authority_params(name: &str, now: Millis) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.not_before = date(now.saturating_sub(SKEW))?;
    params.not_after = date(now + AUTHORITY_LIFE)?;
    params.serial_number = Some(serial()?.into());
    params.distinguished_name = common_name(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// Puts an authority into its folder. Key and certificates are two files: [`recover`] finishes what a crash interrupts.
fn save(dir: &Path, made: &Made, older: &[CertificateDer<'_>], cross: &[CertificateDer<'_>]) -> Result<(), Error> {
    let (pem, key) = (dir.join("authority.pem"), dir.join("authority.key"));
    let all = std::iter::once(made.certificate.as_ref()).chain(older.iter().map(|c| c.as_ref()));
    let text: String = all.chain(cross.iter().map(|c| c.as_ref())).map(armour).collect();
    for (path, content) in [(&pem, text), (&key, made.key.serialize_pem())] {
        let next = keep::beside(path, NEXT);
        keep::write(&next, content.as_bytes()).map_err(Error::io("cannot write", &next))?;
    }
    crate::disk::sync_dir(dir).map_err(Error::io("cannot write", dir))?;
    for path in [&key, &pem] {
        fs::rename(keep::beside(path, NEXT), path).map_err(Error::io("cannot replace", path))?;
    }
    crate::disk::sync_dir(dir).map_err(Error::io("cannot write", dir))
}

/// Finishes or undoes a change of authority that a crash interrupted: once the key is in its place, it is done.
fn recover(dir: &Path) -> Result<(), Error> {
    let (pem, key) = (dir.join("authority.pem"), dir.join("authority.key"));
    let (next_pem, next_key) = (keep::beside(&pem, NEXT), keep::beside(&key, NEXT));
    let placed = || {
        let key = KeyPair::from_pem(&fs::read_to_string(&key).ok()?).ok()?;
        read_chain(&next_pem).ok()?.first().map(|first| holds(first, &key))
    };
    if next_pem.exists() && !next_key.exists() && placed() == Some(true) {
        fs::rename(&next_pem, &pem).map_err(Error::io("cannot replace", &pem))?;
        tracing::info!("a change of authority that was interrupted is finished");
    }
    for path in [&next_key, &next_pem] {
        if path.exists() {
            fs::remove_file(path).map_err(Error::io("cannot remove", path))?;
        }
    }
    Ok(())
}

/// The key of a signing request, whose signature shows that the sender has its private half. Names in it are not looked at.
pub(crate) fn requested_key(request: &[u8]) -> Result<PublicKey, Denied> {
    let refuse = |why: &str| Denied::Request(why.to_owned());
    if request.len() > MAX_REQUEST {
        return Err(Denied::Request(format!("it is longer than {MAX_REQUEST} bytes")));
    }
    let parsed = CertificateSigningRequestParams::from_der(&request.to_vec().into()).map_err(|error| match error {
        rcgen::Error::InvalidCertificationRequestSignature => refuse("its signature is not by the key in it"),
        rcgen::Error::UnsupportedSignatureAlgorithm => refuse("its key is of another kind than ECDSA P-256 or Ed25519"),
        error => Denied::Request(format!("{error}")),
    })?;
    let key = parsed.public_key;
    let length = key.der_bytes().len();
    let algorithm = PublicKeyData::algorithm(&key);
    // The algorithm is that of the signature, and P-384 can sign with SHA-256 too: the length tells them apart.
    let p256 = *algorithm == PKCS_ECDSA_P256_SHA256 && length == 65;
    let ed25519 = *algorithm == PKCS_ED25519 && length == 32;
    if p256 || ed25519 { Ok(key) } else { Err(refuse("its key is of another kind than ECDSA P-256 or Ed25519")) }
}

/// A number that no other enrolment has. It begins certificates' serial numbers, so it is positive and has no leading zero.
pub(crate) fn new_enrolment() -> Result<[u8; ENROLMENT], Error> {
    let mut bytes = random::<ENROLMENT>()?;
    bytes[0] = bytes[0] & 0x3f | 0x40;
    Ok(bytes)
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Tls("the system gives no random numbers for keys".into()))?;
    Ok(bytes)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn serial() -> Result<Vec<u8>, Error> {
    let mut bytes = random::<16>()?;
    bytes[0] = bytes[0] & 0x3f | 0x40;
    Ok(bytes.to_vec())
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn date(at: Millis) -> Result<OffsetDateTime, Error> {
    let date = i64::try_from(at / 1000).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    date.ok_or_else(|| Error::Tls("this machine's clock shows a year that no certificate can hold: set it right".into()))
}

fn cannot_make(error: rcgen::Error) -> Error {
    Error::Tls(format!("the coordinator cannot make its certificates: {error}"))
}

fn unusable(path: &Path, why: &str) -> Error {
    Error::Tls(format!(
        "{}: the coordinator's authority cannot be used: {why}. Restore the file from a backup; or, to start over, move the \
         whole folder away, and every site must enrol again",
        path.display()
    ))
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let parts = CertificateDer::pem_file_iter(path).and_then(|parts| parts.collect::<Result<Vec<_>, _>>());
    parts.map_err(|error| error.to_string())
}

fn armour(der: &[u8]) -> String {
    let text = data_encoding::BASE64.encode(der);
    let mut lines = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        lines.extend(line.iter().map(|byte| char::from(*byte)));
        lines.push('\n');
    }
    lines + "-----END CERTIFICATE-----\n"
}

/// True if the certificate is for this key.
fn holds(certificate: &CertificateDer<'_>, key: &KeyPair) -> bool {
    let parsed = x509_parser::parse_x509_certificate(certificate);
    parsed.is_ok_and(|(_, parsed)| parsed.public_key().subject_public_key.data == key.public_key_raw())
}

fn self_issued(certificate: &CertificateDer<'static>) -> bool {
    let parsed = x509_parser::parse_x509_certificate(certificate);
    parsed.is_ok_and(|(_, parsed)| parsed.subject().as_raw() == parsed.issuer().as_raw())
}

/// Host names and IP addresses of a certificate.
fn alternatives(certificate: &CertificateDer<'_>) -> Result<BTreeSet<String>, String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| "it is no certificate")?;
    let names = parsed.subject_alternative_name().map_err(|_| "its names are damaged")?;
    let names = names.iter().flat_map(|names| names.value.general_names.iter());
    Ok(names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => address(bytes).map(|ip| ip.to_string()),
            _ => None,
        })
        .collect())
}

fn address(bytes: &[u8]) -> Option<std::net::IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(std::net::IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(std::net::IpAddr::from)).ok()
}
