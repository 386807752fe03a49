//! What an attacker does: certificates that are not in order, floods, and a look for secrets in logs.

use rcgen::{CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring, version::TLS13};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// A certificate chain and its key, in PEM.
#[derive(Clone)]
pub struct Credentials {
    pub chain: String,
    pub key: String,
}

impl Credentials {
    /// Those that `tessera join` or an agent keeps in a folder.
    pub fn in_dir(dir: &Path) -> Self {
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
        Self { chain: read("cert.pem"), key: read("key.pem") }
    }
}

/// A channel to the coordinator, which must be one of this authority.
pub async fn dial(address: &str, authority: &str, who: Option<&Credentials>) -> Result<Channel, tonic::transport::Error> {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority)).domain_name("localhost");
    if let Some(who) = who {
        tls = tls.identity(Identity::from_pem(&who.chain, &who.key));
    }
    Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap().connect().await
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// A certificate of an authority that the coordinator does not know.
pub fn foreign(name: &str) -> Credentials {
    let mut authority = CertificateParams::new(Vec::<String>::new()).unwrap();
    authority.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    Credentials { chain: params(name).signed_by(&key, &issuer).unwrap().pem(), key: key.serialize_pem() }
}

/// A certificate of the coordinator's own authority that ended long ago.
pub fn expired(authority: &str, authority_key: &str, name: &str) -> Credentials {
    let issuer = Issuer::from_ca_cert_pem(authority, KeyPair::from_pem(authority_key).unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = params(name);
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2020, 1, 2);
    Credentials { chain: params.signed_by(&key, &issuer).unwrap().pem(), key: key.serialize_pem() }
}

/// A signing request with a new key, in DER.
pub fn signing_request(name: &str) -> Vec<u8> {
    params(name).serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

/// How a secret may look in a log.
pub fn forms(secret: &[u8]) -> Vec<String> {
    use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};
    let list = secret.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    vec![BASE64.encode(secret), BASE64URL_NOPAD.encode(secret), HEXLOWER.encode(secret), HEXUPPER.encode(secret), list]
}

/// How the key in a PEM file may look in a log: any of its lines, or its bytes.
pub fn key_forms(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with('-')).collect();
    let der = data_encoding::BASE64.decode(lines.concat().as_bytes()).unwrap();
    // the first bytes say only what kind of key it is
    lines.iter().filter(|l| l.len() > 20).map(|l| (*l).to_owned()).chain(forms(&der[36..60])).collect()
}

/// What floods came to.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    /// Connections that said nothing.
    pub silent: usize,
    /// Bytes of headers that never ended.
    pub header_bytes: usize,
    /// Connections that were ended for them.
    pub header_ends: usize,
    /// Times that a whole gigabyte was taken.
    pub gigabytes: usize,
    /// Streams that were opened and reset at once.
    pub resets: usize,
    /// Connections that were ended for that.
    pub reset_ends: usize,
}

#[derive(Default)]
struct Tally {
    silent: AtomicUsize,
    header_bytes: AtomicUsize,
    header_ends: AtomicUsize,
    gigabytes: AtomicUsize,
    resets: AtomicUsize,
    reset_ends: AtomicUsize,
    stop: AtomicBool,
}

pub struct Floods {
    tally: Arc<Tally>,
    tasks: JoinSet<()>,
    silent: usize,
}

/// Between two connections of one attacker: as fast as it can, it would only show that two cores are two cores.
const PACE: Duration = Duration::from_millis(200);
const GIGABYTE: usize = 1 << 30;

/// Silent connections, endless headers from outside, and rapid resets from a member, until they are stopped.
pub fn floods(address: &str, authority: &str, insider: &Credentials, silent: usize) -> Floods {
    let tally = Arc::new(Tally::default());
    let mut tasks = JoinSet::new();
    let (t, to) = (tally.clone(), address.to_owned());
    tasks.spawn(async move {
        let mut held = Vec::new();
        while held.len() < silent && !t.stop.load(Ordering::Relaxed) {
            // one that is refused is one less to hold; the next may be taken
            if let Ok(stream) = TcpStream::connect(&to).await {
                held.push(stream);
                t.silent.fetch_add(1, Ordering::Relaxed);
            }
        }
        std::future::pending::<()>().await;
    });
    let (t, to, tls) = (tally.clone(), address.to_owned(), config(authority, None));
    tasks.spawn(async move {
        while !t.stop.load(Ordering::Relaxed) {
            if let Ok(stream) = raw(&to, &tls).await {
                endless_header(stream, &t).await;
                t.header_ends.fetch_add(1, Ordering::Relaxed);
            }
            tokio::time::sleep(PACE).await;
        }
    });
    let (t, to, tls) = (tally.clone(), address.to_owned(), config(authority, Some(insider)));
    tasks.spawn(async move {
        while !t.stop.load(Ordering::Relaxed) {
            if let Ok(stream) = raw(&to, &tls).await {
                rapid_resets(stream, &t).await;
                t.reset_ends.fetch_add(1, Ordering::Relaxed);
            }
            tokio::time::sleep(PACE).await;
        }
    });
    Floods { tally, tasks, silent }
}

