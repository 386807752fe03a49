//! TLS settings of the agent, which may change between two connections.

use super::facts::Facts;
use super::pin::Pinned;
use crate::config::TlsFiles;
use rustls::crypto::ring::default_provider;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// What the next connection uses. Clones share it: a renewed certificate reaches all of them.
#[derive(Debug, Clone)]
pub struct Tls(Arc<Mutex<Arc<Current>>>);

/// What is in use at one time.
#[derive(Debug)]
pub struct Current {
    /// For rustls.
    pub config: Arc<ClientConfig>,
    /// The agent's own certificate; none while it enrols.
    pub own: Option<Own>,
}

/// The agent's own certificate, for messages about it.
#[derive(Debug, Clone)]
pub struct Own {
    /// What it says.
    pub facts: Facts,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a certificate comes from, which decides how to get another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// This file of `[tls]`.
    File(PathBuf),
    /// The identity in this folder, got with a token.
    Identity(PathBuf),
}

impl Tls {
    pub(super) fn new(current: Current) -> Self {
        Self(Arc::new(Mutex::new(Arc::new(current))))
    }

    /// What a connection that is made now has to use.
    pub fn now(&self) -> Arc<Current> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn swap(&self, current: Current) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(current);
    }

    /// From the files that the settings name.
    ///
    /// # Errors
    /// Names the file.
    pub fn from_files(files: &TlsFiles) -> Result<Self, String> {
        let bad = |file: &Path, e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
        let authorities = read_certificates(&files.ca)?;
        let chain = read_certificates(&files.cert)?;
        let facts = Facts::of(&chain[0]).map_err(|e| bad(&files.cert, &e))?;
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| bad(&files.key, &e))?;
        let config = mutual(authorities, chain, key).map_err(|e| match e {
            Unfit::Authority(e) => bad(&files.ca, &e),
            Unfit::Own(e) => format!("{} with {}: {e}", files.cert.display(), files.key.display()),
        })?;
        let own = Own { facts, origin: Origin::File(files.cert.clone()) };
        Ok(Self::new(Current { config, own: Some(own) }))
    }

    /// For the first connection: the coordinator must have the authority with this fingerprint; the agent shows nothing.
    pub(super) fn pinned(authority: [u8; 32]) -> Result<Self, rustls::Error> {
        let provider = Arc::new(default_provider());
        let verifier = Arc::new(Pinned { authority, provider });
        let config = builder()?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        Ok(Self::new(Current { config: over_http2(config), own: None }))
    }
}

/// Which part does not fit.
pub(super) enum Unfit {
    Authority(rustls::Error),
    Own(rustls::Error),
}

/// Both sides show certificates.
pub(super) fn mutual(
    authorities: Vec<CertificateDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ClientConfig>, Unfit> {
    let mut roots = RootCertStore::empty();
    for certificate in authorities {
        roots.add(certificate).map_err(Unfit::Authority)?;
    }
    let trusting = builder().map_err(Unfit::Own)?.with_root_certificates(roots);
    trusting.with_client_auth_cert(chain, key).map(over_http2).map_err(Unfit::Own)
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_provider(Arc::new(default_provider())).with_protocol_versions(&[&rustls::version::TLS13])
}

fn over_http2(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// At least one certificate.
pub(super) fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bad = |e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
    let found: Vec<_> =
        CertificateDer::pem_file_iter(file).map_err(|e| bad(&e))?.collect::<Result<_, _>>().map_err(|e| bad(&e))?;
    if found.is_empty() { Err(bad(&"there is no certificate in it")) } else { Ok(found) }
}
