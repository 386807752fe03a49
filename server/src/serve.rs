//! Listening: sockets, handshakes, and the services behind them.
//!
//! Whoever connects and says nothing takes a place that the next newcomer gets; whoever has shown a certificate keeps its
//! own. So connections that are silent, however many, keep out nobody.

use crate::access::Gate;
use crate::admin::AdminService;
use crate::clock::Clock;
use crate::connection::{Connection, Kind, Origin, Shown};
use crate::enrolment::EnrolmentService;
use crate::error::Error;
use crate::identity::Peer;
use crate::places::{Leave, Places, told};
use crate::rpc::FederationService;
use crate::runtime::Handle;
use crate::tls;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tessera_proto::v1::admin_server::AdminServer;
use tessera_proto::v1::enrolment_server::EnrolmentServer;
use tessera_proto::v1::federation_server::FederationServer;
use tessera_proto::{CONNECTION_WINDOW_BYTES, FRAME_BYTES, MAX_MESSAGE_BYTES, STREAM_WINDOW_BYTES};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::transport::Server;

/// Connections that are ready before the server takes them: it takes them at once.
const READY: usize = 64;
/// Handshakes at a time, and plaintext connections that have asked for nothing; the oldest makes room for a newcomer.
const PENDING: usize = 1024;
/// Connections without a certificate at a time; the oldest makes room for a newcomer.
const NAMELESS: usize = 256;
/// Connections with certificates of one name at a time; the oldest makes room for a newcomer.
const OF_ONE_NAME: usize = 64;
/// Longest that a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a connection without a certificate may stay: long enough to enrol.
const VISIT: Duration = Duration::from_secs(10);
/// From the end of a revoked member's control streams, which say why, to that of its connections.
const FAREWELL: Duration = Duration::from_millis(300);
/// Pause after the system refuses a connection, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often a quiet connection is asked whether it lives, and how long it may take to say so.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Calls at a time on one connection; an agent that wants more waits.
const STREAMS: u32 = 256;
/// Largest header of a call: names, and the few fields that gRPC adds.
const HEADER_BYTES: u32 = 16 << 10;
/// Calls that a client takes back before they were looked at, from which on its connection ends.
const TAKEN_BACK: usize = 32;
/// Calls with mistakes that were answered with a reset, from which on a connection ends.
const RESETS: usize = 256;
/// Largest message of the enrolment service: a token and a signing request.
const ENROLMENT_BYTES: usize = 64 << 10;

fn transport() -> Server {
    Server::builder()
        .max_frame_size(FRAME_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS)
        .http2_max_header_list_size(HEADER_BYTES)
        .http2_max_pending_accept_reset_streams(Some(TAKEN_BACK))
        .http2_max_local_error_reset_streams(Some(RESETS))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
}

/// The service for agents, in plaintext.
pub(crate) fn federation(handle: Handle) -> Gate {
    let service = FederationServer::new(FederationService { handle: handle.clone() });
    Gate::new(handle).federation(service.max_decoding_message_size(MAX_MESSAGE_BYTES))
}

/// The service for operators, on this machine.
pub(crate) fn admin(handle: Handle) -> Gate {
    let service = AdminServer::new(AdminService { handle: handle.clone() });
    Gate::new(handle).admin(service.max_decoding_message_size(MAX_MESSAGE_BYTES))
}

/// All services, for whoever shows a certificate that may use them.
pub(crate) fn everything(handle: Handle) -> Gate {
    let admin = AdminServer::new(AdminService { handle: handle.clone() }).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let enrolment = EnrolmentServer::new(EnrolmentService { handle: handle.clone() });
    federation(handle).admin(admin).enrolment(enrolment.max_decoding_message_size(ENROLMENT_BYTES))
}

/// Serves connections as they become ready, until `stop` is true; then until the last one is done.
pub(crate) async fn serve<S>(service: S, ready: mpsc::Receiver<Connection>, mut stop: watch::Receiver<bool>) -> Result<(), Error>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let incoming = ReceiverStream::new(ready).map(Ok::<Connection, io::Error>);
    let stopped = async move {
        // A sender that is gone says the same.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    Ok(transport().serve_with_incoming_shutdown(service, incoming, stopped).await?)
}

/// Bounds on connections of one listener.
#[derive(Debug)]
pub(crate) struct Bounds {
    /// All of them: each needs a file descriptor.
    all: Arc<Semaphore>,
    pending: Arc<Places<Kind>>,
    nameless: Arc<Places<Kind>>,
    named: Arc<Places<Kind>>,
}

impl Bounds {
    /// Bounds where the process may have `files` files open.
    pub(crate) fn new(files: usize) -> Arc<Self> {
        let all = files.saturating_sub(OWN_FILES.min(files / 4)).max(8);
        Arc::new(Self {
            all: Arc::new(Semaphore::new(all.min(Semaphore::MAX_PERMITS))),
            pending: Places::new(PENDING.min(all / 2)),
            nameless: Places::new(NAMELESS.min(all / 8)),
            named: Places::new(OF_ONE_NAME),
        })
    }
}

/// Files that the coordinator needs for itself: journals, blobs, the store.
const OWN_FILES: usize = 256;

