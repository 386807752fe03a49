//! Agents and coordinators of different versions.
//!
//! `server/tests/skew/vX.Y.Z.bin` is a whole run as an agent of version X.Y.Z held it with a coordinator of that version:
//! every message of both directions, uploads and downloads too. Recordings of the versions that this one works with are
//! replayed against today's coordinator: what the old agent said is taken, and what it hears means the same.
//!
//! Before a release with a new minor version, record the present one and commit the file:
//! `UPDATE=1 cargo test -p tessera-server --test skew -- --ignored record`.

#![allow(clippy::unwrap_used)] // a test stops where something is not as it should be

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::answers::{Answered, answer};
use support::{Act, Running, dial, download, member, published, within};
use tessera_common::id::{Digest, RunId};
use tessera_common::param::{Limits, ParamSet};
use tessera_common::round::Assignment;
use tessera_common::spec::RunSpec;
use tessera_proto::v1::federation_client::FederationClient;
use tessera_proto::v1::{self, agent_message::Message as Up, coordinator_message::Message as Down, upload_request::Part};
use tessera_proto::{VERSION, convert::digest_bytes};
use tessera_server::Config;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

const SPEC: &str = r#"
    version = 1
    name = "skew"
    rounds = 2
    seed = 11
    [task]
    kind = "classify"
    classes = 2
    modalities = { left = 2, right = 2 }
    [cohort]
    members = 2
    size = 2
    quorum = 2
    deadline = "60s"
    [evaluate]
    every = 1
"#;

/// What one entry of a recording is; its number is the first byte of the entry, the rest a message with its length before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    /// The run, as it was submitted before the agent came.
    Run,
    ToCoordinator,
    ToAgent,
    UploadStatus,
    UploadStatusAnswer,
    UploadPart,
    Uploaded,
    Download,
    DownloadPart,
    /// A round and its global.
    Published,
}

const KINDS: [Kind; 10] = [
    Kind::Run,
    Kind::ToCoordinator,
    Kind::ToAgent,
    Kind::UploadStatus,
    Kind::UploadStatusAnswer,
    Kind::UploadPart,
    Kind::Uploaded,
    Kind::Download,
    Kind::DownloadPart,
    Kind::Published,
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/skew")
}

