//! A scripted agent: speaks the protocol as a real one does, and answers with small tensors made by hand.

#![allow(dead_code, unreachable_pub)] // each test binary uses a part of this

pub mod answers;

use answers::{Answered, answer};
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use tessera_common::id::{Digest, RunId};
use tessera_common::param::{Limits, ParamSet};
use tessera_common::round::{Assignment, Work};
use tessera_proto::convert::digest_bytes;
use tessera_proto::v1::federation_client::FederationClient;
use tessera_proto::v1::{self, agent_message::Message as Up, coordinator_message::Message as Down, upload_request::Part};
use tessera_server::{Config, Handle, Happened, Server};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// What a member does with an assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Good,
    /// Says that it could not do it.
    Fail,
    /// Says nothing.
    /// An update beyond the coordinator's limit, which is refused before it is sent.
    TooLarge,
    Silent,
    NotFinite,
    WrongShape,
    WrongName,
    Extra,
    NotCanonical,
    Truncated,
    WrongDigest,
    WrongLength,
    BadMetrics,
    NoTensors,
}

pub type Script = Arc<dyn Fn(&Assignment) -> Act + Send + Sync>;

pub fn good() -> Script {
    Arc::new(|_| Act::Good)
}

/// What an agent saw.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    pub assignments: Vec<Assignment>,
    pub verdicts: Vec<v1::Verdict>,
    pub opened: Vec<String>,
    pub closed: Vec<v1::RunClosed>,
    pub cancelled: Vec<v1::Cancel>,
    pub heartbeats: usize,
    /// Why each of its connections ended.
    pub ends: Vec<String>,
}

#[derive(Clone)]
pub struct Agent {
    pub name: String,
    pub members: Vec<v1::Member>,
    pub script: Script,
    /// Answers in the order that this seed gives, one at a time, once all members of a phase are asked.
    pub shuffle: Option<u64>,
    pub seen: Arc<Mutex<Seen>>,
}

pub fn member(name: &str, modalities: &[&str]) -> v1::Member {
    let modalities = modalities.iter().map(|m| (*m).to_owned()).collect();
    v1::Member { name: name.into(), trains: true, evaluates: true, modalities }
}

impl Agent {
    /// An agent of four members, of which each has what its place says.
    pub fn of_four(script: Script) -> Self {
        let both = ["left", "right"];
        let members = vec![member("a", &both), member("b", &both[..1]), member("c", &both[1..]), member("d", &both)];
        Self::new("four", members, script)
    }

