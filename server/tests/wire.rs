//! Connections: hello, heartbeats, take-over, uploads and downloads, TLS.

#![allow(clippy::unwrap_used)] // a test stops where something is not as it should be

mod support;

use std::sync::Arc;
use std::time::Duration;
use support::{Act, Agent, Log, Running, dial, download, good, member, published, spec, upload, within};
use tempfile::TempDir;
use tessera_common::id::Digest;
use tessera_common::param::{ParamSet, Tensor};
use tessera_common::round::Work;
use tessera_proto::convert::digest_bytes;
use tessera_proto::v1::federation_client::FederationClient;
use tessera_proto::v1::{self, agent_message::Message as Up, coordinator_message::Message as Down};
use tessera_server::{Config, Security, TlsFiles};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status, Streaming};

#[tokio::test]
async fn an_address_that_is_taken_is_named_with_its_flag() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = taken.local_addr().unwrap();
    let admin = tessera_server::AdminAddress::Loopback(at);
    for (config, flag) in
        [(Config { listen: at, ..Config::in_memory() }, "--listen"), (Config { admin, ..Config::in_memory() }, "--admin")]
    {
        let error = tessera_server::Server::bind(config).await.unwrap_err().to_string();
        assert!(error.contains(&format!("cannot listen at {at}")) && error.contains(flag), "{error}");
    }
}

#[tokio::test]
async fn a_disk_that_fails_is_in_our_log_once_and_agents_see_no_path() {
    let log = Log::default();
    let _guard = log.start();
    let dir = TempDir::new().unwrap();
    let server = Running::start(Config::in_dir(dir.path())).await;
    let channel = dial(&server.handle).await;
    std::fs::remove_dir_all(dir.path().join("blobs")).unwrap();
    for i in 0..5u8 {
        let status = upload(&channel, Digest::of(&[i]), 1, 0, &[i]).await.unwrap_err();
        assert_eq!(status.code(), Code::Internal);
        assert!(status.message().starts_with("the coordinator cannot create a blob: No such file"), "{}", status.message());
        assert!(!status.message().contains(dir.path().to_str().unwrap()), "{}", status.message());
    }
    server.stop().await;
    let warnings = log.lines("cannot create a blob");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("WARN") && warnings[0].contains(dir.path().to_str().unwrap()), "{warnings:?}");
}

#[tokio::test]
async fn two_agents_that_serve_one_member_are_named_in_the_log() {
    let log = Log::default();
    let _guard = log.start();
    let server = Running::start(Config::in_memory()).await;
    for agent in ["north", "north", "copy-of-north"] {
        let agent = Agent::new(agent, vec![member("a", &["left"])], good());
        let talk = server.join(&agent).await;
        while agent.seen().heartbeats == 0 && !talk.is_finished() {
            tokio::task::yield_now().await;
        }
    }
    server.stop().await;
    let warnings = log.lines("two agents serve one member");
    assert_eq!(warnings.len(), 1, "an agent that connects anew is no rival: {warnings:?}");
    for expected in ["WARN", "member=a", "agent=copy-of-north", "other=north"] {
        assert!(warnings[0].contains(expected), "{expected}: {warnings:?}");
    }
}

/// A control stream by hand.
struct Stream {
    outbox: mpsc::Sender<v1::AgentMessage>,
    inbound: Streaming<v1::CoordinatorMessage>,
}

impl Stream {
    async fn open(channel: &Channel) -> Self {
        let (outbox, queue) = mpsc::channel(64);
        let response = FederationClient::new(channel.clone()).connect(ReceiverStream::new(queue)).await.unwrap();
        Self { outbox, inbound: response.into_inner() }
    }

    async fn send(&self, message: Up) {
        self.outbox.send(v1::AgentMessage { message: Some(message), sequence: 0 }).await.unwrap();
    }

    /// The next message but heartbeats.
    async fn next(&mut self) -> Result<Option<Down>, Status> {
        loop {
            match within(self.inbound.message()).await?.map(|m| m.message.unwrap()) {
                Some(Down::Heartbeat(_)) => {}
                other => return Ok(other),
            }
        }
    }

    async fn end(&mut self) -> Status {
        loop {
            match self.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("ended without a reason"),
                Err(status) => return status,
            }
        }
    }
}

