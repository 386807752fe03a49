//! Mutual TLS 1.3 with one named provider.

use crate::config::TlsFiles;
use crate::error::Error;
use rustls::RootCertStore;
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;

const CERT: &str = "--tls-cert";
const KEY: &str = "--tls-key";
const CLIENT_CA: &str = "--client-ca";

fn fault(flag: &str, path: &Path, why: impl std::fmt::Display) -> Error {
    Error::Tls(format!("{flag} {}: {why}", path.display()))
}

fn certificates(flag: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let parts = CertificateDer::pem_file_iter(path).and_then(|parts| parts.collect::<Result<Vec<_>, _>>());
    let chain = parts.map_err(|error| fault(flag, path, error))?;
    if chain.is_empty() { Err(fault(flag, path, "no certificate in it")) } else { Ok(chain) }
}

/// The server side: our certificate, and agents with a certificate of the given authority only.
///
/// # Errors
/// Names the flag and the file that cannot be used.
pub(crate) fn server_config(files: &TlsFiles) -> Result<Arc<ServerConfig>, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut authorities = RootCertStore::empty();
    for certificate in certificates(CLIENT_CA, &files.client_ca)? {
        authorities.add(certificate).map_err(|e| fault(CLIENT_CA, &files.client_ca, e))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider.clone())
        .build()
        .map_err(|e| fault(CLIENT_CA, &files.client_ca, e))?;
    let chain = certificates(CERT, &files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| fault(KEY, &files.key, e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| Error::Tls(e.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|e| fault(CERT, &files.cert, format!("does not go with {KEY} {}: {e}", files.key.display())))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session skips the check of the client's certificate, so none is resumed.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}
