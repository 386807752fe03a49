//! One run: its engine, its journal, and what follows from the two.

use super::keep::Kept;
use crate::disk::{remove_dir, sync_dir, write_synced};
use crate::error::{Error, Refusal};
use crate::fault::point;
use crate::history::{BadEnd, Happened, History, Recent};
use crate::journal::{Entry, Journal, Mark};
use crate::store::{Receipt, RunRecord, Snapshot, Store};
use crate::traffic::Counter;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::UNIX_EPOCH;
use tessera_common::id::{AssignmentId, Digest, MemberName, Millis, Round, RunId};
use tessera_common::round::{Assignment, Command, Engine, Event, Phase, Reject};
use tessera_common::spec::RunSpec;

/// What must happen once an event is durable, in order.
#[derive(Debug)]
pub(super) enum Effect {
    Command(Command),
    Happened(Happened),
    Receipt(AssignmentId, Receipt),
}

/// A run that is alive, or over.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) id: RunId,
    pub(super) spec: Arc<RunSpec>,
    pub(super) spec_toml: Arc<str>,
    pub(super) created: Millis,
    pub(super) journal: Arc<Mutex<Journal>>,
    pub(super) history: History,
    pub(super) fetched: Arc<Counter>,
    /// Accepted events that are not in the journal yet.
    pub(super) pending: Vec<Entry>,
    /// What follows from them.
    pub(super) effects: Vec<Effect>,
    engine: Engine,
    /// Assignments that are open, by number.
    given: BTreeMap<AssignmentId, Assignment>,
    bytes_up: u64,
    kept: Kept,
}

impl Run {
    /// A new run, durable in `dir/ID` if there is a `dir`; `first` is then the first entry of its journal.
    ///
    /// # Errors
    /// If its folder cannot be made.
    pub(super) fn create(
        dir: Option<&Path>,
        id: RunId,
        spec: RunSpec,
        created: Millis,
        first: Option<Event>,
        store: &Arc<Store>,
    ) -> Result<Self, Error> {
        let spec_toml = spec.to_toml();
        let engine = Engine::new(spec.clone());
        let mut run = Self::assemble(id.clone(), spec, &spec_toml, created, engine, store);
        let first: Vec<Entry> = first.into_iter().map(|event| Entry { at: created, event }).collect();
        for entry in &first {
            run.step(entry.at, &entry.event).map_err(|reject| Error::Config(reject.to_string()))?;
        }
        if let Some(dir) = dir {
            run.journal = Arc::new(Mutex::new(create_folder(dir, &id, &spec_toml, &first)?));
        }
        Ok(run)
    }

    fn assemble(id: RunId, spec: RunSpec, spec_toml: &str, created: Millis, engine: Engine, store: &Arc<Store>) -> Self {
        Self {
            history: History::new(Arc::clone(store), id.clone()),
            id,
            spec: Arc::new(spec),
            spec_toml: spec_toml.into(),
            created,
            journal: Arc::new(Mutex::new(Journal::in_memory(spec_toml))),
            fetched: Arc::default(),
            pending: Vec::new(),
            effects: Vec::new(),
            engine,
            given: BTreeMap::new(),
            bytes_up: 0,
            kept: Kept::default(),
        }
    }

    /// A run as its folder tells it: from the latest snapshot and what the journal has after it, or from the journal
    /// alone.
    ///
    /// # Errors
    /// If the folder cannot be read, or its journal is damaged or no history of its spec.
    pub(super) fn load(dir: &Path, id: RunId, known: Option<&RunRecord>, store: &Arc<Store>) -> Result<Self, Error> {
        let spec_path = dir.join("spec.toml");
        let spec_toml = fs::read_to_string(&spec_path).map_err(Error::io("cannot read", &spec_path))?;
        let spec = RunSpec::stored(&spec_toml).map_err(|e| Error::Config(format!("{}: {e}", spec_path.display())))?;
        let created = known.map_or_else(|| modified(&spec_path), |record| record.created);
        let fresh = || Self::assemble(id.clone(), spec.clone(), &spec_toml, created, Engine::new(spec.clone()), store);
        let journal_path = dir.join("journal");
        let mut run = None;
        if let Some((snapshot, recent)) = store.snapshot(&id) {
            let start = snapshot.mark;
            let known = start.records;
            run = fresh().restored(snapshot, recent, store).replay(&journal_path, start, store)?;
            if run.is_none() {
                tracing::warn!(
                    run = %id, known,
                    "the journal lost its end or was replaced: the index knows an event that it lacks. Replaying what is there; what is \
                     missing is done again"
                );
            }
        }
        let run = match run {
            Some(run) => Some(run),
            None => fresh().replay(&journal_path, Mark::start(&spec_toml), store)?,
        };
        let run = run.ok_or_else(|| Error::Config(format!("{}: the journal has no start", journal_path.display())))?;
        store.put_run(&id, &RunRecord { spec_toml, created });
        Ok(run)
    }

