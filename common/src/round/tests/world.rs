//! The engine with a world around it that carries out its commands and checks them.

use super::super::*;
use crate::id::Digest;
use crate::rng::{Stream, stream};
use std::collections::BTreeSet;

pub(super) fn spec(members: usize, size: usize, quorum: usize, rounds: u32) -> RunSpec {
    spec_with(members, size, quorum, rounds, "")
}

/// With more keys of `[cohort]`, such as `, most = 2`.
pub(super) fn spec_with(members: usize, size: usize, quorum: usize, rounds: u32, more: &str) -> RunSpec {
    RunSpec::from_toml(&format!(
        "version = 1\nname = \"t\"\nseed = 3\nrounds = {rounds}\nevaluate = {{ every = 2, members = 1 }}\n\
         task = {{ kind = \"classify\", classes = 2, modalities = {{ a = 1 }} }}\n\
         cohort = {{ members = {members}, size = {size}, quorum = {quorum}, deadline = \"10s\", retries = 1{more} }}"
    ))
    .unwrap()
}

pub(super) fn name(i: usize) -> MemberName {
    format!("m{i:02}").parse().unwrap()
}

/// A mistake planted between the engine and the checks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fault {
    StrangerCounted,
    CountedTwice,
    QuorumIgnored,
    RoundRepeated,
    DigestChanged,
    AnswerLost,
    MoreThanMost,
    LateTwice,
    LateAsFresh,
    RestingAsked,
}

pub(super) const FAULTS: [Fault; 10] = [
    Fault::StrangerCounted,
    Fault::CountedTwice,
    Fault::QuorumIgnored,
    Fault::RoundRepeated,
    Fault::DigestChanged,
    Fault::AnswerLost,
    Fault::MoreThanMost,
    Fault::LateTwice,
    Fault::LateAsFresh,
    Fault::RestingAsked,
];

/// The engine with a world around it that carries out its commands and checks them.
pub(super) struct World {
    pub(super) engine: Engine,
    pub(super) now: Millis,
    members: usize,
    pub(super) open: Vec<Assignment>,
    pub(super) folds: Vec<Fold>,
    pub(super) journal: Vec<(Millis, Event)>,
    /// Round of every assignment.
    given: BTreeMap<AssignmentId, Assignment>,
    pub(super) answered: BTreeSet<AssignmentId>,
    /// In which round's global an answer is.
    used: BTreeMap<AssignmentId, Round>,
    /// The last late answer that was folded.
    last_late: Option<UpdateRef>,
    pub(super) published: Vec<Published>,
    pub(super) cancelled: Vec<AssignmentId>,
    pub(super) rests: Vec<(MemberName, u32, Round)>,
    pub(super) pauses: Vec<String>,
    finished: Option<Outcome>,
    pub(super) fault: Option<Fault>,
    pub(super) broken: Vec<String>,
}

impl World {
    pub(super) fn new(spec: RunSpec) -> Self {
        let members = spec.cohort.members;
        Self {
            engine: Engine::new(spec),
            now: 1_000,
            members,
            open: Vec::new(),
            folds: Vec::new(),
            journal: Vec::new(),
            given: BTreeMap::new(),
            answered: BTreeSet::new(),
            used: BTreeMap::new(),
            last_late: None,
            published: Vec::new(),
            cancelled: Vec::new(),
            rests: Vec::new(),
            pauses: Vec::new(),
            finished: None,
            fault: None,
            broken: Vec::new(),
        }
    }

    /// In the first round, with everybody asked and nobody back.
    pub(super) fn fitting(spec: RunSpec) -> Self {
        let mut world = Self::new(spec);
        world.join_all();
        world.until("fitting");
        world
    }

    /// Helps until the phase is of this name, and carries out all commands.
    pub(super) fn until(&mut self, phase: &str) {
        let mut rng = stream(0, "order", "", 0);
        self.drain(usize::MAX);
        for _ in 0..1_000 {
            if self.phase() == phase {
                return;
            }
            self.helpful(&mut rng);
            self.drain(usize::MAX);
        }
        panic!("the run never comes to {phase}, it is {:?}", self.engine.state().phase);
    }

