//! How the coordinator is reached, and whether anything is heard from there.

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
        /// TLS settings, or plaintext.
        tls: Option<Arc<rustls::ClientConfig>>,
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
                        Ok::<_, io::Error>(TokioIo::new(Counted { stream: ours, heard }))
                    }
                });
                endpoint.connect_with_connector(connector).await
            }
            Dial::Tcp { address, tls: None, .. } => {
                let connector = tower::service_fn(move |_| {
                    let (address, heard) = (address.clone(), heard.clone());
                    async move { Ok::<_, io::Error>(TokioIo::new(tcp(&address, heard).await?)) }
                });
                endpoint.connect_with_connector(connector).await
            }
            Dial::Tcp { address, host, tls: Some(tls) } => {
                let connector = tower::service_fn(move |_| {
                    let (address, host, tls, heard) = (address.clone(), host.clone(), tls.clone(), heard.clone());
                    async move {
                        let name = ServerName::try_from(host).map_err(io::Error::other)?;
                        let handshake = tokio_rustls::TlsConnector::from(tls).connect(name, tcp(&address, heard).await?);
                        let stream = tokio::time::timeout(CONNECT_LIMIT, handshake)
                            .await
                            .map_err(|_| io::Error::other("the TLS handshake takes too long"))??;
                        Ok::<_, io::Error>(TokioIo::new(stream))
                    }
                });
                endpoint.connect_with_connector(connector).await
            }
        }
    }
}

async fn tcp(address: &str, heard: Heard) -> io::Result<Counted<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    // tonic sets it only on connections of its own; without it a small call waits 40 ms
    stream.set_nodelay(true)?;
    Ok(Counted { stream, heard })
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

/// A stream whose received bytes are counted.
struct Counted<S> {
    stream: S,
    heard: Heard,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        self.heard.add((buf.filled().len() - before) as u64);
        Poll::Ready(outcome)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
