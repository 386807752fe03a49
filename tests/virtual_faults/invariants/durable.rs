//! What is published, folded and told to members rests on durable ground: answers in the fsynced journal, blobs on disk.

use crate::cluster::disk::Entry;
use crate::cluster::watch::{Fact, Invariant, Known};
use crate::cluster::work;
use std::collections::{BTreeMap, BTreeSet};
use tessera_common::id::{AssignmentId, Digest};
use tessera_common::round::{Event, Fold};
use tessera_common::update::UpdateRef;

#[derive(Debug, Default)]
pub(crate) struct Durable {
    answers: BTreeMap<AssignmentId, UpdateRef>,
    /// Results that the journal has.
    results: BTreeSet<Digest>,
    blobs: BTreeSet<Digest>,
    /// By the digest that they make.
    folds: BTreeMap<Digest, Fold>,
}

impl Durable {
    fn take(&mut self, entries: &[Entry]) {
        for (_, event) in entries {
            match event {
                Event::Answered(update) => drop(self.answers.insert(update.assignment, update.clone())),
                Event::Folded { digest, .. } => drop(self.results.insert(*digest)),
                _ => {}
            }
        }
    }

    fn blob(&self, what: &str, digest: Option<Digest>) -> Result<(), String> {
        match digest.filter(|d| !self.blobs.contains(d)) {
            Some(digest) => Err(format!("{what} {digest:?} is not durable")),
            None => Ok(()),
        }
    }

    fn fold(&self, fold: &Fold) -> Result<(), String> {
        self.blob("the global that a fold starts from", fold.base)?;
        self.blob("the inputs of a fold", fold.inputs)?;
        for update in &fold.answers {
            if self.answers.get(&update.assignment) != Some(update) {
                return Err(format!("fold {} has an answer to {} that the journal does not have", fold.id, update.assignment));
            }
            self.blob("the blob of an answer in a fold,", update.blob)?;
        }
        Ok(())
    }
}

impl Invariant for Durable {
    fn name(&self) -> &'static str {
        "durable"
    }

    fn see(&mut self, fact: &Fact<'_>, _: &Known) -> Result<(), String> {
        match fact {
            Fact::BlobKept(digest) => drop(self.blobs.insert(*digest)),
            Fact::Durable(entries) => self.take(entries),
            Fact::Restarted(restart) => {
                self.answers.clear();
                self.results.clear();
                self.take(restart.entries);
            }
            Fact::Given(assignment) => {
                self.blob("the global of an assignment,", assignment.global)?;
                self.blob("the statistics of an assignment,", assignment.statistics)?;
            }
            Fact::Folding(fold) => {
                self.folds.insert(work::folded(fold, 0), (*fold).clone());
                self.fold(fold)?;
            }
            Fact::Published(published) => {
                let (round, digest) = (published.round, published.digest);
                self.blob("a published global", Some(digest))?;
                if !self.results.contains(&digest) {
                    return Err(format!("round {round} is published, and the journal does not have {digest:?}"));
                }
                let fold = self.folds.get(&digest).ok_or(format!("round {round} is published from no fold"))?;
                self.fold(fold)?;
            }
            _ => {}
        }
        Ok(())
    }
}
