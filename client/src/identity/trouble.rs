//! What is wrong with a secure connection, in words that say what to do.

use super::facts::{now, when};
use super::pin::{WrongAuthority, short};
use super::tls::{Origin, Own};
use rustls::{AlertDescription, CertificateError, Error as TlsError};
use std::error::Error;
use std::fmt;
use std::io;
use tessera_common::id::Millis;

/// An error of TLS, explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsTrouble(pub String);

impl fmt::Display for TlsTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for TlsTrouble {}

/// Who talks to whom, for the texts.
#[derive(Debug, Clone, Default)]
pub struct Way {
    /// Where the coordinator is, `host:port`.
    pub address: String,
    /// Name that its certificate must have.
    pub host: String,
    /// The agent's certificate, if it has one.
    pub own: Option<Own>,
}

/// An error with its causes: "transport error" alone helps nobody.
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.downcast_ref::<tonic::Status>().map_or_else(|| error.to_string(), |s| s.message().to_owned());
        if !text.is_empty() && text != "transport error" && !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    parts.join(": ")
}

/// An explained error of TLS among the causes of `error`.
pub(super) fn find(error: &(dyn Error + 'static)) -> Option<TlsTrouble> {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let found = inner.and_then(|e| e.downcast_ref()).or_else(|| error.downcast_ref::<TlsTrouble>());
        if found.is_some() {
            return found.cloned();
        }
        next = error.source();
    }
    None
}

/// `error` with an explanation in its place, where there is one.
pub(crate) fn explained(error: io::Error, way: &Way) -> io::Error {
    match explain_tls(&error, way) {
        Some(text) => io::Error::new(error.kind(), TlsTrouble(text)),
        None => error,
    }
}

/// The same for an error before the handshake is done, where the end of the connection means something too.
pub(crate) fn explained_handshake(error: io::Error, way: &Way) -> io::Error {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    match error.kind() {
        UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe => {
            let text = format!("{} closes the connection instead of a TLS handshake: {PLAINTEXT}", way.address);
            io::Error::new(error.kind(), TlsTrouble(text))
        }
        _ => explained(error, way),
    }
}

const PLAINTEXT: &str = "it may be a coordinator in plaintext (--plaintext-...), or another program: see that the address is right, \
                         and start `tessera server` without that flag";

/// What an error of rustls, alone or in an [`io::Error`], means for this connection. None for what is no error of TLS.
pub fn explain_tls(error: &io::Error, way: &Way) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<TlsError>()?;
    let at = &way.address;
    Some(match error {
        TlsError::InvalidCertificate(wrong) => certificate(wrong, way),
        TlsError::AlertReceived(alert) => refused(*alert, way),
        TlsError::InvalidMessage(_) | TlsError::InappropriateMessage { .. } => format!("{at} does not speak TLS: {PLAINTEXT}"),
        TlsError::PeerIncompatible(why) => {
            format!(
                "{at} and this agent have no TLS in common ({why:?}): coordinators speak TLS 1.3; see that the address is right"
            )
        }
        TlsError::NoApplicationProtocol => {
            format!("{at} is no coordinator: it does not offer HTTP/2; see that the address is right")
        }
        other => format!("TLS with {at} failed: {other}"),
    })
}

/// What is wrong with the coordinator's certificate.
fn certificate(wrong: &CertificateError, way: &Way) -> String {
    let at = &way.address;
    match wrong {
        CertificateError::NotValidForNameContext { presented, .. } => {
            not_for(&presented.iter().map(|name| plain(name)).collect::<Vec<_>>(), way)
        }
        CertificateError::NotValidForName => not_for(&[], way),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "the certificate of the coordinator at {at} is valid from {} only, and the clock of this machine says {}: set the clock \
             that is wrong, here or at the coordinator",
            at_second(not_before.as_secs()),
            at_second(time.as_secs())
        ),
        CertificateError::ExpiredContext { time, not_after } => format!(
            "the certificate of the coordinator at {at} ended at {}, and the clock of this machine says {}: set this clock if it is \
             wrong; if it is right, restart the coordinator, which then makes a new certificate, or give it a new --tls-cert",
            at_second(not_after.as_secs()),
            at_second(time.as_secs())
        ),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => unknown_issuer(way),
        CertificateError::Other(other) => match other.0.downcast_ref::<WrongAuthority>() {
            Some(wrong) => wrong_authority(wrong, way),
            None => format!("the certificate of the coordinator at {at} is not acceptable: {}", other.0),
        },
        other => format!("the certificate of the coordinator at {at} is not acceptable: {other}"),
    }
}

