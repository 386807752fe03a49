//! Runs that start from another run's global, and what a run refers to.

use super::*;

fn forked(spec: RunSpec, round: Round, global: Digest) -> World {
    let mut world = World::new(spec);
    assert!(world.give(Event::Forked { from: "other".into(), round, global }));
    world
}

#[test]
fn a_fork_publishes_what_the_original_publishes() {
    let spec = spec_with(6, 4, 3, 5, ", most = 3, patience = \"9s\"");
    let original = undisturbed(&spec);
    for round in 0..5 {
        let mut world = forked(spec.clone(), round, original[round as usize].digest);
        assert!(world.finish(&mut stream(u64::from(round), "order", "", 0)));
        assert_eq!(world.broken, Vec::<String>::new());
        let first = Published { members: Vec::new(), metrics: Metrics::default(), ..original[round as usize].clone() };
        assert_eq!(world.published[0], first);
        assert_eq!(world.published[1..], original[round as usize + 1..], "forked at {round}");
        let works: Vec<String> = world.works().into_iter().collect();
        assert_eq!(works, ["Evaluate", "Fit", "SurveyFeatures"]);
    }
}

#[test]
fn only_a_new_run_with_rounds_left_can_be_a_fork() {
    let global = Digest::of(b"g");
    let event = |round| Event::Forked { from: "other".into(), round, global };
    let mut world = World::new(spec(3, 3, 3, 3));
    assert_eq!(world.engine.handle(0, event(3)), Err(Reject::ForkedTooLate { round: 3, rounds: 3 }));
    world.join(0);
    assert_eq!(world.engine.handle(0, event(1)), Err(Reject::Begun));
    let mut world = forked(spec(3, 3, 3, 3), 1, global);
    assert_eq!(world.engine.handle(0, event(1)), Err(Reject::Begun));
    assert_eq!(world.engine.state().references(), [global].into());
    assert_eq!(world.phase(), "waiting");
    world.join_all();
    assert_eq!(world.phase(), "fitting");
}

/// Should: refer at every moment to every blob that a later command names, unless it is new by then.
#[test]
fn everything_that_is_needed_later_is_referred_to() {
    for (seed, more) in [(0, ""), (1, ", most = 2, late = \"next-round\""), (2, ", most = 2, patience = \"3s\"")] {
        let mut world = World::new(spec_with(6, 3, 2, 6, more));
        let mut rng = stream(seed, "order", "", 0);
        world.join_all();
        let mut seen: BTreeSet<Digest> = BTreeSet::new();
        let mut folds = 0;
        while !world.done() {
            let before = world.engine.state().references();
            seen.extend(&before);
            let known = world.folds.len();
            world.helpful(&mut rng);
            // what the last event brought is not from before
            let brought = match world.journal.last() {
                Some((_, Event::Answered(update))) => update.blob,
                Some((_, Event::Folded { digest, .. })) => Some(*digest),
                Some(_) | None => None,
            };
            world.drain(usize::MAX);
            for fold in world.folds.iter().skip(known.saturating_sub(1)) {
                folds += 1;
                let named = fold.answers.iter().filter_map(|a| a.blob).chain(fold.base).chain(fold.inputs);
                let lost: Vec<Digest> =
                    named.filter(|d| !before.contains(d) && Some(*d) != brought && seen.contains(d)).collect();
                assert_eq!(lost, [], "{more}: {fold:?}");
            }
            let paused = world.engine.state().references();
            assert!(world.give(Event::PauseAsked { reason: "x".into() }) || world.done());
            assert!(world.done() || world.engine.state().references() == paused, "a pause forgets something");
            assert!(world.done() || world.give(Event::ResumeAsked));
            world.drain(usize::MAX);
        }
        assert!(folds > 6, "{folds}");
        assert_eq!(world.broken, Vec::<String>::new());
    }
}
