//! Properties of the engine.
//!
//! Events are drawn from what the engine has asked for, with noise in between: uniformly random events would almost
//! never reach the end of a run, and the checks there would never be made. [`Fault`] plants mistakes between the engine
//! and the checks, so that a test shows that each check can fail.

use super::*;
use crate::id::Digest;
use crate::rng::{Stream, stream};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn spec(members: usize, size: usize, quorum: usize, rounds: u32) -> RunSpec {
    RunSpec::from_toml(&format!(
        "version = 1\nname = \"t\"\nseed = 3\nrounds = {rounds}\nevaluate = {{ every = 2, members = 1 }}\n\
         task = {{ kind = \"classify\", classes = 2, modalities = {{ a = 1 }} }}\n\
         cohort = {{ members = {members}, size = {size}, quorum = {quorum}, deadline = \"10s\", retries = 1 }}"
    ))
    .unwrap()
}

fn name(i: usize) -> MemberName {
    format!("m{i:02}").parse().unwrap()
}

/// A mistake planted between the engine and the checks.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    StrangerCounted,
    CountedTwice,
    QuorumIgnored,
    RoundRepeated,
    DigestChanged,
    AnswerLost,
}

const FAULTS: [Fault; 6] = [
    Fault::StrangerCounted,
    Fault::CountedTwice,
    Fault::QuorumIgnored,
    Fault::RoundRepeated,
    Fault::DigestChanged,
    Fault::AnswerLost,
];

/// The engine with a world around it that carries out its commands and checks them.
struct World {
    engine: Engine,
    now: Millis,
    members: usize,
    open: Vec<Assignment>,
    folds: Vec<Fold>,
    journal: Vec<(Millis, Event)>,
    asked: BTreeMap<Round, BTreeSet<MemberName>>,
    answered: BTreeSet<AssignmentId>,
    published: Vec<Published>,
    finished: Option<Outcome>,
    fault: Option<Fault>,
    broken: Vec<String>,
}

impl World {
    fn new(spec: RunSpec) -> Self {
        let members = spec.cohort.members;
        Self {
            engine: Engine::new(spec),
            now: 1_000,
            members,
            open: Vec::new(),
            folds: Vec::new(),
            journal: Vec::new(),
            asked: BTreeMap::new(),
            answered: BTreeSet::new(),
            published: Vec::new(),
            finished: None,
            fault: None,
            broken: Vec::new(),
        }
    }

    fn check(&mut self, good: bool, what: &str) {
        if !good {
            self.broken.push(what.to_owned());
        }
    }

    /// Gives the engine an event and keeps it if it was accepted.
    fn give(&mut self, event: Event) -> bool {
        let before = self.engine.snapshot();
        match self.engine.handle(self.now, event.clone()) {
            Ok(()) => {
                if let Event::Answered(update) = &event {
                    let new = self.answered.insert(update.assignment);
                    self.check(new, "an assignment was answered twice");
                }
                self.journal.push((self.now, event));
                true
            }
            Err(_) => {
                let same = self.engine.snapshot() == before;
                self.check(same, "a refused event changed the state");
                false
            }
        }
    }

    fn join(&mut self, i: usize) {
        let evaluates = i == self.members;
        let info = MemberInfo { trains: !evaluates, evaluates, modalities: vec!["a".into()] };
        self.give(Event::Joined { member: name(i), info });
    }

    fn join_all(&mut self) {
        (0..=self.members).for_each(|i| self.join(i));
    }

    /// Carries out at most `most` commands.
    fn drain(&mut self, most: usize) -> usize {
        let mut done = 0;
        while done < most
            && let Some(command) = self.engine.poll()
        {
            done += 1;
            match command {
                Command::Assign(assignment) => {
                    self.asked.entry(assignment.round).or_default().insert(assignment.member.clone());
                    if !self.open.contains(&assignment) {
                        self.open.push(assignment);
                    }
                }
                Command::Cancel { assignment, .. } => self.open.retain(|a| a.id != assignment),
                Command::Fold(fold) => self.take_fold(fold),
                Command::Publish(published) => self.take_publish(published),
                Command::Report { round, .. } => {
                    let last = self.published.last().map(|p| p.round);
                    self.check(last == Some(round), "a report is of the last published round");
                }
                Command::Pause { .. } => {}
                Command::Finish(outcome) => {
                    let first = self.finished.replace(outcome).is_none();
                    self.check(first, "a run finished twice");
                }
            }
        }
        self.check_tally();
        done
    }

