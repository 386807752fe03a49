//! Tessera's coordinator.
//!
//! ```text
//!  agents ── rpc ─┐                       ┌─ journal (truth), store (quick access)
//!                 ├─► Handle ─► runtime ──┤
//!  operators ─ admin ┘  (one inbox)       └─ folds ── blobs (files by digest)
//! ```
//!
//! The [`Server`] listens; services decode and ask the runtime through a [`Handle`]; the runtime alone owns the runs'
//! engines, makes durable what they accept, and carries out what they want. Nothing here knows Burn.
//!
//! ```no_run
//! # async fn example() -> Result<(), tessera_server::Error> {
//! let server = tessera_server::Server::bind(tessera_server::Config::in_dir("/var/lib/tessera")).await?;
//! let agents_connect_to = server.local_addr();
//! server.run(async { drop(tokio::signal::ctrl_c().await) }).await
//! # }
//! ```

mod access;
mod admin;
mod admit;
mod audit;
pub mod blob;
mod clock;
mod config;
mod connection;
mod disk;
mod enrolment;
mod error;
mod fault;
mod faults;
mod fold;
pub mod format;
mod history;
mod identity;
pub mod journal;
mod places;
mod quota;
mod refusals;
pub mod replay;
mod rpc;
mod runtime;
mod serve;
mod session;
#[cfg(unix)]
mod socket;
pub mod space;
pub mod store;
mod sync;
mod tls;
mod traffic;
mod wire;

pub use config::{AdminAddress, Config, Security, TlsFiles, parse_duration, parse_size};
pub use error::{Error, Refusal};
pub use fault::{HITS as FAULT_HITS, POINTS as FAULT_POINTS};
pub use history::{BadEnd, EndedBadly, Happened, History, Watch};
pub use runtime::{Handle, Kept, MemberView, RunDetail, RunSummary};

use audit::Audit;
use blob::Blobs;
use connection::Connection;
use faults::Faults;
use identity::Identities;
use quota::Quotas;
use refusals::Refusals;
use runtime::{Runtime, Shared};
use serve::Bounds;
use std::fs::{File, TryLockError};
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use traffic::Traffic;

/// Longest that connections may take to end once the coordinator stops.
const DRAIN: Duration = Duration::from_secs(5);

enum AdminListener {
    #[cfg(unix)]
    Socket(tokio::net::UnixListener),
    Loopback(TcpListener),
    None,
}

/// A coordinator that listens and has loaded its runs.
pub struct Server {
    runtime: Runtime,
    handle: Handle,
    listener: TcpListener,
    local: SocketAddr,
    admin: AdminListener,
    pipes: mpsc::Receiver<Connection>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("local", &self.local).finish_non_exhaustive()
    }
}

impl Server {
    /// Takes the data folder, loads its runs and listens. Connections are served from [`Self::run`] on.
    ///
    /// # Errors
    /// If the settings cannot be right, the folder is in use or cannot be read, or an address cannot be listened at.
    pub async fn bind(config: Config) -> Result<Self, Error> {
        config.check()?;
        let (lock, blobs) = match &config.data_dir {
            None => (None, Blobs::in_memory(config.max_blob_bytes)),
            Some(dir) => {
                let lock = take_folder(dir)?;
                format::check(dir)?;
                (Some(lock), Blobs::in_dir(&dir.join("blobs"), config.max_blob_bytes)?)
            }
        };
        let identities = Identities::open(&config)?;
        let audit = Audit::open(config.data_dir.as_ref().map(|dir| dir.join("audit.log")).as_deref())?;
        let listen = |error| Error::Listen { flag: "--listen", at: config.listen.to_string(), error };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let local = listener.local_addr().map_err(listen)?;
        identities.listens(local);
        let admin = listen_for_operators(&config.admin).await?;
        let (inbox, requests) = runtime::inbox();
        let (pipe, pipes) = serve::ready();
        let traffic = Arc::new(Traffic::default());
        let runtime = Runtime::open(&config, blobs.clone(), traffic.clone(), identities.clone(), audit.clone(), requests, lock)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let scans = Semaphore::new(cores);
        let shared = Shared {
            blobs,
            traffic,
            heartbeat: config.heartbeat,
            scans,
            writing: Default::default(),
            faults: Faults::default(),
            pipes: pipe,
            disk: config.data_dir.clone().map(|dir| (dir, config.reserve_bytes)),
            identities,
            refusals: Refusals::new(audit.clone()),
            audit,
            quotas: Quotas::new(config.max_blob_bytes),
        };
        let handle = Handle { inbox, shared: Arc::new(shared) };
        Ok(Self { runtime, handle, listener, local, admin, pipes })
    }

    /// Where agents connect.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// SHA-256 of the certificate of its own authority, in hexadecimal digits; None in plaintext or with files of others.
    pub fn authority(&self) -> Option<String> {
        let (_, authority) = self.handle.shared.identities.status();
        Some(authority).filter(|authority| !authority.is_empty())
    }

