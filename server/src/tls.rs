//! TLS 1.3 with one named provider, a chain, and authorities whose certificates clients may show.

use crate::config::TlsFiles;
use crate::error::Error;
use crate::identity::utc;
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::{CertificateError, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;
use tessera_common::id::Millis;

const CERT: &str = "--tls-cert";
const KEY: &str = "--tls-key";
const CLIENT_CA: &str = "--client-ca";

/// What the coordinator shows to new connections.
#[derive(Debug, Clone)]
pub(crate) struct Presented {
    /// Settings of a handshake.
    pub config: Arc<ServerConfig>,
    /// When its certificate ends.
    pub expires: Millis,
}

fn fault(flag: &str, path: &Path, why: impl std::fmt::Display) -> Error {
    Error::Tls(format!("{flag} {}: {why}", path.display()))
}

fn certificates(flag: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let parts = CertificateDer::pem_file_iter(path).and_then(|parts| parts.collect::<Result<Vec<_>, _>>());
    let chain = parts.map_err(|error| fault(flag, path, error))?;
    if chain.is_empty() { Err(fault(flag, path, "no certificate in it")) } else { Ok(chain) }
}

/// The server side from files that somebody else makes.
///
/// # Errors
/// Names the flag and the file that cannot be used.
pub(crate) fn from_files(files: &TlsFiles) -> Result<Presented, Error> {
    let authorities = certificates(CLIENT_CA, &files.client_ca)?;
    let roots = roots(authorities).map_err(|e| fault(CLIENT_CA, &files.client_ca, e))?;
    let chain = certificates(CERT, &files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| fault(KEY, &files.key, e))?;
    let expires = expires(&chain[0]).map_err(|e| fault(CERT, &files.cert, e))?;
    let config = assemble(chain, key, roots)
        .map_err(|e| fault(CERT, &files.cert, format!("does not go with {KEY} {}: {e}", files.key.display())))?;
    Ok(Presented { config, expires })
}

/// Authorities whose certificates are taken.
pub(crate) fn roots(authorities: impl IntoIterator<Item = CertificateDer<'static>>) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    authorities.into_iter().try_for_each(|authority| roots.add(authority))?;
    Ok(roots)
}

/// Settings of a handshake. A client may show no certificate (only enrolment is open to it then); one that it shows must
/// come from `authorities` and be valid now.
pub(crate) fn assemble(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    authorities: RootCertStore,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session skips the check of the client's certificate, so none is resumed.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// Why a handshake failed, with both clocks where they are the reason.
pub(crate) fn why_refused(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(invalid)) = inner else { return format!("a TLS handshake is refused: {error}") };
    let ours = |time: &rustls_pki_types::UnixTime| utc(time.as_secs().saturating_mul(1000));
    match invalid {
        CertificateError::ExpiredContext { time, not_after } => format!(
            "the client's certificate ended at {}, and the coordinator's clock says {}: set the clock that is wrong, or enrol the \
             site again with a token of `tessera enrol NAME`",
            ours(not_after),
            ours(time)
        ),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "the client's certificate is not valid before {}, and the coordinator's clock says {}: set the clock that is wrong",
            ours(not_before),
            ours(time)
        ),
        CertificateError::UnknownIssuer => {
            "the client's certificate is of an authority that the coordinator does not trust: enrol the site here with a token of \
             `tessera enrol NAME`"
                .into()
        }
        other => format!("the client's certificate is not good: {other:?}"),
    }
}

/// When a certificate ends.
pub(crate) fn expires(certificate: &CertificateDer<'_>) -> Result<Millis, String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| "it is no X.509 certificate")?;
    Ok(Millis::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0) * 1000)
}

/// When a certificate begins.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn begins(certificate: &CertificateDer<'_>) -> Result<Millis, String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| "it is no X.509 certificate")?;
    Ok(Millis::try_from(parsed.validity().not_before.timestamp()).unwrap_or(0) * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls_pki_types::UnixTime;
    use std::time::Duration;

    #[test]
    fn clocks_that_differ_are_both_named() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let why = |error| why_refused(&std::io::Error::other(rustls::Error::InvalidCertificate(error)));
        let (early, late) = (at(1_800_000_000), at(1_800_000_060));
        let ended = why(CertificateError::ExpiredContext { time: late, not_after: early });
        assert!(
            ended.contains("ended at 2027-01-15 08:00:00 UTC") && ended.contains("clock says 2027-01-15 08:01:00 UTC"),
            "{ended}"
        );
        let young = why(CertificateError::NotValidYetContext { time: early, not_before: late });
        assert!(
            young.contains("before 2027-01-15 08:01:00 UTC") && young.contains("clock says 2027-01-15 08:00:00 UTC"),
            "{young}"
        );
        assert!(why(CertificateError::UnknownIssuer).contains("`tessera enrol NAME`"));
        assert!(why_refused(&std::io::ErrorKind::UnexpectedEof.into()).contains("handshake is refused"));
    }
}