    fn take_fold(&mut self, mut fold: Fold) {
        match self.fault.filter(|_| fold.kind == FoldKind::Round) {
            Some(Fault::StrangerCounted) => fold.answers[0].member = "stranger".parse().unwrap(),
            Some(Fault::CountedTwice) => fold.answers.push(fold.answers[0].clone()),
            Some(Fault::QuorumIgnored) => drop(fold.answers.drain(1..)),
            Some(Fault::AnswerLost) => {
                self.answered.remove(&fold.answers[0].assignment);
            }
            Some(Fault::RoundRepeated | Fault::DigestChanged) | None => {}
        }
        let members: BTreeSet<&MemberName> = fold.answers.iter().map(|a| &a.member).collect();
        let asked = self.asked.get(&fold.round).cloned().unwrap_or_default();
        let good = members.iter().all(|m| asked.contains(*m));
        let distinct = members.len() == fold.answers.len();
        let acknowledged = fold.answers.iter().all(|a| self.answered.contains(&a.assignment));
        let quorum = fold.kind != FoldKind::Round || fold.answers.len() >= self.engine.spec().cohort.quorum();
        self.check(good, "an aggregate holds a member that was not asked");
        self.check(distinct, "an aggregate holds a member twice");
        self.check(acknowledged, "an aggregate holds an answer that was not given");
        self.check(quorum, "an aggregate is below the quorum");
        if !self.folds.iter().any(|f| f.id == fold.id) {
            self.folds.push(fold);
        }
    }

    fn take_publish(&mut self, mut published: Published) {
        match self.fault.filter(|_| published.round > 0) {
            Some(Fault::RoundRepeated) => published.round -= 1,
            Some(Fault::DigestChanged) => {
                let round = published.round - 1;
                published = Published { round, digest: Digest::of(b"other"), ..published };
            }
            Some(Fault::StrangerCounted | Fault::CountedTwice | Fault::QuorumIgnored | Fault::AnswerLost) | None => {}
        }
        // After a restart the journal is replayed and rounds are published again, with the same digests.
        let known = self.published.iter().find(|p| p.round == published.round).cloned();
        if let Some(known) = known {
            self.check(known == published, "a published round changed");
            return;
        }
        let next = self.published.last().map_or(0, |p| p.round + 1);
        self.check(published.round == next, "published rounds are consecutive");
        self.published.push(published);
    }

    fn check_tally(&mut self) {
        let state = self.engine.state();
        let waiting = state.phase.under_pause().collect();
        let open = waiting.map_or(0, |c| c.open.len() as u64);
        let t = state.tally;
        let good = t.given == t.accepted + t.rejected + t.dropped + t.expired + open;
        self.check(good, "an assignment ended in no way or in two");
    }

    /// The answer of a member: its blob depends on what it was asked and nothing else.
    fn answer(assignment: &Assignment) -> UpdateRef {
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
        Digest::of(format!("{:?} {} {:?} {:?} {answers:?}", fold.kind, fold.round, fold.base, fold.inputs).as_bytes())
    }

    fn answer_one(&mut self, at: usize) {
        let assignment = self.open.remove(at);
        self.give(Event::Answered(Self::answer(&assignment)));
    }

    fn fold_one(&mut self, at: usize) {
        let fold = self.folds.remove(at);
        self.give(Event::Folded { fold: fold.id, digest: Self::folded(&fold) });
    }

