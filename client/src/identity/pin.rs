//! The first connection: nothing is known of the coordinator but the fingerprint of its authority, from the token.

use ring::digest::{SHA256, digest};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::fmt;
use std::sync::Arc;

/// SHA-256 of a certificate in DER.
pub(super) fn fingerprint(der: &[u8]) -> [u8; 32] {
    let mut sum = [0; 32];
    sum.copy_from_slice(digest(&SHA256, der).as_ref());
    sum
}

/// Takes a server whose chain ends in the authority with this fingerprint, by the usual rules.
#[derive(Debug)]
pub(super) struct Pinned {
    pub(super) authority: [u8; 32],
    pub(super) provider: Arc<CryptoProvider>,
}

/// None of the certificates shown is the authority's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WrongAuthority {
    /// What the token says.
    pub(super) wanted: [u8; 32],
    /// Fingerprint of the last certificate shown: where an authority is.
    pub(super) shown: [u8; 32],
}

impl fmt::Display for WrongAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [wanted, shown] = [self.wanted, self.shown].map(|sum| short(&sum));
        write!(f, "the token names the authority {wanted}, the coordinator shows {shown}")
    }
}

impl std::error::Error for WrongAuthority {}

/// The first digits of a fingerprint, for people.
pub(super) fn short(sum: &[u8; 32]) -> String {
    sum[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut chain = std::iter::once(end_entity).chain(intermediates);
        let Some(authority) = chain.find(|certificate| fingerprint(certificate) == self.authority) else {
            let shown = fingerprint(intermediates.last().unwrap_or(end_entity));
            let wrong = WrongAuthority { wanted: self.authority, shown };
            return Err(CertificateError::Other(OtherError(Arc::new(wrong))).into());
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|e| Error::General(e.to_string()))?;
        usual.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
