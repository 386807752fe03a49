//! Who connects: certificates, tokens, roles and revocations.
//!
//! A connection is whoever its client certificate names. The registry says what that name may do, whether it is revoked,
//! and which enrolment its certificates must come from. With [`Security::Own`] the coordinator is the authority itself.
//! Calls that change something write to the disk; they are short and rare.

mod authority;
mod denied;
mod keep;
mod names;
mod peer;
mod registry;
mod token;

#[cfg(test)]
mod tests;

pub(crate) use denied::{Denied, utc};
pub(crate) use peer::Peer;
pub(crate) use registry::Known;
pub(crate) use token::NewToken;

use crate::clock::Clock;
use crate::config::{Config, Security, TlsFiles};
use crate::disk;
use crate::error::Error;
use crate::sync::lock;
use crate::tls::{self, Presented};
use authority::{Authority, ENROLMENT, hex};
use registry::{Contents, Grant, Member, Registry, Ticket};
use rustls_pki_types::CertificateDer;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tessera_common::access::{Role, SECRET_BYTES, Token};
use tessera_common::id::{MemberName, Millis};
use tokio::sync::broadcast;

/// How often files that somebody else makes are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often the age of our own certificates is looked at, in looks.
const AGE_LOOKS: u32 = 3600;
/// Names to cut that wait for who lags.
const CUTS: usize = 256;
/// Longest reason of a revocation that is kept, in characters.
const MAX_REASON: usize = 200;

/// All identities. Clones are the same.
#[derive(Clone)]
pub(crate) struct Identities(Arc<Inner>);

struct Inner {
    mode: Mode,
    clock: Clock,
    presented: Mutex<Option<Presented>>,
    registry: Mutex<Registry>,
    guesses: Mutex<token::Guesses>,
    /// Names whose connections have to end.
    cut: broadcast::Sender<MemberName>,
    life: Millis,
    /// Where sites find the coordinator, if a token does not say otherwise.
    address: Mutex<String>,
}

enum Mode {
    Plaintext,
    Files { files: TlsFiles, stamps: Mutex<Stamps> },
    Own { authority: Box<Mutex<Authority>>, given: Vec<String>, names: BTreeSet<String> },
}

/// When each file was changed, and its length.
type Stamps = [Option<(SystemTime, u64)>; 3];

impl std::fmt::Debug for Identities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mode = match self.0.mode {
            Mode::Plaintext => "plaintext",
            Mode::Files { .. } => "files",
            Mode::Own { .. } => "own",
        };
        f.debug_struct("Identities").field("mode", &mode).finish_non_exhaustive()
    }
}

/// A certificate for a site.
#[derive(Debug, Clone)]
pub(crate) struct Issued {
    pub name: MemberName,
    pub role: Role,
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// What the site is to trust.
    pub authorities: Vec<CertificateDer<'static>>,
    pub expires: Millis,
    /// When to ask for the next one.
    pub renew: Millis,
}

/// What an identity may do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    pub role: Role,
    pub labels: Vec<String>,
    /// Any if empty.
    pub modalities: Vec<String>,
}

