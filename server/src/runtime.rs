//! The only owner of all runs.
//!
//! One task takes requests from a bounded inbox, lets engines take events, appends what they accepted to the journals,
//! and only when that is durable carries out what follows and answers. Requests that wait in the inbox are taken in one
//! go and share the fsync. A run whose journal cannot be written stands still from then on: its engine, which has run
//! ahead of the journal, is thrown away, nothing of the lost batch is carried out, and the next start replays what is
//! durable.

mod handle;
mod keep;
mod requests;
mod run;
mod sessions;
mod stall;
mod sweep;
#[cfg(test)]
mod tests;
mod view;

pub use handle::Handle;
pub(crate) use handle::{Shared, Standing};
pub use keep::Kept;
pub(crate) use sessions::{Hello, Line};
pub use view::{MemberView, RunDetail, RunSummary};

use crate::audit::Audit;
use crate::blob::Blobs;
use crate::clock::Clock;
use crate::config::Config;
use crate::disk::remove_dir;
use crate::error::{Error, Refusal};
use crate::fault::{hit, point};
use crate::fold::fold;
use crate::history::Happened;
use crate::identity::Identities;
use crate::store::{RunRecord, Store};
use crate::sync::lock;
use crate::traffic::Traffic;
use requests::{Read, Reply, Request};
use run::{Effect, Run};
use sessions::Sessions;
pub(crate) use stall::Disk;
use stall::{Stalled, Trouble, asks_for_update};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use sweep::Sweeper;
use tessera_common::audit::Entry;
use tessera_common::id::{AssignmentId, MemberName, Millis, RunId};
use tessera_common::round::{Assignment, Command, Event, Outcome};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tonic::Status;

/// Requests that may wait, and that are taken in one go: one fsync (a few milliseconds) then serves a whole cohort's
/// answers. Whoever sends more waits.
const INBOX: usize = 1024;
/// Folds at a time. Each uses all cores for its sums; a second keeps them busy while the first waits for the disk.
const FOLDS: usize = 2;

/// What an agent is told.
#[derive(Debug, Clone)]
pub(crate) enum ToAgent {
    Welcome {
        heartbeat_ms: u32,
        time_ms: Millis,
    },
    RunOpened {
        run: RunId,
        spec_toml: Arc<str>,
    },
    Assign {
        run: RunId,
        assignment: Assignment,
    },
    Cancel {
        run: RunId,
        member: MemberName,
        assignment: AssignmentId,
    },
    /// As the answer named them, which need not be valid names.
    Verdict {
        run: String,
        member: String,
        assignment: u64,
        refused: Option<String>,
    },
    RunClosed {
        run: RunId,
        outcome: Outcome,
    },
    Heartbeat,
}

/// A run that stands still.
#[derive(Debug)]
struct Broken {
    name: String,
    created: Millis,
    reason: String,
}

/// The owner of all runs, before and while it serves.
#[derive(Debug)]
pub(crate) struct Runtime {
    inbox: mpsc::Receiver<Request>,
    runs_dir: Option<PathBuf>,
    store: Arc<Store>,
    blobs: Blobs,
    traffic: Arc<Traffic>,
    identities: Identities,
    revocations: broadcast::Receiver<MemberName>,
    audit: Audit,
    clock: Clock,
    runs: BTreeMap<RunId, Run>,
    broken: BTreeMap<RunId, Broken>,
    /// Runs that wait for the disk.
    stalled: BTreeMap<RunId, Stalled>,
    /// When to look at the disk again.
    trouble: Option<Trouble>,
    disk: Option<Disk>,
    sweeper: Sweeper,
    sessions: Sessions,
    folds: JoinSet<(RunId, Event)>,
    fold_permits: Arc<Semaphore>,
    /// Answers that wait for what they say to be durable.
    replies: Vec<Reply>,
    /// Questions, answered after what came before them is durable.
    reads: Vec<Read>,
    /// Held as long as the runtime lives: one coordinator per folder.
    _lock: Option<File>,
}

/// The inbox of a runtime that is not made yet.
pub(crate) fn inbox() -> (mpsc::Sender<Request>, mpsc::Receiver<Request>) {
    mpsc::channel(INBOX)
}

