//! The way in: cheap to clone, usable from anywhere.

use super::requests::{Fork, Read, Request};
use super::sessions::{Hello, Line, SessionId};
use super::view::{MemberView, RunDetail, RunSummary};
use crate::audit::Audit;
use crate::blob::{BlobError, Blobs};
use crate::connection::Connection;
use crate::error::Refusal;
use crate::faults::Faults;
use crate::history::Watch;
use crate::identity::Identities;
use crate::quota::Quotas;
use crate::refusals::Refusals;
use crate::traffic::Traffic;
use bytes::Bytes;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use tessera_common::id::{AssignmentId, Digest, MemberName, Round, RunId};
use tessera_common::round::{Assignment, Event};
use tessera_common::spec::RunSpec;
use tessera_proto::convert::shorten;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tonic::Status;

/// Reason of a pause for which none is given.
const ASKED: &str = "an operator asked for it";

/// Where an assignment stands when an answer to it comes.
#[derive(Debug, Clone)]
pub(crate) enum Standing {
    /// It is open, and the member's.
    Open { assignment: Assignment, spec: Arc<RunSpec> },
    /// It was answered; the verdict was this.
    Settled { refused: Option<String> },
}

/// What all handles share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) blobs: Blobs,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) heartbeat: Duration,
    /// Answers whose values are read at a time.
    pub(crate) scans: Semaphore,
    /// Uploads that wait for our disk.
    pub(crate) writing: AtomicUsize,
    /// What the log was told of our disk.
    pub(crate) faults: Faults,
    pub(crate) pipes: mpsc::Sender<Connection>,
    /// Folder and reserve, if there is a disk.
    pub(crate) disk: Option<(PathBuf, u64)>,
    pub(crate) identities: Identities,
    pub(crate) audit: Audit,
    pub(crate) refusals: Refusals,
    pub(crate) quotas: Arc<Quotas>,
}

/// The way into a coordinator, from within its process. Works while [`crate::Server::run`] does.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(crate) inbox: mpsc::Sender<Request>,
    pub(crate) shared: Arc<Shared>,
}

