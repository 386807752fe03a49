//! Who this agent is: a key that never leaves the site, and short-lived certificates for it from the coordinator.
//!
//! A one-time token gives the first certificate ([`Identity::enrol`]); from then on the identity renews itself over the
//! connection that it secures ([`Identity::renew_if_due`]).

mod facts;
mod pin;
mod store;
#[cfg(test)]
mod tests;
mod tls;
mod trouble;

pub use facts::{Facts, now, when};
pub use tls::{Current, Origin, Own, Tls};
pub use trouble::{TlsTrouble, Way, causes, explain_tls};
pub(crate) use trouble::{explained, explained_handshake};

use crate::dial::{Dial, Heard};
use bytes::Bytes;
use rcgen::{CertificateParams, DnType, KeyPair, PublicKeyData};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use store::{About, Store, Stored};
use tessera_common::access::{Role, Token};
use tessera_common::id::{MemberName, Millis};
use tessera_proto::v1::enrolment_client::EnrolmentClient;
use tessera_proto::v1::{Credentials, EnrolRequest, RenewRequest};
use tonic::transport::Channel;
use tonic::{Response, Status};

/// Folder of the identity within the state folder.
const FOLDER: &str = "identity";
/// Longest pause after a renewal that failed.
const RETRY: Millis = 60_000;
/// Most certificates that are taken in a chain or as authorities.
const MAX_CERTIFICATES: usize = 16;

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The coordinator cannot be reached; worth another try.
    #[error("the coordinator at {address} cannot be reached: {why}; the token is not used up")]
    Unreachable {
        /// `host:port`.
        address: String,
        /// What went wrong.
        why: String,
    },
    /// It is there, and TLS fails.
    #[error("{0}")]
    Tls(String),
    /// It refuses.
    #[error("the coordinator at {address} refuses: {why}")]
    Refused {
        /// `host:port`.
        address: String,
        /// Its own words.
        why: String,
    },
    /// What it sent is not usable.
    #[error("the coordinator at {address} sent credentials that cannot be used: {why}")]
    Answer {
        /// `host:port`.
        address: String,
        /// What is wrong with them.
        why: String,
    },
    /// The folder takes nothing.
    #[error("the identity cannot be kept in {dir}: {why}; give a --state-dir on a disk that can be written")]
    Store {
        /// The folder.
        dir: PathBuf,
        /// What went wrong.
        why: String,
    },
    /// The folder holds something that is no identity.
    #[error("the identity in {dir} is damaged: {why}; remove that folder and get a new token with `tessera enrol NAME`")]
    Damaged {
        /// The folder.
        dir: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// An identity on disk and in use. Clones are the same identity.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    store: Store,
    state: Mutex<State>,
    tls: Tls,
}

struct State {
    about: About,
    /// Public key of the certificate in use.
    public_key: Vec<u8>,
    authorities: Vec<[u8; 32]>,
    /// No renewal before this time: the last one failed.
    not_before: Millis,
}

/// Without keys.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("dir", &self.0.store.dir).field("about", &self.state().about).finish_non_exhaustive()
    }
}

/// Where an agent with this state folder keeps its identity.
pub fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join(FOLDER)
}

/// Gets an identity with a token and keeps it in `dir`: see [`Identity::enrol`].
///
/// # Errors
/// As there.
pub async fn enrol(token: &Token, dir: &Path) -> Result<Identity, IdentityError> {
    Identity::enrol(token, dir).await
}

impl Identity {
    /// Gets an identity with a token and keeps it in `dir`. The key is on disk before anything is sent; a second attempt, after
    /// a crash or a lost answer, asks with the same key.
    ///
    /// # Errors
    /// If the coordinator cannot be reached, is not the one that the token names, or refuses; if the folder takes nothing.
    pub async fn enrol(token: &Token, dir: &Path) -> Result<Self, IdentityError> {
        let store = Store { dir: dir.to_owned() };
        let bad_store = |e: io::Error| IdentityError::Store { dir: dir.to_owned(), why: e.to_string() };
        let used = store.load().ok().flatten().map(|old| old.key.subject_public_key_info());
        let key = store.next_key(used.as_deref()).map_err(bad_store)?;
        let answer = |why: String| IdentityError::Answer { address: token.address.clone(), why };
        let signing_request = signing_request(&token.name, &key).map_err(answer)?;
        let response = ask(token, signing_request).await?;
        let issued = accept(response, &token.name, &token.address, key).map_err(answer)?;
        store.commit(&issued).map_err(bad_store)?;
        Self::open(store, issued)
    }