impl Runtime {
    /// A runtime with all runs that the data folder holds, as they were when the last one ended.
    ///
    /// # Errors
    /// If the folder is used by another coordinator or cannot be read. A run that cannot be loaded is not among them: it
    /// is listed as broken and the others go on.
    pub(crate) fn open(
        config: &Config,
        blobs: Blobs,
        traffic: Arc<Traffic>,
        identities: Identities,
        audit: Audit,
        inbox: mpsc::Receiver<Request>,
        lock: Option<File>,
    ) -> Result<Self, Error> {
        let (store, runs_dir) = match config.data_dir.as_deref() {
            None => (Store::in_memory(), None),
            Some(dir) => {
                let runs_dir = dir.join("runs");
                fs::create_dir_all(&runs_dir).map_err(Error::io("cannot create", &runs_dir))?;
                (Store::open(dir)?, Some(runs_dir))
            }
        };
        let mut runtime = Self {
            inbox,
            runs_dir,
            store: Arc::new(store),
            blobs,
            traffic,
            revocations: identities.revocations(),
            identities,
            audit,
            clock: Clock::new(),
            runs: BTreeMap::new(),
            broken: BTreeMap::new(),
            stalled: BTreeMap::new(),
            trouble: None,
            disk: config.data_dir.clone().map(|dir| Disk { dir, reserve: config.reserve_bytes }),
            sweeper: Sweeper::new(config.blob_grace),
            sessions: Sessions::default(),
            folds: JoinSet::new(),
            fold_permits: Arc::new(Semaphore::new(FOLDS)),
            replies: Vec::new(),
            reads: Vec::new(),
            _lock: lock,
        };
        if let Some(dir) = runtime.runs_dir.clone() {
            runtime.load(&dir)?;
        }
        runtime.sessions = Sessions::new(runtime.known_members());
        Ok(runtime)
    }

    fn load(&mut self, dir: &Path) -> Result<(), Error> {
        let mut index = self.store.runs();
        for entry in fs::read_dir(dir).map_err(Error::io("cannot read", dir))? {
            let path = entry.map_err(Error::io("cannot read", dir))?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if name.starts_with(".new-") {
                // a submission that was cut short, and never acknowledged
                remove_dir(&path).map_err(Error::io("cannot clear", &path))?;
                continue;
            }
            let Ok(id) = name.parse::<RunId>() else {
                tracing::warn!(path = %path.display(), "not a folder of a run; left alone");
                continue;
            };
            let known = index.remove(&id);
            match Run::load(&path, id.clone(), known.as_ref(), &self.store) {
                Ok(run) => {
                    tracing::info!(run = %id, phase = run.engine().state().phase.name(), "loaded");
                    self.runs.insert(id, run);
                }
                Err(error) => self.set_broken(id, known.map_or(0, |k| k.created), error.to_string()),
            }
        }
        for (id, record) in index {
            let folder = dir.join(id.as_str()).display().to_string();
            let reason =
                format!("its folder {folder} is gone; put it back and restart, or leave it: the next start forgets the run");
            self.store.remove_run(&id);
            self.set_broken(id, record.created, reason);
        }
        let now = self.clock.now();
        for run in self.runs.values_mut().filter(|r| !r.is_over()) {
            if let Err(reject) = run.apply(now, Event::Restarted) {
                tracing::error!(run = %run.id, %reject, "the engine refuses a restart");
            }
        }
        Ok(())
    }

    fn set_broken(&mut self, id: RunId, created: Millis, reason: String) {
        tracing::error!(run = %id, reason, "the run stands still");
        let name = self.runs.remove(&id).map_or_else(|| id.to_string(), |run| run.spec.name.clone());
        self.broken.insert(id, Broken { name, created, reason });
    }

    /// Members from the store, and those that only runs remember.
    fn known_members(&self) -> BTreeMap<MemberName, crate::store::MemberRecord> {
        let of_runs = self.runs.values().flat_map(|run| &run.engine().state().members);
        let mut all: BTreeMap<_, _> = of_runs
            .map(|(name, member)| (name.clone(), crate::store::MemberRecord { info: member.info.clone(), agent: None }))
            .collect();
        all.extend(self.store.members());
        all
    }

    /// Serves until `stop` says true or its sender is gone.
    pub(crate) async fn serve(mut self, mut stop: watch::Receiver<bool>) {
        let mut requests = Vec::with_capacity(INBOX);
        // what loading has left to do
        self.settle().await;
        self.check_globals().await;
        self.settle().await;
        loop {
            let look = self.trouble.as_ref().map(|t| t.at);
            let sweep = self.sweeper.due();
            let wake = self.runs.values().filter_map(|r| r.engine().next_deadline()).min();
            let at = self.clock.instant(wake.unwrap_or(0));
            tokio::select! {
                biased;
                () = async { drop(stop.wait_for(|stop| *stop).await) } => break,
                Some(done) = self.folds.join_next() => self.folded(done),
                // before more requests: one that is revoked now is not heard any more
                Ok(_) | Err(RecvError::Lagged(_)) = self.revocations.recv() => self.bar(),
                count = self.inbox.recv_many(&mut requests, INBOX) => if count == 0 { break },
                () = tokio::time::sleep_until(at), if wake.is_some() => {}
                () = tokio::time::sleep_until(look.unwrap_or(at)), if look.is_some() => self.look_at_disk().await,
                () = tokio::time::sleep_until(sweep.unwrap_or(at)), if sweep.is_some() => self.sweep(),
                Some(swept) = self.sweeper.running.join_next() => self.swept(swept),
            }
            for request in requests.drain(..) {
                self.take(request).await;
            }
            self.tick();
            self.settle().await;
        }
        self.shut_down().await;
    }

