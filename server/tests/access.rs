//! Who gets in and what they may do, over real TLS with certificates that the coordinator gives.

#![allow(clippy::unwrap_used)] // a test stops where something is not as it should be

mod support;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::net::SocketAddr;
use std::time::Duration;
use support::{Agent, Log, Running, download, good, member, published, spec, upload, within};
use tempfile::TempDir;
use tessera_common::access::Token;
use tessera_common::id::Digest;
use tessera_common::param::{ParamSet, Tensor};
use tessera_proto::v1::admin_client::AdminClient;
use tessera_proto::v1::enrolment_client::EnrolmentClient;
use tessera_proto::v1::federation_client::FederationClient;
use tessera_proto::v1::{self, agent_message::Message as Up, coordinator_message::Message as Down};
use tessera_server::{Config, Security};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};

/// A coordinator with an authority of its own.
struct Site {
    dir: TempDir,
    server: Running,
    ca: String,
}

/// A name with its certificate and key, in PEM.
#[derive(Clone)]
struct Holder {
    cert: String,
    key: String,
}

fn pem(der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for part in der.chunks(3) {
        let word = part.iter().fold(0u32, |word, b| word << 8 | u32::from(*b)) << (8 * (3 - part.len()));
        for i in 0..4 {
            let symbol = ALPHABET[(word >> (18 - 6 * i)) as usize & 63] as char;
            text.push(if i > part.len() { '=' } else { symbol });
        }
    }
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

fn new(name: &str, role: &str) -> v1::CreateTokenRequest {
    v1::CreateTokenRequest { name: name.into(), role: role.into(), valid_ms: 60_000, ..Default::default() }
}

impl Site {
    async fn open() -> Self {
        let dir = TempDir::new().unwrap();
        let config = Config { security: Security::Own { names: Vec::new() }, ..Config::in_dir(dir.path()) };
        Self::of(dir, config).await
    }

    async fn of(dir: TempDir, config: Config) -> Self {
        let server = Running::start(config).await;
        let ca = std::fs::read_to_string(dir.path().join("identity/authority.pem")).unwrap();
        Self { dir, server, ca }
    }

    /// The operator on the coordinator's machine.
    async fn operator(&self) -> AdminClient<Channel> {
        let path = self.dir.path().join("admin.sock");
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
        });
        AdminClient::new(Endpoint::from_static("http://admin").connect_with_connector(connector).await.unwrap())
    }

    async fn dial(&self, holder: Option<&Holder>) -> Result<Channel, tonic::transport::Error> {
        dial(self.server.addr, &self.ca, holder).await
    }

    async fn token(&self, request: v1::CreateTokenRequest) -> Token {
        self.operator().await.create_token(request).await.unwrap().into_inner().token.parse().unwrap()
    }

    async fn enrol(&self, request: v1::CreateTokenRequest) -> Holder {
        let token = self.token(request).await;
        let (key, signing_request) = key();
        let credentials = self.redeem(&token, signing_request).await.unwrap();
        let cert = credentials.chain.iter().map(|der| pem(der)).collect();
        Holder { cert, key }
    }

    async fn redeem(&self, token: &Token, signing_request: Vec<u8>) -> Result<v1::Credentials, Status> {
        let version = tessera_proto::VERSION.into();
        let request = v1::EnrolRequest { version, secret: token.secret.to_vec().into(), signing_request: signing_request.into() };
        let channel = self.dial(None).await.unwrap();
        EnrolmentClient::new(channel).enrol(request).await.map(tonic::Response::into_inner)
    }
}

fn key() -> (String, Vec<u8>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    (key.serialize_pem(), params.serialize_request(&key).unwrap().der().to_vec())
}

async fn dial(addr: SocketAddr, ca: &str, holder: Option<&Holder>) -> Result<Channel, tonic::transport::Error> {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name("localhost");
    if let Some(Holder { cert, key }) = holder {
        tls = tls.identity(Identity::from_pem(cert, key));
    }
    Endpoint::from_shared(format!("https://{addr}")).unwrap().tls_config(tls).unwrap().connect().await
}