    /// The identity in `dir`, if there is one. Changes nothing.
    ///
    /// # Errors
    /// If the folder is damaged.
    pub fn load(dir: &Path) -> Result<Option<Self>, IdentityError> {
        let store = Store { dir: dir.to_owned() };
        store.load()?.map(|stored| Self::open(store, stored)).transpose()
    }

    fn open(store: Store, stored: Stored) -> Result<Self, IdentityError> {
        let damaged = |why| IdentityError::Damaged { dir: store.dir.clone(), why };
        let tls = Tls::new(current(&stored, &store.dir).map_err(damaged)?);
        let state = Mutex::new(State::of(&stored));
        Ok(Self(Arc::new(Inner { store, state, tls })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Name in the certificates.
    pub fn name(&self) -> MemberName {
        self.state().about.name.clone()
    }

    /// What it may do.
    pub fn role(&self) -> Role {
        self.state().about.role
    }

    /// Where it was enrolled, `host:port`.
    pub fn coordinator(&self) -> String {
        self.state().about.coordinator.clone()
    }

    /// When the certificate ends, by the coordinator's clock.
    pub fn expires(&self) -> Millis {
        self.state().about.expires
    }

    /// True if this SHA-256 of a certificate is that of an authority which the identity trusts.
    pub fn trusts(&self, authority: &[u8; 32]) -> bool {
        self.state().authorities.contains(authority)
    }

    /// TLS settings, which follow every renewal.
    pub fn tls(&self) -> Tls {
        self.0.tls.clone()
    }

    /// When to call [`Self::renew_if_due`], by this machine's clock.
    pub fn renew_at(&self) -> Millis {
        let state = self.state();
        state.about.renew.max(state.not_before)
    }

    /// Gets a new certificate, for a new key, over a connection that the present one secures. The next connection uses it. True
    /// if there is a new one, false if it is not time yet. Not to be called twice at once.
    ///
    /// # Errors
    /// The coordinator's refusal, or what is wrong with its answer or the disk; [`Self::renew_at`] then names a later time.
    pub async fn renew_if_due(&self, channel: &Channel) -> Result<bool, Status> {
        let now = now();
        if now < self.renew_at() {
            return Ok(false);
        }
        let left = self.expires().saturating_sub(now);
        // short lives are for tests, and need short pauses
        self.state().not_before = now + (left / 10).clamp(1_000, RETRY);
        self.renew(channel).await?;
        self.state().not_before = 0;
        Ok(true)
    }

    async fn renew(&self, channel: &Channel) -> Result<(), Status> {
        let (name, coordinator, used) = {
            let state = self.state();
            (state.about.name.clone(), state.about.coordinator.clone(), state.public_key.clone())
        };
        let store = self.0.store.clone();
        let key = on_disk(move || store.next_key(Some(&used))).await?;
        let signing_request = signing_request(&name, &key).map_err(Status::internal)?;
        let request = RenewRequest { version: tessera_proto::VERSION.into(), signing_request };
        let response = EnrolmentClient::new(channel.clone()).renew(request).await?;
        let issued = accept(response, &name, &coordinator, key).map_err(Status::data_loss)?;
        let current = current(&issued, &self.0.store.dir).map_err(Status::data_loss)?;
        let state = State::of(&issued);
        let expires = when(state.about.expires);
        self.0.tls.swap(current);
        *self.state() = state;
        let store = self.0.store.clone();
        match on_disk(move || store.commit(&issued)).await {
            Ok(()) => tracing::info!(%name, expires, "the certificate is renewed"),
            Err(error) => {
                let (dir, error) = (self.0.store.dir.display(), error.message().to_owned());
                tracing::warn!(%dir, error, "the renewed certificate is in memory only: a restart uses the old one");
            }
        }
        Ok(())
    }
}

impl State {
    fn of(stored: &Stored) -> Self {
        let authorities = stored.authorities.iter().map(|der| pin::fingerprint(der)).collect();
        let public_key = stored.key.subject_public_key_info();
        Self { about: stored.about.clone(), public_key, authorities, not_before: 0 }
    }
}

async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Status> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(|e| Status::resource_exhausted(format!("the identity cannot be kept: {e}"))),
        Err(error) => Err(Status::internal(error.to_string())),
    }
}

/// What connections use with this identity.
fn current(stored: &Stored, dir: &Path) -> Result<Current, String> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(stored.key.serialize_der()));
    let config = tls::mutual(stored.authorities.clone(), stored.chain.clone(), key)
        .map_err(|(tls::Unfit::Authority(e) | tls::Unfit::Own(e))| e.to_string())?;
    let facts = Facts::of(&stored.chain[0])?;
    Ok(Current { config, own: Some(Own { facts, origin: Origin::Identity(dir.to_owned()) }) })
}