impl Floods {
    /// Ready once every flood has begun, and all silent connections are there.
    pub async fn underway(&self) {
        let there = |n: &AtomicUsize| n.load(Ordering::Relaxed);
        let t = &self.tally;
        while there(&t.silent) < self.silent || there(&t.header_ends) == 0 || there(&t.resets) < 1000 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn stop(mut self) -> Counts {
        self.tally.stop.store(true, Ordering::Relaxed);
        self.tasks.shutdown().await;
        let of = |n: &AtomicUsize| n.load(Ordering::Relaxed);
        let t = &self.tally;
        Counts {
            silent: of(&t.silent),
            header_bytes: of(&t.header_bytes),
            header_ends: of(&t.header_ends),
            gigabytes: of(&t.gigabytes),
            resets: of(&t.resets),
            reset_ends: of(&t.reset_ends),
        }
    }
}

fn config(authority: &str, who: Option<&Credentials>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_protocol_versions(&[&TLS13]).unwrap().with_root_certificates(roots);
    let mut config = match who {
        None => builder.with_no_client_auth(),
        Some(who) => {
            let chain = CertificateDer::pem_slice_iter(who.chain.as_bytes()).collect::<Result<_, _>>().unwrap();
            let key = PrivateKeyDer::from_pem_slice(who.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

type Raw = TlsStream<TcpStream>;

/// A connection that speaks HTTP/2 frame by frame.
async fn raw(address: &str, tls: &Arc<ClientConfig>) -> std::io::Result<Raw> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(tls.clone()).connect(name, stream).await?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    stream.write_all(&frame(4, 0, 0, &[])).await?;
    Ok(stream)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header in HPACK, without indexing and without Huffman.
fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    assert!(name.len() < 127 && value.len() < 127);
    [&[0, name.len() as u8], name, &[value.len() as u8], value].concat()
}

/// POST https /tessera.v1.Federation/UploadStatus
fn request() -> Vec<u8> {
    let mut block = vec![0x83, 0x87];
    block.extend(literal(b":path", b"/tessera.v1.Federation/UploadStatus"));
    block.extend(literal(b"content-type", b"application/grpc"));
    block
}

/// HEADERS, then CONTINUATION frames without an end, up to a gigabyte or until the coordinator has enough.
async fn endless_header(mut stream: Raw, tally: &Tally) {
    let more = literal(b"x-padding", &[b'x'; 100]).repeat(140);
    let mut next = frame(1, 0, 1, &request());
    let mut sent = 0;
    while sent < GIGABYTE && stream.write_all(&next).await.is_ok() && stream.flush().await.is_ok() {
        sent += next.len();
        tally.header_bytes.fetch_add(next.len(), Ordering::Relaxed);
        next = frame(9, 0, 1, &more);
    }
    if sent >= GIGABYTE {
        tally.gigabytes.fetch_add(1, Ordering::Relaxed);
    }
}

/// Opens streams and resets each at once, until the coordinator has enough or a hundred thousand are over.
async fn rapid_resets(stream: Raw, tally: &Tally) {
    let (mut from, mut to) = tokio::io::split(stream);
    // whoever does not read is stopped by full windows, and not by the coordinator
    let reader = tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 16];
        while from.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
    });
    for stream in (1..200_001).step_by(2) {
        let mut pair = frame(1, 0x4, stream, &request());
        pair.extend(frame(3, 0, stream, &8u32.to_be_bytes()));
        if to.write_all(&pair).await.is_err() || to.flush().await.is_err() {
            break;
        }
        tally.resets.fetch_add(1, Ordering::Relaxed);
    }
    reader.abort();
}
