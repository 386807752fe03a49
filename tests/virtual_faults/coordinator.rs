//! The coordinator: the engine, and around it what the server's runtime does.
//!
//! Requests that wait are taken in one go. The engine takes their events; they are appended and fsynced together; only
//! then are commands carried out and replies sent. Every `point` is a place to die at.

use super::disk::{Disk, Entry, Mark, Receipt, Snapshot, Told};
use super::env::{Answer, Crash, Env, Happening, LinkId, Message, Side};
use super::faults::{Fault, Planted};
use super::requests::{Reply, Request};
use super::setting::Setting;
use super::watch::Fact;
use super::work;
use std::collections::{BTreeMap, BTreeSet};
use tessera_common::id::{AssignmentId, Digest, MemberName, Millis, Round};
use tessera_common::round::{Assignment, Command, Engine, Event, Fold, FoldKind, Phase, Reject, State};

/// What must happen once an event is durable, in order.
#[derive(Debug)]
pub(super) enum Effect {
    Command(Command),
    Receipt(AssignmentId, Receipt),
}

/// What is lost in a crash.
#[derive(Debug)]
pub(crate) struct Process {
    pub(super) incarnation: u32,
    /// Its clock when it was started, which goes on steadily from then.
    pub(super) wall: Millis,
    pub(super) started: Millis,
    pub(super) engine: Engine,
    pub(super) inbox: Vec<Request>,
    pub(super) replies: Vec<Reply>,
    pub(super) reads: Vec<Reply>,
    pub(super) sessions: BTreeMap<LinkId, BTreeSet<MemberName>>,
    /// Assignments that are open.
    pub(super) given: BTreeMap<AssignmentId, Assignment>,
    pub(super) pending: Vec<Entry>,
    pub(super) effects: Vec<Effect>,
    pub(crate) history: Vec<Told>,
    pub(super) folds: BTreeMap<u64, Fold>,
    pub(super) woken: bool,
    alarm: Option<Millis>,
    /// A write failed: the run is not in memory, and takes nothing until it is loaded again.
    pub(super) stalled: bool,
    /// With a mistake planted: how often each answer came.
    pub(super) copies: BTreeMap<AssignmentId, usize>,
}

#[derive(Debug)]
pub(crate) struct Coordinator {
    pub(super) setting: Setting,
    pub(super) disk: Disk,
    pub(super) process: Option<Process>,
    pub(super) incarnation: u32,
    /// States since the last fsync, to compare a replay with: after so many records, after one more, and so on.
    pub(super) trail: (usize, Vec<State>),
    /// Rounds of all assignments, to tell which answers are late.
    rounds: BTreeMap<AssignmentId, Round>,
}

impl Process {
    pub(super) fn new(incarnation: u32, wall: Millis, started: Millis, engine: Engine) -> Self {
        Self {
            incarnation,
            wall,
            started,
            engine,
            inbox: Vec::new(),
            replies: Vec::new(),
            reads: Vec::new(),
            sessions: BTreeMap::new(),
            given: BTreeMap::new(),
            pending: Vec::new(),
            effects: Vec::new(),
            history: Vec::new(),
            folds: BTreeMap::new(),
            woken: false,
            alarm: None,
            stalled: false,
            copies: BTreeMap::new(),
        }
    }

    pub(crate) fn incarnation(&self) -> u32 {
        self.incarnation
    }

    fn clock(&self, now: Millis) -> Millis {
        self.wall + (now - self.started)
    }

    /// Nothing waits to be carried out.
    fn is_settled(&self) -> bool {
        self.pending.is_empty() && self.effects.is_empty() && self.inbox.is_empty()
    }

    pub(crate) fn state(&self) -> &State {
        self.engine.state()
    }

    /// Takes an event as the journal has it.
    pub(super) fn step(&mut self, at: Millis, event: &Event) -> Result<(), Reject> {
        self.engine.handle(at, event.clone())?;
        let ended = match event {
            Event::Answered(update) => Some((update.assignment, update.member.clone(), Some(None))),
            Event::Refused { assignment, member, reason } => Some((*assignment, member.clone(), Some(Some(reason.clone())))),
            Event::Failed { assignment, member, .. } => Some((*assignment, member.clone(), None)),
            // these end no assignment by themselves
            _ => None,
        };
        if let Some((id, member, receipt)) = ended {
            self.given.remove(&id);
            self.effects.extend(receipt.map(|refused| Effect::Receipt(id, Receipt { member, refused })));
        }
        while let Some(command) = self.engine.poll() {
            self.absorb(&command);
            self.effects.push(Effect::Command(command));
        }
        Ok(())
    }

    /// What a command changes in the coordinator's own books.
    fn absorb(&mut self, command: &Command) {
        match command {
            Command::Assign(assignment) => {
                self.given.insert(assignment.id, assignment.clone());
            }
            Command::Cancel { assignment, .. } => {
                self.given.remove(assignment);
            }
            Command::Publish(published) => self.history.push(Told::Published(published.clone())),
            Command::Report { round, statistics, metrics, .. } => {
                self.history.push(Told::Reported(format!("{round} {statistics:?} {metrics:?}")));
            }
            Command::Finish(_) => self.given.clear(),
            // folds, pauses, resting members: nothing that an answer is looked up by
            _ => {}
        }
    }
}