async fn status_of(channel: &Channel) -> Result<(), Status> {
    let request = v1::UploadStatusRequest { digest: vec![0; 32].into() };
    within(FederationClient::new(channel.clone()).upload_status(request)).await.map(drop)
}

/// How a control stream ends that begins with this hello.
async fn hello(channel: &Channel, version: &str, members: Vec<v1::Member>) -> Result<(), Status> {
    let (outbox, queue) = mpsc::channel(4);
    let hello = Up::Hello(v1::Hello { agent: "x".into(), version: version.into(), members });
    outbox.send(v1::AgentMessage { message: Some(hello), sequence: 0 }).await.unwrap();
    let mut inbound = FederationClient::new(channel.clone()).connect(ReceiverStream::new(queue)).await?.into_inner();
    match within(inbound.message()).await? {
        Some(v1::CoordinatorMessage { message: Some(Down::Welcome(_)), .. }) => Ok(()),
        other => panic!("{other:?}"),
    }
}

fn is(status: &Status, code: Code, text: &str) {
    assert!(status.code() == code && status.message().contains(text), "{code:?} {text:?}: {status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_in_without_a_certificate_of_this_federation() {
    let site = Site::open().await;
    let nobody = site.dial(None).await.unwrap();
    is(&status_of(&nobody).await.unwrap_err(), Code::Unauthenticated, "Federation/UploadStatus needs a certificate");
    let runs = AdminClient::new(nobody.clone()).list_runs(v1::ListRunsRequest {}).await.unwrap_err();
    is(&runs, Code::Unauthenticated, "`tessera enrol NAME`");

    let north = site.enrol(new("north", "member")).await;
    assert!(status_of(&site.dial(Some(&north)).await.unwrap()).await.is_ok());

    let other = Site::open().await;
    let stranger = other.enrol(new("north", "member")).await;
    // TLS 1.3: the client learns of the refusal with its first request, if not before
    if let Ok(channel) = site.dial(Some(&stranger)).await {
        assert!(status_of(&channel).await.is_err(), "a foreign certificate got in");
    }
    let text = std::fs::read_to_string(site.dir.path().join("audit.log")).unwrap();
    let head = tessera_common::audit::verify(text.lines()).unwrap();
    assert!(head.lines >= 4, "{text}");
    for expected in ["\"create-token\"", "\"enrol\"", "Federation/UploadStatus", "Admin/ListRuns"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let refused = site.operator().await.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    assert!(refused.refused >= 2 && refused.panics == 0 && refused.authority.len() == 64, "{refused:?}");
    site.server.stop().await;
    other.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_role_does_its_own() {
    let site = Site::open().await;
    let channel = async |name: &str, role: &str| {
        let holder = site.enrol(new(name, role)).await;
        site.dial(Some(&holder)).await.unwrap()
    };
    let (north, eva) = (channel("north", "member").await, channel("eva", "evaluator").await);
    let (olga, ada) = (channel("olga", "observer").await, channel("ada", "admin").await);

    let stop = v1::StopRunRequest { run: "r".into() };
    let status = AdminClient::new(north.clone()).stop_run(stop.clone()).await.unwrap_err();
    is(&status, Code::PermissionDenied, "north has the role member, and Admin/StopRun needs the role admin");
    let status = AdminClient::new(north.clone()).list_runs(v1::ListRunsRequest {}).await.unwrap_err();
    is(&status, Code::PermissionDenied, "Admin/ListRuns needs the role observer or admin");
    let status = AdminClient::new(olga.clone()).stop_run(stop.clone()).await.unwrap_err();
    is(&status, Code::PermissionDenied, "olga has the role observer, and Admin/StopRun needs the role admin");
    assert!(AdminClient::new(olga.clone()).list_runs(v1::ListRunsRequest {}).await.is_ok());
    is(&status_of(&olga).await.unwrap_err(), Code::PermissionDenied, "needs the role member or evaluator");
    is(&status_of(&ada).await.unwrap_err(), Code::PermissionDenied, "ada has the role admin");
    let submit = v1::SubmitRunRequest { spec_toml: spec(2), run: "r".into() };
    assert!(AdminClient::new(ada.clone()).submit_run(submit).await.is_ok());
    assert!(AdminClient::new(ada.clone()).stop_run(stop).await.is_ok());

    // what comes from one member alone is not for observers
    let mut update = ParamSet::new();
    update.insert("x", Tensor::f32(&[1], &[1.0]));
    upload(&north, update.digest(), update.to_bytes().len() as u64, 0, &update.to_bytes()).await.unwrap();
    let fetch = v1::DownloadRequest { digest: update.digest().as_bytes().to_vec().into(), offset: 0 };
    let status = AdminClient::new(olga).fetch_blob(fetch.clone()).await.unwrap_err();
    is(&status, Code::PermissionDenied, "an observer fetches globals and statistics");
    assert!(AdminClient::new(ada).fetch_blob(fetch).await.is_ok());

    let version = tessera_proto::VERSION;
    let trains = member("eva", &["left"]);
    let status = hello(&eva, version, vec![trains.clone()]).await.unwrap_err();
    is(&status, Code::PermissionDenied, "eva has the role evaluator, which only evaluates, and eva says that it trains");
    assert_eq!(hello(&eva, version, vec![v1::Member { trains: false, ..trains }]).await.map_err(|s| s.to_string()), Ok(()));
    let status = hello(&north, version, vec![member("south", &["left"])]).await.unwrap_err();
    is(&status, Code::PermissionDenied, "the certificate of north serves north, and not south");
    let status = hello(&north, "0.9.0", vec![member("north", &["left"])]).await.unwrap_err();
    is(&status, Code::FailedPrecondition, "the agent has version 0.9.0 and the coordinator has version");
    site.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_serves_its_patterns_and_has_its_modalities() {
    let site = Site::open().await;
    let request =
        v1::CreateTokenRequest { serves: vec!["ward-*".into()], modalities: vec!["left".into()], ..new("hospital", "member") };
    let channel = site.dial(Some(&site.enrol(request).await)).await.unwrap();
    let version = tessera_proto::VERSION;
    let status = hello(&channel, version, vec![member("ward-1", &["left", "right"])]).await.unwrap_err();
    is(&status, Code::PermissionDenied, "hospital is enrolled for the modalities left, and ward-1 says that it has right");
    let two = vec![member("ward-1", &["left"]), member("hospital", &["left"])];
    assert_eq!(hello(&channel, version, two).await.map_err(|s| s.to_string()), Ok(()));
    let members = site.operator().await.list_members(v1::ListMembersRequest {}).await.unwrap().into_inner().members;
    let enrolled = |name: &str| members.iter().find(|m| m.member.as_ref().unwrap().name == name).unwrap().enrolled.clone();
    assert_eq!(enrolled("hospital").unwrap().serves, ["ward-*"]);
    site.token(new("late", "observer")).await;
    let members = site.operator().await.list_members(v1::ListMembersRequest {}).await.unwrap().into_inner().members;
    let late = members.iter().find(|m| m.member.as_ref().unwrap().name == "late").unwrap();
    let known = late.enrolled.as_ref().unwrap();
    assert!(!late.online && known.role == "observer" && known.token_expires_ms > 0 && known.certificate_expires_ms == 0);
    site.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_member_is_cut_off_within_a_second_and_stays_out_over_a_restart() {
    let site = Site::open().await;
    let north = site.enrol(new("north", "member")).await;
    let channel = site.dial(Some(&north)).await.unwrap();
    let agent = Agent::new("site", vec![member("north", &["left"])], good());
    let talker = agent.clone();
    let talk = tokio::spawn({
        let channel = channel.clone();
        async move { talker.converse(channel).await }
    });
    while agent.seen().heartbeats == 0 {
        tokio::task::yield_now().await;
    }
    let request = v1::RevokeMemberRequest { name: "north".into(), reason: "laptop lost".into() };
    let start = Instant::now();
    site.operator().await.revoke_member(request).await.unwrap();
    let end = within(talk).await.unwrap().unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    let text = "member north is revoked (laptop lost); the coordinator's operator can undo it: tessera members unrevoke north";
    is(&end, Code::PermissionDenied, text);
    assert!(!site.server.handle.members().await.unwrap()[0].online);
    let again = site.dial(Some(&north)).await.unwrap();
    is(&status_of(&again).await.unwrap_err(), Code::PermissionDenied, text);

    let Site { dir, server, .. } = site;
    server.stop().await;
    let config = Config { security: Security::Own { names: Vec::new() }, ..Config::in_dir(dir.path()) };
    let site = Site::of(dir, config).await;
    is(&status_of(&site.dial(Some(&north)).await.unwrap()).await.unwrap_err(), Code::PermissionDenied, text);
    site.operator().await.unrevoke_member(v1::UnrevokeMemberRequest { name: "north".into() }).await.unwrap();
    assert!(status_of(&site.dial(Some(&north)).await.unwrap()).await.is_ok());
    site.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_used_once_and_a_certificate_is_renewed() {
    let site = Site::open().await;
    let token = site.token(new("north", "member")).await;
    let (key_pem, request) = key();
    site.redeem(&token, request.clone()).await.unwrap();
    let again = site.redeem(&token, request.clone()).await.unwrap();
    assert_eq!(again.name, "north", "the same key may ask again: the answer may have been lost");
    is(&site.redeem(&token, key().1).await.unwrap_err(), Code::Unauthenticated, "was used already");
    let wrong = Token { secret: [1; 32], ..token.clone() };
    is(&site.redeem(&wrong, request.clone()).await.unwrap_err(), Code::Unauthenticated, "the coordinator knows no such token");

    let old = Holder { cert: again.chain.iter().map(|der| pem(der)).collect(), key: key_pem };
    let channel = site.dial(Some(&old)).await.unwrap();
    let (key_pem, signing_request) = key();
    let version = tessera_proto::VERSION.to_owned();
    let renew = v1::RenewRequest { version, signing_request: signing_request.clone().into() };
    let next = EnrolmentClient::new(channel).renew(renew.clone()).await.unwrap().into_inner();
    let renewed = Holder { cert: next.chain.iter().map(|der| pem(der)).collect(), key: key_pem };
    assert!(status_of(&site.dial(Some(&renewed)).await.unwrap()).await.is_ok());
    let nobody = EnrolmentClient::new(site.dial(None).await.unwrap()).renew(renew).await.unwrap_err();
    is(&nobody, Code::Unauthenticated, "Enrolment/Renew needs a certificate");
    let old_version = v1::EnrolRequest { version: "9.0.0".into(), secret: vec![1; 32].into(), signing_request: request.into() };
    let status = EnrolmentClient::new(site.dial(None).await.unwrap()).enrol(old_version).await.unwrap_err();
    is(&status, Code::FailedPrecondition, "the agent has version 9.0.0");
    site.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_fetch_what_is_for_them_and_join_runs_that_admit_them() {
    let site = Site::open().await;
    let labels = |labels: &[&str]| labels.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>();
    let four = v1::CreateTokenRequest {
        serves: ["a", "b", "c", "d"].map(String::from).to_vec(),
        labels: labels(&["region=eu"]),
        ..new("four", "member")
    };
    let four = site.dial(Some(&site.enrol(four).await)).await.unwrap();
    let other = v1::CreateTokenRequest { labels: labels(&["region=us"]), ..new("other", "member") };
    let other = site.dial(Some(&site.enrol(other).await)).await.unwrap();
    let (inside, outside) = (Agent::of_four(good()), Agent::new("o", vec![member("other", &["left"])], good()));
    for (agent, channel) in [(&outside, &other), (&inside, &four)] {
        let (agent, channel) = (agent.clone(), channel.clone());
        tokio::spawn(async move { agent.converse(channel).await });
    }
    while site.server.handle.members().await.unwrap().len() < 5 {
        tokio::task::yield_now().await;
    }
    let text = spec(2).replace("size = 4", "size = 4\n labels = [\"region=eu\", \"x\"]");
    assert!(text.contains("labels"));
    let history = site.server.complete(&text).await;
    assert_eq!(published(&history).len(), 3);
    assert_eq!(outside.seen().assignments.len(), 0, "it has none of the labels");
    let global = published(&history)[1];
    assert!(!download(&four, global, 0).await.unwrap().is_empty());
    let status = download(&other, global, 0).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "no assignment of its own named it");
    let audit = std::fs::read_to_string(site.dir.path().join("audit.log")).unwrap();
    for expected in ["\"publish\"", "\"answer\"", "\"joined\"", "Federation/Download"] {
        assert!(audit.contains(expected), "{expected}");
    }
    site.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_keep_out_nobody() {
    let site = Site::open().await;
    let north = site.enrol(new("north", "member")).await;
    let mut silent = Vec::new();
    for _ in 0..1500 {
        silent.push(tokio::net::TcpStream::connect(site.server.addr).await.unwrap());
    }
    let start = Instant::now();
    let channel = site.dial(Some(&north)).await.unwrap();
    assert!(status_of(&channel).await.is_ok());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    drop(silent);
    assert!(status_of(&channel).await.is_ok());
    site.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn huge_headers_and_calls_taken_back_hurt_only_their_own_connection() {
    let site = Site::open().await;
    let (north, south) = (site.enrol(new("north", "member")).await, site.enrol(new("south", "member")).await);
    let honest = site.dial(Some(&south)).await.unwrap();
    assert!(status_of(&honest).await.is_ok());

    let channel = site.dial(Some(&north)).await.unwrap();
    let mut request = tonic::Request::new(v1::UploadStatusRequest { digest: vec![0; 32].into() });
    request.metadata_mut().insert("x-huge", "y".repeat(1 << 20).parse().unwrap());
    assert!(within(FederationClient::new(channel).upload_status(request)).await.is_err());

    // a header of 1 GiB, in parts
    let mut raw = raw(&site, Some(&north)).await;
    raw.write_all(&frame(1, 0, 1, &HEADERS)).await.unwrap();
    let part = frame(9, 0, 1, &[0; 16 << 10]);
    let mut taken = 0;
    while taken < 1 << 30 && raw.write_all(&part).await.is_ok() {
        taken += part.len();
    }
    assert!(taken < 32 << 20, "{taken} bytes of a header were taken");

    // calls that are taken back as soon as they are sent
    let mut raw = self::raw(&site, Some(&north)).await;
    let ended = within(async {
        // until the coordinator ends the connection: what the kernel buffers is taken from any sender
        for first in (1..u32::MAX >> 2).step_by(200) {
            let calls = (0..100).flat_map(|i| [frame(1, 4, first + 2 * i, &HEADERS), frame(3, 0, first + 2 * i, &[0, 0, 0, 8])]);
            if raw.write_all(&calls.flatten().collect::<Vec<u8>>()).await.is_err() {
                return true;
            }
        }
        false
    });
    assert!(ended.await, "it took them all");
    assert!(status_of(&honest).await.is_ok(), "others go on");
    assert!(status_of(&site.dial(Some(&north)).await.unwrap()).await.is_ok(), "and a new connection works");
    site.server.stop().await;
}

// Should: refuse what cannot be. Should not: let the runs of others wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_of_an_upload_stops_nobody() {
    let dir = TempDir::new().unwrap();
    let free = tessera_server::space::free(dir.path()).unwrap().free;
    // room for 1 GiB beside what stays free
    let (security, reserve_bytes) = (Security::Own { names: Vec::new() }, free.saturating_sub(1 << 30));
    let config = Config { security, reserve_bytes, ..Config::in_dir(dir.path()) };
    let site = Site::of(dir, config).await;
    let spec = "version = 1\nname = \"calm\"\nrounds = 1\ncohort = { members = 1, size = 1 }\n\
                task = { kind = \"classify\", classes = 2, modalities = { left = 2 } }";
    let submit = v1::SubmitRunRequest { spec_toml: spec.into(), run: "calm".into() };
    site.operator().await.submit_run(submit).await.unwrap();
    let channel = site.dial(Some(&site.enrol(new("east", "evaluator")).await)).await.unwrap();
    for (bytes, offset, code) in [
        (1 << 60, 0, Code::ResourceExhausted),
        (u64::MAX, u64::MAX, Code::ResourceExhausted),
        (10, 20, Code::OutOfRange),
        (3 << 30, 0, Code::Unavailable),
    ] {
        let header = v1::UploadHeader { digest: vec![7; 32].into(), bytes, offset };
        let part = v1::UploadRequest { part: Some(v1::upload_request::Part::Header(header)) };
        let refused = FederationClient::new(channel.clone()).upload(tokio_stream::iter([part])).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused:?}");
        let runs = site.operator().await.list_runs(v1::ListRunsRequest {}).await.unwrap().into_inner().runs;
        assert_eq!(runs[0].phase, "waiting", "{:?}", runs[0]);
    }
    site.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_stays_without_a_certificate() {
    let site = Site::open().await;
    let start = Instant::now();
    let mut raw = raw(&site, None).await;
    let mut all = Vec::new();
    let _ = within(raw.read_to_end(&mut all)).await;
    let stayed = start.elapsed();
    assert!((Duration::from_secs(9)..Duration::from_secs(30)).contains(&stayed), "{stayed:?}");
    site.server.stop().await;
}

/// Frames of HTTP/2 by hand: length, kind, flags, stream, content.
fn frame(kind: u8, flags: u8, stream: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = (content.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(content);
    bytes
}

/// POST, https, and the path `/x`.
const HEADERS: [u8; 6] = [0x83, 0x87, 0x04, 2, b'/', b'x'];

/// A connection that has said that it speaks HTTP/2.
async fn raw(site: &Site, holder: Option<&Holder>) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(site.ca.as_bytes()).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match holder {
        None => config.with_no_client_auth(),
        Some(Holder { cert, key }) => {
            let chain = CertificateDer::pem_slice_iter(cert.as_bytes()).collect::<Result<_, _>>().unwrap();
            config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = tokio::net::TcpStream::connect(site.server.addr).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_name_has_so_many_control_streams() {
    let site = Site::open().await;
    let channel = site.dial(Some(&site.enrol(new("north", "member")).await)).await.unwrap();
    let mut open = Vec::new();
    for i in 0..9 {
        let (outbox, queue) = mpsc::channel::<v1::AgentMessage>(1);
        let outcome = FederationClient::new(channel.clone()).connect(ReceiverStream::new(queue)).await;
        if i == 8 {
            is(&outcome.unwrap_err(), Code::Unavailable, "north has 8 control streams at a time already");
        } else {
            open.push((outbox, outcome.unwrap()));
        }
    }
    site.server.stop().await;
}

#[tokio::test]
async fn secrets_are_in_no_log() {
    let log = Log::default();
    let _guard = log.start();
    let site = Site::open().await;
    let token = site.token(new("north", "member")).await;
    let (_, request) = key();
    site.redeem(&token, request).await.unwrap();
    assert!(site.redeem(&token, key().1).await.is_err());
    assert!(!log.lines("refused").is_empty(), "the log is read");
    let text = token.reveal();
    let secret = format!("{:?}", token.secret);
    assert_eq!(log.lines(&text[9..60]).len() + log.lines(&secret).len(), 0);
    site.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_over_tls_ends_as_one_in_plaintext() {
    let site = Site::open().await;
    let four = v1::CreateTokenRequest { serves: vec!["*".into()], ..new("four", "member") };
    let channel = site.dial(Some(&site.enrol(four).await)).await.unwrap();
    let agent = Agent::of_four(good());
    tokio::spawn(async move { agent.converse(channel).await });
    let over_tls: Vec<Digest> = published(&site.server.complete(&spec(2)).await);
    site.server.stop().await;
    let plain = Running::start(Config::in_memory()).await;
    plain.join(&Agent::of_four(good())).await;
    assert_eq!(published(&plain.complete(&spec(2)).await), over_tls);
    plain.stop().await;
}
