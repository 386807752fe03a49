//! The way from an agent to its coordinator: TCP, TLS, a call, and the coordinator's clock.

use super::Check;
use super::coordinator::{clock, now_ms};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tessera_client::config::Dial;
use tessera_client::identity::{Facts, Way, causes, explain_tls, when};
use tessera_common::id::Digest;
use tessera_proto::convert::digest_bytes;
use tessera_proto::v1::UploadStatusRequest;
use tessera_proto::v1::federation_client::FederationClient;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tonic::transport::{Channel, Endpoint};

/// Longest that each step may take.
const LIMIT: Duration = Duration::from_secs(10);
/// The coordinator tells its time in whole seconds.
const MOST_APART_MS: i64 = 5_000;
const NAME: &str = "coordinator";

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Tries the way step by step, and stops where it ends.
pub(super) async fn examine(dial: &Dial) -> Vec<Check> {
    let Dial::Tcp { address, host, tls } = dial else { return Vec::new() };
    let connect = async { TcpStream::connect(address).await.map_err(|e| causes(&e)) };
    let stream = match within(connect).await {
        Ok(stream) => stream,
        Err(why) => {
            let todo = "see that it runs there, that the name is right, and that no firewall is between";
            return vec![Check::fail(NAME, format!("nobody answers at {address}: {why}"), todo)];
        }
    };
    let mut checks = vec![Check::ok(NAME, format!("somebody answers at {address}"))];
    let stream: Box<dyn Io> = match tls {
        None => Box::new(stream),
        Some(tls) => {
            let current = tls.now();
            let way = Way { address: address.clone(), host: host.clone(), own: current.own.clone() };
            let handshake = async {
                let name = ServerName::try_from(host.clone()).map_err(|e| causes(&e))?;
                let connector = tokio_rustls::TlsConnector::from(current.config.clone());
                connector.connect(name, stream).await.map_err(|e| explain_tls(&e, &way).unwrap_or_else(|| causes(&e)))
            };
            match within(handshake).await {
                Ok(stream) => {
                    checks.push(vouched(host, stream.get_ref().1.peer_certificates().and_then(|chain| chain.first())));
                    Box::new(stream)
                }
                Err(why) => {
                    checks.push(Check::fail("TLS", why, format!("{host} must be a name in the coordinator's certificate")));
                    return checks;
                }
            }
        }
    };
    match within(call(stream)).await {
        Ok(None) => {
            checks.push(Check::warn("clock", "the coordinator does not tell its time", "use the same version on both sides"))
        }
        Ok(Some(ahead)) => checks.push(clock(ahead, MOST_APART_MS, "the coordinator's clock")),
        Err(why) => {
            let todo = "see that both sides use TLS or neither does, and in its log whether it takes this agent's certificate";
            checks.push(Check::fail("call", format!("no answer to a call: {why}"), todo));
        }
    }
    checks
}

async fn within<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::time::timeout(LIMIT, work).await.unwrap_or_else(|_| Err(format!("it takes longer than {LIMIT:?}")))
}

/// A certificate that was found right.
fn vouched(host: &str, certificate: Option<&CertificateDer<'_>>) -> Check {
    let what = certificate.and_then(|der| Facts::of(der).ok());
    let about = what.map_or_else(String::new, |f| format!(": it has {}, and ends {}", f.names.join(", "), when(f.ends)));
    Check::ok("TLS", format!("an authority that this agent trusts vouches for {host}{about}"))
}

/// Asks for a blob that nobody has; how far the coordinator's clock is ahead of ours in ms, if it says.
async fn call(stream: Box<dyn Io>) -> Result<Option<i64>, String> {
    let channel = over(stream).await.map_err(|e| causes(&e))?;
    let request = UploadStatusRequest { digest: digest_bytes(&Digest::of(b"")) };
    let before = now_ms();
    let answer = FederationClient::new(channel).upload_status(request).await.map_err(|e| causes(&e))?;
    let here = before.midpoint(now_ms());
    let date = answer.metadata().get("date").and_then(|date| date.to_str().ok()).and_then(date_ms);
    // half a second: the seconds of a date are cut, not rounded
    Ok(date.map(|there| there + 500 - here))
}

async fn over(stream: Box<dyn Io>) -> Result<Channel, tonic::transport::Error> {
    let mut stream = Some(stream);
    let connector = tower::service_fn(move |_| {
        let stream = stream.take().map(TokioIo::new).ok_or_else(|| std::io::Error::other("it closes the connection"));
        async move { stream }
    });
    Endpoint::from_static("http://coordinator").connect_with_connector(connector).await
}

/// The date of an HTTP header in milliseconds since the Unix epoch.
fn date_ms(text: &str) -> Option<i64> {
    let parser = jiff::fmt::rfc2822::DateTimeParser::new();
    parser.parse_timestamp(text).ok().map(|time| time.as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn dates_of_headers_are_read() {
        assert_eq!(date_ms("Tue, 15 Nov 1994 08:12:31 GMT"), Some(784_887_151_000));
        assert_eq!(date_ms("yesterday"), None);
    }

    #[test]
    fn causes_are_said_once() {
        let inner = std::io::Error::other("certificate expired");
        let status = tonic::Status::from_error(Box::new(inner));
        assert_eq!(causes(&status), "certificate expired");
    }

    #[tokio::test]
    async fn something_else_that_listens_is_no_coordinator() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let closes = tokio::spawn(async move { drop(listener.accept().await.unwrap()) });
        let checks = examine(&Dial::Tcp { address, host: "127.0.0.1".into(), tls: None }).await;
        closes.await.unwrap();
        let verdicts: Vec<_> = checks.iter().map(|c| (c.name.as_str(), c.verdict)).collect();
        assert_eq!(verdicts, [("coordinator", Verdict::Ok), ("call", Verdict::Fail)], "{checks:?}");
        assert!(checks[1].finding.len() < 120, "{checks:?}");
    }
}
