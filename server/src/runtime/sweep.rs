//! Clearing away blobs that no run needs, and pausing runs whose globals are damaged.

use super::Runtime;
use crate::blob::{BlobError, Swept};
use std::collections::BTreeSet;
use std::time::Duration;
use tessera_common::id::{Digest, RunId};
use tessera_common::round::Event;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

/// From a published global to the next look at what can go: many globals of a fast run share one.
const SOON: Duration = Duration::from_secs(10);
/// How long the part of an upload that broke off is kept: its agent may be away for so long.
const PARTS: Duration = Duration::from_secs(24 * 3600);

/// When blobs are cleared away.
#[derive(Debug)]
pub(super) struct Sweeper {
    grace: Duration,
    due: Option<Instant>,
    pub(super) running: JoinSet<std::io::Result<Swept>>,
    /// The log was told why nothing is cleared away.
    told: bool,
}

impl Sweeper {
    pub(super) fn new(grace: Duration) -> Self {
        Self { grace, due: Some(Instant::now() + grace.min(SOON)), running: JoinSet::new(), told: false }
    }

    /// When to begin; never while one is running.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.filter(|_| self.running.is_empty())
    }

    /// There may be something to clear away.
    pub(super) fn plan(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + self.grace.min(SOON));
    }
}

impl Runtime {
    /// Removes, in the background, blobs that no run needs and that nobody has just sent.
    pub(super) fn sweep(&mut self) {
        self.sweeper.due = None;
        if !self.broken.is_empty() || !self.stalled.is_empty() {
            // what they need is not known
            if !std::mem::replace(&mut self.sweeper.told, true) {
                tracing::warn!("no blobs are cleared away while a run stands still");
            }
            self.sweeper.due = Some(Instant::now() + Duration::from_secs(60));
            return;
        }
        let live: BTreeSet<Digest> = self.runs.values().flat_map(super::Run::references).collect();
        self.traffic.retain(&live);
        let (blobs, grace) = (self.blobs.clone(), self.sweeper.grace);
        self.sweeper.running.spawn_blocking(move || blobs.sweep(&live, grace, PARTS));
    }

    pub(super) fn swept(&mut self, outcome: Result<std::io::Result<Swept>, JoinError>) {
        match outcome {
            Ok(Ok(swept)) => {
                if swept.removed > 0 {
                    tracing::info!(blobs = swept.removed, bytes = swept.bytes, "cleared away what no run needs");
                }
                if swept.kept > 0 {
                    // too young; nothing else may remind us
                    let again = self.sweeper.grace.max(Duration::from_millis(100));
                    self.sweeper.due.get_or_insert_with(|| Instant::now() + again);
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "blobs that no run needs cannot be cleared away"),
            Err(error) => tracing::error!(%error, "clearing away blobs failed"),
        }
    }

    /// Reads the globals that runs start from once more: a disk may have changed them while nobody looked.
    pub(super) async fn check_globals(&mut self) {
        let alive = self.runs.values().filter(|run| !run.is_over());
        let wanted: BTreeSet<Digest> = alive.filter_map(|run| run.engine().state().global.map(|g| g.digest)).collect();
        for digest in wanted {
            let blobs = self.blobs.clone();
            let checked = tokio::task::spawn_blocking(move || blobs.verify(&digest)).await;
            if let Ok(Err(error @ (BlobError::Corrupt { .. } | BlobError::Missing(_)))) = checked {
                self.pause_for(&digest, &error.to_string());
            }
        }
    }

    /// Pauses every run that works with this blob: none goes on with wrong bytes.
    pub(super) fn pause_for(&mut self, digest: &Digest, reason: &str) {
        let hurt: Vec<RunId> = self.runs.values().filter(|run| run.works_with(digest)).map(|run| run.id.clone()).collect();
        for id in hurt {
            self.apply(&id, Event::PauseAsked { reason: reason.to_owned() });
        }
    }
}