impl Coordinator {
    pub(crate) fn new(setting: Setting) -> Self {
        let state = Engine::new(setting.spec.clone()).snapshot();
        Self { setting, disk: Disk::new(), process: None, incarnation: 0, trail: (0, vec![state]), rounds: BTreeMap::new() }
    }

    pub(crate) fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    pub(super) fn alive(&mut self) -> &mut Process {
        self.process.as_mut().expect("only a living coordinator is asked to do something")
    }

    /// The run is over, durably so, and everybody was told.
    pub(crate) fn is_done(&self) -> bool {
        self.process.as_ref().is_some_and(|p| !p.stalled && matches!(p.state().phase, Phase::Done(_)) && p.is_settled())
    }

    pub(crate) fn crash(&mut self, env: &mut Env) {
        self.process = None;
        env.coordinator_up = false;
        self.disk.crash(&mut env.dice);
        let quietly = env.dice.below(4) == 0;
        for link in env.open_links(Side::Coordinator) {
            env.close(link, Side::Coordinator, quietly);
        }
        let pause = env.between(50, 3_000);
        env.schedule(pause, Happening::CoordinatorStarts);
    }

    // ---- the loop ----

    pub(super) fn wake_soon(&mut self, env: &mut Env) {
        let process = self.alive();
        if !std::mem::replace(&mut process.woken, true) {
            let incarnation = process.incarnation;
            let pause = env.between(0, 4);
            env.schedule(pause, Happening::Wakes { incarnation });
        }
    }

    pub(crate) fn wake(&mut self, env: &mut Env) -> Result<(), Crash> {
        let process = self.alive();
        process.woken = false;
        for request in std::mem::take(&mut process.inbox) {
            self.take(env, request);
        }
        let process = self.alive();
        let due = process.engine.next_deadline().is_some_and(|deadline| deadline <= process.clock(env.now));
        if due && !process.stalled {
            self.expect(env, Event::Ticked);
        }
        self.settle(env)
    }

    pub(super) fn apply(&mut self, env: &mut Env, event: Event) -> Result<(), Reject> {
        let process = self.alive();
        let at = process.clock(env.now);
        process.step(at, &event)?;
        if let Event::Answered(update) = &event {
            env.see(&Fact::Counted(update));
        }
        process.pending.push((at, event));
        let state = process.engine.snapshot();
        if env.has(Planted::SnapshotUnchecked) {
            let mut mark = self.disk.journal.mark();
            mark.records += self.alive().pending.len();
            self.keep(env, mark);
        }
        self.trail.1.push(state);
        Ok(())
    }

    /// Makes durable what the engine accepted, carries out what follows, and answers; again, while that leads to more.
    pub(super) fn settle(&mut self, env: &mut Env) -> Result<(), Crash> {
        while !self.alive().pending.is_empty() || !self.alive().effects.is_empty() {
            if env.has(Planted::AcknowledgedBeforeFsync) {
                self.send_replies(env)?;
            }
            if env.has(Planted::EffectsBeforeFsync) {
                self.carry_out(env)?;
            }
            self.commit(env)?;
            self.carry_out(env)?;
        }
        self.send_replies(env)?;
        self.answer_reads(env)?;
        if self.alive().stalled {
            return Ok(());
        }
        let process = self.alive();
        let alarm = process.engine.next_deadline().map(|d| process.started + d.saturating_sub(process.wall));
        if alarm.is_some() && alarm != std::mem::replace(&mut process.alarm, alarm) {
            let incarnation = process.incarnation;
            env.schedule_at(alarm.unwrap_or(0).max(env.now), Happening::Wakes { incarnation });
        }
        Ok(())
    }

    fn commit(&mut self, env: &mut Env) -> Result<(), Crash> {
        let entries = std::mem::take(&mut self.alive().pending);
        if entries.is_empty() {
            return Ok(());
        }
        env.point(Fault::JournalBeforeWrite)?;
        if env.dice.hit(Fault::DiskFull) {
            self.stall(env);
            return Ok(());
        }
        self.disk.journal.append(&entries);
        env.point(Fault::JournalAfterWrite)?;
        self.disk.journal.fsync();
        env.see(&Fact::Durable(&entries));
        let last = self.trail.1.pop();
        self.trail = (self.disk.journal.mark().records, last.into_iter().collect());
        env.point(Fault::JournalAfterFsync)
    }