impl Handle {
    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.inbox.send(request(reply)).await.map_err(|_| Refusal::Stopping)?;
        answer.await.map_err(|_| Refusal::Stopping)
    }

    /// Submits a run and returns its id: `id` if it is free, a made-up one if it is None. The same spec under the same
    /// id is the same run.
    ///
    /// # Errors
    /// If the spec is not valid, the id has another spec, or the run cannot be stored.
    pub async fn submit(&self, spec_toml: &str, id: Option<RunId>) -> Result<RunId, Refusal> {
        let spec = Box::new(RunSpec::from_toml(spec_toml)?);
        self.ask(|reply| Request::Submit { spec, id, reply }).await?
    }

    /// All runs, oldest first.
    ///
    /// # Errors
    /// If the coordinator stops.
    pub async fn runs(&self) -> Result<Vec<RunSummary>, Refusal> {
        self.ask(|reply| Request::Read(Read::List(reply))).await
    }

    /// One run.
    ///
    /// # Errors
    /// If there is no such run.
    pub async fn show(&self, run: &RunId) -> Result<RunDetail, Refusal> {
        let run = run.clone();
        self.ask(|reply| Request::Read(Read::Show { run, reply })).await?
    }

    /// Makes a run that goes on from the global of `round` of the run `from`, with that run's spec or another one of the
    /// same task and model. The new run needs the same members as any other; what members keep for themselves starts anew.
    ///
    /// # Errors
    /// If there is no such run, it does not keep that global, or the spec cannot go on from it.
    pub async fn fork(&self, from: &RunId, round: Round, spec_toml: Option<&str>, id: Option<RunId>) -> Result<RunId, Refusal> {
        let spec = spec_toml.map(RunSpec::from_toml).transpose()?;
        if let Some((_, global, _)) = self.globals(from).await?.into_iter().find(|(kept, ..)| *kept == round) {
            let blobs = self.blobs().clone();
            let checked = tokio::task::spawn_blocking(move || blobs.verify(&global)).await;
            checked.map_err(|e| Refusal::NotStored(e.to_string()))?.map_err(|e| Refusal::NotStored(e.to_string()))?;
        }
        let fork = Box::new(Fork { from: from.clone(), round, spec, id });
        self.ask(|reply| Request::Fork { fork, reply }).await?
    }

    /// The globals of a run that are kept, in order of round, with their lengths in bytes.
    ///
    /// # Errors
    /// If there is no such run.
    pub async fn globals(&self, run: &RunId) -> Result<Vec<(Round, Digest, u64)>, Refusal> {
        let run = run.clone();
        let globals = self.ask(|reply| Request::Read(Read::Globals { run, reply })).await??;
        let blobs = self.blobs().clone();
        let measure = move || {
            // one that is missing is not kept, whatever the books say
            globals.into_iter().filter_map(|(round, digest)| Some((round, digest, blobs.len(&digest).ok()?))).collect()
        };
        tokio::task::spawn_blocking(measure).await.map_err(|e| Refusal::NotStored(e.to_string()))
    }

    /// True if the blob is a global that a run keeps, or its statistics.
    pub(crate) async fn is_published(&self, digest: &Digest) -> Result<bool, Refusal> {
        let digest = *digest;
        self.ask(|reply| Request::Read(Read::Published { digest, reply })).await
    }

    /// What is wrong with the disk at present, if anything.
    ///
    /// # Errors
    /// If the coordinator stops.
    pub async fn trouble(&self) -> Result<Option<String>, Refusal> {
        self.ask(|reply| Request::Read(Read::Trouble(reply))).await
    }

    /// Ends a run.
    ///
    /// # Errors
    /// If there is no such run or it is over.
    pub async fn stop(&self, run: &RunId) -> Result<(), Refusal> {
        self.happened(run, Event::StopAsked).await
    }

    /// Pauses a run: nobody is given new work until [`Self::resume`]. Answers that come in the meantime count. `reason` is
    /// for people; a long one is shortened, an empty one replaced.
    ///
    /// # Errors
    /// If there is no such run, or it is paused already or over.
    pub async fn pause(&self, run: &RunId, reason: &str) -> Result<(), Refusal> {
        let reason = if reason.trim().is_empty() { ASKED } else { reason };
        self.happened(run, Event::PauseAsked { reason: shorten(reason.to_owned()) }).await
    }

    /// Goes on with a paused run, whatever paused it. Members that did not answer are asked again.
    ///
    /// # Errors
    /// If there is no such run, or it is not paused.
    pub async fn resume(&self, run: &RunId) -> Result<(), Refusal> {
        self.happened(run, Event::ResumeAsked).await
    }

    /// Follows the history of a run from behind position `after`; 0 is the beginning.
    ///
    /// # Errors
    /// If there is no such run.
    pub async fn watch(&self, run: &RunId, after: u64) -> Result<Watch, Refusal> {
        let run = run.clone();
        self.ask(|reply| Request::Read(Read::Watch { run, after, reply })).await?
    }

    /// All members that were ever seen, in order of name.
    ///
    /// # Errors
    /// If the coordinator stops.
    pub async fn members(&self) -> Result<Vec<MemberView>, Refusal> {
        self.ask(|reply| Request::Read(Read::Members(reply))).await
    }

    /// A blob, such as a global or statistics, as a whole.
    ///
    /// # Errors
    /// If it is not here or cannot be read.
    pub async fn blob(&self, digest: &Digest) -> Result<Bytes, BlobError> {
        let (blobs, digest) = (self.shared.blobs.clone(), *digest);
        tokio::task::spawn_blocking(move || blobs.verify(&digest).and_then(|()| blobs.read(&digest)))
            .await
            .unwrap_or_else(|e| Err(BlobError::Lost(e.to_string())))
    }

    /// The blobs, to read and write directly.
    pub fn blobs(&self) -> &Blobs {
        &self.shared.blobs
    }

    /// Serves one connection within this process, such as one end of [`tokio::io::duplex`]. It speaks HTTP/2 as a socket
    /// would, without TLS.
    ///
    /// # Errors
    /// If the coordinator stops.
    pub async fn serve_io(&self, io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<(), Refusal> {
        self.shared.pipes.send(Connection::local(io)).await.map_err(|_| Refusal::Stopping)
    }

    /// Tells a run that something happened; returns when that is durable.
    pub(crate) async fn happened(&self, run: &RunId, event: Event) -> Result<(), Refusal> {
        let run = run.clone();
        self.ask(|reply| Request::Happened { run, event, reply }).await?
    }

    pub(crate) async fn standing(&self, run: &RunId, member: &MemberName, assignment: AssignmentId) -> Result<Standing, Refusal> {
        let (run, member) = (run.clone(), member.clone());
        self.ask(|reply| Request::Read(Read::Standing { run, member, assignment, reply })).await?
    }

    pub(crate) async fn connect(&self, hello: Hello, line: Line) -> Result<SessionId, Refusal> {
        self.ask(|reply| Request::Connect { hello, line, reply }).await
    }

    /// Lets the runs wait for a disk that failed somebody, who wanted room for `need` bytes.
    pub(crate) async fn disk_failed(&self, reason: String, need: u64) {
        // A coordinator that stops needs no room.
        let _ = self.inbox.send(Request::Trouble { reason, need }).await;
    }

    /// Pauses the runs that work with a damaged blob.
    pub(crate) async fn damaged(&self, digest: Digest, reason: String) {
        let _ = self.inbox.send(Request::Corrupt { digest, reason }).await;
    }

    pub(crate) async fn disconnect(&self, session: SessionId, why: Status) {
        // A coordinator that stops has closed it.
        let _ = self.inbox.send(Request::Disconnect { session, why }).await;
    }
}
