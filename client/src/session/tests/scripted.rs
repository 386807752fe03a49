//! The coordinator's end of the wire: it keeps blobs, and says what a test wants it to say.

use crate::config::Dial;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use tessera_common::id::Digest;
use tessera_proto::convert::digest;
use tessera_proto::v1::agent_message::Message as Up;
use tessera_proto::v1::coordinator_message::Message as Down;
use tessera_proto::v1::federation_server::{Federation, FederationServer};
use tessera_proto::v1::upload_request::Part;
use tessera_proto::v1::{self, AgentMessage, CoordinatorMessage, DownloadRequest, DownloadResponse};
use tessera_proto::v1::{UploadRequest, UploadResponse, UploadStatusRequest, UploadStatusResponse};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

/// Bytes of a chunk: small, so that a download can break anywhere.
const CHUNK: usize = 40;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Debug, Default)]
struct Store {
    blobs: BTreeMap<Digest, Vec<u8>>,
    /// Offsets of the downloads that were asked for.
    offsets: Vec<u64>,
    /// Downloads end after so many bytes.
    limit: Option<usize>,
    /// Downloads are refused so.
    refusal: Option<&'static str>,
}

#[derive(Debug)]
struct Service {
    store: Arc<Mutex<Store>>,
    conversations: mpsc::Sender<Conversation>,
}

/// One connection of an agent.
#[derive(Debug)]
pub(super) struct Conversation {
    inbound: Streaming<AgentMessage>,
    outbox: mpsc::Sender<Result<CoordinatorMessage, Status>>,
    said: u64,
    heard: u64,
}

#[derive(Debug)]
pub(super) struct Coordinator {
    store: Arc<Mutex<Store>>,
    conversations: mpsc::Receiver<Conversation>,
    pipes: mpsc::Sender<DuplexStream>,
}

#[tonic::async_trait]
impl Federation for Service {
    type ConnectStream = Answers<CoordinatorMessage>;
    type DownloadStream = Answers<DownloadResponse>;

    async fn connect(&self, request: Request<Streaming<AgentMessage>>) -> Result<Response<Self::ConnectStream>, Status> {
        let (outbox, queue) = mpsc::channel(64);
        let talk = Conversation { inbound: request.into_inner(), outbox, said: 0, heard: 0 };
        self.conversations.send(talk).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }

    async fn upload_status(&self, request: Request<UploadStatusRequest>) -> Result<Response<UploadStatusResponse>, Status> {
        let digest = digest(&request.into_inner().digest)?;
        let complete = self.store.lock().unwrap().blobs.contains_key(&digest);
        Ok(Response::new(UploadStatusResponse { offset: 0, complete }))
    }

    async fn upload(&self, request: Request<Streaming<UploadRequest>>) -> Result<Response<UploadResponse>, Status> {
        let (mut parts, mut wanted, mut bytes) = (request.into_inner(), None, Vec::new());
        while let Some(part) = parts.message().await? {
            match part.part.unwrap() {
                Part::Header(header) => wanted = Some(digest(&header.digest)?),
                Part::Chunk(chunk) => bytes.extend_from_slice(&chunk),
            }
        }
        assert_eq!(wanted, Some(Digest::of(&bytes)), "an upload has the digest that it says");
        let length = bytes.len() as u64;
        self.store.lock().unwrap().blobs.insert(Digest::of(&bytes), bytes);
        Ok(Response::new(UploadResponse { bytes: length }))
    }

    async fn download(&self, request: Request<DownloadRequest>) -> Result<Response<Self::DownloadStream>, Status> {
        let DownloadRequest { digest: wanted, offset } = request.into_inner();
        let mut store = self.store.lock().unwrap();
        store.offsets.push(offset);
        if let Some(text) = store.refusal {
            return Err(Status::permission_denied(text));
        }
        let blob = store.blobs.get(&digest(&wanted)?).ok_or_else(|| Status::not_found("no such blob"))?.clone();
        let total = blob.len() as u64;
        let end = store.limit.map_or(blob.len(), |limit| limit.min(blob.len()));
        let rest = blob.get(offset as usize..end).unwrap_or_default();
        let mut parts: Vec<Result<DownloadResponse, Status>> =
            rest.chunks(CHUNK).map(|chunk| Ok(DownloadResponse { total, chunk: chunk.to_vec().into() })).collect();
        if parts.is_empty() {
            parts.push(Ok(DownloadResponse { total, ..DownloadResponse::default() }));
        }
        if end < blob.len() {
            parts.push(Err(Status::unavailable("the test breaks this download off")));
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(parts))))
    }
}

