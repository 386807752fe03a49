//! The service for agents: decode, ask the runtime or the blobs, answer.

use crate::access::Caller;
use crate::blob::{BlobError, BlobStatus, Blobs, Raw, Upload};
use crate::fault::hit;
use crate::quota::{Permit, Work};
use crate::refusals::{caught, joined};
use crate::runtime::{Disk, Handle, ToAgent};
use crate::session::{self, OUTBOX};
use crate::traffic::Counter;
use crate::wire;
use bytes::{Bytes, BytesMut};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tessera_common::id::Digest;
use tessera_proto::CHUNK_BYTES;
use tessera_proto::convert::digest;
use tessera_proto::v1::federation_server::Federation;
use tessera_proto::v1::upload_request::Part;
use tessera_proto::v1::{
    AgentMessage, CoordinatorMessage, DownloadRequest, DownloadResponse, UploadHeader, UploadRequest, UploadResponse,
    UploadStatusRequest, UploadStatusResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

/// A stream of answers.
pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Bytes gathered before they are written, and read at once: a hop to the blocking pool costs less than this.
const WRITE_BYTES: usize = 1 << 20;
/// Chunks read ahead of the network: with one read of the disk in flight, the link does not wait.
const READ_AHEAD: usize = 8;
/// An upload that sends nothing for so long gives up; what came is kept.
const STALL: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct FederationService {
    pub(crate) handle: Handle,
}

#[tonic::async_trait]
impl Federation for FederationService {
    type ConnectStream = Answers<CoordinatorMessage>;
    type DownloadStream = Answers<DownloadResponse>;

    async fn connect(&self, request: Request<Streaming<AgentMessage>>) -> Result<Response<Self::ConnectStream>, Status> {
        let caller = Caller::of(request.extensions())?;
        let permit = self.handle.shared.quotas.begin(&caller, Work::Control)?;
        let (outbox, queue) = mpsc::channel(OUTBOX);
        let handle = self.handle.clone();
        tokio::spawn(async move {
            let talk = session::converse(handle.clone(), caller, permit, request.into_inner(), outbox.clone());
            if let Err(status) = caught(&handle.shared.refusals, "Federation/Connect", talk).await {
                // An agent that does not read is not told.
                let _ = outbox.try_send(Err(status));
            }
        });
        let mut sequence = 0;
        let numbered = move |message: Result<ToAgent, Status>| {
            message.map(|message| {
                sequence += 1;
                wire::to_agent(message, sequence)
            })
        };
        let kept = |message: &Result<CoordinatorMessage, Status>| message.is_err() || !hit("coordinator/lose-sent");
        Ok(Response::new(Box::pin(ReceiverStream::new(queue).map(numbered).filter(kept))))
    }

    async fn upload_status(&self, request: Request<UploadStatusRequest>) -> Result<Response<UploadStatusResponse>, Status> {
        let (blobs, digest) = (self.handle.blobs().clone(), digest(&request.into_inner().digest)?);
        let status = blocking(&self.handle, move || status_of(&blobs, &digest)).await?;
        Ok(Response::new(UploadStatusResponse { offset: status.offset, complete: status.complete }))
    }

    async fn upload(&self, request: Request<Streaming<UploadRequest>>) -> Result<Response<UploadResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let _permit = self.handle.shared.quotas.begin(&caller, Work::Upload)?;
        let mut parts = request.into_inner();
        let Some(Part::Header(header)) = next_part(&mut parts).await? else {
            return Err(Status::invalid_argument("an upload starts with its header"));
        };
        let (digest, blobs) = (digest(&header.digest)?, self.handle.blobs().clone());
        if let Some(done) = self.already(digest).await? {
            return Ok(done);
        }
        let UploadHeader { bytes, offset, .. } = header;
        // a claim is looked at before anything is done for it
        blobs.admits(digest, bytes)?;
        let rest = bytes.checked_sub(offset).ok_or_else(|| Status::out_of_range("the offset is behind the end of the blob"))?;
        self.handle.shared.quotas.bring(&caller, rest)?;
        self.room_for(&caller, rest).await?;
        let mut upload = blocking(&self.handle, move || blobs.begin(digest, bytes, offset)).await?;
        let mut gathered = BytesMut::new();
        while let Some(part) = next_part(&mut parts).await? {
            let Part::Chunk(chunk) = part else {
                return Err(Status::invalid_argument("an upload has one header"));
            };
            gathered.extend_from_slice(&chunk);
            if gathered.len() >= WRITE_BYTES {
                upload = self.append(upload, gathered.split().freeze()).await?;
            }
        }
        let upload = self.append(upload, gathered.freeze()).await?;
        let _writing = Writing::start(&self.handle.shared.writing);
        blocking(&self.handle, move || upload.finish()).await?;
        Ok(Response::new(UploadResponse { bytes }))
    }

    async fn download(&self, request: Request<DownloadRequest>) -> Result<Response<Self::DownloadStream>, Status> {
        let caller = Caller::of(request.extensions())?;
        let permit = self.handle.shared.quotas.begin(&caller, Work::Download)?;
        let request = request.into_inner();
        let wanted = digest(&request.digest)?;
        // An agent sees what an assignment of its own named, and never another member's update. One that is there and is not
        // for it looks to it as one that is not there.
        let Some(counter) = self.handle.shared.traffic.counter(&wanted, &caller) else {
            let status = Status::from(BlobError::Missing(wanted));
            if caller.certified().is_some() {
                let why = format!("blob {wanted}: no assignment of a member of its own names it");
                self.handle.shared.refusals.tell(&caller.who(), "Federation/Download", &why);
            }
            return Err(status);
        };
        Ok(Response::new(send_blob(&self.handle, wanted, request.offset, Some(counter), permit).await?))
    }
}