/// PKCS #10 in DER. The coordinator decides about the names; this one is for people who look at it.
fn signing_request(name: &MemberName, key: &KeyPair) -> Result<Bytes, String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name.as_str());
    let request = params.serialize_request(key).map_err(|e| e.to_string())?;
    Ok(Bytes::copy_from_slice(request.der()))
}

/// Sends the token's secret to the coordinator that the token names, and to nobody else.
async fn ask(token: &Token, signing_request: Bytes) -> Result<Response<Credentials>, IdentityError> {
    let address = token.address.clone();
    let host = crate::dial::host_of(&address).map_err(IdentityError::Tls)?;
    let tls = Tls::pinned(token.authority).map_err(|e| IdentityError::Tls(e.to_string()))?;
    let unreachable = |error: &(dyn std::error::Error + 'static)| match trouble::find(error) {
        Some(trouble) => IdentityError::Tls(trouble.0),
        None => IdentityError::Unreachable { address: token.address.clone(), why: causes(error) },
    };
    let dial = Dial::Tcp { address: address.clone(), host, tls: Some(tls) };
    let channel = dial.connect(&Heard::default()).await.map_err(|e| unreachable(&e))?;
    let request =
        EnrolRequest { version: tessera_proto::VERSION.into(), secret: Bytes::copy_from_slice(&token.secret), signing_request };
    let mut client = EnrolmentClient::new(channel);
    let asked = tokio::time::timeout(crate::dial::CONNECT_LIMIT, client.enrol(request)).await;
    match asked {
        Ok(Ok(response)) => Ok(response),
        // with a source it is from here, without one from the coordinator
        Ok(Err(status)) if std::error::Error::source(&status).is_some() => Err(unreachable(&status)),
        Ok(Err(status)) => Err(IdentityError::Refused { address, why: status.message().to_owned() }),
        Err(_) => Err(IdentityError::Unreachable { address, why: "it does not answer".into() }),
    }
}

/// Checks credentials, and tells their times by this machine's clock.
fn accept(response: Response<Credentials>, name: &MemberName, coordinator: &str, key: KeyPair) -> Result<Stored, String> {
    let now = now();
    let date = response.metadata().get("date").and_then(|date| date.to_str().ok()).and_then(date_ms);
    let credentials = response.into_inner();
    if credentials.name != name.as_str() {
        return Err(format!("they are for {:?} instead of {name}", credentials.name.chars().take(64).collect::<String>()));
    }
    let role: Role = credentials.role.parse()?;
    let chain = certificates(credentials.chain, "certificate")?;
    let authorities = certificates(credentials.authorities, "authority")?;
    if facts::public_key(&chain[0]) != Some(key.subject_public_key_info()) {
        return Err("the certificate is for another key".into());
    }
    // a site whose clock is hours behind would renew too late
    // a date has whole seconds: what is within one is no difference of clocks
    let there = date.filter(|date| date.abs_diff(now) > 1500).unwrap_or(now);
    let renew = now.saturating_add(credentials.renew_ms.saturating_sub(there));
    let about = About { name: name.clone(), role, coordinator: coordinator.to_owned(), expires: credentials.expires_ms, renew };
    Ok(Stored { about, key, chain, authorities })
}

fn certificates(ders: Vec<Bytes>, what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    if ders.is_empty() || ders.len() > MAX_CERTIFICATES {
        return Err(format!("{} of kind {what}; there must be 1 to {MAX_CERTIFICATES}", ders.len()));
    }
    for der in &ders {
        Facts::of(der)?;
    }
    Ok(ders.into_iter().map(|der| CertificateDer::from(der.to_vec())).collect())
}

/// The date of an HTTP header in milliseconds since the Unix epoch.
fn date_ms(text: &str) -> Option<Millis> {
    let time = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    u64::try_from(time.as_millisecond()).ok()
}
