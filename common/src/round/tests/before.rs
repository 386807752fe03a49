//! States as the version before wrote them: without ranks, rests, late work and causes of a pause.

use super::*;

const SURVEYING: &str = r#"
{"phase":{"Surveying":{"work":"survey-features","quorum":1,"most":6,"deadline":29344,
"open":{"20":{"assignment":{"id":20,"member":"m00","work":"survey-features","round":2,
"global":"91e80fde218d2b06ba4e1ef8139028eec5000a929a3a153fcbb0f11475d3baf2","statistics":null},"attempt":0},
"21":{"assignment":{"id":21,"member":"m01","work":"survey-features","round":2,
"global":"91e80fde218d2b06ba4e1ef8139028eec5000a929a3a153fcbb0f11475d3baf2","statistics":null},"attempt":0},
"26":{"assignment":{"id":26,"member":"m02","work":"survey-features","round":2,
"global":"91e80fde218d2b06ba4e1ef8139028eec5000a929a3a153fcbb0f11475d3baf2","statistics":null},"attempt":1}},
"accepted":{"m03":{"member":"m03","assignment":23,
"blob":"8e873f36d8d2a687e592232ec9f52fb38793e5201e5ca838c25f3bb870b61eb2","bytes":1,"examples":1,"weights":{},
"metrics":{}},"m04":{"member":"m04","assignment":24,
"blob":"f5751319e1edfe9374897355882d6646a4cbb1549d74d240f948533eab666faa","bytes":1,"examples":1,"weights":{},
"metrics":{}},"m05":{"member":"m05","assignment":25,
"blob":"b02970251202f87adcace39cf3661b58177cbbd0cb8629a0bc9eb738dbe69fc2","bytes":1,"examples":1,"weights":{},
"metrics":{}}},"asked":["m00","m01","m02","m03","m04","m05"],"last_fault":"m02: x"}},"members":{"m00":{"online":true,
"info":{"trains":true,"evaluates":false,"modalities":[]}},"m01":{"online":true,"info":{"trains":true,"evaluates":false,
"modalities":[]}},"m02":{"online":true,"info":{"trains":true,"evaluates":false,"modalities":[]}},"m03":{"online":true,
"info":{"trains":true,"evaluates":false,"modalities":[]}},"m04":{"online":true,"info":{"trains":true,"evaluates":false,
"modalities":[]}},"m05":{"online":true,"info":{"trains":true,"evaluates":false,"modalities":[]}},"m06":{"online":true,
"info":{"trains":false,"evaluates":true,"modalities":[]}}},"global":{"round":2,
"digest":"91e80fde218d2b06ba4e1ef8139028eec5000a929a3a153fcbb0f11475d3baf2"},
"inputs":"0af6870b93642728c6d2379775b978029d70b48af622aa9acda66c0921e38b41","statistics":null,"tally":{"given":26,
"accepted":12,"rejected":0,"dropped":5,"expired":6},"next_assignment":27,"next_fold":5}
"#;

const PAUSED: &str = r#"
{"phase":{"Paused":{"reason":"x","then":{"Aggregating":{"fold":{"id":4,"kind":"round","round":2,
"base":"62436a4bba4fc1b8fbbde02aef1eb9293cf7a5e46eabf7f2b22660a6027c61dc","inputs":null,"answers":[{"member":"m04",
"assignment":12,"blob":"bd8eb05fbadddb2ce0631abd04d7a41401e01aff48aa983e4d6dac36e186117b","bytes":1,"examples":1,
"weights":{},"metrics":{}}]},"metrics":{}}}}},"members":{"m00":{"online":true,"info":{"trains":true,"evaluates":false,
"modalities":[]}},"m01":{"online":true,"info":{"trains":true,"evaluates":false,"modalities":[]}},"m02":{"online":true,
"info":{"trains":true,"evaluates":false,"modalities":[]}},"m03":{"online":true,"info":{"trains":true,"evaluates":false,
"modalities":[]}},"m04":{"online":true,"info":{"trains":true,"evaluates":false,"modalities":[]}},"m05":{"online":true,
"info":{"trains":true,"evaluates":false,"modalities":[]}},"m06":{"online":true,"info":{"trains":false,"evaluates":true,
"modalities":[]}}},"global":{"round":1,"digest":"62436a4bba4fc1b8fbbde02aef1eb9293cf7a5e46eabf7f2b22660a6027c61dc"},
"inputs":"e32dab81da52bc28cca87439de98955c6fa4131e7a261eb595cb650ff4e47300","statistics":null,"tally":{"given":13,
"accepted":6,"rejected":0,"dropped":4,"expired":3},"next_assignment":14,"next_fold":5}
"#;

/// Its spec had no `rules`.
fn restored(state: &str) -> Engine {
    let text = spec_with(6, 3, 1, 3, "").to_toml();
    let old: String = text.lines().filter(|l| !l.starts_with("rules")).map(|l| format!("{l}\n")).collect();
    Engine::restore(RunSpec::stored(&old).unwrap(), serde_json::from_str(state).unwrap())
}

#[test]
fn a_survey_goes_on() {
    let mut engine = restored(SURVEYING);
    assert_eq!(engine.spec().rules, 1);
    let Phase::Surveying(collect) = &engine.state().phase else { panic!("{:?}", engine.state().phase) };
    assert_eq!((collect.asked.len(), collect.accepted(), collect.patient_until), (6, 3, 0));
    assert_eq!(engine.next_deadline(), Some(29_344));
    let open: Vec<Assignment> = collect.open.values().map(|o| o.assignment.clone()).collect();
    assert_eq!(open.len(), 3);
    for assignment in open {
        engine.handle(20_000, Event::Answered(World::answer(&assignment))).unwrap();
    }
    let Some(Command::Fold(fold)) = engine.poll() else { panic!("{:?}", engine.state().phase) };
    assert_eq!((fold.kind, fold.answers.len(), fold.stale.len()), (FoldKind::Features, 6, 0));
    let member = &engine.state().members[&name(0)];
    assert_eq!((member.failures, member.rests_until, member.since), (0, 0, 0));
}

#[test]
fn a_pause_goes_on_when_somebody_says_so() {
    let mut engine = restored(PAUSED);
    let Phase::Paused { cause, then, .. } = &engine.state().phase else { panic!("{:?}", engine.state().phase) };
    assert_eq!((*cause, then.name()), (PauseCause::Asked, "aggregating"));
    assert_eq!(engine.state().late, Late::default());
    let expected = [&engine.state().global.unwrap().digest, &engine.state().inputs.unwrap()].map(|d| *d);
    let refers = engine.state().references();
    assert!(expected.iter().all(|d| refers.contains(d)) && refers.len() == 3, "global, inputs and the answer: {refers:?}");
    engine.handle(20_000, Event::ResumeAsked).unwrap();
    assert!(matches!(engine.poll(), Some(Command::Fold(fold)) if fold.id == 4));
}