/// (major, minor) of a version such as "0.1.0".
fn parts(version: &str) -> (u64, u64) {
    let mut numbers = version.split('.').map(|n| n.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// Long heartbeats, so that a slow machine ends no conversation.
fn config() -> Config {
    Config { heartbeat: Duration::from_secs(30), ..Config::in_memory() }
}

/// The agent's end of a control stream.
struct Line {
    channel: Channel,
    outbox: mpsc::Sender<v1::AgentMessage>,
    inbound: Streaming<v1::CoordinatorMessage>,
}

impl Line {
    /// Opens a stream and says `first` on it.
    async fn open(server: &Running, first: v1::AgentMessage) -> Result<Self, Status> {
        let channel = dial(&server.handle).await;
        let (outbox, queue) = mpsc::channel(64);
        outbox.send(first).await.unwrap();
        let inbound = FederationClient::new(channel.clone()).connect(ReceiverStream::new(queue)).await?.into_inner();
        Ok(Self { channel, outbox, inbound })
    }

    /// The next message that is no heartbeat.
    async fn next(&mut self) -> Result<Option<v1::CoordinatorMessage>, Status> {
        loop {
            match within(self.inbound.message()).await? {
                Some(v1::CoordinatorMessage { message: Some(Down::Heartbeat(_)), .. }) => {}
                other => return Ok(other),
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------------------- recording

#[derive(Default)]
struct Recorder {
    bytes: Vec<u8>,
    sequence: u64,
}

impl Recorder {
    fn note(&mut self, kind: Kind, message: &impl prost::Message) {
        self.bytes.push(kind as u8);
        self.bytes.extend(message.encode_length_delimited_to_vec());
    }

    /// A message of the agent, counted as agents count theirs.
    fn say(&mut self, message: Up) -> v1::AgentMessage {
        self.sequence += 1;
        let message = v1::AgentMessage { message: Some(message), sequence: self.sequence };
        self.note(Kind::ToCoordinator, &message);
        message
    }

    async fn work(&mut self, channel: &Channel, members: &[v1::Member], wire: v1::Assignment) -> v1::AgentMessage {
        let (run, assignment) = <(RunId, Assignment)>::try_from(wire).unwrap();
        let global = match assignment.global {
            Some(digest) => Some(ParamSet::from_bytes(&self.fetch(channel, &digest).await, &Limits::default()).unwrap()),
            None => None,
        };
        let member = members.iter().find(|m| m.name == assignment.member.as_str()).unwrap();
        let Answered { wire, blob, .. } = answer(run.as_str(), member, &assignment, global.as_ref(), Act::Good);
        if let Some(blob) = blob {
            self.send(channel, &blob).await;
        }
        self.say(Up::Answer(wire))
    }

    async fn fetch(&mut self, channel: &Channel, digest: &Digest) -> Vec<u8> {
        let request = v1::DownloadRequest { digest: digest_bytes(digest), offset: 0 };
        self.note(Kind::Download, &request);
        let mut stream = FederationClient::new(channel.clone()).download(request).await.unwrap().into_inner();
        let mut bytes = Vec::new();
        while let Some(part) = stream.message().await.unwrap() {
            self.note(Kind::DownloadPart, &part);
            bytes.extend_from_slice(&part.chunk);
        }
        bytes
    }

    async fn send(&mut self, channel: &Channel, blob: &[u8]) {
        let mut client = FederationClient::new(channel.clone());
        let digest = digest_bytes(&Digest::of(blob));
        let request = v1::UploadStatusRequest { digest: digest.clone() };
        self.note(Kind::UploadStatus, &request);
        let status = client.upload_status(request).await.unwrap().into_inner();
        self.note(Kind::UploadStatusAnswer, &status);
        let header = Part::Header(v1::UploadHeader { digest, bytes: blob.len() as u64, offset: status.offset });
        let chunks = blob[usize::try_from(status.offset).unwrap()..].chunks(1000).map(|c| Part::Chunk(c.to_vec().into()));
        let all: Vec<_> = std::iter::once(header).chain(chunks).map(|p| v1::UploadRequest { part: Some(p) }).collect();
        all.iter().for_each(|part| self.note(Kind::UploadPart, part));
        let uploaded = client.upload(tokio_stream::iter(all)).await.unwrap().into_inner();
        self.note(Kind::Uploaded, &uploaded);
    }
}

#[tokio::test]
#[ignore = "makes the recording of this version; needs UPDATE=1"]
async fn record() {
    assert!(std::env::var_os("UPDATE").is_some(), "set UPDATE=1 to write a recording of version {VERSION}");
    let mut recorder = Recorder::default();
    let server = Running::start(config()).await;
    recorder.note(Kind::Run, &v1::SubmitRunRequest { spec_toml: SPEC.into(), run: "skew".into() });
    let run = server.handle.submit(SPEC, Some("skew".parse().unwrap())).await.unwrap();
    let members = vec![member("north", &["left", "right"]), member("south", &["left"])];
    let hello = v1::Hello { agent: "site".into(), version: VERSION.into(), members: members.clone() };
    let mut line = Line::open(&server, recorder.say(Up::Hello(hello))).await.unwrap();
    line.outbox.send(recorder.say(Up::Heartbeat(v1::Heartbeat {}))).await.unwrap();
    while let Some(message) = line.next().await.unwrap() {
        recorder.note(Kind::ToAgent, &message);
        match message.message.unwrap() {
            Down::Assignment(wire) => {
                let said = recorder.work(&line.channel, &members, wire).await;
                line.outbox.send(said).await.unwrap();
            }
            Down::RunClosed(_) => break,
            _ => {}
        }
    }
    for (round, digest) in published(&server.follow(&run).await).iter().enumerate() {
        let round = u32::try_from(round).unwrap();
        recorder.note(Kind::Published, &v1::RoundPublished { round, global: digest_bytes(digest), ..Default::default() });
    }
    drop(line);
    server.stop().await;
    std::fs::create_dir_all(folder()).unwrap();
    std::fs::write(folder().join(format!("v{VERSION}.bin")), recorder.bytes).unwrap();
}

// ---------------------------------------------------------------------------------------------------------- replaying

/// Recordings by version.
fn recordings() -> BTreeMap<String, Vec<(Kind, Vec<u8>)>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let Some(version) = path.file_name().unwrap().to_str().unwrap().strip_prefix('v').and_then(|n| n.strip_suffix(".bin"))
        else {
            continue;
        };
        let bytes = std::fs::read(&path).unwrap();
        let (mut rest, mut entries) = (&bytes[..], Vec::new());
        while let Some((&kind, tail)) = rest.split_first() {
            let length = prost::decode_length_delimiter(tail).unwrap();
            let start = prost::length_delimiter_len(length);
            entries.push((KINDS[usize::from(kind)], tail[start..start + length].to_vec()));
            rest = &tail[start + length..];
        }
        all.insert(version.to_owned(), entries);
    }
    all
}

/// A recorded message in today's type. Nothing of it may be unknown today.
fn read<M: prost::Message + Default + std::fmt::Debug>(bytes: &[u8]) -> M {
    let message = M::decode(bytes).unwrap();
    assert_eq!(message.encode_to_vec(), bytes, "a field of {message:?} is lost today");
    message
}

/// What must be the same: all but the count, the version and the time.
fn meaning(message: v1::CoordinatorMessage) -> String {
    let message = match message.message.expect("an empty message") {
        Down::Welcome(w) => Down::Welcome(v1::Welcome { version: String::new(), time_ms: 0, ..w }),
        // Key by key: an agent refuses a spec with a key that it does not know, so a new key must be absent by default.
        Down::RunOpened(opened) => {
            RunSpec::from_toml(&opened.spec_toml).unwrap();
            Down::RunOpened(opened)
        }
        Down::Assignment(wire) => {
            <(RunId, Assignment)>::try_from(wire.clone()).unwrap();
            Down::Assignment(wire)
        }
        other => other,
    };
    format!("{message:?}")
}

/// An old agent's run, said again to a coordinator of today.
struct Replay {
    server: Running,
    line: Option<Line>,
    upload_status: Option<v1::UploadStatusRequest>,
    /// All that the coordinator said then.
    script: BTreeSet<String>,
    /// What the coordinator said and the recording has not come to yet: it judges answers side by side, in no fixed order.
    heard: Vec<String>,
    uploads: Vec<v1::UploadRequest>,
    downloaded: Option<(Vec<u8>, usize)>,
    published: Vec<Digest>,
}

impl Replay {
    async fn start(script: BTreeSet<String>) -> Self {
        Self {
            script,
            server: Running::start(config()).await,
            line: None,
            upload_status: None,
            heard: Vec::new(),
            uploads: Vec::new(),
            downloaded: None,
            published: Vec::new(),
        }
    }

    fn client(&self) -> FederationClient<Channel> {
        FederationClient::new(self.line.as_ref().expect("the hello comes first").channel.clone())
    }

    /// A blob that was fetched was as long then as it is now.
    fn all_compared(&mut self) {
        if let Some((now, at)) = self.downloaded.take() {
            assert_eq!(now.len(), at, "a blob has another length today");
        }
    }

    /// Waits until the coordinator has said `wanted`.
    async fn hear(&mut self, wanted: &str) {
        loop {
            if let Some(at) = self.heard.iter().position(|h| h == wanted) {
                self.heard.remove(at);
                return;
            }
            let next = self.line.as_mut().unwrap().next().await;
            let next = next.unwrap_or_else(|why| panic!("{why:?}, and not\n{wanted}\nbut\n{:#?}", self.heard));
            let next = meaning(next.unwrap_or_else(|| panic!("the conversation ended, without\n{wanted}")));
            assert!(self.script.contains(&next), "then\n{wanted}\nand now\n{next}");
            self.heard.push(next);
        }
    }

    async fn entry(&mut self, kind: Kind, bytes: &[u8]) {
        if kind != Kind::DownloadPart {
            self.all_compared();
        }
        match kind {
            Kind::Run => {
                let run: v1::SubmitRunRequest = read(bytes);
                self.server.handle.submit(&run.spec_toml, Some(run.run.parse().unwrap())).await.unwrap();
            }
            Kind::ToCoordinator => match &self.line {
                None => self.line = Some(within(Line::open(&self.server, read(bytes))).await.unwrap()),
                Some(line) => line.outbox.send(read(bytes)).await.unwrap(),
            },
            Kind::ToAgent => {
                let wanted: v1::CoordinatorMessage = read(bytes);
                if !matches!(wanted.message, Some(Down::Heartbeat(_))) {
                    self.hear(&meaning(wanted)).await;
                }
            }
            Kind::UploadStatus => self.upload_status = Some(read(bytes)),
            Kind::UploadStatusAnswer => {
                let request = self.upload_status.take().unwrap();
                let answer = within(self.client().upload_status(request)).await.unwrap().into_inner();
                assert_eq!(answer, read(bytes));
            }
            Kind::UploadPart => self.uploads.push(read(bytes)),
            Kind::Uploaded => {
                let parts = std::mem::take(&mut self.uploads);
                let answer = within(self.client().upload(tokio_stream::iter(parts))).await.unwrap().into_inner();
                assert_eq!(answer, read(bytes));
            }
            Kind::Download => {
                let request: v1::DownloadRequest = read(bytes);
                let digest = Digest::try_from(&request.digest[..]).unwrap();
                self.downloaded =
                    Some((download(&self.line.as_ref().unwrap().channel, digest, request.offset).await.unwrap(), 0));
            }
            Kind::DownloadPart => {
                // In pieces of any size.
                let part: v1::DownloadResponse = read(bytes);
                let (now, at) = self.downloaded.as_mut().unwrap();
                assert_eq!(now[*at..*at + part.chunk.len()], part.chunk[..]);
                *at += part.chunk.len();
            }
            Kind::Published => {
                let published: v1::RoundPublished = read(bytes);
                assert_eq!(published.round as usize, self.published.len());
                self.published.push(Digest::try_from(&published.global[..]).unwrap());
            }
        }
    }
}

async fn replay(entries: &[(Kind, Vec<u8>)]) {
    let said = entries.iter().filter(|(kind, _)| *kind == Kind::ToAgent).map(|(_, bytes)| meaning(read(bytes)));
    let mut replay = Replay::start(said.collect()).await;
    for (kind, bytes) in entries {
        replay.entry(*kind, bytes).await;
    }
    let run: RunId = "skew".parse().unwrap();
    assert_eq!(published(&replay.server.follow(&run).await), replay.published, "another model than then");
    assert_eq!(replay.published.len(), 3, "the initial global and two rounds");
    assert_eq!(replay.heard, Vec::<String>::new(), "the coordinator says more than it did");
    drop(replay.line.take());
    replay.server.stop().await;
}

/// What the coordinator says to an agent of `version`.
async fn greet(server: &Running, version: &str) -> Result<Option<v1::CoordinatorMessage>, Status> {
    let hello = v1::Hello { agent: "site".into(), version: version.into(), members: vec![member("north", &["left"])] };
    let first = v1::AgentMessage { message: Some(Up::Hello(hello)), sequence: 1 };
    within(Line::open(server, first)).await?.next().await
}

#[tokio::test]
async fn an_agent_one_minor_version_behind_ends_its_run_as_it_did_then() {
    let (major, minor) = parts(VERSION);
    let mut replayed = 0;
    for (version, entries) in recordings() {
        if let (then, m) = parts(&version)
            && then == major
            && m + 1 >= minor
        {
            replay(&entries).await;
            replayed += usize::from(m + 1 == minor);
        }
    }
    assert!(replayed > 0 || minor == 0, "server/tests/skew has no recording of version {major}.{}", minor - 1);
}

#[tokio::test]
async fn what_an_older_coordinator_says_can_be_read_today() {
    let mut kinds = BTreeSet::new();
    for (version, entries) in recordings() {
        for (kind, bytes) in entries {
            if kind == Kind::ToAgent {
                let message: v1::CoordinatorMessage = read(&bytes);
                match message.message.as_ref().unwrap() {
                    Down::Welcome(welcome) => assert_eq!(welcome.version, version),
                    Down::Verdict(verdict) => assert!(verdict.accepted, "{verdict:?}"),
                    Down::RunClosed(closed) => assert_eq!(closed.outcome, "completed"),
                    _ => {}
                }
                kinds.insert(meaning(message).split('(').next().unwrap().to_owned());
            }
        }
    }
    assert_eq!(Vec::from_iter(kinds), ["Assignment", "RunClosed", "RunOpened", "Verdict", "Welcome"]);
}

#[tokio::test]
async fn versions_that_are_too_far_apart_are_refused_with_both_in_the_text() {
    let (major, minor) = parts(VERSION);
    let server = Running::start(config()).await;
    let near = [format!("{major}.{minor}.99"), format!("{major}.{}.0", minor + 1), format!("{major}.{}.7", minor.max(1) - 1)];
    for version in near {
        let said = greet(&server, &version).await.unwrap_or_else(|why| panic!("{version}: {why:?}")).unwrap();
        assert!(matches!(said.message, Some(Down::Welcome(_))), "{version}: {said:?}");
    }
    let far = [format!("{major}.{}.0", minor + 2), format!("{}.0.0", major + 1), "garbage".into(), "1".into()];
    for version in far {
        let why = greet(&server, &version).await.expect_err(&version);
        // agents take this one for lasting, and do not ask again at once
        assert_eq!(why.code(), Code::FailedPrecondition, "{version}: {why:?}");
        assert!(why.message().contains(&version) && why.message().contains(VERSION), "{version}: {}", why.message());
    }
    server.stop().await;
}
