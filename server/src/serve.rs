//! Listening: sockets, handshakes, and the services behind them.

use crate::admin::AdminService;
use crate::error::Error;
use crate::rpc::FederationService;
use crate::runtime::Handle;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tessera_proto::v1::admin_server::AdminServer;
use tessera_proto::v1::federation_server::FederationServer;
use tessera_proto::{CONNECTION_WINDOW_BYTES, FRAME_BYTES, MAX_MESSAGE_BYTES, STREAM_WINDOW_BYTES};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::transport::Server;
use tonic::transport::server::Connected;

/// Connections that are ready before the server takes them: it takes them at once.
const READY: usize = 64;
/// Handshakes at a time; more wait to be accepted.
const HANDSHAKES: usize = 256;
/// Longest that a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Pause after the system refuses a connection, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often a quiet connection is asked whether it lives, and how long it may take to say so.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Any byte stream as a connection.
pub(crate) struct Pipe(Pin<Box<dyn Io>>);

trait Io: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Io for T {}

impl Pipe {
    pub(crate) fn new(io: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        Self(Box::pin(io))
    }
}

impl std::fmt::Debug for Pipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pipe")
    }
}

impl AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_shutdown(cx)
    }
}

impl Connected for Pipe {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

fn transport() -> Server {
    Server::builder()
        .max_frame_size(FRAME_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
}

/// The service for agents.
pub(crate) fn federation(handle: Handle) -> FederationServer<FederationService> {
    FederationServer::new(FederationService { handle }).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

/// The service for operators.
pub(crate) fn admin(handle: Handle) -> AdminServer<AdminService> {
    AdminServer::new(AdminService { handle }).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

/// Serves connections as they become ready, until `stop` is true; then until the last one is done.
pub(crate) async fn serve<S, T>(service: S, ready: mpsc::Receiver<T>, mut stop: watch::Receiver<bool>) -> Result<(), Error>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    T: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let incoming = ReceiverStream::new(ready).map(Ok::<T, io::Error>);
    let stopped = async move {
        // A sender that is gone says the same.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    Ok(transport().serve_with_incoming_shutdown(service, incoming, stopped).await?)
}

/// Accepts plaintext connections.
pub(crate) async fn accept_plain(listener: TcpListener, ready: mpsc::Sender<TcpStream>) {
    while let Some(stream) = accept(&listener).await {
        if ready.send(stream).await.is_err() {
            return;
        }
    }
}

/// Accepts connections and shakes hands, each in a task of its own, so that a slow one holds up nobody.
pub(crate) async fn accept_tls(
    listener: TcpListener,
    config: Arc<rustls::ServerConfig>,
    ready: mpsc::Sender<TlsStream<TcpStream>>,
) {
    let acceptor = TlsAcceptor::from(config);
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    while let Some(stream) = accept(&listener).await {
        let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
        let (acceptor, ready) = (acceptor.clone(), ready.clone());
        tokio::spawn(async move {
            let peer = stream.peer_addr().ok();
            match timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => drop(ready.send(stream).await),
                // The client sees a broken connection; only here is the reason known.
                Ok(Err(error)) => tracing::warn!(?peer, %error, "a TLS handshake is refused"),
                Err(_) => tracing::warn!(?peer, limit = ?HANDSHAKE, "a TLS handshake takes too long"),
            }
            drop(permit);
        });
    }
}

/// The next connection. The transport does not turn off Nagle's delay for connections that it did not accept itself.
async fn accept(listener: &TcpListener) -> Option<TcpStream> {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "a connection is gone already");
                    continue;
                }
                return Some(stream);
            }
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A channel of ready connections.
pub(crate) fn ready<T>() -> (mpsc::Sender<T>, mpsc::Receiver<T>) {
    mpsc::channel(READY)
}