fn at_second(second: u64) -> String {
    when(second.saturating_mul(1000))
}

fn wrong_authority(wrong: &WrongAuthority, way: &Way) -> String {
    format!(
        "wrong fingerprint: the token names the authority {}, and the coordinator at {} shows {}. If the coordinator has a new \
         authority or a new data folder, get a new token with `tessera enrol NAME`; if not, somebody stands between you and it",
        short(&wrong.wanted),
        way.address,
        short(&wrong.shown)
    )
}

fn not_for(names: &[String], way: &Way) -> String {
    let has = if names.is_empty() { "no names at all".to_owned() } else { names.join(", ") };
    format!(
        "the certificate of the coordinator at {} is not for {host}: it has {has}. Use one of these as the coordinator's address, or \
         restart the coordinator with `--name {host}`",
        way.address,
        host = way.host
    )
}

/// rustls shows names as `DnsName("localhost")` and `IpAddress(127.0.0.1)`.
fn plain(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    inner.trim_matches('"').to_owned()
}

fn unknown_issuer(way: &Way) -> String {
    let todo = match way.own.as_ref().map(|own| &own.origin) {
        Some(Origin::File(_)) => "give the authority that signed it in [tls] ca".to_owned(),
        Some(Origin::Identity(_)) | None => format!("if it has a new data folder, {}", another_token(way)),
    };
    format!("the coordinator at {} has a certificate of an authority that this agent does not trust: {todo}", way.address)
}

/// How to get a new certificate with a token.
fn another_token(way: &Way) -> String {
    let name = way.own.as_ref().map_or("NAME", |own| own.facts.name.as_str());
    format!("get a new token with `tessera enrol {name}` and give it with `tessera client --token`")
}

/// How to get a new certificate.
fn another_certificate(way: &Way) -> String {
    match way.own.as_ref().map(|own| &own.origin) {
        Some(Origin::File(file)) => format!("put a new one in place of {}, the cert of [tls]", file.display()),
        Some(Origin::Identity(_)) | None => another_token(way),
    }
}

/// What the coordinator has against the agent's certificate.
fn refused(alert: AlertDescription, way: &Way) -> String {
    let at = &way.address;
    let name = way.own.as_ref().map(|own| own.facts.name.as_str()).filter(|name| !name.is_empty());
    let mine = name.map_or_else(|| "this agent's certificate".to_owned(), |name| format!("this agent's certificate ({name})"));
    match alert {
        AlertDescription::CertificateExpired => match &way.own {
            Some(own) => expired(own, now(), way),
            None => format!("the coordinator at {at} says that {mine} is not valid now: {}", another_certificate(way)),
        },
        AlertDescription::CertificateRevoked => format!(
            "the coordinator at {at} has revoked {mine}; its operator can undo it: tessera members unrevoke {}",
            name.unwrap_or("NAME")
        ),
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            format!("the coordinator at {at} does not know the authority of {mine}: {}", another_certificate(way))
        }
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
            format!("the coordinator at {at} wants a certificate: {}", another_certificate(way))
        }
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::AccessDenied => {
            format!(
                "the coordinator at {at} refuses {mine} ({alert:?}): {}; the coordinator's log says why",
                another_certificate(way)
            )
        }
        AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure => {
            format!("{at} and this agent have no TLS in common: coordinators speak TLS 1.3; see that the address is right")
        }
        AlertDescription::NoApplicationProtocol => {
            format!("{at} is no coordinator: it does not offer HTTP/2; see that the address is right")
        }
        other => format!("the coordinator at {at} ends the TLS connection: {other:?}"),
    }
}