    pub fn new(name: &str, members: Vec<v1::Member>, script: Script) -> Self {
        Self { name: name.into(), members, script, shuffle: None, seen: Arc::default() }
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    pub fn hello(&self) -> Up {
        Up::Hello(v1::Hello { agent: self.name.clone(), version: tessera_proto::VERSION.into(), members: self.members.clone() })
    }

    /// Serves its members over `channel` until the connection ends.
    pub async fn converse(&self, channel: Channel) -> Result<(), Status> {
        let (outbox, queue) = mpsc::channel(1024);
        let send = async |message: Up| outbox.send(v1::AgentMessage { message: Some(message), sequence: 0 }).await;
        send(self.hello()).await.unwrap();
        let mut client = FederationClient::new(channel.clone());
        let mut inbound = client.connect(ReceiverStream::new(queue)).await?.into_inner();
        let mut beat = tokio::time::interval(std::time::Duration::from_millis(100));
        let mut waiting: BTreeMap<(u32, u8), Vec<(String, Assignment)>> = BTreeMap::new();
        let mut script: Vec<(String, Assignment)> = Vec::new();
        loop {
            let message = tokio::select! {
                message = inbound.message() => message?,
                _ = beat.tick() => {
                    let _ = send(Up::Heartbeat(v1::Heartbeat {})).await;
                    continue;
                }
            };
            let Some(message) = message else { return Ok(()) };
            let mut go_on = false;
            match message.message.unwrap() {
                Down::Welcome(_) => {}
                Down::Cancel(cancel) => self.seen.lock().unwrap().cancelled.push(cancel),
                Down::RunOpened(opened) => self.seen.lock().unwrap().opened.push(opened.run),
                Down::RunClosed(closed) => self.seen.lock().unwrap().closed.push(closed),
                Down::Heartbeat(_) => self.seen.lock().unwrap().heartbeats += 1,
                Down::Verdict(verdict) => {
                    self.seen.lock().unwrap().verdicts.push(verdict);
                    go_on = true;
                }
                Down::Assignment(wire) => {
                    let (run, assignment) = <(RunId, Assignment)>::try_from(wire).unwrap();
                    self.seen.lock().unwrap().assignments.push(assignment.clone());
                    let Some(seed) = self.shuffle else {
                        self.act(&channel, &outbox, run.as_str(), assignment).await?;
                        continue;
                    };
                    let asked = if assignment.work == Work::Initialise { 1 } else { self.members.len() };
                    let key = (assignment.round, assignment.work as u8);
                    let all = waiting.entry(key).or_default();
                    all.push((run.to_string(), assignment));
                    if all.len() == asked {
                        script = std::mem::take(all);
                        let place = |a: &Assignment| Digest::of(format!("{seed} {} {key:?}", a.member).as_bytes());
                        script.sort_by_key(|(_, a)| place(a));
                        go_on = true;
                    }
                }
            }
            if go_on && let Some((run, assignment)) = script.pop() {
                self.act(&channel, &outbox, &run, assignment).await?;
            }
        }
    }

    async fn act(
        &self,
        channel: &Channel,
        outbox: &mpsc::Sender<v1::AgentMessage>,
        run: &str,
        assignment: Assignment,
    ) -> Result<(), Status> {
        let act = (self.script)(&assignment);
        if act == Act::Silent {
            return Ok(());
        }
        let (member, id) = (assignment.member.to_string(), assignment.id.0);
        let message = if act == Act::Fail {
            Up::Failure(v1::Failure { run: run.into(), member, assignment: id, reason: "out of memory".into() })
        } else if act == Act::TooLarge {
            let refusal = upload(channel, Digest::of(b"huge"), 5 << 30, 0, b"").await.unwrap_err();
            assert_eq!(refusal.code(), Code::ResourceExhausted);
            Up::Failure(v1::Failure { run: run.into(), member, assignment: id, reason: refusal.message().into() })
        } else {
            let global = match assignment.global {
                Some(digest) => Some(ParamSet::from_bytes(&download(channel, digest, 0).await?, &Limits::default()).unwrap()),
                None => None,
            };
            let member = self.members.iter().find(|m| m.name == member).unwrap();
            let Answered { wire, blob, sent } = answer(run, member, &assignment, global.as_ref(), act);
            if let Some(blob) = &blob {
                let digest = Digest::try_from(&wire.blob[..]).unwrap();
                let outcome = upload(channel, digest, blob.len() as u64, 0, &blob[..sent]).await;
                if act == Act::Good || outcome.as_ref().is_err_and(|s| s.code() == Code::Unavailable) {
                    outcome?;
                }
            }
            Up::Answer(wire)
        };
        outbox.send(v1::AgentMessage { message: Some(message), sequence: 0 }).await.map_err(|_| Status::unavailable("closed"))
    }
}

pub async fn download(channel: &Channel, digest: Digest, offset: u64) -> Result<Vec<u8>, Status> {
    let request = v1::DownloadRequest { digest: digest_bytes(&digest), offset };
    let mut stream = FederationClient::new(channel.clone()).download(request).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(part) = stream.message().await? {
        bytes.extend_from_slice(&part.chunk);
    }
    Ok(bytes)
}

/// Announces `announced` bytes and sends `bytes` from `offset` on. Nothing is sent if the blob is there.
pub async fn upload(channel: &Channel, digest: Digest, announced: u64, offset: u64, bytes: &[u8]) -> Result<(), Status> {
    let header = v1::UploadHeader { digest: digest_bytes(&digest), bytes: announced, offset };
    let chunks = bytes.chunks(1000).map(|c| v1::UploadRequest { part: Some(Part::Chunk(c.to_vec().into())) });
    let head = v1::UploadRequest { part: Some(Part::Header(header)) };
    let parts: Vec<_> = std::iter::once(head).chain(chunks).collect();
    FederationClient::new(channel.clone()).upload(tokio_stream::iter(parts)).await.map(drop)
}

/// A connection within the process.
pub async fn dial(handle: &Handle) -> Channel {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    handle.serve_io(theirs).await.unwrap();
    let mut ours = Some(ours);
    let connector = tower::service_fn(move |_| {
        let io = ours.take().map(TokioIo::new).ok_or_else(|| std::io::Error::other("one connection only"));
        async move { io }
    });
    Endpoint::from_static("http://in.process").connect_with_connector(connector).await.unwrap()
}

/// A coordinator that runs in the background.
pub struct Running {
    pub handle: Handle,
    pub addr: std::net::SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Running {
    pub async fn start(config: Config) -> Self {
        let server = Server::bind(config).await.unwrap();
        let (handle, addr) = (server.handle(), server.local_addr());
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move { server.run(async { drop(stopped.await) }).await.unwrap() });
        Self { handle, addr, stop: Some(stop), task }
    }