    fn carry_out(&mut self, env: &mut Env) -> Result<(), Crash> {
        let mut worth_keeping = false;
        let effects = std::mem::take(&mut self.alive().effects);
        if effects.is_empty() {
            return Ok(());
        }
        for effect in effects {
            match effect {
                Effect::Receipt(..) if env.has(Planted::ReceiptForgotten) => {}
                Effect::Receipt(id, receipt) => self.disk.store.put_receipt(env.now, id, receipt),
                Effect::Command(command) => {
                    env.point(Fault::BeforeCommand)?;
                    worth_keeping |= matches!(command, Command::Publish(_) | Command::Report { .. } | Command::Finish(_));
                    self.carry_out_command(env, command);
                }
            }
        }
        env.point(Fault::AfterCommands)?;
        if worth_keeping && self.alive().pending.is_empty() {
            env.point(Fault::BeforeSnapshot)?;
            let mark = self.disk.journal.mark();
            self.keep(env, mark);
            env.point(Fault::AfterSnapshot)?;
        }
        Ok(())
    }

    fn keep(&mut self, env: &Env, mark: Mark) {
        let process = self.alive();
        let (given, history) = (process.given.clone(), process.history.clone());
        let snapshot = Snapshot { mark, state: process.engine.snapshot(), given, history };
        self.disk.store.put_snapshot(env.now, snapshot);
    }

    fn carry_out_command(&mut self, env: &mut Env, command: Command) {
        match command {
            Command::Assign(mut assignment) => {
                if env.has(Planted::NumberReused) && assignment.id.0 > 3 {
                    assignment.id.0 -= 1;
                }
                env.see(&Fact::Given(&assignment));
                self.rounds.insert(assignment.id, assignment.round);
                self.tell(env, &assignment.member.clone(), Message::Assign(assignment));
            }
            Command::Cancel { member, assignment, .. } => self.tell(env, &member, Message::Cancel(assignment)),
            Command::Fold(fold) => self.begin_fold(env, fold),
            Command::Publish(published) => env.see(&Fact::Published(&published)),
            // the operator looks by himself
            Command::Pause { .. } => env.note("pauses"),
            Command::Finish(_) => {
                let links: Vec<LinkId> = self.alive().sessions.keys().copied().collect();
                links.into_iter().for_each(|link| env.send(link, Side::Coordinator, Message::Closed));
            }
            // reports are in the history; commands that a later engine has, such as resting members, are for people
            _ => {}
        }
    }

    fn tell(&mut self, env: &mut Env, member: &MemberName, message: Message) {
        let serving = self.alive().sessions.iter().find(|(_, members)| members.contains(member));
        if let Some(link) = serving.map(|(link, _)| *link) {
            env.send(link, Side::Coordinator, message);
        }
    }

    // ---- folds ----

    fn begin_fold(&mut self, env: &mut Env, mut fold: Fold) {
        if env.has(Planted::QuorumIgnored) {
            fold.answers.truncate(1);
        }
        let copies = &self.alive().copies;
        let twice: Vec<_> = fold.answers.iter().filter(|a| copies.get(&a.assignment).is_some_and(|n| *n > 1)).cloned().collect();
        fold.answers.extend(twice);
        env.see(&Fact::Folding(&fold));
        if fold.kind == FoldKind::Round && fold.answers.iter().any(|a| self.rounds.get(&a.assignment) != Some(&fold.round)) {
            env.note("folds with late answers");
        }
        let takes = env.between(1, 60);
        let process = self.alive();
        let (incarnation, id) = (process.incarnation, fold.id);
        process.folds.insert(id, fold);
        env.schedule(takes, Happening::FoldDone { incarnation, fold: id });
    }

    pub(crate) fn fold_done(&mut self, env: &mut Env, id: u64) -> Result<(), Crash> {
        let fold = self.alive().folds.remove(&id).filter(|_| !self.alive().stalled);
        let Some(fold) = fold else { return Ok(()) };
        let inputs = fold.answers.iter().filter_map(|a| a.blob).chain(fold.base).chain(fold.inputs);
        let missing: Vec<Digest> = inputs.filter(|digest| !self.disk.has_blob(digest)).collect();
        let event = if !missing.is_empty() {
            Event::FoldFailed { fold: id, reason: format!("no blobs {missing:?}") }
        } else if env.dice.hit(Fault::FoldFailed) {
            Event::FoldFailed { fold: id, reason: "the disk failed".into() }
        } else {
            let incarnation = if env.has(Planted::FoldDepends) { self.alive().incarnation } else { 0 };
            let digest = work::folded(&fold, incarnation);
            env.point(Fault::FoldBeforeStore)?;
            self.disk.put_blob(digest, true);
            env.see(&Fact::BlobKept(digest));
            env.point(Fault::FoldAfterStore)?;
            Event::Folded { fold: id, digest }
        };
        self.alive().inbox.push(Request::Own(event));
        self.wake_soon(env);
        Ok(())
    }

    pub(super) fn keep_blob(&mut self, env: &mut Env, answer: &Answer) -> Result<(), Crash> {
        let Some(digest) = answer.update.blob else { return Ok(()) };
        env.point(Fault::BlobBeforeStore)?;
        let synced = !env.has(Planted::BlobNotSynced);
        self.disk.put_blob(digest, synced);
        if synced {
            env.see(&Fact::BlobKept(digest));
        }
        env.point(Fault::BlobAfterStore)
    }
}
