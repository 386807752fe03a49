//! How the coordinator is reached, and whether anything is heard from there.

use crate::identity::{Current, Tls, TlsTrouble, Way, explained, explained_handshake};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tessera_proto::{CONNECTION_WINDOW_BYTES, FRAME_BYTES, STREAM_WINDOW_BYTES};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

/// Longest that a connection, its TLS handshake and its first answer may take.
pub(crate) const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// A connection on which nothing is read for so long is asked whether it lives; the answer counts as something heard.
const ASK_AFTER: Duration = Duration::from_secs(1);
/// Longest that this answer may take. Over a slow link it waits behind megabytes of a blob, so it is only a last resort:
/// a dead connection is noticed by its silence.
const ASK_LIMIT: Duration = Duration::from_secs(60);

/// How to reach the coordinator.
#[derive(Debug, Clone)]
pub enum Dial {
    /// Over TCP.
    Tcp {
        /// `host:port`.
        address: String,
        /// Name that the coordinator's certificate must have.
        host: String,
        /// TLS settings, asked at each connection, or plaintext.
        tls: Option<Tls>,
    },
    /// In the same process: the other end of a pipe is sent to a coordinator that serves it.
    Pipe(mpsc::Sender<DuplexStream>),
}

impl Dial {
    /// A connection whose received bytes are counted in `heard`.
    pub(crate) async fn connect(&self, heard: &Heard) -> Result<Channel, tonic::transport::Error> {
        // The address is only a label here: the connector below opens the connection.
        let endpoint = Endpoint::from_static("http://coordinator")
            .connect_timeout(CONNECT_LIMIT)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES)
            .http2_keep_alive_interval(ASK_AFTER)
            .keep_alive_timeout(ASK_LIMIT)
            .keep_alive_while_idle(true);
        let heard = heard.clone();
        match self.clone() {
            Dial::Pipe(pipes) => {
                let connector = tower::service_fn(move |_| {
                    let (pipes, heard) = (pipes.clone(), heard.clone());
                    async move {
                        let (ours, theirs) = tokio::io::duplex(1 << 20);
                        pipes.send(theirs).await.map_err(|_| io::Error::other("the coordinator is gone"))?;
                        Ok::<_, io::Error>(TokioIo::new(Watched { stream: ours, watch: Watch::Count(heard) }))
                    }
                });
                endpoint.connect_with_connector(connector).await
            }
            Dial::Tcp { address, tls: None, .. } => {
                let connector = tower::service_fn(move |_| {
                    let (address, heard) = (address.clone(), heard.clone());
                    async move {
                        let stream = tcp(&address, heard).await?;
                        Ok::<_, io::Error>(TokioIo::new(Watched { stream, watch: Watch::Plain { address, begun: false } }))
                    }
                });
                endpoint.connect_with_connector(connector).await
            }
            Dial::Tcp { address, host, tls: Some(tls) } => {
                let connector = tower::service_fn(move |_| {
                    let (address, host, current, heard) = (address.clone(), host.clone(), tls.now(), heard.clone());
                    async move { Ok::<_, io::Error>(TokioIo::new(secured(address, host, &current, heard).await?)) }
                });
                endpoint.connect_with_connector(connector).await
            }
        }
    }
}

/// Host of `host:port`, without the brackets of an IPv6 address.
pub(crate) fn host_of(address: &str) -> Result<String, String> {
    let (host, _) = address.rsplit_once(':').ok_or_else(|| format!("coordinator {address:?} is not host:port"))?;
    Ok(host.trim_matches(['[', ']']).to_owned())
}

async fn secured(
    address: String,
    host: String,
    current: &Current,
    heard: Heard,
) -> io::Result<Watched<TlsStream<Watched<TcpStream>>>> {
    let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
    let way = Way { address, host, own: current.own.clone() };
    let stream = tcp(&way.address, heard).await?;
    let handshake = tokio_rustls::TlsConnector::from(current.config.clone()).connect(name, stream);
    let stream = tokio::time::timeout(CONNECT_LIMIT, handshake)
        .await
        .map_err(|_| io::Error::other("the TLS handshake takes too long"))?
        .map_err(|e| explained_handshake(e, &way))?;
    Ok(Watched { stream, watch: Watch::Tls(way) })
}

async fn tcp(address: &str, heard: Heard) -> io::Result<Watched<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    // tonic sets it only on connections of its own; without it a small call waits 40 ms
    stream.set_nodelay(true)?;
    Ok(Watched { stream, watch: Watch::Count(heard) })
}

/// Bytes that came from the coordinator. Messages would not do: one of a blob takes seconds over a slow link.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard(Arc<AtomicU64>);

impl Heard {
    /// Bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// First byte of an alert, which is how TLS answers plaintext. No coordinator's first frame begins so.
const ALERT: u8 = 0x15;

/// What is done with the bytes and errors that a stream receives.
enum Watch {
    /// Bytes are counted.
    Count(Heard),
    /// Errors are explained: the coordinator refuses a certificate only after the handshake.
    Tls(Way),
    /// The first byte is looked at: the other side may want TLS.
    Plain { address: String, begun: bool },
}

/// A stream that is watched while it is read.
struct Watched<S> {
    stream: S,
    watch: Watch,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        let new = &buf.filled()[before..];
        Poll::Ready(match &mut self.watch {
            Watch::Count(heard) => {
                heard.add(new.len() as u64);
                outcome
            }
            Watch::Tls(way) => outcome.map_err(|e| explained(e, way)),
            Watch::Plain { address, begun: false } if new.first() == Some(&ALERT) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, TlsTrouble(wants_tls(address))))
            }
            Watch::Plain { begun, .. } => {
                *begun |= !new.is_empty();
                outcome
            }
        })
    }
}

fn wants_tls(address: &str) -> String {
    format!(
        "the coordinator at {address} speaks TLS, and this agent has no certificate: make a token there with `tessera enrol NAME` and \
         give it with `tessera client --token`, or name the files in [tls]"
    )
}

impl<S> Watched<S> {
    /// An error of writing to a coordinator that is gone, as if nothing were wrong: why it left is there to be read, and
    /// whoever reads first hears it.
    fn forgive<T>(&self, outcome: io::Result<T>, written: T) -> io::Result<T> {
        let gone = |e: &io::Error| matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset);
        match (&self.watch, outcome) {
            (Watch::Tls(_) | Watch::Plain { .. }, Err(error)) if gone(&error) => Ok(written),
            (_, outcome) => outcome,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = ready!(Pin::new(&mut self.stream).poll_write(cx, buf));
        Poll::Ready(self.forgive(outcome, buf.len()))
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let outcome = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs));
        Poll::Ready(self.forgive(outcome, bufs.iter().map(|b| b.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        Poll::Ready(self.forgive(outcome, ()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = ready!(Pin::new(&mut self.stream).poll_shutdown(cx));
        Poll::Ready(self.forgive(outcome, ()))
    }
}