impl FederationService {
    async fn already(&self, digest: Digest) -> Result<Option<Response<UploadResponse>>, Status> {
        let blobs = self.handle.blobs().clone();
        let status = blocking(&self.handle, move || status_of(&blobs, &digest)).await?;
        Ok(status.complete.then(|| Response::new(UploadResponse { bytes: status.offset })))
    }

    /// Refuses an upload that would take from the space that stays free. Runs wait only for a disk that is full now: what
    /// one caller says that it will send must not stop the others.
    async fn room_for(&self, caller: &Caller, bytes: u64) -> Result<(), Status> {
        let Some((dir, reserve)) = self.handle.shared.disk.clone() else { return Ok(()) };
        let disk = Disk { dir, reserve };
        let lacks = tokio::task::spawn_blocking(move || (disk.lacks(bytes), disk.lacks(0))).await;
        let (lacks, full) = lacks.map_err(|e| Status::internal(e.to_string()))?;
        let Some(reason) = lacks else { return Ok(()) };
        tracing::warn!(who = caller.who(), bytes, reason, "no room for an upload");
        if let Some(reason) = full {
            self.handle.disk_failed(format!("no room for an upload: {reason}"), 0).await;
        }
        Err(Status::unavailable("the coordinator has no room for this upload at present; send it again later"))
    }

    async fn append(&self, mut upload: Upload, bytes: Bytes) -> Result<Upload, Status> {
        let _writing = Writing::start(&self.handle.shared.writing);
        blocking(&self.handle, move || upload.append(&bytes).map(|()| upload)).await
    }
}

/// How much of a blob is here. One that is complete will not be sent again, so it must not be cleared away now.
fn status_of(blobs: &Blobs, digest: &Digest) -> Result<BlobStatus, BlobError> {
    blobs.touch(digest)?;
    blobs.status(digest)
}

/// Counts an upload that waits for our disk, as long as it lives.
struct Writing<'a>(&'a AtomicUsize);

impl<'a> Writing<'a> {
    fn start(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn next_part(parts: &mut Streaming<UploadRequest>) -> Result<Option<Part>, Status> {
    let message = tokio::time::timeout(STALL, parts.message()).await;
    let message =
        message.map_err(|_| Status::deadline_exceeded(format!("nothing came for {STALL:?}; go on from the stored part")))?;
    match message? {
        None => Ok(None),
        Some(UploadRequest { part: Some(part) }) => Ok(Some(part)),
        Some(UploadRequest { part: None }) => Err(Status::invalid_argument("a message without header or chunk")),
    }
}

/// Runs what waits for the disk on the blocking pool. The log hears of a disk that fails, the caller gets no path.
async fn blocking<T: Send + 'static>(
    handle: &Handle,
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, Status> {
    let done = joined(&handle.shared.refusals, "blobs", tokio::task::spawn_blocking(work).await);
    let outcome = done.unwrap_or_else(|status| Err(BlobError::Lost(status.message().to_owned())));
    if let Err(error) = &outcome {
        handle.shared.faults.tell(error);
        match error {
            BlobError::Corrupt { digest, .. } => handle.damaged(*digest, error.to_string()).await,
            error if error.is_trouble_of_the_disk() => handle.disk_failed(error.to_string(), 0).await,
            _ => {}
        }
    }
    outcome.map_err(Status::from)
}

/// Streams a blob from `offset` on, in chunks; `counter` counts what is handed to the connection, and `permit` is given back
/// at its end.
pub(crate) async fn send_blob(
    handle: &Handle,
    digest: Digest,
    offset: u64,
    counter: Option<Arc<Counter>>,
    permit: Permit,
) -> Result<Answers<DownloadResponse>, Status> {
    let blobs = handle.blobs().clone();
    let raw = blocking(handle, move || blobs.verify(&digest).and_then(|()| blobs.raw(&digest))).await?;
    if offset > raw.len() {
        return Err(Status::out_of_range(format!("offset {offset} is behind the end of blob {}", digest.short())));
    }
    let (queue, chunks) = mpsc::channel(READ_AHEAD);
    let handle = handle.clone();
    tokio::spawn(async move {
        let _permit = permit;
        // A reader that is gone ends this.
        if let Err(status) = read_out(&handle, raw, offset, counter, &queue).await {
            let _ = queue.send(Err(status)).await;
        }
    });
    Ok(Box::pin(ReceiverStream::new(chunks)))
}

async fn read_out(
    handle: &Handle,
    raw: Raw,
    offset: u64,
    counter: Option<Arc<Counter>>,
    queue: &mpsc::Sender<Result<DownloadResponse, Status>>,
) -> Result<(), Status> {
    let (total, raw) = (raw.len(), Arc::new(raw));
    let mut at = offset;
    let mut first = true;
    while first || at < total {
        let (from, source) = (at, raw.clone());
        let mut block = blocking(handle, move || source.chunk(from, WRITE_BYTES)).await?;
        at += block.len() as u64;
        while first || !block.is_empty() {
            let chunk = block.split_to(block.len().min(CHUNK_BYTES));
            let bytes = chunk.len() as u64;
            let message = DownloadResponse { total: if first { total } else { 0 }, chunk };
            first = false;
            if queue.send(Ok(message)).await.is_err() {
                return Ok(());
            }
            if let Some(counter) = &counter {
                counter.add(bytes);
            }
        }
    }
    Ok(())
}
