//! Members that fail again and again.

use super::*;

fn resting(members: usize, size: usize, more: &str) -> RunSpec {
    spec_with(members, size, 1, 9, more)
}

/// Lets one member fail whatever it is asked until the run is in `round`; everybody else answers.
fn run_to(world: &mut World, bad: &MemberName, round: Round) {
    let mut rng = stream(0, "order", "", 0);
    for _ in 0..1_000 {
        world.drain(usize::MAX);
        if matches!(world.engine.state().phase, Phase::Fitting { round: r, .. } if r == round) {
            return;
        }
        match world.work_of(bad) {
            Some(at) => world.fail(at),
            None => world.helpful(&mut rng),
        }
    }
    panic!("the run does not reach round {round}");
}

fn cohort(world: &World) -> BTreeSet<MemberName> {
    world.open.iter().map(|a| a.member.clone()).collect()
}

#[test]
fn a_member_that_fails_again_and_again_rests_longer_each_time() {
    let mut world = World::new(spec_with(3, 2, 1, 9, ", strikes = 2"));
    world.join_all();
    let bad = name(0);
    run_to(&mut world, &bad, 9);
    let failures: Vec<u32> = world.rests.iter().map(|(_, failures, _)| *failures).collect();
    assert_eq!(failures, (2..2 + failures.len() as u32).collect::<Vec<_>>(), "each further failure is told");
    assert!(world.rests.iter().all(|(member, ..)| *member == bad));
    // the survey of inputs is round 0: asked twice, rests in round 1
    assert_eq!(world.rests[0].2, 2);
    assert_eq!(world.broken, Vec::<String>::new());
    assert!(world.rests.len() >= 3, "{:?}", world.rests);
}

#[test]
fn a_rest_doubles_with_every_failure_up_to_64_rounds() {
    let mut engine = Engine::new(spec_with(3, 2, 1, 9, ", strikes = 2"));
    let info = MemberInfo { trains: true, evaluates: false, modalities: vec![] };
    engine.handle(0, Event::Joined { member: name(0), info }).unwrap();
    let untils: Vec<Round> = (0..10)
        .map(|_| {
            engine.strike(&name(0));
            engine.state().members[&name(0)].rests_until
        })
        .collect();
    assert_eq!(untils, [0, 2, 3, 5, 9, 17, 33, 65, 65, 65]);
    engine.trust(&name(0));
    let member = &engine.state().members[&name(0)];
    assert_eq!((member.failures, member.rests_until), (0, 0));
}

#[test]
fn who_rests_is_not_drawn() {
    let mut world = World::fitting(resting(4, 3, ", strikes = 1"));
    let bad = world.open[0].member.clone();
    world.fail(0);
    world.drain(usize::MAX);
    let again = world.work_of(&bad).expect("work that failed is given again");
    world.fail(again);
    assert_eq!(world.member(&bad).rests_until, 1 + 1 + 2);
    for round in 2..4 {
        run_to(&mut world, &bad, round);
        assert!(!cohort(&world).contains(&bad), "round {round}");
        assert_eq!(world.open.len(), 3);
    }
    // an answer is all it takes to be trusted again
    run_to(&mut world, &"nobody".parse().unwrap(), 9);
    assert_eq!(world.member(&bad).failures, 0);
    assert_eq!(world.broken, Vec::<String>::new());
}

#[test]
fn whose_rest_ends_soonest_comes_back_when_too_few_are_left() {
    let spec = resting(3, 2, "");
    let mut state = World::fitting(spec.clone()).engine.snapshot();
    for (i, until) in [(0, 9), (1, 5), (2, 5)] {
        state.members.get_mut(&name(i)).unwrap().rests_until = until;
    }
    let engine = Engine::restore(spec, state);
    let pool = || vec![name(0), name(1), name(2)];
    assert_eq!(engine.awake(pool(), 2, 1), [name(1), name(2)]);
    assert_eq!(engine.awake(pool(), 1, 4), [name(1)], "of equal ones the first by name");
    assert_eq!(engine.awake(pool(), 1, 5), [name(1), name(2)]);
    assert_eq!(engine.awake(pool(), 9, 1), pool());
}

#[test]
fn a_survey_asks_those_that_rest_if_it_starves_without_them() {
    let mut world = World::fitting(spec_with(3, 2, 2, 2, ", strikes = 1"));
    let bad = world.open[0].member.clone();
    run_to(&mut world, &"nobody".parse().unwrap(), 2);
    world.until("aggregating");
    let mut state = world.engine.snapshot();
    state.members.get_mut(&bad).unwrap().rests_until = 9;
    world.engine = Engine::restore(world.engine.spec().clone(), state);
    world.until("surveying");
    assert!(!cohort(&world).contains(&bad));
    while world.phase() == "surveying" && world.work_of(&bad).is_none() {
        world.fail(0);
    }
    assert!(world.work_of(&bad).is_some(), "{:?}", world.engine.state().phase);
}

#[test]
fn an_expired_assignment_is_a_failure_and_a_cancelled_one_is_not() {
    let mut world = World::fitting(spec_with(4, 3, 2, 3, ", most = 2"));
    let cohort: Vec<MemberName> = world.open.iter().map(|a| a.member.clone()).collect();
    world.answer_one(0);
    world.answer_one(0);
    assert_eq!((world.phase(), world.member(&cohort[2]).failures), ("aggregating", 0));
    let mut world = World::fitting(spec(4, 3, 2, 3));
    world.answer_one(0);
    world.answer_one(0);
    world.tick();
    assert_eq!((world.phase(), world.member(&cohort[2]).failures), ("aggregating", 1));
}

#[test]
fn nobody_rests_under_rules_1_or_without_strikes() {
    for (rules, more) in [(1, ", strikes = 1"), (2, ", strikes = 0")] {
        let mut spec = resting(4, 3, more);
        spec.rules = rules;
        let mut world = World::fitting(spec);
        let bad = world.open[0].member.clone();
        world.fail(0);
        assert_eq!((world.member(&bad).rests_until, world.rests.len()), (0, 0));
        assert_eq!(world.member(&bad).failures, rules - 1, "rules 1 do not even count");
    }
}
