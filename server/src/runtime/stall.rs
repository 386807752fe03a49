//! Trouble with the disk: runs that cannot be made durable stand still, lose nothing, and go on by themselves.
//!
//! A run stands still by being dropped from memory, and goes on by being loaded again, as after a restart: whatever a
//! failed write left in memory or on the disk is gone then, and only what was acknowledged counts.

use super::run::Run;
use super::view::RunDetail;
use super::{Runtime, requests};
use crate::journal::forget_behind;
use crate::space;
use crate::sync::lock;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tessera_common::id::RunId;
use tessera_common::round::{Command, Event, Work};
use tokio::time::Instant;

/// Pauses between two looks at a disk that had no room: the first, and the longest.
const SOON: Duration = Duration::from_millis(500);
const LATEST: Duration = Duration::from_secs(15);

/// A run that waits for the disk.
#[derive(Debug)]
pub(super) struct Stalled {
    /// As it was, to show.
    pub(super) detail: RunDetail,
    /// Bytes of its journal that are acknowledged.
    durable: u64,
    /// Bytes that its round will take.
    need: u64,
}

impl Stalled {
    pub(super) fn reason(&self) -> &str {
        &self.detail.summary.reason
    }
}

/// When to look again.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) at: Instant,
    pause: Duration,
}

/// The disk that everything is on.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) dir: PathBuf,
    /// Bytes that stay free.
    pub(crate) reserve: u64,
}

impl Disk {
    /// Why there is no room for `need` more bytes; None if there is, or if nobody can tell.
    pub(crate) fn lacks(&self, need: u64) -> Option<String> {
        let free = space::free(&self.dir).ok()?.free;
        let wanted = need.saturating_add(self.reserve);
        (free < wanted).then(|| {
            let (dir, reserve) = (self.dir.display(), self.reserve);
            format!("{dir} has {free} bytes free, {need} are needed beside the {reserve} that stay free (--reserve)")
        })
    }

    /// True if writing works and there is room again.
    pub(super) fn works(&self, need: u64) -> Result<(), String> {
        space::probe(&self.dir).map_err(|error| format!("{} takes no writes: {error}", self.dir.display()))?;
        self.lacks(need).map_or(Ok(()), Err)
    }
}

impl Runtime {
    /// Lets a run stand still until the disk works and has room for `need` more bytes.
    pub(super) fn stall(&mut self, id: &RunId, reason: &str, need: u64) {
        let Some(run) = self.runs.remove(id) else { return };
        if self.disk.is_none() {
            // nothing on a disk to load it from again
            return self.set_broken(id.clone(), run.created, reason.to_owned());
        }
        let reason = waits(reason);
        tracing::error!(run = %id, reason, "the run waits for the disk");
        let mut detail = RunDetail::of(&run);
        detail.summary.phase = "paused".to_owned();
        detail.summary.reason = reason;
        let durable = lock(&run.journal).durable_len();
        self.stalled.insert(id.clone(), Stalled { detail, durable, need });
        if self.trouble.is_none() {
            self.trouble = Some(Trouble { at: Instant::now() + SOON, pause: SOON });
        }
    }

    /// As [`Self::stall`], for every run that is not over.
    pub(super) fn stall_all(&mut self, reason: &str, need: u64) {
        let alive: Vec<RunId> = self.runs.iter().filter(|(_, run)| !run.is_over()).map(|(id, _)| id.clone()).collect();
        for id in alive {
            self.stall(&id, reason, need);
        }
    }

    /// True if there is room for the answers to what a run is about to ask; lets it stand still otherwise.
    pub(super) fn has_room(&mut self, id: &RunId) -> bool {
        let (Some(disk), Some(run)) = (&self.disk, self.runs.get(id)) else { return true };
        // an update is about as large as the global that it starts from; the result is one more
        let fits: Vec<_> = run.open_assignments().filter(|a| a.work == Work::Fit).collect();
        let Some(global) = fits.first().and_then(|a| a.global) else { return true };
        let need = self.blobs.len(&global).unwrap_or(0).saturating_mul(fits.len() as u64 + 1);
        let Some(reason) = disk.lacks(need) else { return true };
        self.stall(id, &format!("no room for the updates of this round: {reason}"), need);
        false
    }

    /// Looks whether the disk works again, and loads the runs that waited for it.
    pub(super) async fn look_at_disk(&mut self) {
        let (Some(disk), Some(dir)) = (self.disk.clone(), self.runs_dir.clone()) else { return };
        let need = self.stalled.values().map(|s| s.need).max().unwrap_or(0);
        let works = tokio::task::spawn_blocking(move || disk.works(need)).await;
        if let Err(reason) = works.unwrap_or_else(|error| Err(error.to_string())) {
            tracing::debug!(reason, "the disk is not mended yet");
            // what is in the way now may not be what was in the way first
            self.stalled.values_mut().for_each(|stalled| stalled.detail.summary.reason = waits(&reason));
            return self.look_later();
        }
        for (id, stalled) in std::mem::take(&mut self.stalled) {
            self.load_again(&dir, id, stalled).await;
        }
        if self.stalled.is_empty() {
            self.trouble = None;
        } else {
            self.look_later();
        }
    }

    fn look_later(&mut self) {
        let pause = self.trouble.as_ref().map_or(SOON, |t| (t.pause * 2).min(LATEST));
        self.trouble = Some(Trouble { at: Instant::now() + pause, pause });
    }

    async fn load_again(&mut self, dir: &Path, id: RunId, mut stalled: Stalled) {
        let (path, store, run_id) = (dir.join(id.as_str()), Arc::clone(&self.store), id.clone());
        let (durable, known) = (stalled.durable, self.store.runs().remove(&id));
        let load = move || {
            forget_behind(&path.join("journal"), durable).map_err(|e| (e.to_string(), true))?;
            Run::load(&path, run_id, known.as_ref(), &store).map_err(|e| (e.to_string(), false))
        };
        let loaded = tokio::task::spawn_blocking(load).await.unwrap_or_else(|e| Err((e.to_string(), false)));
        match loaded {
            Ok(mut run) => {
                let now = self.clock.now();
                tracing::info!(run = %id, "the disk works again; the run goes on");
                if let Err(reject) = run.apply(now, Event::Restarted) {
                    tracing::error!(run = %id, %reject, "the engine refuses a restart");
                }
                requests::join(&mut run, now, &self.sessions, self.sessions.online());
                self.runs.insert(id, run);
            }
            Err((reason, true)) => {
                stalled.detail.summary.reason = reason;
                self.stalled.insert(id, stalled);
            }
            Err((reason, false)) => self.set_broken(id, stalled.detail.summary.created, reason),
        }
    }
}

/// Why a run stands still, and what ends that.
fn waits(reason: &str) -> String {
    format!("{reason}. Make room or mend the disk, and the run goes on by itself")
}

/// True for a command that asks a member to send an update.
pub(super) fn asks_for_update(command: &Command) -> bool {
    matches!(command, Command::Assign(assignment) if assignment.work == Work::Fit)
}