#[tokio::test]
async fn whoever_does_not_say_who_it_is_is_sent_away() {
    let server = Running::start(Config::in_memory()).await;
    let channel = dial(&server.handle).await;
    let hello = |agent: &str, members: Vec<v1::Member>| {
        Up::Hello(v1::Hello { agent: agent.into(), version: tessera_proto::VERSION.into(), members })
    };
    let two = vec![member("a", &["left"]), member("a", &["left"])];
    for (first, expected) in [
        (Up::Heartbeat(v1::Heartbeat {}), "the first message must be a hello"),
        (hello("../x", vec![member("a", &[])]), "agent name"),
        (hello("x", vec![member("a b", &[])]), "member name"),
        (hello("x", vec![]), "at least one member"),
        (hello("x", two), "named twice"),
    ] {
        let mut stream = Stream::open(&channel).await;
        stream.send(first).await;
        let status = stream.end().await;
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(expected), "{}", status.message());
    }
    assert_eq!(server.handle.members().await.unwrap(), []);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_connection() {
    let server = Running::start(Config::in_memory()).await;
    let channel = dial(&server.handle).await;
    let start = tokio::time::Instant::now();
    let mut mute = Stream::open(&channel).await;
    let status = mute.end().await;
    assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, "no hello within 5s"));
    assert!(start.elapsed() >= Duration::from_secs(5));

    let mut stream = Stream::open(&channel).await;
    stream.send(Agent::of_four(good()).hello()).await;
    let Ok(Some(Down::Welcome(welcome))) = stream.next().await else { panic!("no welcome") };
    assert_eq!(welcome.heartbeat_ms, 500);
    let run = server.handle.submit(&spec(2), None).await.unwrap();
    assert_eq!(server.handle.show(&run).await.unwrap().waiting.len(), 4);
    let start = tokio::time::Instant::now();
    let status = stream.end().await;
    assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, "nothing heard for 3 heartbeats"));
    assert!((Duration::from_millis(1500)..Duration::from_secs(5)).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert!(server.handle.members().await.unwrap().iter().all(|m| !m.online));

    // an agent that lives is kept, however long nothing happens, and hears that the coordinator lives
    let agent = Agent::new("calm", vec![member("z", &["left"])], good());
    server.join(&agent).await;
    tokio::time::advance(Duration::from_secs(1)).await;
    within(async {
        while agent.seen().heartbeats < 20 {
            // virtual time, which passes when nobody has anything to do
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    assert_eq!(agent.seen().ends, Vec::<String>::new());
    server.stop().await;
}

#[tokio::test]
async fn the_newer_connection_of_a_member_wins() {
    let server = Running::start(Config::in_memory()).await;
    let old = Agent::new("old", vec![member("a", &["left"]), member("b", &["left"])], good());
    let old_talk = server.join(&old).await;
    while server.handle.members().await.unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    let new = Agent::new("new", vec![member("a", &["left"]), member("c", &["left"])], good());
    let mut new_talk = server.join(&new).await;
    within(old_talk).await.unwrap();
    assert_eq!(old.seen().ends, ["Aborted: member a is served by a newer connection"]);
    let who = |m: &tessera_server::MemberView| (m.member.to_string(), m.online, m.agent.as_ref().unwrap().to_string());
    let members: Vec<_> = server.handle.members().await.unwrap().iter().map(who).collect();
    let expected = [("a", true, "new"), ("b", false, "old"), ("c", true, "new")];
    assert_eq!(members, expected.map(|(m, online, agent)| (m.to_owned(), online, agent.to_owned())));
    tokio::select! {
        biased;
        end = &mut new_talk => panic!("the newer one ended too: {end:?}"),
        () = tokio::task::yield_now() => {}
    }
    server.stop().await;
}

#[tokio::test]
async fn a_reconnect_gets_open_work_again_and_answered_work_its_verdict() {
    let server = Running::start(Config::in_memory()).await;
    // answers the survey of inputs but for member d, whose answer is missing
    let agent = Agent::of_four(Arc::new(|a| if a.member.as_str() == "d" { Act::Silent } else { Act::Good }));
    let channel = dial(&server.handle).await;
    let run = server.handle.submit(&spec(2).replace("quorum = 3", "quorum = 4"), None).await.unwrap();
    let talk = tokio::spawn({
        let agent = agent.clone();
        async move { agent.converse(channel).await }
    });
    while agent.seen().verdicts.len() < 3 || agent.seen().assignments.len() < 4 {
        tokio::task::yield_now().await;
    }
    talk.abort();
    let first = agent.seen();

    let channel = dial(&server.handle).await;
    let mut stream = Stream::open(&channel).await;
    stream.send(agent.hello()).await;
    assert!(matches!(stream.next().await, Ok(Some(Down::Welcome(_)))));
    assert!(matches!(stream.next().await, Ok(Some(Down::RunOpened(_)))), "told of the run anew");
    let Ok(Some(Down::Assignment(again))) = stream.next().await else { panic!("no assignment") };
    assert_eq!(again.member, "d");
    assert_eq!(first.assignments.iter().find(|a| a.member.as_str() == "d").unwrap().id.0, again.id);

    // an answer whose verdict was lost is acknowledged again; the same number from somebody else is not
    let known = &first.verdicts[0];
    let answer = |member: &str, assignment: u64, run: &str| {
        Up::Answer(v1::Answer { run: run.into(), member: member.into(), assignment, ..Default::default() })
    };
    for (member, assignment, run, expected) in [
        (known.member.as_str(), known.assignment, run.as_str(), ""),
        ("d", known.assignment, run.as_str(), "was not given to d"),
        ("d", 999, run.as_str(), "is no longer open"),
        ("e", known.assignment, run.as_str(), "member e is not served by this connection"),
        ("a", 1, "nobody", "there is no run nobody"),
        ("a", 1, "../x", "run name"),
    ] {
        stream.send(answer(member, assignment, run)).await;
        let Ok(Some(Down::Verdict(verdict))) = stream.next().await else { panic!("no verdict") };
        assert_eq!((verdict.accepted, verdict.assignment), (expected.is_empty(), assignment), "{verdict:?}");
        assert!(verdict.reason.contains(expected), "{}", verdict.reason);
    }
    let detail = server.handle.show(&run).await.unwrap();
    assert_eq!((detail.tally.accepted, detail.tally.rejected, detail.summary.awaited), (3, 0, 1), "nothing was changed");
    server.stop().await;
}

#[tokio::test]
async fn an_assignment_cancelled_by_the_others_is_told() {
    let server = Running::start(Config::in_memory()).await;
    let agent =
        Agent::of_four(Arc::new(|a| if a.work == Work::Fit && a.member.as_str() == "a" { Act::Silent } else { Act::Good }));
    server.join(&agent).await;
    let history = server.complete(&spec(2).replace("quorum = 3", "quorum = 3\nmost = 3")).await;
    assert_eq!(published(&history).len(), 3);
    let seen = agent.seen();
    let asked = seen.assignments.iter().filter(|a| a.work == Work::Fit && a.member.as_str() == "a").map(|a| a.id.0);
    let cancelled = seen.cancelled.iter().map(|c| (c.run.as_str(), c.member.as_str(), c.assignment));
    assert!(cancelled.eq(asked.map(|id| (seen.opened[0].as_str(), "a", id))), "{:?}", seen.cancelled);
    server.stop().await;
}

#[tokio::test]
async fn uploads_go_on_and_are_limited() {
    let dir = TempDir::new().unwrap();
    let config = Config { max_blob_bytes: 4 << 20, ..Config::in_dir(dir.path()) };
    let server = Running::start(config).await;
    let channel = dial(&server.handle).await;
    let content: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let (digest, total) = (Digest::of(&content), content.len() as u64);
    let status = async || {
        let request = v1::UploadStatusRequest { digest: digest_bytes(&digest) };
        let status = FederationClient::new(channel.clone()).upload_status(request).await.unwrap().into_inner();
        (status.offset, status.complete)
    };
    assert_eq!(status().await, (0, false));
    let short = upload(&channel, digest, total, 0, &content[..1_500_000]).await.unwrap_err();
    assert_eq!(short.code(), Code::InvalidArgument);
    assert!(short.message().contains("only 1500000 of 3000000 bytes came"), "{}", short.message());
    assert_eq!(status().await, (1_500_000, false));
    let wrong = upload(&channel, digest, total, 7, &content[7..]).await.unwrap_err();
    assert_eq!(wrong.code(), Code::FailedPrecondition);
    assert!(wrong.message().contains("must go on at offset 1500000, not at 7"), "{}", wrong.message());
    upload(&channel, digest, total, 1_500_000, &content[1_500_000..]).await.unwrap();
    assert_eq!(status().await, (total, true));
    assert_eq!(server.handle.blob(&digest).await.unwrap(), content);
    // again, from anywhere: it is there
    upload(&channel, digest, total, 0, &content).await.unwrap();

    let other = Digest::of(b"other");
    let large = upload(&channel, other, (4 << 20) + 1, 0, &content).await.unwrap_err();
    assert_eq!(large.code(), Code::ResourceExhausted);
    assert!(large.message().contains("this coordinator takes at most 4194304"), "{}", large.message());
    let more = upload(&channel, other, 100, 0, &content[..200]).await.unwrap_err();
    assert_eq!(more.code(), Code::ResourceExhausted);
    let mismatch = upload(&channel, other, 200, 0, &content[..200]).await.unwrap_err();
    assert!(mismatch.message().contains("they are thrown away"), "{}", mismatch.message());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_blob_may_come_from_many_at_once() {
    let dir = TempDir::new().unwrap();
    let server = Running::start(Config::in_dir(dir.path())).await;
    let content: Vec<u8> = (0..2_000_000u32).map(|i| (i * 7 / 3) as u8).collect();
    let digest = Digest::of(&content);
    // over one connection and over several: none may wait for another while its window is full
    let shared = dial(&server.handle).await;
    let mut uploads = tokio::task::JoinSet::new();
    for i in 0..8 {
        let channel = if i < 5 { shared.clone() } else { dial(&server.handle).await };
        let content = content.clone();
        uploads.spawn(async move { upload(&channel, digest, content.len() as u64, 0, &content).await });
    }
    while let Some(outcome) = within(uploads.join_next()).await {
        outcome.unwrap().unwrap();
    }
    assert_eq!(server.handle.blob(&digest).await.unwrap(), content);
    server.stop().await;
}

#[tokio::test]
async fn agents_fetch_what_assignments_name_and_nothing_else() {
    let server = Running::start(Config::in_memory()).await;
    let agent = Agent::of_four(good());
    server.join(&agent).await;
    let history = server.complete(&spec(2)).await;
    let channel = dial(&server.handle).await;
    let global = published(&history)[1];
    let whole = download(&channel, global, 0).await.unwrap();
    assert_eq!(Digest::of(&whole), global);
    assert_eq!(download(&channel, global, 100).await.unwrap(), whole[100..]);
    assert!(download(&channel, global, whole.len() as u64).await.unwrap().is_empty());
    let behind = download(&channel, global, whole.len() as u64 + 1).await.unwrap_err();
    assert_eq!(behind.code(), Code::OutOfRange);

    // another member's update, which is stored here, and is nobody's business
    let mut secret = ParamSet::new();
    secret.insert("x", Tensor::f32(&[1], &[1.0]));
    upload(&channel, secret.digest(), secret.to_bytes().len() as u64, 0, &secret.to_bytes()).await.unwrap();
    assert!(server.handle.blob(&secret.digest()).await.is_ok());
    assert_eq!(download(&channel, secret.digest(), 0).await.unwrap_err().code(), Code::NotFound);
    server.stop().await;
}

#[tokio::test]
async fn a_large_blob_comes_in_chunks_below_the_message_limit() {
    let server = Running::start(Config::in_memory()).await;
    let channel = dial(&server.handle).await;
    let mut set = ParamSet::new();
    let values: Vec<f32> = (0..2_000_000).map(|i| i as f32).collect();
    set.insert("x", Tensor::f32(&[values.len()], &values));
    let bytes = set.to_bytes();
    upload(&channel, set.digest(), bytes.len() as u64, 0, &bytes).await.unwrap();
    // through the operators' side, which may fetch anything; a default client decodes at most 4 MiB a message
    assert_eq!(server.handle.blob(&set.digest()).await.unwrap(), bytes);
    server.stop().await;
}

struct Pki {
    dir: TempDir,
    ca: String,
    client: (String, String),
    foreign: (String, String),
}

fn authority(name: &str) -> (rcgen::Certificate, rcgen::Issuer<'static, rcgen::KeyPair>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let certificate = params.self_signed(&key).unwrap();
    (certificate, rcgen::Issuer::new(params, key))
}

fn signed(name: &str, issuer: &rcgen::Issuer<'_, rcgen::KeyPair>) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let serves = ["localhost", "a", "b", "c", "d"].map(String::from);
    let mut params = rcgen::CertificateParams::new(serves).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    (params.signed_by(&key, issuer).unwrap().pem(), key.serialize_pem())
}

fn pki() -> Pki {
    let dir = TempDir::new().unwrap();
    let (ca, issuer) = authority("federation");
    let (_, stranger) = authority("stranger");
    let server = signed("localhost", &issuer);
    for (name, content) in [("ca.pem", &ca.pem()), ("cert.pem", &server.0), ("key.pem", &server.1)] {
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    Pki { dir, ca: ca.pem(), client: signed("site-1", &issuer), foreign: signed("site-1", &stranger) }
}

async fn dial_tls(
    addr: std::net::SocketAddr,
    pki: &Pki,
    identity: Option<&(String, String)>,
) -> Result<Channel, tonic::transport::Error> {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&pki.ca)).domain_name("localhost");
    if let Some((certificate, key)) = identity {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    Endpoint::from_shared(format!("https://{addr}")).unwrap().tls_config(tls).unwrap().connect().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_show_a_certificate_of_the_federation() {
    let pki = pki();
    let file = |name: &str| pki.dir.path().join(name);
    let tls = TlsFiles { cert: file("cert.pem"), key: file("key.pem"), client_ca: file("ca.pem") };
    let server = Running::start(Config { security: Security::Files(tls), ..Config::in_memory() }).await;

    let channel = dial_tls(server.addr, &pki, Some(&pki.client)).await.unwrap();
    let agent = Agent::of_four(good());
    let talker = agent.clone();
    tokio::spawn(async move { talker.converse(channel).await });
    assert_eq!(published(&server.complete(&spec(2)).await).len(), 3);

    for (who, identity) in [("foreign", Some(&pki.foreign)), ("none", None)] {
        // TLS 1.3: the client learns of the refusal with its first request, if not before
        let outcome = match dial_tls(server.addr, &pki, identity).await {
            Err(_) => Err(Status::unavailable("refused while connecting")),
            Ok(channel) => {
                let request = v1::UploadStatusRequest { digest: vec![0; 32].into() };
                within(FederationClient::new(channel).upload_status(request)).await.map(drop)
            }
        };
        assert!(outcome.is_err(), "{who} got in");
    }
    let plain = Endpoint::from_shared(format!("http://{}", server.addr)).unwrap().connect().await;
    if let Ok(channel) = plain {
        let request = v1::UploadStatusRequest { digest: vec![0; 32].into() };
        assert!(within(FederationClient::new(channel).upload_status(request)).await.is_err(), "plaintext got in");
    }
    server.stop().await;
}

#[tokio::test]
async fn certificates_that_cannot_be_used_are_named() {
    let pki = pki();
    let file = |name: &str| pki.dir.path().join(name);
    std::fs::write(file("empty.pem"), "").unwrap();
    std::fs::write(file("other.key"), &pki.client.1).unwrap();
    let good = TlsFiles { cert: file("cert.pem"), key: file("key.pem"), client_ca: file("ca.pem") };
    for (tls, expected) in [
        (TlsFiles { cert: file("missing.pem"), ..good.clone() }, ["--tls-cert", "missing.pem: "]),
        (TlsFiles { cert: file("empty.pem"), ..good.clone() }, ["--tls-cert", "empty.pem: no certificate in it"]),
        (TlsFiles { key: file("cert.pem"), ..good.clone() }, ["--tls-key", "cert.pem: "]),
        (TlsFiles { key: file("other.key"), ..good.clone() }, ["cert.pem: does not go with --tls-key", "other.key: "]),
        (TlsFiles { client_ca: file("empty.pem"), ..good.clone() }, ["--client-ca", "empty.pem: no certificate in it"]),
    ] {
        let error =
            tessera_server::Server::bind(Config { security: Security::Files(tls), ..Config::in_memory() }).await.unwrap_err();
        assert!(matches!(error, tessera_server::Error::Tls(_)), "{error:?}");
        assert!(expected.iter().all(|e| error.to_string().contains(e)), "{error}");
    }
    let open = Config { listen: "0.0.0.0:0".parse().unwrap(), ..Config::in_memory() };
    assert!(tessera_server::Server::bind(open).await.unwrap_err().to_string().contains("reachable from outside"));
}
