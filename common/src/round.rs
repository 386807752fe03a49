//! The round engine: events in, commands out.
//!
//! ```text
//! Waiting ─► Surveying inputs ─► Aggregating ─► Initialising ─► Aggregating ─► Fitting 1
//!                                                                                │
//!    ┌────────────── next round ◄──────────── Publish ◄── Aggregating ◄──────────┘
//!    ▼                                           │ when an evaluation is due
//! Fitting r+1 ◄─ Evaluating ◄─ Aggregating ◄─ Surveying features
//!                    │ after the last round
//!                    ▼
//!                  Done            (any phase ─► Paused ─► the same phase again)
//! ```
//!
//! Time and randomness are arguments or state, commands are plain values, and the state holds digests and counts,
//! never tensors. Whoever owns the engine appends each accepted event to a journal before it acts on the commands;
//! since [`Engine::handle`] is a pure function of state and event, replaying the journal gives the same state.

#![deny(clippy::wildcard_enum_match_arm)]

mod advance;
mod collect;
mod command;
mod event;
mod folding;
mod fork;
mod late;
mod pause;
mod phase;
mod reject;
mod rest;
#[cfg(test)]
mod tests;

pub use collect::{Collect, Tally};
pub use command::{Assignment, Command, Fold, FoldKind, Published, Work};
pub use event::{Event, MemberInfo};
pub use late::Late;
pub use phase::{Outcome, PauseCause, Phase};
pub use reject::Reject;

use crate::global::GlobalRef;
use crate::id::{AssignmentId, Digest, MemberName, Millis, Round};
use crate::metric::Metrics;
use crate::rng;
use crate::spec::RunSpec;
use crate::strategy::{self, Strategy};
use crate::update::UpdateRef;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// A member as the run knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// It is connected.
    pub online: bool,
    /// If it is not connected: since when.
    #[serde(default)]
    pub since: Millis,
    /// Its failures in a row: refused, failed and expired work.
    #[serde(default)]
    pub failures: u32,
    /// It rests in rounds before this one.
    #[serde(default)]
    pub rests_until: Round,
    /// What it has.
    pub info: MemberInfo,
}

impl Member {
    /// It is no longer connected; one that left before is away since then.
    fn leave(&mut self, now: Millis) {
        if self.online {
            self.online = false;
            self.since = now;
        }
    }
}

/// Everything a run remembers. Its size grows with members, not with the model or the rounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// What the run is doing.
    pub phase: Phase,
    /// Everybody who ever joined.
    pub members: BTreeMap<MemberName, Member>,
    /// The latest published global.
    pub global: Option<GlobalRef>,
    /// Folded sums over input features.
    pub inputs: Option<Digest>,
    /// Latest statistics of features, and the round of their global.
    pub statistics: Option<GlobalRef>,
    /// How assignments ended.
    pub tally: Tally,
    /// Work of the round before that is still waited for, with `late = "next-round"`.
    #[serde(default)]
    pub late: Late,
    next_assignment: u64,
    next_fold: u64,
}

/// One run.
#[derive(Debug)]
pub struct Engine {
    spec: RunSpec,
    strategy: Box<dyn Strategy>,
    state: State,
    commands: VecDeque<Command>,
}

impl Engine {
    /// A run that waits for members.
    pub fn new(spec: RunSpec) -> Self {
        Self::restore(
            spec,
            State {
                phase: Phase::Waiting,
                members: BTreeMap::new(),
                global: None,
                inputs: None,
                statistics: None,
                tally: Tally::default(),
                late: Late::default(),
                next_assignment: 1,
                next_fold: 1,
            },
        )
    }

    /// A run as it was. Follow with [`Event::Restarted`] if the coordinator was down in between.
    pub fn restore(spec: RunSpec, state: State) -> Self {
        let strategy = strategy::create(&spec).expect("a RunSpec is validated, its strategy too");
        Self { spec, strategy, state, commands: VecDeque::new() }
    }

    /// What to keep, to [`Self::restore`] from.
    pub fn snapshot(&self) -> State {
        self.state.clone()
    }

    /// The state, to look at.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The spec.
    pub fn spec(&self) -> &RunSpec {
        &self.spec
    }