    /// Does something that the engine waits for, in an order drawn from `rng`.
    fn helpful(&mut self, rng: &mut Stream) {
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
    fn noise(&mut self, rng: &mut Stream) {
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

    fn done(&self) -> bool {
        matches!(self.engine.state().phase, Phase::Done(_))
    }

    /// Runs without noise to the end; false if it does not end.
    fn finish(&mut self, rng: &mut Stream) -> bool {
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
    fn crash(&mut self) {
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
            }
        }
        self.give(Event::Restarted);
        self.join_all();
    }
}

fn undisturbed(spec: &RunSpec) -> Vec<Published> {
    let mut world = World::new(spec.clone());
    assert!(world.finish(&mut stream(0, "order", "", 0)));
    assert_eq!(world.broken, Vec::<String>::new());
    world.published
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    // Should: keep every invariant under noise, and finish once the noise stops. Should not: panic, or lose a run.
    #[test]
    fn invariants_hold_under_noise_and_the_run_ends(seed in any::<u64>(), quorum in 1usize..4, noise in 0usize..300) {
        let mut world = World::new(spec(6, 3, quorum, 3));
        let mut rng = stream(seed, "noise", "", 0);
        for _ in 0..noise {
            world.drain(rng.below(4));
            if world.done() { break; }
            if rng.below(5) == 0 { world.noise(&mut rng) } else { world.helpful(&mut rng) }
        }
        let ended = world.finish(&mut rng);
        prop_assert_eq!(&world.broken, &Vec::<String>::new());
        prop_assert!(ended, "the run hangs in {:?}", world.engine.state().phase);
        prop_assert_eq!(world.published.len(), 4);
    }

    #[test]
    fn the_order_of_answers_does_not_matter(seed in any::<u64>()) {
        let spec = spec(6, 3, 3, 3);
        let mut world = World::new(spec.clone());
        prop_assert!(world.finish(&mut stream(seed, "order", "", 0)));
        prop_assert_eq!(world.published, undisturbed(&spec));
    }

    #[test]
    fn equal_events_give_equal_commands(seed in any::<u64>()) {
        let mut world = World::new(spec(6, 3, 2, 3));
        let mut rng = stream(seed, "noise", "", 0);
        for _ in 0..150 {
            world.drain(usize::MAX);
            if rng.below(5) == 0 { world.noise(&mut rng) } else { world.helpful(&mut rng) }
        }
        let run = |journal: &[(Millis, Event)]| {
            let mut engine = Engine::new(spec(6, 3, 2, 3));
            journal.iter().for_each(|(now, event)| engine.handle(*now, event.clone()).unwrap());
            (std::iter::from_fn(|| engine.poll()).collect::<Vec<_>>(), engine.snapshot())
        };
        prop_assert_eq!(run(&world.journal), run(&world.journal));
    }

    #[test]
    fn a_snapshot_survives_its_json(seed in any::<u64>(), steps in 0usize..200) {
        let mut world = World::new(spec(6, 3, 2, 3));
        let mut rng = stream(seed, "noise", "", 0);
        world.join_all();
        for _ in 0..steps {
            world.drain(usize::MAX);
            if rng.below(5) == 0 { world.noise(&mut rng) } else { world.helpful(&mut rng) }
        }
        let state = world.engine.snapshot();
        let text = serde_json::to_string(&state).unwrap();
        prop_assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
    }
}

// Should: end with the globals of an undisturbed run, wherever the coordinator dies. Should not: ask anybody again for
// an answer that was acknowledged.
#[test]
fn a_crash_at_any_command_boundary_changes_nothing() {
    let spec = spec(5, 3, 3, 3);
    let reference = undisturbed(&spec);
    for boundary in 0.. {
        let mut world = World::new(spec.clone());
        let mut rng = stream(boundary, "order", "", 0);
        world.join_all();
        let mut left = boundary as usize;
        let mut crashed = false;
        while !world.done() {
            let done = world.drain(if crashed { usize::MAX } else { left });
            left -= if crashed { 0 } else { done };
            if left == 0 && !crashed {
                crashed = true;
                let acknowledged = world.answered.clone();
                world.crash();
                world.drain(usize::MAX);
                let again: Vec<_> = world.open.iter().filter(|a| acknowledged.contains(&a.id)).collect();
                assert!(again.is_empty(), "asked again after an acknowledgement: {again:?}");
            }
            world.helpful(&mut rng);
        }
        // the very last commands are carried out too
        world.drain(usize::MAX);
        assert_eq!(world.broken, Vec::<String>::new(), "crash at command {boundary}");
        assert_eq!(world.published, reference, "crash at command {boundary}");
        if !crashed {
            assert!(boundary > 30, "a run has more commands than {boundary}");
            return;
        }
    }
}

#[test]
fn every_planted_fault_is_caught() {
    for fault in FAULTS {
        let mut world = World::new(spec(6, 3, 3, 3));
        world.fault = Some(fault);
        world.finish(&mut stream(1, "order", "", 0));
        assert!(!world.broken.is_empty(), "{fault:?} was not noticed");
    }
}

#[test]
fn a_snapshot_does_not_grow_with_the_rounds() {
    let size = |rounds| {
        let mut world = World::new(spec(4, 3, 3, rounds));
        assert!(world.finish(&mut stream(0, "order", "", 0)));
        serde_json::to_string(&world.engine.snapshot()).unwrap().len()
    };
    // a few more digits in the counters
    assert!(size(30) < size(3) + 40);
}

fn waiting_world() -> World {
    let mut world = World::new(spec(4, 3, 2, 3));
    world.join_all();
    while !matches!(world.engine.state().phase, Phase::Fitting { .. }) {
        world.drain(usize::MAX);
        world.helpful(&mut stream(0, "order", "", 0));
    }
    world.drain(usize::MAX);
    world
}

#[test]
fn a_round_ends_with_the_quorum_at_the_deadline() {
    let mut world = waiting_world();
    assert_eq!(world.open.len(), 3);
    world.answer_one(0);
    world.answer_one(0);
    world.now = world.engine.next_deadline().unwrap();
    world.give(Event::Ticked);
    assert_eq!(world.engine.state().phase.name(), "aggregating");
    assert_eq!(world.engine.state().tally.expired, 1);
}

#[test]
fn below_the_quorum_the_silent_are_asked_again_and_then_the_run_pauses() {
    let mut world = waiting_world();
    world.answer_one(0);
    for _ in 0..2 {
        world.now = world.engine.next_deadline().unwrap();
        world.give(Event::Ticked);
    }
    // the one member outside the cohort stands in
    world.drain(usize::MAX);
    world.now = world.engine.next_deadline().unwrap();
    world.give(Event::Ticked);
    world.now = world.engine.next_deadline().unwrap_or(world.now);
    world.give(Event::Ticked);
    let Phase::Paused { reason, .. } = &world.engine.state().phase else { panic!("{:?}", world.engine.state().phase) };
    assert!(reason.contains("1 usable answers of 4 asked, 2 are needed"), "{reason}");
    world.give(Event::ResumeAsked);
    assert!(world.finish(&mut stream(0, "order", "", 0)));
    assert_eq!(world.broken, Vec::<String>::new());
}

#[test]
fn an_answer_during_a_pause_counts() {
    let mut world = waiting_world();
    world.give(Event::PauseAsked { reason: "maintenance".into() });
    while !world.open.is_empty() {
        world.answer_one(0);
    }
    assert_eq!(world.engine.state().phase.name(), "paused");
    world.give(Event::ResumeAsked);
    assert_eq!(world.engine.state().phase.name(), "aggregating");
}

#[test]
fn a_failure_during_a_pause_counts_and_the_member_is_asked_again_afterwards() {
    let mut world = waiting_world();
    world.give(Event::PauseAsked { reason: "maintenance".into() });
    while !world.open.is_empty() {
        let a = world.open.remove(0);
        assert!(world.give(Event::Failed { member: a.member, assignment: a.id, reason: "no power".into() }));
    }
    world.give(Event::ResumeAsked);
    assert!(world.finish(&mut stream(0, "order", "", 0)));
    assert_eq!(world.broken, Vec::<String>::new());
}

#[test]
fn a_pause_for_want_of_answers_names_the_last_fault() {
    let mut world = waiting_world();
    while !world.open.is_empty() {
        let a = world.open.remove(0);
        world.give(Event::Refused { member: a.member, assignment: a.id, reason: "tensor \"x\" holds NaN".into() });
        world.drain(usize::MAX);
    }
    let Phase::Paused { reason, .. } = &world.engine.state().phase else { panic!("{:?}", world.engine.state().phase) };
    assert!(reason.contains("0 usable answers of 4 asked, 2 are needed; the last fault, of m"), "{reason}");
    assert!(reason.contains("holds NaN"), "{reason}");
}

#[test]
fn an_evaluator_that_is_gone_does_not_stop_the_run() {
    let mut spec = spec(4, 3, 2, 1);
    spec.evaluate.members = 1;
    let mut world = World::new(spec);
    world.join_all();
    let info = MemberInfo { trains: false, evaluates: true, modalities: vec![] };
    world.give(Event::Joined { member: name(50), info });
    while !matches!(world.engine.state().phase, Phase::Evaluating(_)) {
        world.drain(usize::MAX);
        world.helpful(&mut stream(0, "order", "", 0));
    }
    world.drain(usize::MAX);
    let here = world.open.iter().position(|a| a.member != name(50)).unwrap();
    world.answer_one(here);
    world.now = world.engine.next_deadline().unwrap();
    world.give(Event::Ticked);
    assert_eq!(world.engine.state().phase.name(), "completed");
}

#[test]
fn refusals_say_why() {
    let mut world = waiting_world();
    let assignment = world.open[0].clone();
    let other = world.open[1].member.clone();
    let update = World::answer(&assignment);
    let stolen = UpdateRef { member: other.clone(), ..update.clone() };
    assert_eq!(world.engine.handle(0, Event::Answered(stolen)), Err(Reject::NotYours(assignment.id, other)));
    assert_eq!(world.engine.handle(0, Event::Answered(update.clone())), Ok(()));
    assert_eq!(world.engine.handle(0, Event::Answered(update)), Err(Reject::AlreadyAnswered(assignment.id)));
    let stranger: MemberName = "stranger".parse().unwrap();
    assert_eq!(world.engine.handle(0, Event::Left { member: stranger.clone() }), Err(Reject::UnknownMember(stranger)));
    assert_eq!(world.engine.handle(0, Event::ResumeAsked), Err(Reject::NotPaused));
    assert_eq!(world.engine.handle(0, Event::StopAsked), Ok(()));
    assert_eq!(world.engine.handle(0, Event::StopAsked), Err(Reject::Over));
}