/// Lets the process have as many files open as it may, and says how many that is.
#[cfg(unix)]
pub(crate) fn raise_file_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let open = match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::debug!(%error, "the limit of open files stays as it is");
            limit.current
        }
    };
    // none is a limit that nobody reaches
    open.map_or(1 << 20, |n| usize::try_from(n).unwrap_or(usize::MAX).min(1 << 20))
}

/// Where there is no such limit to ask for.
#[cfg(not(unix))]
pub(crate) fn raise_file_limit() -> usize {
    4096
}

/// Accepts plaintext connections.
pub(crate) async fn accept_plain(listener: TcpListener, handle: Handle, bounds: Arc<Bounds>, ready: mpsc::Sender<Connection>) {
    loop {
        let (stream, addr) = accept(&listener).await;
        let Some(permit) = permit(&bounds, &handle, addr) else { continue };
        let (place, leave) = bounds.pending.take(None);
        let origin = Origin::new(Shown::Local, Some(addr), Some(place));
        let connection = Connection::new(stream, origin).until_told(leave).holding(permit);
        if ready.send(connection).await.is_err() {
            return;
        }
    }
}

fn permit(bounds: &Bounds, handle: &Handle, addr: SocketAddr) -> Option<OwnedSemaphorePermit> {
    let permit = bounds.all.clone().try_acquire_owned().ok();
    if permit.is_none() {
        handle.shared.refusals.tell(
            &addr.to_string(),
            "connection",
            "as many connections as files may be open: raise `ulimit -n`",
        );
    }
    permit
}

/// Accepts connections and shakes hands, each in a task of its own, so that a slow one holds up nobody.
pub(crate) async fn accept_tls(listener: TcpListener, handle: Handle, bounds: Arc<Bounds>, ready: mpsc::Sender<Connection>) {
    loop {
        let (stream, addr) = accept(&listener).await;
        let Some(permit) = permit(&bounds, &handle, addr) else { continue };
        let Some(config) = handle.shared.identities.tls() else { return };
        let (place, leave) = bounds.pending.take(None);
        let (handle, bounds, ready) = (handle.clone(), bounds.clone(), ready.clone());
        tokio::spawn(async move {
            let refusals = &handle.shared.refusals;
            // The client sees a broken connection; only here is the reason known.
            match shake_hands(stream, config, leave).await {
                Ok(stream) => {
                    drop(place);
                    let connection = known(stream, addr, &handle, &bounds).holding(permit);
                    drop(ready.send(connection).await);
                }
                Err(why) => refusals.tell(&addr.to_string(), "handshake", &why),
            }
        });
    }
}

async fn shake_hands(stream: TcpStream, config: Arc<rustls::ServerConfig>, leave: Leave) -> Result<TlsStream<TcpStream>, String> {
    let shaking = timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream));
    tokio::select! {
        outcome = shaking => match outcome {
            Ok(outcome) => outcome.map_err(|error| tls::why_refused(&error)),
            Err(_) => Err(format!("a TLS handshake takes longer than {HANDSHAKE:?}")),
        },
        () = told(leave) => Err("too many TLS handshakes at a time; the oldest makes room".to_owned()),
    }
}

/// A connection by what it has shown: one without a certificate stays for a moment, one with a certificate until that ends
/// or its name is not welcome any more.
fn known(stream: TlsStream<TcpStream>, addr: SocketAddr, handle: &Handle, bounds: &Bounds) -> Connection {
    let shown = match stream.get_ref().1.peer_certificates().and_then(<[_]>::first) {
        None => Shown::Nothing,
        Some(certificate) => match Peer::of(certificate) {
            Ok(peer) => Shown::Certificate(Arc::new(peer)),
            Err(why) => Shown::Unusable(why.into()),
        },
    };
    let connection = Connection::new(stream, Origin::new(shown.clone(), Some(addr), None));
    let Shown::Certificate(peer) = shown else {
        let (place, leave) = bounds.nameless.take(None);
        return connection.until_told(leave).until(sleep(VISIT)).holding(place);
    };
    let (place, leave) = bounds.named.take(Some(peer.name.clone()));
    let stay = Duration::from_millis(peer.expires.saturating_sub(Clock::new().now()));
    connection.until_told(leave).until(sleep(stay)).until(unwelcome(handle.clone(), peer)).holding(place)
}

/// Ready a moment after the holder of a certificate that was welcome is so no more. One that never was is told with each
/// request.
async fn unwelcome(handle: Handle, peer: Arc<Peer>) {
    let identities = &handle.shared.identities;
    let mut cuts = identities.revocations();
    let mut welcome = identities.standing(&peer).is_ok();
    while !matches!(cuts.recv().await, Err(RecvError::Closed)) {
        // whoever it was: some may have been missed
        let now = identities.standing(&peer).is_ok();
        if welcome && !now {
            return sleep(FAREWELL).await;
        }
        welcome = now;
    }
    std::future::pending().await
}

/// The next connection. The transport does not turn off Nagle's delay for connections that it did not accept itself.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, addr)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "a connection is gone already");
                    continue;
                }
                return (stream, addr);
            }
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A channel of ready connections.
pub(crate) fn ready() -> (mpsc::Sender<Connection>, mpsc::Receiver<Connection>) {
    mpsc::channel(READY)
}