    /// The next command, in order.
    pub fn poll(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When to send [`Event::Ticked`] at the latest.
    pub fn next_deadline(&self) -> Option<Millis> {
        let collect = self.state.phase.collect()?;
        let patience = collect.patience_ends();
        let absence = self.absence_ends(collect);
        [Some(collect.deadline), patience, absence].into_iter().flatten().min()
    }

    /// Takes an event.
    ///
    /// # Errors
    /// A refusal, which leaves the state as it was.
    pub fn handle(&mut self, now: Millis, event: Event) -> Result<(), Reject> {
        let over = matches!(self.state.phase, Phase::Done(_));
        match event {
            Event::Forked { round, global, .. } => self.forked(round, global)?,
            Event::Joined { member, info } => self.joined(now, member, info),
            Event::Left { member } => self.left(now, &member)?,
            Event::Restarted => self.restarted(now),
            Event::Ticked => self.ticked(now),
            Event::Answered(_) | Event::Refused { .. } | Event::Failed { .. } | Event::StopAsked | Event::PauseAsked { .. }
                if over =>
            {
                return Err(Reject::Over);
            }
            Event::Answered(update) => self.answered(now, update)?,
            Event::Refused { member, assignment, reason } => self.ended_badly(now, &member, assignment, reason, false)?,
            Event::Failed { member, assignment, reason } => self.ended_badly(now, &member, assignment, reason, true)?,
            Event::Folded { fold, digest } => self.folded(now, fold, digest)?,
            Event::FoldFailed { fold, reason } => self.fold_failed(fold, reason)?,
            Event::PauseAsked { reason } => self.pause_asked(reason)?,
            Event::ResumeAsked => self.resume(now)?,
            Event::StopAsked => self.stop(),
        }
        Ok(())
    }

    // ---- members ----

    /// Members with data to train on that this run may ask, in order of name.
    fn pool(&self) -> Vec<MemberName> {
        let only = &self.spec.cohort.only;
        let allowed = |name: &MemberName| only.is_empty() || only.contains(name);
        self.state.members.iter().filter(|(n, m)| m.info.trains && allowed(n)).map(|(n, _)| n.clone()).collect()
    }

    fn evaluators(&self) -> Vec<MemberName> {
        self.state.members.iter().filter(|(_, m)| m.info.evaluates).map(|(n, _)| n.clone()).collect()
    }

    fn joined(&mut self, now: Millis, member: MemberName, info: MemberInfo) {
        let known = self.state.members.get(&member);
        let (failures, rests_until) = known.map_or((0, 0), |m| (m.failures, m.rests_until));
        self.state.members.insert(member.clone(), Member { online: true, since: 0, failures, rests_until, info });
        // It may have lost what it was asked: ask again. Doing the same work twice does no harm.
        let awaited = self.state.phase.collect().into_iter().flat_map(|c| c.open.values()).chain(self.state.late.open.values());
        let again = awaited.filter(|o| o.assignment.member == member);
        self.commands.extend(again.map(|o| Command::Assign(o.assignment.clone())));
        if self.state.phase == Phase::Waiting {
            self.start_if_ready(now);
        } else if self.helps(&member) {
            self.go_on(now);
        }
    }

    fn left(&mut self, now: Millis, member: &MemberName) -> Result<(), Reject> {
        let known = self.state.members.get_mut(member).ok_or_else(|| Reject::UnknownMember(member.clone()))?;
        known.leave(now);
        Ok(())
    }

    fn restarted(&mut self, now: Millis) {
        self.state.members.values_mut().for_each(|m| {
            m.online = true;
            m.leave(now);
        });
        // nobody could answer while the coordinator was down
        self.wait_anew(now);
        if let Phase::Aggregating { fold, .. } = &self.state.phase {
            self.commands.push_back(Command::Fold(fold.clone()));
        }
    }

    fn start_if_ready(&mut self, now: Millis) {
        if self.pool().len() < self.spec.cohort.members || self.evaluators().len() < self.spec.evaluate.members {
            return;
        }
        if let Some(global) = self.state.global {
            // forked: the model is there already
            self.fit(now, global.round + 1);
        } else if self.spec.task.standardise {
            self.survey(now, Work::SurveyInputs, 0);
        } else {
            self.initialise(now);
        }
    }

    // ---- asking ----

    fn deadline(&self, now: Millis) -> Millis {
        now.saturating_add(self.spec.cohort.deadline.as_millis() as Millis)
    }

    /// When the first answers are taken; 0 if there is no patience.
    fn patient_until(&self, now: Millis) -> Millis {
        let patience = self.spec.cohort.patience.as_millis() as Millis;
        if patience == 0 { 0 } else { now.saturating_add(patience) }
    }

    /// Deadline and patience count from now.
    fn wait_anew(&mut self, now: Millis) {
        let (deadline, patient_until) = (self.deadline(now), self.patient_until(now));
        if let Some(collect) = self.state.phase.collect_mut() {
            (collect.deadline, collect.patient_until) = (deadline, patient_until);
        }
        if !self.state.late.open.is_empty() {
            self.state.late.deadline = deadline;
        }
    }

    fn assign(&mut self, member: MemberName, work: Work, round: Round) -> Assignment {
        let id = AssignmentId(self.state.next_assignment);
        self.state.next_assignment += 1;
        self.state.tally.given += 1;
        let statistics = self.state.statistics.filter(|s| Some(s.round) == self.state.global.map(|g| g.round));
        let assignment = Assignment {
            id,
            member,
            work,
            round,
            global: self.state.global.map(|g| g.digest),
            statistics: statistics.filter(|_| work == Work::Evaluate).map(|s| s.digest),
        };
        self.commands.push_back(Command::Assign(assignment.clone()));
        assignment
    }

    /// Asks `members`; the phase is over when all of them answered, or `quorum` of them at the deadline.
    fn ask(&mut self, now: Millis, work: Work, round: Round, members: Vec<MemberName>, quorum: usize) -> Collect {
        let quorum = quorum.clamp(1, members.len().max(1));
        let mut collect = Collect::new(work, quorum, members.len(), self.deadline(now));
        collect.patient_until = self.patient_until(now);
        for member in members {
            let assignment = self.assign(member, work, round);
            collect.add(assignment, 0);
        }
        collect
    }

    fn survey(&mut self, now: Millis, work: Work, round: Round) {
        let quorum = self.spec.cohort.quorum();
        let members = self.awake(self.pool(), quorum, round);
        self.state.phase = Phase::Surveying(self.ask(now, work, round, members, quorum));
    }

    fn initialise(&mut self, now: Millis) {
        let mut rng = rng::stream(self.spec.seed, "initialiser", "", 0);
        let members = rng.choose(&self.awake(self.pool(), 1, 0), 1);
        let collect = self.ask(now, Work::Initialise, 0, members, 1);
        self.state.phase = Phase::Initialising(collect);
    }

    fn fit(&mut self, now: Millis, round: Round) {
        let mut rng = rng::stream(self.spec.seed, "select", "", round);
        let size = self.spec.cohort.size;
        let members = self.strategy.select(&self.awake(self.pool(), size, round), size, &mut rng);
        let mut collect = self.ask(now, Work::Fit, round, members, self.spec.cohort.quorum());
        collect.most = collect.most.min(self.spec.cohort.most());
        self.state.phase = Phase::Fitting { round, collect };
    }

    // ---- answers ----

    fn answered(&mut self, now: Millis, update: UpdateRef) -> Result<(), Reject> {
        if self.state.late.knows(update.assignment) {
            return self.answered_late(update);
        }
        // An answer that comes during a pause counts too: nobody should have to train twice.
        let collect = self.state.phase.under_pause_mut().collect_mut().ok_or(Reject::NotOpen(update.assignment))?;
        collect.close(update.assignment, &update.member)?;
        let member = update.member.clone();
        collect.accepted.insert(member.clone(), update);
        self.state.tally.accepted += 1;
        self.trust(&member);
        self.advance(now);
        Ok(())
    }

    /// A refused answer is not asked for again, since the same work gives the same answer; a failure is.
    fn ended_badly(
        &mut self,
        now: Millis,
        member: &MemberName,
        id: AssignmentId,
        reason: String,
        retry: bool,
    ) -> Result<(), Reject> {
        if self.state.late.knows(id) {
            return self.late_ended_badly(member, id, retry);
        }
        let paused = matches!(self.state.phase, Phase::Paused { .. });
        let collect = self.state.phase.under_pause_mut().collect_mut().ok_or(Reject::NotOpen(id))?;
        let open = collect.close(id, member)?;
        collect.last_fault = Some(format!("{member}: {reason}"));
        self.state.tally.ended_badly(retry);
        self.strike(member);
        // during a pause nobody is asked; who is missing is asked when the run goes on
        if retry && !paused && open.attempt < self.spec.cohort.retries {
            self.ask_again(member.clone(), &open);
        }
        self.advance(now);
        Ok(())
    }

    fn ask_again(&mut self, member: MemberName, open: &collect::Open) {
        let (work, round) = (open.assignment.work, open.assignment.round);
        let assignment = self.assign(member, work, round);
        if let Some(collect) = self.state.phase.collect_mut() {
            collect.add(assignment, open.attempt + 1);
        }
    }

    /// Round that the phase works on, or did before its pause.
    fn current_round(&self) -> Round {
        match self.state.phase.under_pause() {
            Phase::Fitting { round, .. } => *round,
            Phase::Aggregating { fold, .. } => fold.round,
            Phase::Waiting
            | Phase::Surveying(_)
            | Phase::Initialising(_)
            | Phase::Evaluating(_)
            | Phase::Done(_)
            | Phase::Paused { .. } => self.published_round(),
        }
    }

    fn published_round(&self) -> Round {
        self.state.global.map_or(0, |g| g.round)
    }

    // ---- after a fold ----

    fn after_publish(&mut self, now: Millis, round: Round) {
        let every = self.spec.evaluate.every;
        let due = round == self.spec.rounds || (every > 0 && round > 0 && round.is_multiple_of(every));
        if due {
            self.survey(now, Work::SurveyFeatures, round);
        } else {
            self.fit(now, round + 1);
        }
    }

    fn evaluate(&mut self, now: Millis) {
        let members = self.evaluators();
        if members.is_empty() {
            self.evaluated(now, Metrics::default());
            return;
        }
        // All are asked and waited for until the deadline; a member that is gone for good must not stop the run.
        let quorum = self.spec.evaluate.members;
        let collect = self.ask(now, Work::Evaluate, self.published_round(), members, quorum);
        self.state.phase = Phase::Evaluating(collect);
    }

    fn evaluated(&mut self, now: Millis, metrics: Metrics) {
        let round = self.published_round();
        let statistics = self.state.statistics.map(|s| s.digest);
        self.commands.push_back(Command::Report { round, statistics, metrics });
        if round >= self.spec.rounds {
            self.finish(Outcome::Completed);
        } else {
            self.fit(now, round + 1);
        }
    }
}
