//! How the coordinator gets its run into memory: when it starts, and when its disk works again.
//!
//! Either way it replays the snapshot and the journal behind it, or the journal alone, and tells the engine that it was
//! restarted.

use super::coordinator::{Coordinator, Effect, Process};
use super::disk::{Mark, Snapshot};
use super::env::{Crash, Env, Happening};
use super::faults::{Fault, Planted};
use super::watch::{Fact, Restart};
use tessera_common::id::Millis;
use tessera_common::round::{Engine, Event, Phase};

/// Somewhere in 2026. Its clock may be set back by less than that.
const EPOCH: Millis = 1_790_000_000_000;
const DAY: usize = 86_400_000;

impl Coordinator {
    pub(crate) fn start(&mut self, env: &mut Env) -> Result<(), Crash> {
        self.incarnation += 1;
        let mut wall = EPOCH + env.now;
        if env.dice.hit(Fault::ClockForward) {
            wall += env.dice.below(60 * DAY) as Millis;
        } else if env.dice.hit(Fault::ClockBack) {
            wall -= env.dice.below(60 * DAY) as Millis;
        }
        let process = self.load(env, wall, env.now);
        self.process = Some(process);
        env.point(Fault::Loading)?;
        env.coordinator_up = true;
        self.go_on(env)
    }

    fn go_on(&mut self, env: &mut Env) -> Result<(), Crash> {
        let over = matches!(self.alive().state().phase, Phase::Done(_));
        if !over && !env.has(Planted::RestartForgotten) {
            self.expect(env, Event::Restarted);
        }
        let connected: Vec<_> = self.alive().sessions.keys().copied().collect();
        for link in connected {
            self.join(env, link);
        }
        self.settle(env)
    }

    fn load(&mut self, env: &mut Env, wall: Millis, started: Millis) -> Process {
        if env.has(Planted::JournalCutShort) && self.incarnation > 1 {
            self.disk.journal.cut_short();
        }
        let records = self.disk.journal.open();
        let usable = |s: &&Snapshot| {
            env.has(Planted::SnapshotUnchecked) || s.mark == Mark::start() || records.iter().any(|(mark, _)| *mark == s.mark)
        };
        let snapshot = self.disk.store.snapshot().filter(usable).cloned();
        let mut process = Process::new(self.incarnation, wall, started, Engine::new(self.setting.spec.clone()));
        let mut skip = 0;
        if let Some(snapshot) = snapshot {
            env.note("snapshots used");
            skip = snapshot.mark.records;
            process.engine = Engine::restore(self.setting.spec.clone(), snapshot.state);
            process.given = snapshot.given;
            if !env.has(Planted::HistoryForgotten) {
                process.history = snapshot.history;
            }
        }
        let mut entries = Vec::new();
        for (i, (_, entry)) in records.into_iter().enumerate() {
            if i >= skip {
                if let Err(reject) = process.step(entry.0, &entry.1) {
                    env.watch.violations.push(("replay", format!("the engine refuses entry {i} of its own journal: {reject}")));
                }
                self.put_receipts(env, &mut process);
            }
            entries.push(entry);
        }
        let (first, states) = &self.trail;
        let before = entries.len().checked_sub(*first).and_then(|i| states.get(i));
        let restart = Restart { entries: &entries, state: process.state(), before, history: &process.history };
        env.see(&Fact::Restarted(&restart));
        self.trail = (entries.len(), vec![process.engine.snapshot()]);
        process
    }

    /// Of what a replay asks for, only receipts are carried out: everything else was, or is asked for again.
    fn put_receipts(&mut self, env: &Env, process: &mut Process) {
        for effect in std::mem::take(&mut process.effects) {
            if let Effect::Receipt(id, receipt) = effect
                && !env.has(Planted::ReceiptForgotten)
            {
                self.disk.store.put_receipt(env.now, id, receipt);
            }
        }
    }

    /// A write failed: what it was to make durable never happened. The run waits for the disk; connections stay.
    pub(super) fn stall(&mut self, env: &mut Env) {
        let process = self.alive();
        process.pending.clear();
        process.effects.clear();
        process.stalled = true;
        let incarnation = process.incarnation;
        let pause = env.between(500, 4_000);
        env.schedule(pause, Happening::DiskWorks { incarnation });
    }

    /// The run is loaded again, into a process whose clock and connections went on.
    pub(crate) fn disk_works(&mut self, env: &mut Env) -> Result<(), Crash> {
        let old = self.alive();
        let (wall, started, inbox) = (old.wall, old.started, std::mem::take(&mut old.inbox));
        let (sessions, woken) = (std::mem::take(&mut old.sessions), old.woken);
        let fresh = self.load(env, wall, started);
        self.process = Some(fresh);
        let process = self.alive();
        (process.inbox, process.sessions, process.woken) = (inbox, sessions, woken);
        self.go_on(env)
    }
}
