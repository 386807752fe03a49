//! Answers that come after their round has closed.

use super::*;

/// Three are asked, two are used, the third is late.
fn late(more: &str) -> RunSpec {
    spec_with(4, 3, 2, 5, &format!(", most = 2, late = \"next-round\"{more}"))
}

/// In the second round; the third of the first is late.
fn second_round(more: &str) -> (World, Assignment) {
    let mut world = World::fitting(late(more));
    world.answer_one(0);
    world.answer_one(0);
    world.drain(usize::MAX);
    assert_eq!((world.phase(), world.open.len(), world.cancelled.len()), ("aggregating", 1, 0));
    let slow = world.open[0].clone();
    world.fold_one(0);
    world.drain(usize::MAX);
    assert_eq!((world.phase(), world.open.len()), ("fitting", 4));
    (world, slow)
}

/// Two members of the cohort that are not `but` answer.
fn answer_two(world: &mut World, but: &MemberName) {
    let round = world.engine.state().global.unwrap().round + 1;
    for _ in 0..2 {
        let at = world.open.iter().position(|a| a.round == round && a.member != *but).unwrap();
        world.answer_one(at);
        world.drain(usize::MAX);
    }
}

/// Two answers of the cohort end the round.
fn close(world: &mut World, but: &MemberName) -> Fold {
    answer_two(world, but);
    world.folds[0].clone()
}

fn answer(world: &mut World, assignment: &Assignment) {
    let at = world.open.iter().position(|a| a.id == assignment.id).unwrap();
    world.answer_one(at);
    world.drain(usize::MAX);
}

fn in_fold(fold: &Fold, assignment: &Assignment) -> bool {
    fold.answers.iter().any(|a| a.assignment == assignment.id)
}

#[test]
fn a_late_answer_counts_in_the_next_round_and_not_for_its_quorum() {
    let (mut world, slow) = second_round("");
    assert_eq!(world.engine.state().late.waiting().collect::<Vec<_>>(), [&slow.member]);
    answer(&mut world, &slow);
    assert_eq!((world.phase(), world.engine.state().late.answered()), ("fitting", 1));
    let fold = close(&mut world, &slow.member);
    assert!(in_fold(&fold, &slow));
    assert_eq!((fold.answers.len(), &fold.stale), (3, &[(slow.member.clone(), 1)].into()));
    assert!(fold.answers.is_sorted_by_key(|a| &a.member));
    world.fold_one(0);
    world.drain(usize::MAX);
    assert!(world.published.last().unwrap().members.contains(&slow.member));
    assert!(world.finish(&mut stream(0, "order", "", 0)));
    assert_eq!(world.broken, Vec::<String>::new());
}

#[test]
fn an_answer_between_two_rounds_counts_in_the_next() {
    let mut world = World::fitting(late(""));
    world.answer_one(0);
    world.answer_one(0);
    world.drain(usize::MAX);
    let slow = world.open[0].clone();
    answer(&mut world, &slow);
    assert_eq!((world.phase(), world.engine.state().late.answered()), ("aggregating", 1));
    assert!(!in_fold(&world.folds[0], &slow));
    let again = Event::Answered(World::answer(&slow));
    assert_eq!(world.engine.handle(world.now, again), Err(Reject::AlreadyAnswered(slow.id)));
    world.fold_one(0);
    world.drain(usize::MAX);
    let fold = close(&mut world, &slow.member);
    assert_eq!(fold.stale.get(&slow.member), Some(&1));
}

#[test]
fn a_fresh_answer_takes_the_place_of_a_late_one() {
    let mut found = false;
    for seed in 0..20 {
        let mut spec = late("");
        spec.seed = seed;
        let mut world = World::fitting(spec);
        world.answer_one(0);
        world.answer_one(0);
        world.drain(usize::MAX);
        let slow = world.open[0].clone();
        world.fold_one(0);
        world.drain(usize::MAX);
        let Some(fresh) = world.open.iter().find(|a| a.round == 2 && a.member == slow.member).cloned() else { continue };
        found = true;
        answer(&mut world, &slow);
        answer(&mut world, &fresh);
        let dropped = world.engine.state().tally.dropped;
        let other = world.open.iter().find(|a| a.round == 2).cloned().unwrap();
        answer(&mut world, &other);
        let fold = &world.folds[0];
        assert!(in_fold(fold, &fresh) && !in_fold(fold, &slow) && fold.stale.is_empty());
        assert_eq!(world.engine.state().tally.dropped, dropped + 1, "its late answer");
        assert_eq!(world.broken, Vec::<String>::new());
    }
    assert!(found);
}

