//! Bytes that agents fetched, by run; and which blobs they may fetch at all.

use crate::access::Caller;
use crate::sync::lock;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tessera_common::id::{Digest, MemberName};

/// Bytes fetched of one run's blobs.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A blob that an assignment named.
#[derive(Debug)]
struct Opened {
    counter: Arc<Counter>,
    /// Members whose assignments named it; not kept where everybody may fetch it.
    members: BTreeSet<MemberName>,
}

/// Blobs that an assignment named: these, and no others, may agents fetch; and one with a certificate only those that an
/// assignment of a member of its own named. A blob that several runs name counts for the one that named it first.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    opened: Mutex<BTreeMap<Digest, Opened>>,
}

impl Traffic {
    /// Opens a blob, for `member` if it matters who fetches it.
    pub(crate) fn open(&self, digest: Digest, counter: &Arc<Counter>, member: Option<&MemberName>) {
        let mut opened = lock(&self.opened);
        let fresh = || Opened { counter: counter.clone(), members: BTreeSet::new() };
        opened.entry(digest).or_insert_with(fresh).members.extend(member.cloned());
    }

    /// Forgets blobs that no run needs any more.
    pub(crate) fn retain(&self, live: &BTreeSet<Digest>) {
        lock(&self.opened).retain(|digest, _| live.contains(digest));
    }

    /// What counts the bytes of a blob, if it is open to the caller.
    pub(crate) fn counter(&self, digest: &Digest, caller: &Caller) -> Option<Arc<Counter>> {
        let opened = lock(&self.opened);
        let found = opened.get(digest)?;
        let may = matches!(caller, Caller::Local) || found.members.iter().any(|member| caller.serves(member));
        may.then(|| found.counter.clone())
    }
}
