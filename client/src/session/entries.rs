//! Where every assignment stands.

use crate::outbox::Record;
use crate::worker::{Answer, Tensors};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tessera_common::id::Digest;
use tessera_common::round::Assignment;
use tessera_common::spec::RunSpec;
use tessera_common::update::UpdateRef;

/// A spec as the coordinator gave it, and its digest.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) spec: Arc<RunSpec>,
    pub(super) digest: Digest,
}

impl From<RunSpec> for Known {
    fn from(spec: RunSpec) -> Self {
        Self { digest: Digest::of(spec.to_toml().as_bytes()), spec: Arc::new(spec) }
    }
}

/// One assignment.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) assignment: Assignment,
    /// Digest of the run's spec.
    pub(super) spec: Digest,
    pub(super) stage: Stage,
    pub(super) cancel: Arc<AtomicBool>,
    /// Number of the connection that gave it last; 0 if an earlier process got it.
    pub(super) given: u64,
}

/// Where it stands.
#[derive(Debug)]
pub(super) enum Stage {
    /// Its blobs are being fetched.
    Fetching,
    /// The worker has it.
    Working,
    /// Done, and not yet acknowledged.
    Done(Box<Done>),
}

/// A finished answer.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) update: UpdateRef,
    pub(super) tensors: Tensors,
    /// Number of the connection that it is being sent over; 0 if it is not.
    pub(super) sending: u64,
    /// It was asked for again in the meantime.
    pub(super) again: bool,
}

impl Stage {
    pub(super) fn done(answer: Answer) -> Self {
        let Answer { update, tensors } = answer;
        Stage::Done(Box::new(Done { update, tensors, sending: 0, again: false }))
    }
}

impl Entry {
    /// What an earlier process left in the outbox.
    pub(super) fn stored(record: Record) -> Self {
        let Record { spec, assignment, update } = record;
        let stage = Stage::done(Answer { update, tensors: Tensors::Stored });
        Self { assignment, spec, stage, cancel: Arc::default(), given: 0 }
    }

    /// Digest of the answer's tensors, if it is done and has any.
    pub(super) fn blob(&self) -> Option<Digest> {
        match &self.stage {
            Stage::Done(done) => done.update.blob,
            Stage::Fetching | Stage::Working => None,
        }
    }

    /// Says to whoever works on it that nobody waits for it.
    pub(super) fn cancel(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}