    /// Where operators connect, if that is a TCP address.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        match &self.admin {
            AdminListener::Loopback(listener) => listener.local_addr().ok(),
            #[cfg(unix)]
            AdminListener::Socket(_) => None,
            AdminListener::None => None,
        }
    }

    /// The way in from within this process.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Serves until `shutdown` is ready; then tells agents, keeps every run, and gives connections a few seconds to end.
    /// Dropping the future instead ends everything at once, as a crash would.
    ///
    /// # Errors
    /// If the transport fails.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let (stop, stopped) = watch::channel(false);
        let mut tasks: JoinSet<Result<(), Error>> = JoinSet::new();
        let runtime = tasks.spawn({
            let (runtime, stopped) = (self.runtime, stopped.clone());
            async move {
                runtime.serve(stopped).await;
                Ok(())
            }
        });
        let mut doors: JoinSet<()> = JoinSet::new();
        let bounds = Bounds::new(serve::raise_file_limit());
        doors.spawn(self.handle.shared.identities.clone().keep_fresh());
        spawn_federation(&mut tasks, &mut doors, &self.handle, self.listener, &bounds, &stopped);
        spawn_admin(&mut tasks, &mut doors, &self.handle, self.admin, &bounds, &stopped);
        let pipes = serve::serve(serve::federation(self.handle.clone()), self.pipes, stopped);
        tasks.spawn(pipes);
        tracing::info!(listen = %self.local, "serving");
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                // None of them ends by itself, but for a failure.
                Some(ended) = tasks.join_next_with_id() => match ended {
                    Ok((id, outcome)) => {
                        outcome?;
                        if id == runtime.id() {
                            break;
                        }
                    }
                    Err(error) => return Err(Error::Store(format!("a task of the coordinator failed: {error}"))),
                },
            }
        }
        tracing::info!("stopping");
        doors.abort_all();
        stop.send_replace(true);
        drop(self.handle);
        let drained = tokio::time::timeout(DRAIN, async {
            while let Some(ended) = tasks.join_next().await {
                if let Err(error) = ended {
                    tracing::error!(%error, "a task of the coordinator failed");
                }
            }
        });
        if drained.await.is_err() {
            tracing::warn!(limit = ?DRAIN, "some connections did not end in time");
        }
        Ok(())
    }
}

fn spawn_federation(
    tasks: &mut JoinSet<Result<(), Error>>,
    doors: &mut JoinSet<()>,
    handle: &Handle,
    listener: TcpListener,
    bounds: &Arc<Bounds>,
    stopped: &watch::Receiver<bool>,
) {
    let (ready, incoming) = serve::ready();
    let service = if handle.shared.identities.plaintext() {
        doors.spawn(serve::accept_plain(listener, handle.clone(), bounds.clone(), ready));
        serve::federation(handle.clone())
    } else {
        doors.spawn(serve::accept_tls(listener, handle.clone(), bounds.clone(), ready));
        serve::everything(handle.clone())
    };
    tasks.spawn(serve::serve(service, incoming, stopped.clone()));
}

fn spawn_admin(
    tasks: &mut JoinSet<Result<(), Error>>,
    doors: &mut JoinSet<()>,
    handle: &Handle,
    admin: AdminListener,
    bounds: &Arc<Bounds>,
    stopped: &watch::Receiver<bool>,
) {
    let (ready, incoming) = serve::ready();
    match admin {
        AdminListener::None => return,
        #[cfg(unix)]
        AdminListener::Socket(listener) => doors.spawn(socket::accept(listener, ready)),
        AdminListener::Loopback(listener) => doors.spawn(serve::accept_plain(listener, handle.clone(), bounds.clone(), ready)),
    };
    tasks.spawn(serve::serve(serve::admin(handle.clone()), incoming, stopped.clone()));
}

/// Makes the folder, and keeps other coordinators out of it for as long as the file is open.
fn take_folder(dir: &Path) -> Result<File, Error> {
    disk::create_private_dir(dir).map_err(Error::io("cannot create", dir))?;
    let path = dir.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::io("cannot open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked(dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(Error::io("cannot lock", &path)(error)),
    }
}

async fn listen_for_operators(admin: &AdminAddress) -> Result<AdminListener, Error> {
    match admin {
        AdminAddress::None => Ok(AdminListener::None),
        #[cfg(unix)]
        AdminAddress::Socket(path) => Ok(AdminListener::Socket(socket::bind(path)?)),
        #[cfg(not(unix))]
        AdminAddress::Socket(_) => Err(Error::Config("there are no unix sockets here: give a loopback admin address".into())),
        AdminAddress::Loopback(address) => {
            let fault = |error| Error::Listen { flag: "--admin", at: address.to_string(), error };
            Ok(AdminListener::Loopback(TcpListener::bind(address).await.map_err(fault)?))
        }
    }
}