#[test]
fn late_work_is_given_up_when_the_next_round_closes() {
    let (mut world, slow) = second_round("");
    let fold = close(&mut world, &slow.member);
    assert!(fold.stale.is_empty());
    assert!(world.cancelled.contains(&slow.id));
    let refused = world.engine.handle(world.now, Event::Answered(World::answer(&slow)));
    assert_eq!(refused, Err(Reject::NotOpen(slow.id)));
    let state = world.engine.state();
    assert_eq!((state.tally.dropped, state.tally.expired, state.late.round), (1, 0, 2));
    assert_eq!(world.member(&slow.member).failures, 0, "nobody fails by being slower than others");
}

#[test]
fn at_the_deadline_the_rest_is_late_and_has_expired_when_it_is_given_up() {
    let mut world = World::fitting(spec_with(4, 3, 2, 5, ", late = \"next-round\""));
    world.answer_one(0);
    world.answer_one(0);
    world.tick();
    let slow = world.open[0].clone();
    assert_eq!((world.phase(), world.engine.state().tally.expired), ("aggregating", 0));
    world.fold_one(0);
    world.drain(usize::MAX);
    answer_two(&mut world, &slow.member);
    world.tick();
    assert_eq!((world.phase(), world.engine.state().tally.expired), ("aggregating", 1));
    assert_eq!(world.member(&slow.member).failures, 1);
    assert_eq!(world.broken, Vec::<String>::new());
}

#[test]
fn a_failure_ends_late_work_for_good() {
    let (mut world, slow) = second_round(", strikes = 1");
    let (given, at) = (world.engine.state().tally.given, world.open.iter().position(|a| a.id == slow.id).unwrap());
    world.fail(at);
    let state = world.engine.state();
    assert_eq!((state.tally.given, state.late.open.len()), (given, 0), "not given again");
    assert_eq!(world.rests, [(slow.member.clone(), 1, 2 + 1 + 1)]);
    assert_eq!(world.broken, Vec::<String>::new());
}

#[test]
fn who_joins_again_is_given_its_late_work_again() {
    let (mut world, slow) = second_round("");
    world.open.clear();
    let info = world.member(&slow.member).info.clone();
    world.give(Event::Joined { member: slow.member.clone(), info });
    world.drain(usize::MAX);
    assert!(world.open.contains(&slow));
}

#[test]
fn nothing_is_late_after_the_last_round_and_after_a_stop() {
    let mut world = World::fitting(spec_with(4, 3, 2, 1, ", most = 2, late = \"next-round\""));
    world.answer_one(0);
    world.answer_one(0);
    world.drain(usize::MAX);
    assert_eq!((world.cancelled.len(), world.engine.state().late.open.len()), (1, 0));
    let (mut world, slow) = second_round("");
    world.give(Event::StopAsked);
    world.drain(usize::MAX);
    assert!(world.cancelled.contains(&slow.id));
    assert_eq!(world.engine.state().late, Late::default());
    assert_eq!(world.broken, Vec::<String>::new());
}

#[test]
fn a_pause_keeps_late_work_and_its_answers() {
    let (mut world, slow) = second_round("");
    world.give(Event::PauseAsked { reason: "x".into() });
    answer(&mut world, &slow);
    let blob = World::answer(&slow).blob.unwrap();
    assert!(world.engine.state().references().contains(&blob));
    world.give(Event::ResumeAsked);
    assert!(in_fold(&close(&mut world, &slow.member), &slow));
}

#[test]
fn what_late_work_needs_is_referred_to() {
    let (mut world, slow) = second_round("");
    let old = slow.global.unwrap();
    assert_ne!(world.engine.state().global.unwrap().digest, old);
    assert!(world.engine.state().references().contains(&old));
    close(&mut world, &slow.member);
    let now: Vec<Digest> = world.engine.state().late.open.values().filter_map(|o| o.assignment.global).collect();
    assert!(!now.is_empty() && !now.contains(&old));
    assert!(!world.engine.state().references().contains(&old));
}

#[test]
fn a_restart_gives_late_work_its_time_again() {
    let (mut world, slow) = second_round("");
    world.now += 9_000;
    world.give(Event::Restarted);
    world.join_all();
    world.drain(usize::MAX);
    world.now += 9_000;
    close(&mut world, &slow.member);
    assert!(world.cancelled.contains(&slow.id));
    assert_eq!((world.engine.state().tally.expired, world.member(&slow.member).failures), (0, 0));
    assert_eq!(world.broken, Vec::<String>::new());
}
