//! A coordinator that enrols and renews, with TLS of its own.

use super::super::facts::public_key;
use super::super::pin::fingerprint;
use super::super::{Millis, now};
use bytes::Bytes;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::crypto::ring::default_provider;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateSigningRequestDer, PrivateKeyDer};
use std::sync::{Arc, Mutex, MutexGuard};
use tessera_common::access::Token;
use tessera_proto::v1::enrolment_server::{Enrolment, EnrolmentServer};
use tessera_proto::v1::{Credentials, EnrolRequest, RenewRequest};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

pub(in super::super) struct Authority {
    pub(in super::super) certificate: Certificate,
    pub(in super::super) issuer: Issuer<'static, KeyPair>,
}

pub(in super::super) fn authority(name: &str) -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(DnType::CommonName, name);
    let certificate = params.self_signed(&key).unwrap();
    Authority { certificate, issuer: Issuer::new(params, key) }
}

/// What the coordinator answers.
#[derive(Clone, Copy)]
pub(super) enum Says {
    Yes,
    No(&'static str),
    OtherName,
    OtherKey,
    Nothing,
    Garbage,
}

struct Stage {
    authority: Authority,
    says: Says,
    renew_in: Millis,
    /// Keys that certificates were asked for, in order.
    keys: Vec<Vec<u8>>,
    tls: Arc<ServerConfig>,
}

/// The key of each connection's certificate, as they come.
type Shown = tokio::sync::Mutex<mpsc::UnboundedReceiver<Option<Vec<u8>>>>;

pub(super) struct Coordinator {
    stage: Arc<Mutex<Stage>>,
    port: u16,
    shown: Shown,
    server_key: KeyPair,
    names: Vec<String>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn locked(stage: &Mutex<Stage>) -> MutexGuard<'_, Stage> {
    stage.lock().unwrap()
}

fn server_config(authority: &Authority, trusted: &Authority, key: &KeyPair, names: &[String]) -> Arc<ServerConfig> {
    let leaf = CertificateParams::new(names.to_vec()).unwrap().signed_by(key, &authority.issuer).unwrap();
    let chain = vec![leaf.der().clone(), authority.certificate.der().clone()];
    let provider = Arc::new(default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(trusted.certificate.der().clone()).unwrap();
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).allow_unauthenticated();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(chain, PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

impl Coordinator {
    /// Listens on loopback with a certificate for `names`.
    pub(super) async fn start(names: &[&str]) -> Self {
        let authority = authority("tests");
        let server_key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let tls = server_config(&authority, &authority, &server_key, &names);
        let stage = Stage { authority, says: Says::Yes, renew_in: 3_600_000, keys: Vec::new(), tls };
        let stage = Arc::new(Mutex::new(stage));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (streams_in, streams) = mpsc::channel(4);
        let (shown_in, shown) = mpsc::unbounded_channel();
        let service = EnrolmentServer::new(Desk(stage.clone()));
        let current = stage.clone();
        let task = tokio::spawn(async move {
            let serving = tonic::transport::Server::builder().serve_with_incoming(service, ReceiverStream::new(streams));
            let accepting = async {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let tls = locked(&current).tls.clone();
                    let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls).accept(stream).await else { continue };
                    let key = stream.get_ref().1.peer_certificates().and_then(|chain| public_key(&chain[0]));
                    let _ = shown_in.send(key);
                    streams_in.send(Ok::<_, std::io::Error>(stream)).await.unwrap();
                }
            };
            tokio::select! {
                outcome = serving => outcome.unwrap(),
                () = accepting => {}
            }
        });
        Self { stage, port, shown: tokio::sync::Mutex::new(shown), server_key, names, task }
    }

    pub(super) fn address(&self) -> String {
        format!("localhost:{}", self.port)
    }

    pub(super) fn token(&self) -> Token {
        let authority = fingerprint(locked(&self.stage).authority.certificate.der());
        let name = "north".parse().unwrap();
        Token { name, address: self.address(), authority, secret: [3; 32], expires: now() + 60_000 }
    }

    pub(super) fn says(&self, says: Says) {
        locked(&self.stage).says = says;
    }

    pub(super) fn renew_in(&self, ms: Millis) {
        locked(&self.stage).renew_in = ms;
    }

    /// Takes only certificates of that authority from now on.
    pub(super) fn trust(&self, authority: Authority) {
        let mut stage = locked(&self.stage);
        stage.tls = server_config(&stage.authority, &authority, &self.server_key, &self.names);
    }

    pub(super) fn keys(&self) -> Vec<Vec<u8>> {
        locked(&self.stage).keys.clone()
    }

    /// True once a connection with a certificate of this key has come.
    pub(super) async fn has_seen(&self, key: &[u8]) -> bool {
        let mut shown = self.shown.lock().await;
        let come = async {
            while let Some(next) = shown.recv().await {
                if next.as_deref() == Some(key) {
                    return true;
                }
            }
            false
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), come).await.unwrap_or(false)
    }
}

struct Desk(Arc<Mutex<Stage>>);

impl Desk {
    fn issue(&self, signing_request: &Bytes) -> Result<Response<Credentials>, Status> {
        let mut stage = locked(&self.0);
        let request = CertificateSigningRequestDer::from(signing_request.to_vec());
        let mut request = CertificateSigningRequestParams::from_der(&request).unwrap();
        request.params.distinguished_name.push(DnType::CommonName, "north");
        let certificate = request.signed_by(&stage.authority.issuer).unwrap();
        stage.keys.push(public_key(certificate.der()).unwrap());
        let other = {
            let key = KeyPair::generate().unwrap();
            CertificateParams::default().signed_by(&key, &stage.authority.issuer).unwrap()
        };
        let chain = match stage.says {
            Says::No(why) => return Err(Status::permission_denied(why)),
            Says::OtherKey => vec![other.der().to_vec().into()],
            Says::Nothing => vec![],
            Says::Garbage => vec![Bytes::from_static(b"hello")],
            Says::Yes | Says::OtherName => vec![certificate.der().to_vec().into()],
        };
        let name = if matches!(stage.says, Says::OtherName) { "south" } else { "north" };
        let expires_ms = now() + 2 * 3_600_000;
        Ok(Response::new(Credentials {
            name: name.into(),
            role: "member".into(),
            chain,
            authorities: vec![stage.authority.certificate.der().to_vec().into()],
            expires_ms,
            renew_ms: now() + stage.renew_in,
        }))
    }
}

#[tonic::async_trait]
impl Enrolment for Desk {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<Credentials>, Status> {
        let request = request.into_inner();
        assert_eq!((request.version.as_str(), request.secret.as_ref()), (tessera_proto::VERSION, &[3; 32][..]));
        self.issue(&request.signing_request)
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Credentials>, Status> {
        self.issue(&request.into_inner().signing_request)
    }
}