/// The text for an own certificate that the coordinator takes for expired, or not valid yet.
fn expired(own: &Own, now: Millis, way: &Way) -> String {
    let (begins, ends) = (when(own.facts.begins), when(own.facts.ends));
    let (at, clock) = (&way.address, when(now));
    if own.facts.ends <= now {
        return format!("this agent's certificate ended at {ends}, and it is {clock}: {}", another_certificate(way));
    }
    format!(
        "the coordinator at {at} says that this agent's certificate is not valid now: it is from {begins} to {ends}, and the clock of \
         this machine says {clock}. Set the clock that is wrong, here or at the coordinator; if both are right, {}",
        another_certificate(way)
    )
}

#[cfg(test)]
mod tests {
    use super::super::facts::Facts;
    use super::*;
    use rustls::OtherError;
    use rustls_pki_types::{ServerName, UnixTime};
    use std::sync::Arc;
    use std::time::Duration;

    fn way(origin: Option<Origin>) -> Way {
        let facts = Facts { name: "north".into(), names: vec![], begins: 0, ends: 1_700_000_000_000 };
        Way {
            address: "c.example.org:7443".into(),
            host: "c.example.org".into(),
            own: origin.map(|origin| Own { facts, origin }),
        }
    }

    fn enrolled() -> Way {
        way(Some(Origin::Identity("north.state/identity".into())))
    }

    fn text(error: TlsError, way: &Way) -> String {
        explain_tls(&io::Error::new(io::ErrorKind::InvalidData, error), way).unwrap()
    }