impl Coordinator {
    pub(super) fn start() -> Self {
        let (store, (told, conversations), (pipes, incoming)) = (Arc::default(), mpsc::channel(8), mpsc::channel(8));
        let service = FederationServer::new(Service { store: Arc::clone(&store), conversations: told });
        let incoming = ReceiverStream::new(incoming).map(Ok::<DuplexStream, std::io::Error>);
        let serving = tonic::transport::Server::builder();
        tokio::spawn(async move { serving.serve_with_incoming_shutdown(service, incoming, std::future::pending()).await });
        Self { store, conversations, pipes }
    }

    pub(super) fn dial(&self) -> Dial {
        Dial::Pipe(self.pipes.clone())
    }

    /// The next connection of an agent.
    pub(super) async fn conversation(&mut self) -> Conversation {
        self.conversations.recv().await.unwrap()
    }

    pub(super) fn put(&self, blob: &[u8]) -> Digest {
        self.store.lock().unwrap().blobs.insert(Digest::of(blob), blob.to_vec());
        Digest::of(blob)
    }

    pub(super) fn forget_blobs(&self) {
        self.store.lock().unwrap().blobs.clear();
    }

    pub(super) fn break_downloads_after(&self, bytes: Option<usize>) {
        self.store.lock().unwrap().limit = bytes;
    }

    pub(super) fn refuse_downloads(&self, text: &'static str) {
        self.store.lock().unwrap().refusal = Some(text);
    }

    pub(super) fn offsets(&self) -> Vec<u64> {
        self.store.lock().unwrap().offsets.clone()
    }
}

impl Conversation {
    pub(super) async fn say(&mut self, message: Down) {
        self.said += 1;
        let message = CoordinatorMessage { message: Some(message), sequence: self.said };
        // an agent that is gone hears nothing
        let _ = self.outbox.send(Ok(message)).await;
    }

    /// Ends the conversation.
    pub(super) async fn refuse(self, status: Status) {
        let _ = self.outbox.send(Err(status)).await;
    }

    /// As if a message had been said that never arrives.
    pub(super) fn lose(&mut self) {
        self.said += 1;
    }

    async fn hear(&mut self) -> Up {
        let message = self.inbound.message().await.unwrap().expect("the agent talks");
        self.heard += 1;
        assert_eq!(message.sequence, self.heard, "messages are numbered from 1");
        message.message.unwrap()
    }

    async fn next(&mut self) -> Up {
        loop {
            let message = self.hear().await;
            if !matches!(message, Up::Heartbeat(_)) {
                return message;
            }
        }
    }

    /// Waits until the agent has dealt with what was said: it answers heartbeats of its own only afterwards.
    pub(super) async fn idle(&mut self) {
        // what was said is in the pipe now, and each turn of the agent's loop takes one message or one tick
        for _ in 0..3 {
            assert!(matches!(self.hear().await, Up::Heartbeat(_)));
        }
    }

    pub(super) async fn welcome(&mut self) {
        let Up::Hello(hello) = self.next().await else { panic!("a hello comes first") };
        assert_eq!(hello.members.len(), 1);
        self.say(Down::Welcome(v1::Welcome { version: tessera_proto::VERSION.into(), heartbeat_ms: 50, time_ms: 0 })).await;
    }

    pub(super) async fn answer(&mut self) -> v1::Answer {
        match self.next().await {
            Up::Answer(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn failure(&mut self) -> v1::Failure {
        match self.next().await {
            Up::Failure(failure) => failure,
            other => panic!("{other:?}"),
        }
    }
}

pub(super) fn accepted(answer: &v1::Answer) -> Down {
    let (run, member) = (answer.run.clone(), answer.member.clone());
    Down::Verdict(v1::Verdict { run, member, assignment: answer.assignment, accepted: true, reason: String::new() })
}
