//! Who is enrolled, who is revoked, and which tokens are out: one small file, replaced as a whole.

use super::denied::Denied;
use super::keep;
use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use tessera_common::access::{Role, serves};
use tessera_common::id::{MemberName, Millis};

/// Version of the file's format.
const VERSION: u32 = 1;
/// How long used and ended tokens are remembered, so that whoever brings one learns what is wrong with it.
const REMEMBER: Millis = 30 * 24 * 60 * 60 * 1000;
/// Most tokens that are remembered.
const MAX_TICKETS: usize = 10_000;

/// What an identity may be and do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Grant {
    pub role: Role,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Any if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modalities: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub serves: Vec<String>,
}

impl Grant {
    /// What a certificate of an authority of the operator's gives, as long as nobody says otherwise.
    pub(crate) fn member() -> Self {
        Self { role: Role::Member, labels: Vec::new(), modalities: Vec::new(), serves: Vec::new() }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Member {
    pub grant: Grant,
    /// What the serial numbers of its certificates begin with, in hexadecimal digits; None if they are not from here.
    pub enrolment: Option<String>,
    /// When its latest certificate ends; 0 if unknown.
    pub expires_ms: Millis,
    /// The reason, if it is revoked.
    pub revoked: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ticket {
    pub name: MemberName,
    pub grant: Grant,
    pub expires_ms: Millis,
    pub used_ms: Option<Millis>,
    /// SHA-256 of the public key that it was used for, in hexadecimal digits: a site that did not get the answer may ask again.
    #[serde(default)]
    pub key: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contents {
    version: u32,
    pub members: BTreeMap<MemberName, Member>,
    /// By the SHA-256 of their secrets, in hexadecimal digits.
    pub tokens: BTreeMap<String, Ticket>,
}

/// What operators see of an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub role: Role,
    pub labels: Vec<String>,
    pub modalities: Vec<String>,
    pub serves: Vec<String>,
    /// The reason, if it is revoked.
    pub revoked: Option<String>,
    /// 0 while it has no certificate from here.
    pub certificate_expires: Millis,
    /// When the last token for it ends that nobody has used; 0 without one.
    pub token_expires: Millis,
}

/// The registry and its file.
#[derive(Debug)]
pub(crate) struct Registry {
    path: Option<PathBuf>,
    pub contents: Contents,
}

impl Registry {
    /// Reads the file, or makes it. `expected` says that it must be there: identities were given away already.
    pub(crate) fn open(path: Option<PathBuf>, expected: bool) -> Result<Self, Error> {
        let empty = Contents { version: VERSION, members: BTreeMap::new(), tokens: BTreeMap::new() };
        let Some(path) = path else { return Ok(Self { path: None, contents: empty }) };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound && !expected => {
                let made = Self { path: Some(path.clone()), contents: empty };
                made.keep(&made.contents).map_err(Error::io("cannot write", &path))?;
                return Ok(made);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(damaged(&path, "it is missing")),
            Err(error) if error.kind() == ErrorKind::InvalidData => return Err(damaged(&path, "it is no text")),
            Err(error) => return Err(Error::io("cannot read", &path)(error)),
        };
        keep::close(&path).map_err(Error::io("cannot protect", &path))?;
        // An older coordinator must say that the file is too new before it stumbles over what it does not know in it.
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_str(&text).map_err(|e| damaged(&path, &e.to_string()))?;
        if version != VERSION {
            let why = format!("{}: its format is {version}, and this coordinator reads {VERSION}: update it", path.display());
            return Err(Error::Tls(why));
        }
        let contents = serde_json::from_str(&text).map_err(|e| damaged(&path, &e.to_string()))?;
        Ok(Self { path: Some(path), contents })
    }

    fn keep(&self, contents: &Contents) -> std::io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let mut bytes = serde_json::to_vec_pretty(contents).map_err(std::io::Error::other)?;
        bytes.push(b'\n');
        keep::replace(path, &bytes)
    }

    fn write(&self, contents: &Contents) -> Result<(), Denied> {
        self.keep(contents).map_err(|error| {
            tracing::error!(path = ?self.path, %error, "the registry of members cannot be written");
            Denied::Disk(error.to_string())
        })
    }

    /// Changes it on the disk, then here; not at all if either cannot be done.
    pub(crate) fn change<T>(&mut self, change: impl FnOnce(&mut Contents) -> Result<T, Denied>) -> Result<T, Denied> {
        let mut next = self.contents.clone();
        let outcome = change(&mut next)?;
        self.write(&next)?;
        self.contents = next;
        Ok(outcome)
    }

    /// Changes it here whatever the disk says, for what must hold at once; then on the disk.
    pub(crate) fn force(&mut self, change: impl FnOnce(&mut Contents)) -> Result<(), Denied> {
        change(&mut self.contents);
        self.write(&self.contents)
    }

    /// What `name` has been granted: its own, or of whoever serves it.
    pub(crate) fn grant_for(&self, name: &str) -> Option<&Grant> {
        let name: MemberName = name.parse().ok()?;
        let members = &self.contents.members;
        let own = members.get(&name).or_else(|| members.values().find(|member| serves(&member.grant.serves, &name)));
        own.map(|member| &member.grant)
    }

    /// Every identity that is enrolled, revoked, or has a token that is still good at `now`.
    pub(crate) fn known(&self, now: Millis) -> BTreeMap<MemberName, Known> {
        let known = |grant: &Grant| Known {
            role: grant.role,
            labels: grant.labels.clone(),
            modalities: grant.modalities.clone(),
            serves: grant.serves.clone(),
            revoked: None,
            certificate_expires: 0,
            token_expires: 0,
        };
        let members = self.contents.members.iter().map(|(name, member)| {
            let ends = member.expires_ms;
            (name.clone(), Known { revoked: member.revoked.clone(), certificate_expires: ends, ..known(&member.grant) })
        });
        let mut all: BTreeMap<MemberName, Known> = members.collect();
        for ticket in self.contents.tokens.values().filter(|t| t.used_ms.is_none() && now < t.expires_ms) {
            let entry = all.entry(ticket.name.clone()).or_insert_with(|| known(&ticket.grant));
            entry.token_expires = entry.token_expires.max(ticket.expires_ms);
        }
        all
    }
}

impl Contents {
    /// Forgets tokens that ended long ago, and says whether there is room for another.
    pub(crate) fn make_room(&mut self, now: Millis) -> Result<(), Denied> {
        self.tokens.retain(|_, ticket| now < ticket.expires_ms.saturating_add(REMEMBER));
        let full = self.tokens.len() >= MAX_TICKETS;
        let why = || format!("{MAX_TICKETS} tokens are out or ended in the last 30 days; wait until some are older");
        if full { Err(Denied::Token(why())) } else { Ok(()) }
    }

    /// Refuses a name that is revoked.
    pub(crate) fn refuse_revoked(&self, name: &MemberName) -> Result<(), Denied> {
        match self.members.get(name).and_then(|member| member.revoked.as_ref()) {
            Some(reason) => Err(Denied::Revoked { name: name.clone(), reason: reason.clone() }),
            None => Ok(()),
        }
    }
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::Tls(format!(
        "{}: the list of enrolled and revoked members cannot be used: {why}. Restore the file from a backup: without it nobody \
         knows who is revoked. To start over, move the whole folder away; every site must then enrol again",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &tempfile::TempDir, expected: bool) -> Result<Registry, Error> {
        Registry::open(Some(dir.path().join("registry.json")), expected)
    }

    #[test]
    fn a_damaged_or_missing_registry_is_named_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registry.json");
        assert!(open(&dir, true).unwrap_err().to_string().contains("it is missing"));
        assert!(open(&dir, false).is_ok() && open(&dir, true).is_ok());
        let whole = std::fs::read_to_string(&path).unwrap();
        for bad in ["", "{", &whole[..whole.len() / 2], &whole.replace("members", "membres")] {
            std::fs::write(&path, bad).unwrap();
            let error = open(&dir, true).unwrap_err().to_string();
            assert!(error.contains("registry.json: ") && error.contains("Restore the file"), "{error}");
        }
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(open(&dir, true).unwrap_err().to_string().contains("no text"));
        std::fs::write(&path, r#"{"version":2,"new":[]}"#).unwrap();
        assert!(open(&dir, true).unwrap_err().to_string().contains("its format is 2"));
    }

    #[test]
    fn a_change_that_fails_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = open(&dir, false).unwrap();
        let before = std::fs::read(dir.path().join("registry.json")).unwrap();
        let add = |contents: &mut Contents| {
            let member = Member { grant: Grant::member(), enrolment: None, expires_ms: 0, revoked: None };
            contents.members.insert("a".parse().unwrap(), member);
        };
        let refused = registry.change(|contents| {
            add(contents);
            Err::<(), _>(Denied::TokenUnknown)
        });
        assert_eq!(refused, Err(Denied::TokenUnknown));
        assert!(registry.contents.members.is_empty());
        assert_eq!(std::fs::read(dir.path().join("registry.json")).unwrap(), before);
        // A folder in the place of the temporary file stands for a disk that takes nothing.
        std::fs::create_dir(dir.path().join("registry.json.tmp")).unwrap();
        let outcome = registry.change(|contents| {
            add(contents);
            Ok(())
        });
        assert!(matches!(outcome, Err(Denied::Disk(_))), "{outcome:?}");
        assert!(registry.contents.members.is_empty());
        assert!(matches!(registry.force(add), Err(Denied::Disk(_))));
        assert_eq!(registry.contents.members.len(), 1, "what must hold holds");
    }

    #[test]
    fn labels_come_from_the_name_or_from_who_serves_it() {
        let mut registry = Registry::open(None, false).unwrap();
        for (name, label, serves) in [("north", "n", vec![]), ("site", "s", vec!["ward-*".to_owned(), "north".to_owned()])] {
            let grant = Grant { labels: vec![label.into()], serves, ..Grant::member() };
            let member = Member { grant, enrolment: None, expires_ms: 0, revoked: None };
            registry.contents.members.insert(name.parse().unwrap(), member);
        }
        let label = |name: &str| registry.grant_for(name).map(|grant| grant.labels[0].as_str());
        assert_eq!((label("north"), label("ward-2"), label("south"), label("not a name")), (Some("n"), Some("s"), None, None));
    }
}
