//! The folder of an identity.
//!
//! ```text
//! DIR/key.next.pem      key of a certificate that is asked for
//! DIR/authorities.pem   who may sign the coordinator's certificate
//! DIR/identity.toml     name, role, coordinator, times
//! DIR/cert.pem          the certificate, and what is between it and an authority
//! DIR/key.pem           its key
//! ```
//!
//! They are written in this order, each as a whole. An identity is there once `cert.pem` is; its key is whichever of the two
//! fits, so a crash anywhere leaves the old identity or the new one, and a key that was made is used for the next attempt.

use super::IdentityError;
use super::facts::public_key;
use super::tls::read_certificates;
use crate::disk;
use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use tessera_common::access::Role;
use tessera_common::id::{MemberName, Millis};

const KEY: &str = "key.pem";
const NEXT_KEY: &str = "key.next.pem";
const CERTIFICATE: &str = "cert.pem";
const AUTHORITIES: &str = "authorities.pem";
const ABOUT: &str = "identity.toml";

/// What `identity.toml` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct About {
    pub(super) name: MemberName,
    pub(super) role: Role,
    /// `host:port`.
    pub(super) coordinator: String,
    /// When the certificate ends, by the coordinator's clock.
    pub(super) expires: Millis,
    /// When to ask for the next one, by this machine's clock.
    pub(super) renew: Millis,
}

/// What makes up an identity.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) about: About,
    pub(super) key: KeyPair,
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) authorities: Vec<CertificateDer<'static>>,
}

/// The folder.
#[derive(Debug, Clone)]
pub(super) struct Store {
    pub(super) dir: PathBuf,
}

impl Store {
    /// What is there; reads only.
    pub(super) fn load(&self) -> Result<Option<Stored>, IdentityError> {
        let file = |name: &str| self.dir.join(name);
        match fs::exists(file(CERTIFICATE)) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) => return Err(self.damaged(format!("{CERTIFICATE}: {error}"))),
        }
        let chain = read_certificates(&file(CERTIFICATE)).map_err(|e| self.damaged(e))?;
        let authorities = read_certificates(&file(AUTHORITIES)).map_err(|e| self.damaged(e))?;
        let text = fs::read_to_string(file(ABOUT)).map_err(|e| self.damaged(format!("{ABOUT}: {e}")))?;
        let about: About = toml::from_str(&text).map_err(|e| self.damaged(format!("{ABOUT}: {e}")))?;
        let wanted = public_key(&chain[0]).ok_or_else(|| self.damaged(format!("{CERTIFICATE} is no certificate")))?;
        let found = [KEY, NEXT_KEY].iter().find_map(|name| self.key(name).filter(|k| k.subject_public_key_info() == wanted));
        let key = found.ok_or_else(|| self.damaged(format!("no key fits {CERTIFICATE}")))?;
        Ok(Some(Stored { about, key, chain, authorities }))
    }

    fn damaged(&self, why: impl ToString) -> IdentityError {
        IdentityError::Damaged { dir: self.dir.clone(), why: why.to_string() }
    }

    fn key(&self, name: &str) -> Option<KeyPair> {
        fs::read_to_string(self.dir.join(name)).ok().and_then(|text| KeyPair::from_pem(&text).ok())
    }

    /// The key to ask for a certificate with: one that an attempt before this left, or a new one, durable on return. `used` is
    /// the public key of the certificate in use.
    pub(super) fn next_key(&self, used: Option<&[u8]>) -> io::Result<KeyPair> {
        disk::create_private_dir(&self.dir)?;
        if let Some(key) = self.key(NEXT_KEY) {
            if used != Some(key.subject_public_key_info().as_slice()) {
                return Ok(key);
            }
            // a crash came between the certificate and its key
            fs::rename(self.dir.join(NEXT_KEY), self.dir.join(KEY))?;
            disk::sync_dir(&self.dir)?;
        }
        let key = KeyPair::generate().map_err(io::Error::other)?;
        self.place(NEXT_KEY, key.serialize_pem().as_bytes())?;
        disk::sync_dir(&self.dir)?;
        Ok(key)
    }

    /// Makes what was issued for [`Self::next_key`] the identity.
    pub(super) fn commit(&self, issued: &Stored) -> io::Result<()> {
        let about = toml::to_string(&issued.about).map_err(io::Error::other)?;
        self.place(AUTHORITIES, pem(&issued.authorities).as_bytes())?;
        self.place(ABOUT, about.as_bytes())?;
        disk::sync_dir(&self.dir)?;
        self.place(CERTIFICATE, pem(&issued.chain).as_bytes())?;
        disk::sync_dir(&self.dir)?;
        fs::rename(self.dir.join(NEXT_KEY), self.dir.join(KEY))?;
        disk::sync_dir(&self.dir)
    }

    /// A file for its owner alone: the old one or the new one as a whole.
    fn place(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.dir.join(format!("{name}.tmp"));
        disk::remove(&temporary)?;
        let mut file = private_file(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, self.dir.join(name))
    }
}

fn private_file(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn pem(certificates: &[CertificateDer<'static>]) -> String {
    let mut text = String::new();
    for certificate in certificates {
        let encoded = data_encoding::BASE64.encode(certificate);
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in encoded.as_bytes().chunks(64) {
            // text to a string cannot fail
            let _ = writeln!(text, "{}", String::from_utf8_lossy(line));
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}
