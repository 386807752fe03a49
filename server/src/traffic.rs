//! Bytes that agents fetched, by run; and which blobs they may fetch at all.

use crate::sync::lock;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tessera_common::id::Digest;

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

/// Blobs that an assignment named: these, and no others, may agents fetch. A blob that several runs name counts for the
/// one that named it first.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    owners: Mutex<BTreeMap<Digest, Arc<Counter>>>,
}

impl Traffic {
    pub(crate) fn open(&self, digest: Digest, counter: &Arc<Counter>) {
        lock(&self.owners).entry(digest).or_insert_with(|| counter.clone());
    }

    /// Forgets blobs that no run needs any more.
    pub(crate) fn retain(&self, live: &BTreeSet<Digest>) {
        lock(&self.owners).retain(|digest, _| live.contains(digest));
    }

    pub(crate) fn counter(&self, digest: &Digest) -> Option<Arc<Counter>> {
        lock(&self.owners).get(digest).cloned()
    }
}