    /// Lets an engine take an event of our own; what it refuses has been overtaken by something else.
    fn apply(&mut self, id: &RunId, event: Event) {
        let now = self.clock.now();
        if let Some(run) = self.runs.get_mut(id)
            && let Err(reject) = run.apply(now, event)
        {
            tracing::debug!(run = %id, %reject, "an event came too late");
        }
    }

    fn folded(&mut self, done: Result<(RunId, Event), tokio::task::JoinError>) {
        match done {
            Ok((id, Event::FoldFailed { fold, reason })) => self.fold_failed(&id, fold, reason),
            Ok((id, event)) => self.apply(&id, event),
            Err(error) => tracing::error!(%error, "a fold was lost"),
        }
    }

    /// A fold that failed for want of room is done again once there is some; anything else pauses the run.
    fn fold_failed(&mut self, id: &RunId, fold: u64, reason: String) {
        match self.disk.as_ref().and_then(|disk| disk.works(0).err()) {
            Some(trouble) => self.stall(id, &format!("{reason}; {trouble}"), 0),
            None => self.apply(id, Event::FoldFailed { fold, reason }),
        }
    }

    /// Tells every run whose deadline is over.
    fn tick(&mut self) {
        let now = self.clock.now();
        let due = |run: &&mut Run| run.engine().next_deadline().is_some_and(|deadline| deadline <= now);
        for run in self.runs.values_mut().filter(due) {
            if let Err(reject) = run.apply(now, Event::Ticked) {
                tracing::error!(run = %run.id, %reject, "the engine refuses the time");
            }
        }
    }

    /// Makes durable what engines accepted, carries out what follows, and answers; again, while that leads to more.
    async fn settle(&mut self) {
        while self.runs.values().any(|r| !r.pending.is_empty() || !r.effects.is_empty()) {
            if hit("coordinator/ack-early") {
                // only ever set by the test that shows that the fault suite notices such a mistake
                self.send_replies();
            }
            self.commit().await;
            let ready: Vec<RunId> = self.runs.iter().filter(|(_, r)| !r.effects.is_empty()).map(|(id, _)| id.clone()).collect();
            for id in ready {
                self.carry_out(&id);
            }
        }
        self.send_replies();
        for read in std::mem::take(&mut self.reads) {
            self.answer(read);
        }
    }

    fn send_replies(&mut self) {
        for reply in std::mem::take(&mut self.replies) {
            let standing = self.stands_still(&reply.run);
            // The caller may have gone.
            let _ = reply.to.send(standing.map_or(reply.result, Err));
        }
    }

    /// Why a run takes nothing at present.
    fn stands_still(&self, run: &RunId) -> Option<Refusal> {
        let broken = self.broken.get(run).map(|b| Refusal::Broken { run: run.clone(), reason: b.reason.clone() });
        let stalled = self.stalled.get(run);
        broken.or_else(|| stalled.map(|s| Refusal::Waiting { run: run.clone(), reason: s.reason().to_owned() }))
    }

    /// Appends all pending events to their journals, with one wait for the disk.
    async fn commit(&mut self) {
        let jobs: Vec<_> = self
            .runs
            .iter_mut()
            .filter(|(_, run)| !run.pending.is_empty())
            .map(|(id, run)| (id.clone(), run.journal.clone(), std::mem::take(&mut run.pending)))
            .collect();
        let durable = jobs.iter().any(|(_, journal, _)| lock(journal).is_durable());
        let append = move || -> Vec<(RunId, std::io::Result<()>)> {
            jobs.into_iter().map(|(id, journal, entries)| (id, lock(&journal).append(&entries))).collect()
        };
        let outcomes = if durable { tokio::task::spawn_blocking(append).await } else { Ok(append()) };
        // A panic while appending: no run can tell what it has.
        let outcomes = outcomes.unwrap_or_else(|error| {
            let failed = |id: &RunId| (id.clone(), Err(std::io::Error::other(error.to_string())));
            self.runs.keys().map(failed).collect()
        });
        for (id, outcome) in outcomes {
            if let Err(error) = outcome {
                self.stall(&id, &format!("its journal cannot be written: {error}"), 0);
            }
        }
    }