impl Identities {
    /// Reads what is there, and makes what is missing. The data folder must be there and ours.
    ///
    /// # Errors
    /// Names the file that cannot be used, and what to do.
    pub(crate) fn open(config: &Config) -> Result<Self, Error> {
        let clock = Clock::new();
        let dir = config.data_dir.as_ref().map(|dir| dir.join("identity"));
        let file = |dir: &PathBuf| dir.join("registry.json");
        let (mode, presented, registry) = match &config.security {
            Security::Plaintext | Security::PlaintextAnywhere => (Mode::Plaintext, None, Registry::open(None, false)?),
            Security::Files(files) => {
                // Looked at before they are read: a change in between is then found later.
                let stamps = Mutex::new(stamps(files));
                let presented = tls::from_files(files)?;
                dir.as_deref().map_or(Ok(()), private)?;
                (Mode::Files { files: files.clone(), stamps }, Some(presented), Registry::open(dir.as_ref().map(file), false)?)
            }
            Security::Own { names } => {
                let dir = dir.ok_or_else(|| Error::Config("certificates of its own need a folder (--data-dir)".into()))?;
                private(&dir)?;
                // The registry is made first: an authority without one is damage.
                let registry = Registry::open(Some(file(&dir)), Authority::exists(&dir))?;
                let authority = Authority::open(&dir, clock.now())?;
                let all = names::names(names, config.listen.ip());
                let presented = authority.present(&all, clock.now())?;
                (
                    Mode::Own { authority: Box::new(Mutex::new(authority)), given: names.clone(), names: all },
                    Some(presented),
                    registry,
                )
            }
        };
        let identities = Self(Arc::new(Inner {
            mode,
            clock,
            presented: Mutex::new(presented),
            registry: Mutex::new(registry),
            guesses: Mutex::default(),
            cut: broadcast::Sender::new(CUTS),
            life: config.certificate_life.as_millis() as Millis,
            address: Mutex::default(),
        }));
        identities.listens(config.listen);
        identities.refresh(clock.now());
        Ok(identities)
    }

    /// Says where the coordinator listens, for tokens.
    pub(crate) fn listens(&self, at: SocketAddr) {
        let given = match &self.0.mode {
            Mode::Own { given, .. } => given.first().cloned(),
            _ => None,
        };
        let host = given.unwrap_or_else(|| match at.ip() {
            ip if ip.is_unspecified() => names::machine().unwrap_or_else(|| "localhost".into()),
            ip => ip.to_string(),
        });
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        *lock(&self.0.address) = format!("{host}:{}", at.port());
    }

    /// True if connections are not protected.
    pub(crate) fn plaintext(&self) -> bool {
        matches!(self.0.mode, Mode::Plaintext)
    }

    /// What to show to a new connection; ask anew for each.
    pub(crate) fn tls(&self) -> Option<Arc<rustls::ServerConfig>> {
        lock(&self.0.presented).as_ref().map(|presented| presented.config.clone())
    }

    /// Never ends: takes changed files, and makes new certificates in time.
    pub(crate) async fn keep_fresh(self) {
        let looks = match self.0.mode {
            Mode::Plaintext => return std::future::pending().await,
            Mode::Files { .. } => 1,
            Mode::Own { .. } => AGE_LOOKS,
        };
        loop {
            tokio::time::sleep(LOOK * looks).await;
            self.refresh(self.0.clock.now());
        }
    }

    /// One look at files or ages. Trouble leaves what there is and is logged.
    fn refresh(&self, now: Millis) {
        match &self.0.mode {
            Mode::Plaintext => {}
            Mode::Files { files, stamps } => self.reload(files, stamps),
            Mode::Own { authority, names, .. } => {
                let mut authority = lock(authority);
                let ends = authority.ends;
                let renewed = if ends < now.saturating_add(authority::AUTHORITY_LEFT) { authority.rotate(now) } else { Ok(()) };
                match renewed.and_then(|()| authority.present(names, now)) {
                    Ok(presented) => *lock(&self.0.presented) = Some(presented),
                    Err(error) => {
                        tracing::error!(%error, "the coordinator's certificate cannot be renewed; it keeps the old one")
                    }
                }
            }
        }
    }

    fn reload(&self, files: &TlsFiles, known: &Mutex<Stamps>) {
        let mut known = lock(known);
        let found = stamps(files);
        if found == *known {
            return;
        }
        *known = found;
        match tls::from_files(files) {
            Ok(presented) => {
                tracing::info!(expires = utc(presented.expires), "changed certificates are taken");
                *lock(&self.0.presented) = Some(presented);
            }
            Err(error) => {
                tracing::error!(%error, "changed certificates cannot be used; the old ones stay until files change again")
            }
        }
    }

    fn authority(&self) -> Result<&Mutex<Authority>, Denied> {
        match &self.0.mode {
            Mode::Plaintext => Err(Denied::Plaintext),
            Mode::Files { .. } => Err(Denied::NoAuthority),
            Mode::Own { authority, .. } => Ok(authority),
        }
    }

