//! Mutual TLS 1.3 with one named provider.

use crate::config::TlsFiles;
use crate::error::Error;
use rustls::RootCertStore;
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let fault = |error: rustls_pki_types::pem::Error| Error::Tls(format!("{}: {error}", path.display()));
    let chain: Vec<_> = CertificateDer::pem_file_iter(path).map_err(fault)?.collect::<Result<_, _>>().map_err(fault)?;
    if chain.is_empty() { Err(Error::Tls(format!("{}: no certificate in it", path.display()))) } else { Ok(chain) }
}

/// The server side: our certificate, and agents with a certificate of the given authority only.
///
/// # Errors
/// Names the file that cannot be used.
pub(crate) fn server_config(files: &TlsFiles) -> Result<Arc<ServerConfig>, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut authorities = RootCertStore::empty();
    for certificate in certificates(&files.client_ca)? {
        authorities.add(certificate).map_err(|e| Error::Tls(format!("{}: {e}", files.client_ca.display())))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider.clone())
        .build()
        .map_err(|e| Error::Tls(format!("{}: {e}", files.client_ca.display())))?;
    let chain = certificates(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| Error::Tls(format!("{}: {e}", files.key.display())))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| Error::Tls(e.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|e| Error::Tls(format!("{} and {}: {e}", files.cert.display(), files.key.display())))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session skips the check of the client's certificate, so none is resumed.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}