    pub(super) fn phase(&self) -> &'static str {
        self.engine.state().phase.name()
    }

    pub(super) fn member(&self, name: &MemberName) -> &Member {
        &self.engine.state().members[name]
    }

    /// Goes to when the engine wants to be told the time, and tells it.
    pub(super) fn tick(&mut self) {
        self.now = self.now.max(self.engine.next_deadline().unwrap());
        self.give(Event::Ticked);
        self.drain(usize::MAX);
    }

    /// What members were asked for so far.
    pub(super) fn works(&self) -> BTreeSet<String> {
        self.given.values().map(|a| format!("{:?}", a.work)).collect()
    }

    /// The open work of this member.
    pub(super) fn work_of(&self, member: &MemberName) -> Option<usize> {
        self.open.iter().position(|a| a.member == *member)
    }

    pub(super) fn fail(&mut self, at: usize) {
        let a = self.open.remove(at);
        self.give(Event::Failed { member: a.member, assignment: a.id, reason: "x".into() });
        self.drain(usize::MAX);
    }

    pub(super) fn leave(&mut self, member: &MemberName) {
        self.give(Event::Left { member: member.clone() });
    }

    fn check(&mut self, good: bool, what: &str) {
        if !good {
            self.broken.push(what.to_owned());
        }
    }

    /// Gives the engine an event and keeps it if it was accepted.
    pub(super) fn give(&mut self, event: Event) -> bool {
        let before = self.engine.snapshot();
        match self.engine.handle(self.now, event.clone()) {
            Ok(()) => {
                if let Event::Answered(update) = &event {
                    let new = self.answered.insert(update.assignment);
                    self.check(new, "an assignment was answered twice");
                }
                self.journal.push((self.now, event));
                self.check_rest(&before);
                true
            }
            Err(_) => {
                let same = self.engine.snapshot() == before;
                self.check(same, "a refused event changed the state");
                false
            }
        }
    }

    pub(super) fn join(&mut self, i: usize) {
        let evaluates = i == self.members;
        let info = MemberInfo { trains: !evaluates, evaluates, modalities: vec!["a".into()] };
        self.give(Event::Joined { member: name(i), info });
    }

    pub(super) fn join_all(&mut self) {
        (0..=self.members).for_each(|i| self.join(i));
    }

    /// Carries out at most `most` commands.
    pub(super) fn drain(&mut self, most: usize) -> usize {
        let mut done = 0;
        while done < most
            && let Some(command) = self.engine.poll()
        {
            done += 1;
            match command {
                Command::Assign(assignment) => {
                    self.given.insert(assignment.id, assignment.clone());
                    if !self.open.contains(&assignment) {
                        self.open.push(assignment);
                    }
                }
                Command::Cancel { assignment, .. } => {
                    self.open.retain(|a| a.id != assignment);
                    self.cancelled.push(assignment);
                }
                Command::Fold(fold) => self.take_fold(fold),
                Command::Publish(published) => self.take_publish(published),
                Command::Report { round, .. } => {
                    let last = self.published.last().map(|p| p.round);
                    self.check(last == Some(round), "a report is of the last published round");
                }
                Command::Rest { member, failures, until } => self.rests.push((member, failures, until)),
                Command::Pause { reason } => self.pauses.push(reason),
                Command::Finish(outcome) => {
                    let first = self.finished.replace(outcome).is_none();
                    self.check(first, "a run finished twice");
                }
            }
        }
        self.check_tally();
        done
    }

    /// Plants a fault into a fold.
    fn spoil(&mut self, fold: &mut Fold) {
        match self.fault.filter(|_| fold.kind == FoldKind::Round) {
            Some(Fault::StrangerCounted) => fold.answers[0].member = "stranger".parse().unwrap(),
            Some(Fault::CountedTwice) => fold.answers.push(fold.answers[0].clone()),
            Some(Fault::QuorumIgnored) => drop(fold.answers.drain(1..)),
            Some(Fault::AnswerLost) => {
                self.answered.remove(&fold.answers[0].assignment);
            }
            Some(Fault::MoreThanMost) => {
                let out = |a: &&Assignment| a.round == fold.round && fold.answers.iter().all(|u| u.member != a.member);
                if let Some(more) = self.given.values().find(|a| a.work == Work::Fit && out(a)) {
                    self.answered.insert(more.id);
                    fold.answers.push(Self::answer(more));
                }
            }
            Some(Fault::LateTwice) => {
                if let Some(late) = self.last_late.clone().filter(|l| fold.answers.iter().all(|a| a.member != l.member)) {
                    fold.stale.insert(late.member.clone(), fold.round - self.given[&late.assignment].round);
                    fold.answers.push(late);
                }
            }
            Some(Fault::LateAsFresh) => fold.stale.clear(),
            Some(Fault::RestingAsked | Fault::RoundRepeated | Fault::DigestChanged) | None => {}
        }
    }

    fn take_fold(&mut self, mut fold: Fold) {
        self.spoil(&mut fold);
        let members: BTreeSet<&MemberName> = fold.answers.iter().map(|a| &a.member).collect();
        let (given, used, cohort) = (&self.given, &self.used, &self.engine.spec().cohort);
        let late_by = |a: &UpdateRef| fold.stale.get(&a.member).copied().unwrap_or(0);
        let asked = |a: &UpdateRef| {
            let asked = given.get(&a.assignment).filter(|g| g.member == a.member);
            asked.is_some_and(|g| g.round + late_by(a) == fold.round)
        };
        let good = fold.answers.iter().all(asked);
        let distinct = members.len() == fold.answers.len();
        let acknowledged = fold.answers.iter().all(|a| self.answered.contains(&a.assignment));
        let fresh = fold.answers.len() - fold.stale.len();
        let enough = fold.kind != FoldKind::Round || fresh >= cohort.quorum();
        // under rules 1 all answers that come during a pause are used
        let few = fold.kind != FoldKind::Round || fresh <= cohort.most() || self.engine.spec().rules < 2;
        let once = fold.answers.iter().all(|a| used.get(&a.assignment).is_none_or(|round| *round == fold.round));
        self.check(good, "an aggregate holds an answer to something else than its round asked");
        self.check(distinct, "an aggregate holds a member twice");
        self.check(acknowledged, "an aggregate holds an answer that was not given");
        self.check(enough, "an aggregate is below the quorum");
        self.check(few, "an aggregate holds more than the most");
        self.check(once, "an answer is in two aggregates");
        if fold.kind == FoldKind::Round {
            self.used.extend(fold.answers.iter().map(|a| (a.assignment, fold.round)));
            self.last_late = fold.answers.iter().find(|a| fold.stale.contains_key(&a.member)).cloned().or(self.last_late.take());
        }
        if !self.folds.iter().any(|f| f.id == fold.id) {
            self.folds.push(fold);
        }
    }

    /// Nobody who rests is asked to train while others could be.
    fn check_rest(&mut self, before: &State) {
        let after = self.engine.state();
        let Phase::Fitting { round, collect } = &after.phase else { return };
        let earlier = match before.phase.under_pause() {
            Phase::Fitting { round: same, collect } if same == round => Some(&collect.asked),
            Phase::Waiting
            | Phase::Surveying(_)
            | Phase::Initialising(_)
            | Phase::Fitting { .. }
            | Phase::Aggregating { .. }
            | Phase::Evaluating(_)
            | Phase::Done(_)
            | Phase::Paused { .. } => None,
        };
        let new: Vec<&MemberName> = collect.asked.keys().filter(|m| earlier.is_none_or(|e| !e.contains_key(*m))).collect();
        let planted = new.first().copied().filter(|_| self.fault == Some(Fault::RestingAsked));
        let rests = |m: &MemberName| after.members[m].rests_until > *round || Some(m) == planted;
        let trains = |m: &MemberName| after.members[m].info.trains;
        let free = after.members.keys().filter(|m| trains(m) && !rests(m)).filter(|m| match earlier {
            None => true,
            Some(_) => !collect.asked.contains_key(*m) && after.members[*m].online,
        });
        let needed = if earlier.is_none() { self.engine.spec().cohort.size } else { 1 };
        let good = !new.iter().any(|m| rests(m)) || free.count() < needed;
        self.check(good, "a member that rests is asked though others are free");
    }

    fn take_publish(&mut self, mut published: Published) {
        match self.fault.filter(|_| published.round > 0) {
            Some(Fault::RoundRepeated) => published.round -= 1,
            Some(Fault::DigestChanged) => {
                let round = published.round - 1;
                published = Published { round, digest: Digest::of(b"other"), ..published };
            }
            Some(_) | None => {}
        }
        // After a restart the journal is replayed and rounds are published again, with the same digests.
        let known = self.published.iter().find(|p| p.round == published.round).cloned();
        if let Some(known) = known {
            self.check(known == published, "a published round changed");
            return;
        }
        let forked = self.journal.iter().find_map(|(_, e)| if let Event::Forked { round, .. } = e { Some(*round) } else { None });
        let next = self.published.last().map_or(forked.unwrap_or(0), |p| p.round + 1);
        self.check(published.round == next, "published rounds are consecutive");
        self.published.push(published);
    }

    fn check_tally(&mut self) {
        let state = self.engine.state();
        let waiting = state.phase.under_pause().collect();
        let open = waiting.map_or(0, |c| c.open.len() as u64) + state.late.open.len() as u64;
        let t = state.tally;
        let good = t.given == t.accepted + t.rejected + t.dropped + t.expired + open;
        self.check(good, "an assignment ended in no way or in two");
    }

    /// The answer of a member: its blob depends on what it was asked and nothing else.
    pub(super) fn answer(assignment: &Assignment) -> UpdateRef {
        let text = format!("{} {:?} {} {:?}", assignment.member, assignment.work, assignment.round, assignment.global);
        UpdateRef {
            member: assignment.member.clone(),
            assignment: assignment.id,
            blob: Some(Digest::of(text.as_bytes())),
            bytes: 1,
            examples: 1,
            weights: BTreeMap::new(),
            metrics: Metrics::default(),
        }
    }

    /// A stand-in for the fold: a digest of everything that a fold may depend on.
    fn folded(fold: &Fold) -> Digest {
        let mut answers: Vec<String> = fold.answers.iter().map(|a| format!("{} {:?}", a.member, a.blob)).collect();
        answers.sort();
        Digest::of(
            format!("{:?} {} {:?} {:?} {answers:?} {:?}", fold.kind, fold.round, fold.base, fold.inputs, fold.stale).as_bytes(),
        )
    }

    pub(super) fn answer_one(&mut self, at: usize) {
        let assignment = self.open.remove(at);
        self.give(Event::Answered(Self::answer(&assignment)));
    }

    pub(super) fn fold_one(&mut self, at: usize) {
        let fold = self.folds.remove(at);
        self.give(Event::Folded { fold: fold.id, digest: Self::folded(&fold) });
    }

    /// Does something that the engine waits for, in an order drawn from `rng`.
    pub(super) fn helpful(&mut self, rng: &mut Stream) {
        let choices = self.open.len() + self.folds.len();
        match rng.below(choices) {
            _ if choices == 0 => {
                if matches!(self.engine.state().phase, Phase::Paused { .. }) {
                    self.give(Event::ResumeAsked);
                } else if let Some(deadline) = self.engine.next_deadline() {
                    self.now = self.now.max(deadline);
                    self.give(Event::Ticked);
                }
            }
            i if i < self.open.len() => self.answer_one(i),
            i => self.fold_one(i - self.open.len()),
        }
    }

    /// Does something that a bad day brings.
    pub(super) fn noise(&mut self, rng: &mut Stream) {
        let member = name(rng.below(self.members + 2));
        let guess = AssignmentId(rng.below(30) as u64);
        match rng.below(11) {
            0 => drop(self.give(Event::Left { member })),
            1 => self.join(rng.below(self.members + 1)),
            2 if !self.open.is_empty() => {
                let a = self.open.remove(rng.below(self.open.len()));
                self.give(Event::Failed { member: a.member, assignment: a.id, reason: "x".into() });
            }
            3 if !self.open.is_empty() => {
                let a = self.open.remove(rng.below(self.open.len()));
                self.give(Event::Refused { member: a.member, assignment: a.id, reason: "x".into() });
            }
            4 => {
                let work = Work::Fit;
                let stale = Assignment { id: guess, member, work, round: 1, global: None, statistics: None };
                // it may by chance be the right one; the checks hold either way
                self.open.retain(|a| a.id != guess || a.member != stale.member);
                self.give(Event::Answered(Self::answer(&stale)));
            }
            5 => drop(self.give(Event::Folded { fold: rng.below(9) as u64 + 100, digest: Digest::of(b"stale") })),
            6 => {
                self.now += rng.below(20_000) as Millis;
                self.give(Event::Ticked);
            }
            7 => drop(self.give(Event::PauseAsked { reason: "x".into() })),
            8 => drop(self.give(Event::ResumeAsked)),
            9 if !self.folds.is_empty() => {
                let fold = self.folds.remove(0);
                self.give(Event::FoldFailed { fold: fold.id, reason: "x".into() });
            }
            _ => self.now += 1,
        }
    }

    pub(super) fn done(&self) -> bool {
        matches!(self.engine.state().phase, Phase::Done(_))
    }

    /// Runs without noise to the end; false if it does not end.
    pub(super) fn finish(&mut self, rng: &mut Stream) -> bool {
        self.join_all();
        for _ in 0..3_000 {
            self.drain(usize::MAX);
            if self.done() {
                return true;
            }
            self.helpful(rng);
        }
        false
    }

    /// The coordinator dies; what was not journaled is gone, and so are the commands not yet carried out.
    pub(super) fn crash(&mut self) {
        let mut engine = Engine::new(self.engine.spec().clone());
        let mut replayed = Vec::new();
        for (now, event) in &self.journal {
            engine.handle(*now, event.clone()).expect("accepted before, accepted again");
            replayed.extend(std::iter::from_fn(|| engine.poll()));
        }
        self.check(engine.snapshot() == self.engine.snapshot(), "replaying the journal gives another state");
        self.engine = engine;
        self.open.clear();
        self.folds.clear();
        for command in replayed {
            if let Command::Publish(published) = command {
                self.take_publish(published);
            } else if let Command::Assign(assignment) = command {
                self.given.insert(assignment.id, assignment);
            }
        }
        self.give(Event::Restarted);
        self.join_all();
    }
}

pub(super) fn undisturbed(spec: &RunSpec) -> Vec<Published> {
    let mut world = World::new(spec.clone());
    assert!(world.finish(&mut stream(0, "order", "", 0)));
    assert_eq!(world.broken, Vec::<String>::new());
    world.published
}