    /// Makes a token with which a site enrols once.
    ///
    /// # Errors
    /// If something in it is not valid, its name is revoked, or there is no authority to enrol with.
    pub(crate) fn create_token(&self, new: NewToken, now: Millis) -> Result<Token, Denied> {
        let fingerprint = lock(self.authority()?).fingerprint();
        new.check()?;
        let secret = authority::random::<SECRET_BYTES>().map_err(cannot)?;
        let expires = now.saturating_add(new.valid.as_millis() as Millis);
        let grant = Grant { role: new.role, labels: new.labels, modalities: new.modalities, serves: new.serves };
        let ticket = Ticket { name: new.name.clone(), grant, expires_ms: expires, used_ms: None, key: None };
        lock(&self.0.registry).change(|contents| {
            contents.refuse_revoked(&new.name)?;
            contents.make_room(now)?;
            contents.tokens.insert(hash(&secret), ticket);
            Ok(())
        })?;
        let address = new.address.unwrap_or_else(|| lock(&self.0.address).clone());
        Ok(Token { name: new.name, address, authority: fingerprint, secret, expires })
    }

    /// Gives a site its first certificate for the secret of a token. Certificates of an earlier enrolment under the same
    /// name end with it.
    ///
    /// # Errors
    /// If the secret is unknown, used or expired, or the signing request is not good; then the token stays as it is.
    pub(crate) fn enrol(&self, secret: &[u8], signing_request: &[u8], from: IpAddr, now: Millis) -> Result<Issued, Denied> {
        let authority = self.authority()?;
        lock(&self.0.guesses).admit(from, now)?;
        if secret.len() != SECRET_BYTES {
            lock(&self.0.guesses).wrong(from, now);
            return Err(Denied::TokenMalformed);
        }
        let secret = hash(secret);
        let mut registry = lock(&self.0.registry);
        let Some(ticket) = registry.contents.tokens.get(&secret).cloned() else {
            return Err(lock(&self.0.guesses).wrong(from, now));
        };
        let name = ticket.name;
        let key = hash(rcgen::PublicKeyData::der_bytes(&authority::requested_key(signing_request)?));
        let again = ticket.key.as_deref() == Some(key.as_str());
        if let Some(at) = ticket.used_ms.filter(|_| !again) {
            return Err(Denied::TokenUsed { name, at });
        }
        if now >= ticket.expires_ms {
            return Err(Denied::TokenExpired { name, at: ticket.expires_ms, now });
        }
        registry.contents.refuse_revoked(&name)?;
        let enrolment = authority::new_enrolment().map_err(cannot)?;
        let issued = self.issue(&lock(authority), &name, &ticket.grant, &enrolment, signing_request, now)?;
        let enrolment = Some(hex(&enrolment));
        let member = Member { grant: ticket.grant, enrolment, expires_ms: issued.expires, revoked: None };
        let used = |contents: &mut Contents| {
            // an earlier token of this name gives nothing any more, not even to the key that it was used for
            contents.tokens.values_mut().filter(|ticket| ticket.name == name).for_each(|ticket| ticket.key = None);
            if let Some(ticket) = contents.tokens.get_mut(&secret) {
                ticket.used_ms = Some(now);
                ticket.key = Some(key);
            }
            Ok(contents.members.insert(name.clone(), member))
        };
        let before = registry.change(used)?;
        drop(registry);
        if before.is_some() {
            self.cut(&name);
        }
        Ok(issued)
    }