    fn restored(mut self, snapshot: Snapshot, recent: Recent, store: &Arc<Store>) -> Self {
        self.engine = Engine::restore(self.spec.as_ref().clone(), snapshot.state);
        self.given = snapshot.given.into_iter().map(|a| (a.id, a)).collect();
        self.bytes_up = snapshot.bytes_up;
        self.fetched.add(snapshot.bytes_down);
        self.kept = snapshot.kept;
        self.history = History::restored(Arc::clone(store), self.id.clone(), recent);
        self
    }

    /// Takes the journal's events after `start`; None if `start` is no place in this journal.
    fn replay(mut self, path: &Path, start: Mark, store: &Store) -> Result<Option<Self>, Error> {
        let spec_toml = self.spec_toml.clone();
        let mut found = start == Mark::start(&spec_toml);
        let journal = Journal::open(path, &spec_toml, &mut |mark, payload| {
            if mark.records <= start.records {
                found |= mark == start;
                return Ok(());
            }
            if !found {
                // another journal than the one that the snapshot is of
                return Ok(());
            }
            let fault = |why: String| Error::Replay { path: path.to_owned(), entry: mark.records, why };
            let Entry { at, event } = serde_json::from_slice(payload).map_err(|e| fault(e.to_string()))?;
            self.step(at, &event).map_err(|e| fault(format!("the engine refuses it: {e}")))?;
            for effect in std::mem::take(&mut self.effects) {
                match effect {
                    Effect::Happened(happened) => self.history.push(happened),
                    Effect::Receipt(assignment, receipt) => store.put_receipt(&self.id, assignment, &receipt),
                    // it was carried out, or is asked for again
                    Effect::Command(_) => {}
                }
            }
            Ok(())
        })?;
        self.journal = Arc::new(Mutex::new(journal));
        Ok(found.then_some(self))
    }

    /// Takes an event. Its effects wait in [`Self::effects`] until [`Self::pending`] is durable.
    ///
    /// # Errors
    /// The engine's refusal; nothing has changed then.
    pub(super) fn apply(&mut self, now: Millis, event: Event) -> Result<(), Reject> {
        self.step(now, &event)?;
        self.pending.push(Entry { at: now, event });
        Ok(())
    }

    fn step(&mut self, now: Millis, event: &Event) -> Result<(), Reject> {
        let paused = self.is_paused();
        self.engine.handle(now, event.clone())?;
        self.note(event);
        if paused && !self.is_paused() && !self.is_over() {
            self.effects.push(Effect::Happened(Happened::Resumed));
        }
        while let Some(command) = self.engine.poll() {
            self.absorb(&command);
            self.effects.push(Effect::Command(command));
        }
        Ok(())
    }

    /// What an accepted event says beyond its commands.
    fn note(&mut self, event: &Event) {
        match event {
            Event::Answered(update) => {
                self.given.remove(&update.assignment);
                self.bytes_up += update.blob.map_or(0, |_| update.bytes);
                self.kept.answered(update.blob, &self.spec.keep);
                let receipt = Receipt { member: update.member.clone(), refused: None };
                self.effects.push(Effect::Receipt(update.assignment, receipt));
            }
            Event::Refused { member, assignment, reason } => {
                self.ended(member, *assignment, BadEnd::Refused, reason);
                let receipt = Receipt { member: member.clone(), refused: Some(reason.clone()) };
                self.effects.push(Effect::Receipt(*assignment, receipt));
            }
            Event::Failed { member, assignment, reason } => self.ended(member, *assignment, BadEnd::Failed, reason),
            Event::Joined { .. }
            | Event::Left { .. }
            | Event::Forked { .. }
            | Event::Folded { .. }
            | Event::FoldFailed { .. }
            | Event::Ticked
            | Event::Restarted
            | Event::PauseAsked { .. }
            | Event::ResumeAsked
            | Event::StopAsked => {}
        }
    }

    fn ended(&mut self, member: &MemberName, assignment: AssignmentId, how: BadEnd, reason: &str) {
        self.given.remove(&assignment);
        let happened = Happened::Ended { member: member.clone(), assignment, how, reason: reason.to_owned() };
        self.effects.push(Effect::Happened(happened));
    }

    /// What a command changes in our own books, and what it tells the history.
    fn absorb(&mut self, command: &Command) {
        let happened = match command {
            Command::Assign(assignment) => {
                self.given.insert(assignment.id, assignment.clone());
                return;
            }
            Command::Cancel { assignment, .. } => {
                self.given.remove(assignment);
                return;
            }
            Command::Fold(_) => return,
            Command::Publish(published) => {
                self.kept.published(published.round, published.digest, &self.spec.keep);
                let (published, bytes_down) = (published.clone(), self.fetched.get());
                Happened::Published { published, bytes_up: self.bytes_up, bytes_down }
            }
            Command::Report { round, statistics, metrics } => {
                self.kept.evaluated(*round, *statistics, metrics, &self.spec.keep);
                Happened::Evaluated { round: *round, statistics: *statistics, metrics: metrics.clone() }
            }
            Command::Rest { member, failures, until } => {
                Happened::Resting { member: member.clone(), failures: *failures, until: *until }
            }
            Command::Pause { reason } => Happened::Paused { reason: reason.clone() },
            Command::Finish(outcome) => {
                self.given.clear();
                Happened::Finished(*outcome)
            }
        };
        self.effects.push(Effect::Happened(happened));
    }

