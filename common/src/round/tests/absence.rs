//! Members that are offline, and pauses that end when somebody joins.

use super::*;

fn absent(more: &str) -> RunSpec {
    spec_with(5, 3, 3, 3, &format!(", absence = \"4s\"{more}"))
}

#[test]
fn a_member_that_is_offline_too_long_is_replaced() {
    let mut world = World::fitting(absent(""));
    let gone = world.open[0].member.clone();
    world.now += 1_000;
    world.leave(&gone);
    world.now += 1_000;
    world.leave(&gone);
    assert_eq!(world.engine.next_deadline(), Some(world.now + 3_000), "it is offline since it left first");
    world.tick();
    assert_eq!((world.work_of(&gone), world.open.len(), world.cancelled.len()), (None, 3, 1));
    let state = world.engine.state();
    assert_eq!((state.tally.dropped, state.members[&gone].failures), (1, 0), "being away is no failure");
    assert!(world.finish(&mut stream(0, "order", "", 0)));
    assert_eq!(world.broken, Vec::<String>::new());
}

#[test]
fn a_member_that_is_back_in_time_keeps_its_work() {
    let mut world = World::fitting(absent(""));
    let there = world.open[0].member.clone();
    world.leave(&there);
    world.now += 3_999;
    world.give(Event::Ticked);
    let info = world.member(&there).info.clone();
    world.give(Event::Joined { member: there.clone(), info });
    world.now += 2_000;
    world.give(Event::Ticked);
    world.drain(usize::MAX);
    assert_eq!((world.cancelled.len(), world.work_of(&there)), (0, Some(0)));
}

#[test]
fn without_absence_the_deadline_is_waited_for() {
    let mut world = World::fitting(spec(5, 3, 3, 3));
    let (gone, deadline) = (world.open[0].member.clone(), world.now + 10_000);
    world.leave(&gone);
    assert_eq!(world.engine.next_deadline(), Some(deadline));
    world.now = deadline - 1;
    world.give(Event::Ticked);
    assert_eq!(world.engine.state().tally.dropped, 0);
}

#[test]
fn nobody_is_asked_instead_while_enough_can_answer() {
    let mut world = World::fitting(spec_with(6, 5, 3, 3, ", most = 4, absence = \"4s\""));
    let cohort: Vec<MemberName> = world.open.iter().map(|a| a.member.clone()).collect();
    world.leave(&cohort[4]);
    world.tick();
    assert_eq!((world.open.len(), world.engine.state().tally.dropped), (4, 1));
    world.leave(&cohort[3]);
    world.tick();
    assert_eq!(world.open.len(), 4, "the sixth member stands in");
    assert_eq!(world.engine.state().tally.given, 6 + 1 + 5 + 1, "survey, initialiser, cohort, stand-in");
}

#[test]
fn with_nobody_left_the_phase_goes_on_with_the_rest_or_pauses_until_somebody_is_back() {
    let mut world = World::fitting(spec_with(3, 3, 2, 3, ", absence = \"4s\""));
    let cohort: Vec<MemberName> = world.open.iter().map(|a| a.member.clone()).collect();
    world.leave(&cohort[0]);
    world.tick();
    assert_eq!((world.phase(), world.open.len()), ("fitting", 2));
    world.answer_one(0);
    world.leave(&cohort[2]);
    world.tick();
    assert_eq!(world.phase(), "paused");
    assert!(world.pauses[0].contains("1 usable answers of 3 asked, 2 are needed"), "{:?}", world.pauses);
    assert!(world.pauses[0].contains(&format!("{}: offline for longer than cohort.absence", cohort[2])), "{:?}", world.pauses);
    world.join(3);
    assert_eq!(world.phase(), "paused", "the evaluator cannot train");
    let info = world.member(&cohort[2]).info.clone();
    world.give(Event::Joined { member: cohort[2].clone(), info });
    world.drain(usize::MAX);
    assert_eq!(world.phase(), "fitting");
    world.tick();
    assert_eq!(world.work_of(&cohort[0]), None, "still away");
    let at = world.work_of(&cohort[2]).unwrap();
    world.answer_one(at);
    assert_eq!(world.phase(), "aggregating");
    assert_eq!(world.broken, Vec::<String>::new());
}

#[test]
fn after_a_restart_everybody_has_time_to_come_back() {
    let mut world = World::fitting(absent(""));
    world.now += 3_000;
    world.give(Event::Restarted);
    assert_eq!(world.engine.next_deadline(), Some(world.now + 4_000));
}

#[test]
fn a_survey_goes_on_with_the_quorum() {
    let mut world = World::new(spec_with(4, 3, 2, 3, ", absence = \"4s\""));
    world.join_all();
    world.drain(usize::MAX);
    assert_eq!((world.phase(), world.open.len()), ("surveying", 4));
    let away: Vec<MemberName> = world.open[..2].iter().map(|a| a.member.clone()).collect();
    away.iter().for_each(|m| world.leave(m));
    world.tick();
    world.answer_one(0);
    world.answer_one(0);
    assert_eq!(world.phase(), "aggregating");
}

/// Everybody in the cohort has failed for good, and nobody can stand in.
fn starved(rules: u32) -> World {
    let mut spec = spec(3, 3, 2, 3);
    spec.rules = rules;
    let mut world = World::fitting(spec);
    for _ in 0..6 {
        world.fail(0);
    }
    assert_eq!(world.phase(), "paused");
    world
}

#[test]
fn a_pause_for_want_of_answers_ends_when_somebody_who_owes_one_joins() {
    let mut world = starved(2);
    world.join(0);
    world.drain(usize::MAX);
    assert_eq!((world.phase(), world.open.len()), ("fitting", 3));
    world.fail(0);
    world.fail(0);
    assert_eq!(world.pauses.len(), 1);
    assert!(world.finish(&mut stream(0, "order", "", 0)));
    assert_eq!(world.broken, Vec::<String>::new());
}

#[test]
fn a_pause_for_want_of_answers_ends_when_somebody_new_can_stand_in() {
    let mut world = starved(2);
    let info = MemberInfo { trains: true, evaluates: false, modalities: vec![] };
    world.give(Event::Joined { member: name(9), info });
    assert_eq!(world.phase(), "fitting");
}

#[test]
fn under_rules_1_somebody_must_end_the_pause() {
    let mut world = starved(1);
    world.join(0);
    assert_eq!(world.phase(), "paused");
    assert!(!world.give(Event::PauseAsked { reason: "x".into() }));
    assert!(world.give(Event::ResumeAsked));
    assert_eq!(world.phase(), "fitting");
}

#[test]
fn a_pause_that_was_asked_for_does_not_end_by_itself() {
    let mut world = starved(2);
    assert!(world.give(Event::PauseAsked { reason: "maintenance".into() }));
    assert!(!world.give(Event::PauseAsked { reason: "again".into() }));
    world.drain(usize::MAX);
    assert_eq!(world.pauses.last().unwrap(), "maintenance");
    world.join(0);
    assert_eq!(world.phase(), "paused");
}