    /// Gives a site the certificate after `peer`'s.
    ///
    /// # Errors
    /// If the certificate ended, or its name is revoked or not enrolled here.
    pub(crate) fn renew(&self, peer: &Peer, signing_request: &[u8], now: Millis) -> Result<Issued, Denied> {
        let authority = self.authority()?;
        peer.check_time(now)?;
        let mut registry = lock(&self.0.registry);
        let (grant, enrolment) = self.grant(&registry, peer)?;
        let enrolment = enrolment.ok_or_else(|| Denied::NotEnrolled { name: peer.name.clone() })?;
        let issued = self.issue(&lock(authority), &peer.name, &grant, &enrolment, signing_request, now)?;
        let noted = registry.force(|contents| {
            if let Some(member) = contents.members.get_mut(&peer.name) {
                member.expires_ms = issued.expires;
            }
        });
        // Only the date that operators see is lost, until the next change: no reason to cut the site off.
        if let Err(error) = noted {
            tracing::warn!(member = %peer.name, %error, "the end of a renewed certificate is not written down");
        }
        Ok(issued)
    }

    fn issue(
        &self,
        authority: &Authority,
        name: &MemberName,
        grant: &Grant,
        enrolment: &[u8; ENROLMENT],
        signing_request: &[u8],
        now: Millis,
    ) -> Result<Issued, Denied> {
        let key = authority::requested_key(signing_request)?;
        let (certificate, expires) = authority.sign(&key, name, &grant.serves, enrolment, now, self.0.life)?;
        Ok(Issued {
            name: name.clone(),
            role: grant.role,
            chain: vec![certificate],
            authorities: authority.trusted(now),
            expires,
            renew: now + expires.saturating_sub(now) / 3 * 2,
        })
    }