    fn second(second: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(second))
    }

    #[test]
    fn a_wrong_fingerprint_is_told() {
        let wrong = WrongAuthority { wanted: [0xab; 32], shown: [0xcd; 32] };
        let error = CertificateError::Other(OtherError(Arc::new(wrong))).into();
        assert_eq!(
            text(error, &way(None)),
            "wrong fingerprint: the token names the authority abababababababab, and the coordinator at c.example.org:7443 shows \
             cdcdcdcdcdcdcdcd. If the coordinator has a new authority or a new data folder, get a new token with `tessera enrol \
             NAME`; if not, somebody stands between you and it"
        );
    }

    #[test]
    fn another_name_is_told_with_the_names_that_there_are() {
        let expected = ServerName::try_from("c.example.org").unwrap();
        let presented = vec!["DnsName(\"localhost\")".into(), "IpAddress(127.0.0.1)".into()];
        assert_eq!(
            text(CertificateError::NotValidForNameContext { expected, presented }.into(), &way(None)),
            "the certificate of the coordinator at c.example.org:7443 is not for c.example.org: it has localhost, 127.0.0.1. Use one \
             of these as the coordinator's address, or restart the coordinator with `--name c.example.org`"
        );
    }

    #[test]
    fn clocks_that_differ_are_told_with_both_times() {
        let early = CertificateError::NotValidYetContext { time: second(1_600_000_000), not_before: second(1_700_000_000) };
        assert_eq!(
            text(early.into(), &way(None)),
            "the certificate of the coordinator at c.example.org:7443 is valid from 2023-11-14T22:13:20Z only, and the clock of this \
             machine says 2020-09-13T12:26:40Z: set the clock that is wrong, here or at the coordinator"
        );
        let late = CertificateError::ExpiredContext { time: second(1_700_000_000), not_after: second(1_600_000_000) };
        assert_eq!(
            text(late.into(), &way(None)),
            "the certificate of the coordinator at c.example.org:7443 ended at 2020-09-13T12:26:40Z, and the clock of this machine \
             says 2023-11-14T22:13:20Z: set this clock if it is wrong; if it is right, restart the coordinator, which then makes a \
             new certificate, or give it a new --tls-cert"
        );
    }

    #[test]
    fn an_own_certificate_that_ended_needs_another() {
        let own = enrolled().own.unwrap();
        assert_eq!(
            expired(&own, 1_800_000_000_000, &enrolled()),
            "this agent's certificate ended at 2023-11-14T22:13:20Z, and it is 2027-01-15T08:00:00Z: get a new token with `tessera \
             enrol north` and give it with `tessera client --token`"
        );
        let skewed = expired(&own, 1_600_000_000_000, &enrolled());
        assert_eq!(
            skewed,
            "the coordinator at c.example.org:7443 says that this agent's certificate is not valid now: it is from \
             1970-01-01T00:00:00Z to 2023-11-14T22:13:20Z, and the clock of this machine says 2020-09-13T12:26:40Z. Set the clock \
             that is wrong, here or at the coordinator; if both are right, get a new token with `tessera enrol north` and give it \
             with `tessera client --token`"
        );
        let file = way(Some(Origin::File("agent.pem".into())));
        let told = text(TlsError::AlertReceived(AlertDescription::CertificateExpired), &file);
        assert!(told.ends_with(": put a new one in place of agent.pem, the cert of [tls]"), "{told}");
    }

    #[test]
    fn refusals_of_the_coordinator_are_told() {
        let said = |alert, way: &Way| text(TlsError::AlertReceived(alert), way);
        assert_eq!(
            said(AlertDescription::UnknownCA, &enrolled()),
            "the coordinator at c.example.org:7443 does not know the authority of this agent's certificate (north): get a new token \
             with `tessera enrol north` and give it with `tessera client --token`"
        );
        assert_eq!(
            said(AlertDescription::CertificateRevoked, &enrolled()),
            "the coordinator at c.example.org:7443 has revoked this agent's certificate (north); its operator can undo it: tessera \
             members unrevoke north"
        );
        assert_eq!(
            said(AlertDescription::CertificateRequired, &way(None)),
            "the coordinator at c.example.org:7443 wants a certificate: get a new token with `tessera enrol NAME` and give it with \
             `tessera client --token`"
        );
        let file = way(Some(Origin::File("agent.pem".into())));
        assert_eq!(
            said(AlertDescription::BadCertificate, &file),
            "the coordinator at c.example.org:7443 refuses this agent's certificate (north) (BadCertificate): put a new one in place \
             of agent.pem, the cert of [tls]; the coordinator's log says why"
        );
    }

    #[test]
    fn an_authority_that_is_not_trusted_is_told() {
        let error = || TlsError::from(CertificateError::UnknownIssuer);
        assert_eq!(
            text(error(), &enrolled()),
            "the coordinator at c.example.org:7443 has a certificate of an authority that this agent does not trust: if it has a new \
             data folder, get a new token with `tessera enrol north` and give it with `tessera client --token`"
        );
        let told = text(error(), &way(Some(Origin::File("agent.pem".into()))));
        assert!(told.ends_with("give the authority that signed it in [tls] ca"), "{told}");
    }

    #[test]
    fn plaintext_is_told() {
        let told = text(TlsError::InvalidMessage(rustls::InvalidMessage::InvalidContentType), &way(None));
        assert_eq!(
            told,
            "c.example.org:7443 does not speak TLS: it may be a coordinator in plaintext (--plaintext-...), or another program: see \
             that the address is right, and start `tessera server` without that flag"
        );
        let ended = explained_handshake(io::ErrorKind::UnexpectedEof.into(), &way(None)).to_string();
        assert!(ended.starts_with("c.example.org:7443 closes the connection instead of a TLS handshake"), "{ended}");
        assert!(explain_tls(&io::ErrorKind::ConnectionRefused.into(), &way(None)).is_none());
    }
}
