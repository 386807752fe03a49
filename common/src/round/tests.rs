//! Properties of the engine.
//!
//! Events are drawn from what the engine has asked for, with noise in between: uniformly random events would almost
//! never reach the end of a run, and the checks there would never be made. [`world::Fault`] plants mistakes between the
//! engine and the checks, so that a test shows that each check can fail.

mod absence;
mod before;
mod fork;
mod late;
mod patience;
mod rest;
mod world;

use super::*;
use crate::id::Digest;
use crate::rng::stream;
use proptest::prelude::*;
use proptest::strategy::Strategy;
use std::collections::BTreeSet;
use world::{FAULTS, Fault, World, name, spec, spec_with, undisturbed};

/// Keys of `[cohort]` that are not there by default, as far as they go with any quorum up to 3.
fn keys() -> impl Strategy<Value = String> {
    let key = |texts: &'static [&'static str]| prop::sample::select(texts);
    let late = key(&["", ", late = \"next-round\""]);
    let absence = key(&["", ", absence = \"4s\""]);
    let strikes = key(&["", ", strikes = 1", ", strikes = 0"]);
    let patience = key(&["", ", patience = \"3s\""]);
    (late, absence, strikes, patience).prop_map(|(a, b, c, d)| format!("{a}{b}{c}{d}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    // Should: keep every invariant under noise, and finish once the noise stops. Should not: panic, or lose a run.
    #[test]
    fn invariants_hold_under_noise_and_the_run_ends(
        seed in any::<u64>(), quorum in 1usize..4, noise in 0usize..300, more in keys(), rules in 1u32..3,
    ) {
        let mut spec = spec_with(6, 3, quorum, 3, &more);
        spec.rules = rules;
        let mut world = World::new(spec);
        let mut rng = stream(seed, "noise", "", 0);
        for _ in 0..noise {
            world.drain(rng.below(4));
            if world.done() { break; }
            match rng.below(50) {
                0 => world.crash(),
                1..10 => world.noise(&mut rng),
                _ => world.helpful(&mut rng),
            }
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
        let over = matches!(fault, Fault::MoreThanMost | Fault::LateTwice | Fault::LateAsFresh);
        let late = || spec_with(6, 3, 2, 8, ", most = 2, late = \"next-round\"");
        let mut world = World::new(if over { late() } else { spec(6, 3, 3, 3) });
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
    World::fitting(spec(4, 3, 2, 3))
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
