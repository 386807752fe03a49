//! More members are asked than are used.

use super::*;

/// Six are asked, four are used.
fn over(patience: &str) -> RunSpec {
    spec_with(6, 6, 4, 3, &format!(", most = 4, patience = \"{patience}\""))
}

/// Who is asked in the first round, by rank.
fn ranked(world: &World) -> Vec<MemberName> {
    world.open.iter().map(|a| a.member.clone()).collect()
}

fn answer(world: &mut World, member: &MemberName) {
    let at = world.work_of(member).unwrap();
    world.answer_one(at);
    world.drain(usize::MAX);
}

fn used(world: &World) -> BTreeSet<MemberName> {
    world.folds[0].answers.iter().map(|a| a.member.clone()).collect()
}

fn names(members: &[MemberName]) -> BTreeSet<MemberName> {
    members.iter().cloned().collect()
}

proptest! {
    #[test]
    fn with_enough_patience_the_order_of_answers_does_not_matter(seed in any::<u64>()) {
        let mut world = World::new(over("9s"));
        prop_assert!(world.finish(&mut stream(seed, "order", "", 0)));
        prop_assert_eq!(&world.broken, &Vec::<String>::new());
        prop_assert_eq!(world.published, undisturbed(&over("9s")));
    }
}

#[test]
fn without_patience_the_first_answers_are_used() {
    let mut world = World::fitting(over("0s"));
    let cohort = ranked(&world);
    cohort[2..].iter().rev().for_each(|m| answer(&mut world, m));
    assert_eq!(world.phase(), "aggregating");
    assert_eq!((used(&world), world.cancelled.len()), (names(&cohort[2..]), 2));
}

#[test]
fn patience_waits_for_those_that_were_drawn_first_and_no_longer() {
    let mut world = World::fitting(over("5s"));
    let (cohort, start) = (ranked(&world), world.now);
    assert_eq!(world.engine.next_deadline(), Some(start + 10_000));
    cohort[1..].iter().rev().for_each(|m| answer(&mut world, m));
    assert_eq!((world.phase(), world.engine.next_deadline()), ("fitting", Some(start + 5_000)));
    world.now = start + 4_999;
    world.give(Event::Ticked);
    assert_eq!(world.phase(), "fitting");
    world.tick();
    assert_eq!(used(&world), names(&cohort[1..5]), "the lowest ranks of those that are in");
    let tally = world.engine.state().tally;
    assert_eq!(tally.dropped, 2, "one answer too many, one cancelled");
    assert!(world.finish(&mut stream(0, "order", "", 0)));
    assert_eq!(world.broken, Vec::<String>::new());
}

#[test]
fn those_that_were_drawn_first_end_the_round_at_once() {
    let mut world = World::fitting(over("5s"));
    let cohort = ranked(&world);
    cohort[..4].iter().for_each(|m| answer(&mut world, m));
    assert_eq!((used(&world), world.cancelled.len()), (names(&cohort[..4]), 2));
}

#[test]
fn patience_does_not_wait_for_somebody_who_cannot_answer() {
    let mut world = World::fitting(over("5s"));
    let cohort = ranked(&world);
    let at = world.work_of(&cohort[1]).unwrap();
    let refused = world.open.remove(at);
    cohort[2..5].iter().for_each(|m| answer(&mut world, m));
    answer(&mut world, &cohort[0]);
    assert_eq!(world.phase(), "fitting", "the second could still answer");
    world.give(Event::Refused { member: refused.member, assignment: refused.id, reason: "x".into() });
    world.drain(usize::MAX);
    assert_eq!(used(&world), names(&[&cohort[..1], &cohort[2..5]].concat()));
}

#[test]
fn a_restart_gives_patience_anew() {
    let mut world = World::fitting(over("5s"));
    let cohort = ranked(&world);
    cohort[2..].iter().for_each(|m| answer(&mut world, m));
    world.now += 4_000;
    world.give(Event::Restarted);
    assert_eq!(world.engine.next_deadline(), Some(world.now + 5_000));
}

#[test]
fn after_patience_the_answer_that_makes_enough_ends_the_round() {
    let mut world = World::fitting(over("5s"));
    let cohort = ranked(&world);
    cohort[3..].iter().for_each(|m| answer(&mut world, m));
    world.now += 6_000;
    world.give(Event::Ticked);
    assert_eq!(world.engine.next_deadline(), Some(world.now + 4_000), "patience is over, the deadline is not");
    answer(&mut world, &cohort[2]);
    assert_eq!(used(&world), names(&cohort[2..]));
}