    /// Keeps the state in the store. Only when everything is durable: the snapshot names the journal's end.
    pub(super) fn keep(&mut self, mark: Mark, store: &Store) {
        // first the history: a snapshot whose history is not there is not used
        self.history.keep();
        let snapshot = Snapshot {
            mark,
            state: self.engine.snapshot(),
            given: self.given.values().cloned().collect(),
            history: self.history.len(),
            bytes_up: self.bytes_up,
            bytes_down: self.fetched.get(),
            kept: self.kept.clone(),
        };
        store.put_snapshot(&self.id, &snapshot);
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Assignments that are open.
    pub(super) fn open_assignments(&self) -> impl Iterator<Item = &Assignment> {
        self.given.values()
    }

    /// Kept globals by round.
    pub(super) fn globals(&self) -> &BTreeMap<Round, Digest> {
        self.kept.globals()
    }

    /// Every blob that the run works with or keeps.
    pub(super) fn references(&self) -> BTreeSet<Digest> {
        let mut all = self.engine.state().references();
        all.extend(self.kept.digests());
        all
    }

    /// True if the run cannot go on without this blob.
    pub(super) fn works_with(&self, digest: &Digest) -> bool {
        !self.is_over() && self.engine.state().references().contains(digest)
    }

    fn is_paused(&self) -> bool {
        matches!(self.engine.state().phase, Phase::Paused { .. })
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.engine.state().phase, Phase::Done(_))
    }

    pub(super) fn bytes_up(&self) -> u64 {
        self.bytes_up
    }

    /// True if this member may take part.
    pub(super) fn invites(&self, member: &MemberName) -> bool {
        let only = &self.spec.cohort.only;
        only.is_empty() || only.contains(member)
    }

    /// True if this member, which has these labels, may join.
    pub(super) fn admits(&self, member: &MemberName, labels: &[String]) -> bool {
        self.invites(member) && self.spec.cohort.admits(labels)
    }

    /// True for a kept global and for statistics: what comes from one member alone is neither.
    pub(super) fn published(&self, digest: &Digest) -> bool {
        let statistics = self.engine.state().statistics.is_some_and(|s| s.digest == *digest);
        statistics || self.globals().values().any(|global| global == digest)
    }

    /// True if the run thinks that this member is reachable.
    pub(super) fn counts_on(&self, member: &MemberName) -> bool {
        self.engine.state().members.get(member).is_some_and(|m| m.online)
    }

    /// The open assignment of this number, if it is the member's.
    ///
    /// # Errors
    /// Why an answer to it cannot count.
    pub(super) fn open(&self, assignment: AssignmentId, member: &MemberName) -> Result<Assignment, Refusal> {
        if self.is_over() {
            return Err(Reject::Over.into());
        }
        let open = self.given.get(&assignment).ok_or(Reject::NotOpen(assignment))?;
        if open.member != *member {
            return Err(Reject::NotYours(assignment, member.clone()).into());
        }
        Ok(open.clone())
    }
}

/// The folder of a run appears whole or not at all: a name that starts with a dot is no run's.
fn create_folder(dir: &Path, id: &RunId, spec_toml: &str, first: &[Entry]) -> Result<Journal, Error> {
    let (making, path) = (dir.join(format!(".new-{id}")), dir.join(id.as_str()));
    remove_dir(&making).map_err(Error::io("cannot clear", &making))?;
    fs::create_dir(&making).map_err(Error::io("cannot create", &making))?;
    let spec_path = making.join("spec.toml");
    write_synced(&spec_path, spec_toml.as_bytes()).map_err(Error::io("cannot write", &spec_path))?;
    let mut journal = Journal::create(&making.join("journal"), spec_toml)?;
    journal.append(first).map_err(Error::io("cannot write", &making.join("journal")))?;
    sync_dir(&making).map_err(Error::io("cannot fsync", &making))?;
    point("coordinator/submit-before-rename");
    fs::rename(&making, &path).map_err(Error::io("cannot rename to", &path))?;
    point("coordinator/submit-after-rename");
    sync_dir(dir).map_err(Error::io("cannot fsync", dir))?;
    Ok(journal)
}

/// When a file was last written, for a run that the index does not know.
fn modified(path: &Path) -> Millis {
    let time = fs::metadata(path).and_then(|m| m.modified()).ok();
    let since = time.and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    since.as_millis() as Millis
}