    /// Refuses a name from now on, and over restarts.
    ///
    /// # Errors
    /// If nobody has the name; or if the disk fails: then it is refused until the coordinator restarts.
    pub(crate) fn revoke(&self, name: &MemberName, reason: &str) -> Result<(), Denied> {
        let own = match self.0.mode {
            Mode::Plaintext => return Err(Denied::Plaintext),
            Mode::Files { .. } => false,
            Mode::Own { .. } => true,
        };
        let reason: String = reason.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_REASON).collect();
        let mut registry = lock(&self.0.registry);
        let contents = &registry.contents;
        if own && !contents.members.contains_key(name) && !contents.tokens.values().any(|ticket| ticket.name == *name) {
            return Err(Denied::NoMember { name: name.clone() });
        }
        let kept = registry.force(|contents| {
            contents.tokens.retain(|_, ticket| ticket.name != *name || ticket.used_ms.is_some());
            contents.tokens.values_mut().filter(|ticket| ticket.name == *name).for_each(|ticket| ticket.key = None);
            let unknown = Member { grant: Grant::member(), enrolment: None, expires_ms: 0, revoked: None };
            contents.members.entry(name.clone()).or_insert(unknown).revoked = Some(reason);
        });
        drop(registry);
        self.cut(name);
        kept
    }

    /// Takes a revocation back: certificates that have not ended are good again.
    ///
    /// # Errors
    /// If nobody has the name, or the disk fails.
    pub(crate) fn unrevoke(&self, name: &MemberName) -> Result<(), Denied> {
        if self.plaintext() {
            return Err(Denied::Plaintext);
        }
        lock(&self.0.registry).change(|contents| {
            let member = contents.members.get_mut(name).ok_or_else(|| Denied::NoMember { name: name.clone() })?;
            member.revoked = None;
            // Of somebody who never had anything from here nothing is left to know.
            if member.enrolment.is_none() && member.grant == Grant::member() {
                contents.members.remove(name);
            }
            Ok(())
        })
    }

    /// Makes a new certificate for the coordinator, and a new authority before that if `authority`. Connections stay.
    ///
    /// # Errors
    /// If there is no authority of our own, or the disk fails.
    pub(crate) fn rotate(&self, authority: bool, now: Millis) -> Result<(), Denied> {
        let Mode::Own { authority: ours, names, .. } = &self.0.mode else { return self.authority().map(drop) };
        let mut ours = lock(ours);
        if authority {
            if let Some(until) = ours.needed_until(now, self.0.life).filter(|until| now < *until) {
                return Err(Denied::TooSoon(utc(until)));
            }
            ours.rotate(now).map_err(cannot)?;
        }
        let presented = ours.present_new(names, now).map_err(cannot)?;
        *lock(&self.0.presented) = Some(presented);
        Ok(())
    }

    /// What `peer` may do now. Looks at names, revocations and enrolments; rustls has looked at the rest.
    ///
    /// # Errors
    /// If it is revoked, not enrolled, or enrolled again since.
    pub(crate) fn standing(&self, peer: &Peer) -> Result<Standing, Denied> {
        let (grant, _) = self.grant(&lock(&self.0.registry), peer)?;
        Ok(Standing { role: grant.role, labels: grant.labels, modalities: grant.modalities })
    }

    fn grant(&self, registry: &Registry, peer: &Peer) -> Result<(Grant, Option<[u8; ENROLMENT]>), Denied> {
        let name = || peer.name.clone();
        registry.contents.refuse_revoked(&peer.name)?;
        if !matches!(self.0.mode, Mode::Own { .. }) {
            // a name that was enrolled here once, before this authority was another one's, is nobody here
            return Ok((Grant::member(), None));
        }
        let member = registry.contents.members.get(&peer.name).ok_or_else(|| Denied::NotEnrolled { name: name() })?;
        let enrolment = member.enrolment.as_deref().ok_or_else(|| Denied::NotEnrolled { name: name() })?;
        let shown = peer.serial.first_chunk::<ENROLMENT>().filter(|shown| hex(*shown) == enrolment);
        let shown = shown.ok_or_else(|| Denied::Superseded { name: name() })?;
        Ok((member.grant.clone(), Some(*shown)))
    }

    /// Everybody who is enrolled, revoked, or has a token.
    pub(crate) fn known(&self) -> BTreeMap<MemberName, Known> {
        lock(&self.0.registry).known(self.0.clock.now())
    }

    /// Refuses a member that is revoked by its own name, whoever serves it.
    pub(crate) fn check_revoked(&self, name: &MemberName) -> Result<(), Denied> {
        lock(&self.0.registry).contents.refuse_revoked(name)
    }

    /// Labels of a member: its own, or those of the site that serves it.
    pub(crate) fn labels(&self, name: &str) -> Vec<String> {
        lock(&self.0.registry).grant_for(name).map(|grant| grant.labels.clone()).unwrap_or_default()
    }

    /// The reason, if the name is revoked.
    #[cfg(test)]
    fn is_revoked(&self, name: &MemberName) -> Option<String> {
        lock(&self.0.registry).contents.members.get(name).and_then(|member| member.revoked.clone())
    }

    /// Names whose connections have to end: they are revoked, or enrolled again. Who lags asks [`Self::standing`] of all.
    pub(crate) fn revocations(&self) -> broadcast::Receiver<MemberName> {
        self.0.cut.subscribe()
    }

    /// When the coordinator's certificate ends (0 in plaintext), and the SHA-256 of its authority's certificate in
    /// hexadecimal digits (empty without an authority of our own).
    pub(crate) fn status(&self) -> (Millis, String) {
        let expires = lock(&self.0.presented).as_ref().map_or(0, |presented| presented.expires);
        (expires, self.authority().map(|authority| hex(&lock(authority).fingerprint())).unwrap_or_default())
    }

    fn cut(&self, name: &MemberName) {
        // Without a receiver nothing is served yet, or any more.
        let _ = self.0.cut.send(name.clone());
    }
}

fn private(dir: &Path) -> Result<(), Error> {
    disk::create_private_dir(dir).map_err(Error::io("cannot create", dir))?;
    keep::close(dir).map_err(Error::io("cannot protect", dir))
}

fn stamps(files: &TlsFiles) -> Stamps {
    [&files.cert, &files.key, &files.client_ca].map(|path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

fn hash(secret: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, secret).as_ref())
}

/// What an operator or a site hears of trouble with keys and files; whole paths are for our log only.
fn cannot(error: Error) -> Denied {
    tracing::error!(%error, "certificates cannot be made");
    match error {
        Error::Io { doing, error, .. } => Denied::Disk(format!("the coordinator {doing} a file of its identity: {error}")),
        error => Denied::Certificate(error.to_string()),
    }
}