    fn carry_out(&mut self, id: &RunId) {
        let Some(run) = self.runs.get_mut(id) else { return };
        let effects = std::mem::take(&mut run.effects);
        let opened = ToAgent::RunOpened { run: id.clone(), spec_toml: run.spec_toml.clone() };
        let asks = effects.iter().any(|e| matches!(e, Effect::Command(command) if asks_for_update(command)));
        if asks && !self.has_room(id) {
            // what is durable comes again when the run is loaded again
            return;
        }
        let mut worth_keeping = false;
        let mut slow = Vec::new();
        for effect in effects {
            let Some(run) = self.runs.get_mut(id) else { return };
            match effect {
                Effect::Happened(happened) => {
                    if happened == Happened::Resumed {
                        tracing::info!(run = %id, "resumed");
                    }
                    run.history.push(happened);
                }
                Effect::Receipt(assignment, receipt) => self.store.put_receipt(id, assignment, &receipt),
                Effect::Command(Command::Assign(assignment)) => {
                    point("coordinator/command-assign-before");
                    let blobs = [assignment.global, assignment.statistics].into_iter().flatten();
                    let member = assignment.member.clone();
                    let who = Some(&member).filter(|_| !self.identities.plaintext());
                    blobs.for_each(|digest| self.traffic.open(digest, &run.fetched, who));
                    let message = ToAgent::Assign { run: id.clone(), assignment };
                    slow.extend(self.sessions.tell(&member, id, &opened, message).err());
                }
                Effect::Command(Command::Cancel { member, assignment }) => {
                    point("coordinator/command-cancel-before");
                    let message = ToAgent::Cancel { run: id.clone(), member: member.clone(), assignment };
                    slow.extend(self.sessions.tell(&member, id, &opened, message).err());
                }
                Effect::Command(Command::Fold(task)) => {
                    point("coordinator/command-fold-before");
                    let (spec, blobs, permits, id) =
                        (run.spec.clone(), self.blobs.clone(), self.fold_permits.clone(), id.clone());
                    self.folds.spawn(async move { (id, fold(spec, task, blobs, permits).await) });
                }
                Effect::Command(Command::Publish(published)) => {
                    point("coordinator/command-publish-before");
                    tracing::info!(run = %id, round = published.round, global = %published.digest.short(), "published");
                    self.audit.note(Entry {
                        who: "coordinator".into(),
                        what: "publish".into(),
                        run: Some(id.to_string()),
                        round: Some(published.round),
                        digest: Some(published.digest),
                        verdict: format!("ok: of {} members", published.members.len()),
                        ..Entry::default()
                    });
                    worth_keeping = true;
                }
                Effect::Command(Command::Report { round, metrics, .. }) => {
                    point("coordinator/command-report-before");
                    if let Some(name) = run.spec.keep.best.as_ref().filter(|name| !metrics.0.contains_key(*name)) {
                        tracing::warn!(run = %id, name, "keep.best names a metric that this evaluation does not have");
                    }
                    tracing::info!(run = %id, round, "evaluated");
                    worth_keeping = true;
                }
                Effect::Command(Command::Rest { member, failures, until }) => {
                    tracing::warn!(run = %id, %member, failures, until, "a member failed repeatedly and rests");
                }
                Effect::Command(Command::Pause { reason }) => tracing::warn!(run = %id, reason, "paused"),
                Effect::Command(Command::Finish(outcome)) => {
                    point("coordinator/command-finish-before");
                    tracing::info!(run = %id, ?outcome, "over");
                    worth_keeping = true;
                    slow.extend(self.sessions.tell_over(id, &ToAgent::RunClosed { run: id.clone(), outcome }));
                }
            }
        }
        point("coordinator/commands-after");
        if worth_keeping && let Some(run) = self.runs.get_mut(id) {
            let mark = lock(&run.journal).mark();
            run.keep(mark, &self.store);
            self.sweeper.plan();
        }
        for session in slow {
            self.close(session, Status::resource_exhausted("this agent does not read what it is told"));
        }
    }

    async fn shut_down(mut self) {
        self.sessions.close_all(&Status::unavailable("the coordinator is stopping"));
        for run in self.runs.values_mut() {
            let mark = lock(&run.journal).mark();
            run.keep(mark, &self.store);
        }
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || store.flush()).await {
            Ok(Ok(())) => tracing::info!(runs = self.runs.len(), "all runs are kept"),
            Ok(Err(error)) => tracing::warn!(%error, "the store is not flushed; the next start replays the journals"),
            Err(error) => tracing::error!(%error, "flushing the store failed"),
        }
    }

    /// Remembers a run in the index.
    fn index(&self, run: &Run) {
        self.store.put_run(&run.id, &RunRecord { spec_toml: run.spec_toml.to_string(), created: run.created });
    }
}