    /// Stops as an operator would.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        drop(self.handle);
        self.task.await.unwrap();
    }

    /// Connects an agent in the background. It does not connect again.
    pub async fn join(&self, agent: &Agent) -> JoinHandle<()> {
        let (agent, channel) = (agent.clone(), dial(&self.handle).await);
        tokio::spawn(async move {
            let end = agent.converse(channel).await;
            let text = end.map_or_else(|s| format!("{:?}: {}", s.code(), s.message()), |()| "ended".into());
            agent.seen.lock().unwrap().ends.push(text);
        })
    }

    /// Submits a spec and waits until the run is over; its history.
    pub async fn complete(&self, spec: &str) -> Vec<Happened> {
        let run = self.handle.submit(spec, None).await.unwrap();
        self.follow(&run).await
    }

    pub async fn follow(&self, run: &RunId) -> Vec<Happened> {
        let mut watch = self.handle.watch(run, 0).await.unwrap();
        let mut all = Vec::new();
        while let Some((position, happened)) = within(watch.next()).await {
            assert_eq!(position, all.len() as u64 + 1);
            assert!(!matches!(happened, Happened::Paused { .. }), "{happened:?}");
            all.push(happened);
        }
        all
    }
}

/// What this thread logs while its guard lives.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub fn start(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || log.clone()).finish();
        tracing::subscriber::set_default(subscriber)
    }

    /// Lines with `text` in them.
    pub fn lines(&self, text: &str) -> Vec<String> {
        let all = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        all.lines().filter(|l| l.contains(text)).map(str::to_owned).collect()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Fails instead of hanging.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(std::time::Duration::from_secs(60), future).await.expect("nothing happened for a minute")
}

/// Digests of the published globals, in order.
pub fn published(history: &[Happened]) -> Vec<Digest> {
    history
        .iter()
        .filter_map(|h| if let Happened::Published { published, .. } = h { Some(published.digest) } else { None })
        .collect()
}

pub fn spec(rounds: u32) -> String {
    format!(
        r#"
        version = 1
        name = "test"
        rounds = {rounds}
        seed = 7
        [task]
        kind = "classify"
        classes = 2
        modalities = {{ left = 2, right = 2 }}
        [cohort]
        members = 4
        size = 4
        quorum = 3
        retries = 0
        deadline = "60s"
        [evaluate]
        every = 2
        "#
    )
}
