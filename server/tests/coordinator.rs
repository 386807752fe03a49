//! The whole coordinator with scripted agents over an in-memory duplex.

#![allow(clippy::unwrap_used)] // a test stops where something is not as it should be

mod support;

use std::sync::Arc;
use support::{Act, Agent, Running, Script, good, member, published, spec, within};
use tessera_common::id::Digest;
use tessera_common::param::{Limits, ParamSet};
use tessera_common::round::Work;
use tessera_server::{BadEnd, Config, Happened};
use tokio_stream::StreamExt;

async fn run_with(agents: &[Agent], spec: &str) -> Vec<Happened> {
    let server = Running::start(Config::in_memory()).await;
    for agent in agents {
        server.join(agent).await;
    }
    let history = server.complete(spec).await;
    server.stop().await;
    history
}

/// The final global of a run of three rounds in which everything goes well.
async fn undisturbed() -> Digest {
    *published(&run_with(&[Agent::of_four(good())], &spec(3)).await).last().unwrap()
}

/// Member b does `act` in round 2, and well otherwise.
fn once(act: Act) -> Script {
    Arc::new(move |a| if a.work == Work::Fit && a.round == 2 && a.member.as_str() == "b" { act } else { Act::Good })
}

#[tokio::test]
async fn a_run_of_three_rounds_completes() {
    let server = Running::start(Config::in_memory()).await;
    let agent = Agent::of_four(good());
    server.join(&agent).await;
    let history = server.complete(&spec(3)).await;

    // the initial global, three rounds, evaluations after rounds 2 and 3
    assert_eq!(published(&history).len(), 4, "{history:#?}");
    let evaluated: Vec<_> = history
        .iter()
        .filter_map(
            |h| if let Happened::Evaluated { round, metrics, .. } = h { Some((*round, metrics.value("loss"))) } else { None },
        )
        .collect();
    assert_eq!(evaluated.iter().map(|(r, _)| *r).collect::<Vec<_>>(), [2, 3]);
    assert!(evaluated.iter().all(|(_, loss)| loss.is_some()));
    assert!(matches!(history.last(), Some(Happened::Finished(_))));
    let Some(Happened::Published { published: last, bytes_up, bytes_down }) =
        history.iter().rfind(|h| matches!(h, Happened::Published { .. }))
    else {
        panic!("{history:#?}")
    };
    assert_eq!(last.members.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
    assert!(*bytes_up > 0 && *bytes_down > 0);

    // a global holds parameters, declared widths, library and standardisation
    let global = ParamSet::from_bytes(&server.handle.blob(&last.digest).await.unwrap(), &Limits::default()).unwrap();
    for name in ["param/head/w", "width/left", "proto/right/mean", "input/left/std"] {
        assert!(global.get(name).is_some(), "{name} in {:?}", global.iter().map(|(n, _)| n).collect::<Vec<_>>());
    }

    let runs = server.handle.runs().await.unwrap();
    assert_eq!((runs[0].phase.as_str(), runs[0].round, runs[0].global), ("completed", 3, Some(last.digest)));
    let detail = server.handle.show(&runs[0].run).await.unwrap();
    assert_eq!(detail.evaluation.unwrap().0, 3);
    assert_eq!((detail.tally.given, detail.tally.rejected, detail.tally.dropped), (detail.tally.accepted, 0, 0));
    let seen = agent.seen();
    assert_eq!(seen.opened.len(), 1, "a stream is told of a run once");
    assert_eq!(seen.closed.len(), 1);
    assert_eq!(seen.verdicts.len() as u64, detail.tally.accepted);
    assert!(seen.verdicts.iter().all(|v| v.accepted));
    server.stop().await;
}

#[tokio::test]
async fn answers_that_cannot_be_used_are_refused_and_the_round_goes_on_with_the_others() {
    let expected = *published(&run_with(&[Agent::of_four(once(Act::Fail))], &spec(3)).await).last().unwrap();
    assert_ne!(expected, undisturbed().await, "member b matters");
    for (act, reason) in [
        (Act::NotFinite, "tensor \"param/head/w\" holds NaN at element 4"),
        (Act::WrongShape, "tensor \"param/head/w\" is F32 [2, 6], expected F32 [6, 2]"),
        (Act::WrongName, "parameter \"param/head/w\" is missing"),
        (Act::Extra, "tensor \"secret/data\" is not part of this run's model"),
        (Act::NotCanonical, "not in canonical form"),
        (Act::Truncated, "is not here, or not complete"),
        (Act::WrongDigest, "is not here, or not complete"),
        (Act::WrongLength, "its tensors have"),
        (Act::BadMetrics, "metric \"loss\" is not finite"),
        (Act::NoTensors, "the answer has no tensors"),
    ] {
        let agent = Agent::of_four(once(act));
        let history = run_with(std::slice::from_ref(&agent), &spec(3)).await;
        let refused: Vec<_> = agent.seen().verdicts.into_iter().filter(|v| !v.accepted).collect();
        assert_eq!(refused.len(), 1, "{act:?}: {refused:?}");
        assert_eq!(refused[0].member, "b");
        assert!(refused[0].reason.contains(reason), "{act:?}: {}", refused[0].reason);
        let told = history.iter().find_map(|h| match h {
            Happened::Ended { member, how: BadEnd::Refused, reason, .. } => Some((member.to_string(), reason.clone())),
            _ => None,
        });
        assert_eq!(told, Some(("b".to_owned(), refused[0].reason.clone())), "{act:?}");
        let rounds: Vec<usize> = history
            .iter()
            .filter_map(|h| if let Happened::Published { published, .. } = h { Some(published.members.len()) } else { None })
            .collect();
        assert_eq!(rounds, [1, 4, 3, 4], "{act:?}");
        assert_eq!(*published(&history).last().unwrap(), expected, "{act:?}");
    }
}

#[tokio::test]
async fn an_update_that_is_too_large_is_refused_and_the_round_goes_on_with_the_others() {
    let expected = *published(&run_with(&[Agent::of_four(once(Act::Fail))], &spec(3)).await).last().unwrap();
    let history = run_with(&[Agent::of_four(once(Act::TooLarge))], &spec(3)).await;
    let told = history.iter().any(|h| matches!(h, Happened::Ended { reason, .. } if reason.contains("takes at most")));
    assert!(told, "{history:?}");
    assert_eq!(*published(&history).last().unwrap(), expected);
}

#[tokio::test]
async fn another_member_initialises_when_the_first_sends_nonsense() {
    let tries = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = tries.clone();
    let script: Script = Arc::new(move |a| {
        let first = a.work == Work::Initialise && counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
        if first { Act::NotFinite } else { Act::Good }
    });
    let history = run_with(&[Agent::of_four(script)], &spec(3)).await;
    assert_eq!(tries.load(std::sync::atomic::Ordering::SeqCst), 2);
    assert_eq!(*published(&history).last().unwrap(), undisturbed().await);
}

#[tokio::test]
async fn the_order_of_arrival_does_not_matter() {
    let expected = undisturbed().await;
    for seed in 0..6 {
        let agent = Agent { shuffle: Some(seed), ..Agent::of_four(good()) };
        let history = run_with(std::slice::from_ref(&agent), &spec(3)).await;
        assert_eq!(*published(&history).last().unwrap(), expected, "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nor_does_the_number_of_agents() {
    let expected = undisturbed().await;
    let four = Agent::of_four(good()).members;
    let agents: Vec<Agent> = four.into_iter().map(|m| Agent::new(&format!("agent-{}", m.name), vec![m], good())).collect();
    let history = run_with(&agents, &spec(3)).await;
    assert_eq!(*published(&history).last().unwrap(), expected);
    // agents that connect after the run was submitted
    let server = Running::start(Config::in_memory()).await;
    let run = server.handle.submit(&spec(3), None).await.unwrap();
    for agent in agents.iter().rev() {
        server.join(&Agent::new(&agent.name, agent.members.clone(), good())).await;
    }
    assert_eq!(*published(&server.follow(&run).await).last().unwrap(), expected);
    server.stop().await;
}

#[tokio::test]
async fn many_runs_go_side_by_side() {
    let server = Running::start(Config::in_memory()).await;
    server.join(&Agent::of_four(good())).await;
    let expected = undisturbed().await;
    let mut runs = Vec::new();
    for i in 0..8 {
        // every second one with another seed: the scripted model does not use it, its digest stays
        let spec = spec(3).replace("seed = 7", &format!("seed = {}", 7 + i % 2));
        runs.push(server.handle.submit(&spec, None).await.unwrap());
    }
    for run in &runs {
        assert_eq!(*published(&server.follow(run).await).last().unwrap(), expected);
    }
    assert_eq!(server.handle.runs().await.unwrap().len(), 8);
    server.stop().await;
}

#[tokio::test]
async fn a_member_that_says_nothing_is_waited_for_until_the_deadline() {
    tokio::time::pause();
    let agent = Agent::of_four(once(Act::Silent));
    let start = tokio::time::Instant::now();
    let history = run_with(std::slice::from_ref(&agent), &spec(3).replace("60s", "20s")).await;
    assert!(start.elapsed() >= std::time::Duration::from_secs(20));
    let expected = *published(&run_with(&[Agent::of_four(once(Act::Fail))], &spec(3)).await).last().unwrap();
    assert_eq!(*published(&history).last().unwrap(), expected);
}

#[tokio::test]
async fn a_run_is_submitted_once() {
    let server = Running::start(Config::in_memory()).await;
    let id = "mine".parse().unwrap();
    let first = server.handle.submit(&spec(3), Some("mine".parse().unwrap())).await.unwrap();
    assert_eq!(first, id);
    // written in another way, it is the same spec
    let again = server.handle.submit(&spec(3).replace("60s", "1m"), Some("mine".parse().unwrap())).await.unwrap();
    assert_eq!(again, id);
    let error = server.handle.submit(&spec(4), Some("mine".parse().unwrap())).await.unwrap_err().to_string();
    assert!(error.contains("run mine exists already, with another spec"), "{error}");
    let error = server.handle.submit("version = 1\nnaem = \"x\"", None).await.unwrap_err().to_string();
    assert!(error.contains("naem"), "{error}");
    let (one, two) = (server.handle.submit(&spec(3), None).await.unwrap(), server.handle.submit(&spec(3), None).await.unwrap());
    assert!(one != two && one.as_str().starts_with("test-"), "{one} {two}");
    server.handle.stop(&one).await.unwrap();
    assert!(server.handle.stop(&one).await.unwrap_err().to_string().contains("the run is over"));
    let error = server.handle.show(&"nobody".parse().unwrap()).await.unwrap_err().to_string();
    assert_eq!(error, "there is no run nobody");
    server.stop().await;
}

#[tokio::test]
async fn only_invited_members_take_part() {
    let both = ["left", "right"];
    let agent = Agent::new("six", ["a", "b", "c", "d", "e", "f"].iter().map(|m| member(m, &both)).collect(), good());
    let spec = spec(2).replace("size = 4", "size = 4\n only = [\"b\", \"c\", \"d\", \"f\"]");
    let history = run_with(std::slice::from_ref(&agent), &spec).await;
    assert_eq!(published(&history).len(), 3);
    let asked: std::collections::BTreeSet<String> = agent.seen().assignments.iter().map(|a| a.member.to_string()).collect();
    assert_eq!(asked.into_iter().collect::<Vec<_>>(), ["b", "c", "d", "f"]);
}

#[tokio::test]
async fn stopping_tells_agents_and_watchers() {
    let server = Running::start(Config::in_memory()).await;
    let agent = Agent::of_four(Arc::new(|_| Act::Silent));
    let talk = server.join(&agent).await;
    let run = server.handle.submit(&spec(3), None).await.unwrap();
    let mut watch = server.handle.watch(&run, 0).await.unwrap();
    let waiting = tokio::spawn(async move { watch.next().await });
    server.stop().await;
    within(talk).await.unwrap();
    assert_eq!(agent.seen().ends, ["Unavailable: the coordinator is stopping"]);
    assert_eq!(within(waiting).await.unwrap(), None);
}

/// Reads until `wanted` says yes; what it said yes to.
async fn until(watch: &mut tessera_server::Watch, wanted: impl Fn(&Happened) -> bool) -> Happened {
    loop {
        let (_, happened) = within(watch.next()).await.unwrap();
        if wanted(&happened) {
            return happened;
        }
    }
}

#[tokio::test]
async fn a_run_is_paused_and_resumed_and_ends_as_an_undisturbed_one() {
    let dir = tempfile::TempDir::new().unwrap();
    let server = Running::start(Config::in_dir(dir.path())).await;
    let run = server.handle.submit(&spec(3), None).await.unwrap();
    assert!(server.handle.resume(&run).await.unwrap_err().to_string().contains("is not paused"));
    let mut watch = server.handle.watch(&run, 0).await.unwrap();
    server.handle.pause(&run, "").await.unwrap();
    assert!(server.handle.pause(&run, "again").await.unwrap_err().to_string().contains("paused already"));
    let paused = |reason: &str| Happened::Paused { reason: reason.into() };
    assert_eq!(until(&mut watch, |_| true).await, paused("an operator asked for it"));
    let agent = Agent::of_four(good());
    server.join(&agent).await;
    while server.handle.members().await.unwrap().len() < 4 {
        tokio::task::yield_now().await;
    }
    let summary = server.handle.show(&run).await.unwrap().summary;
    assert_eq!((summary.phase.as_str(), summary.reason.as_str()), ("paused", "an operator asked for it"));
    assert_eq!((summary.answered, summary.awaited), (4, 0), "members that joined during the pause");
    assert_eq!(agent.seen().assignments.len(), 0, "nobody is asked during a pause");

    server.handle.resume(&run).await.unwrap();
    assert_eq!(until(&mut watch, |_| true).await, Happened::Resumed);
    until(&mut watch, |h| matches!(h, Happened::Published { published, .. } if published.round == 1)).await;
    server.handle.pause(&run, "maintenance").await.unwrap();
    assert_eq!(until(&mut watch, |h| matches!(h, Happened::Paused { .. })).await, paused("maintenance"));
    server.stop().await;

    // the pause survives a restart, and so does its end
    let server = Running::start(Config::in_dir(dir.path())).await;
    assert_eq!(server.handle.show(&run).await.unwrap().summary.reason, "maintenance");
    server.join(&Agent::of_four(good())).await;
    server.handle.resume(&run).await.unwrap();
    let mut watch = server.handle.watch(&run, 0).await.unwrap();
    let (mut history, mut resumed) = (Vec::new(), 0);
    while let Some((_, happened)) = within(watch.next()).await {
        resumed += usize::from(happened == Happened::Resumed);
        history.push(happened);
    }
    assert_eq!(resumed, 2);
    assert_eq!(*published(&history).last().unwrap(), undisturbed().await);
    assert!(server.handle.pause(&run, "late").await.unwrap_err().to_string().contains("the run is over"));
    server.stop().await;
}

#[tokio::test]
async fn a_run_that_waits_says_for_what_and_one_that_paused_says_why() {
    let server = Running::start(Config::in_memory()).await;
    let spec = spec(3).replace("every = 2", "every = 2\n members = 4");
    let run = server.handle.submit(&spec, None).await.unwrap();
    let summary = async || server.handle.show(&run).await.unwrap().summary;
    let first = summary().await;
    assert_eq!((first.phase.as_str(), first.answered, first.awaited), ("waiting", 0, 4));
    let mut three = Agent::of_four(good()).members;
    let last = three.pop().unwrap();
    three.push(tessera_proto::v1::Member { trains: false, ..member("e", &["left"]) });
    // every fit but that of a fails, for good
    let failing: Script = Arc::new(|a| if a.work == Work::Fit && a.member.as_str() != "a" { Act::Fail } else { Act::Good });
    server.join(&Agent::new("three", three, failing.clone())).await;
    while server.handle.members().await.unwrap().len() < 4 {
        tokio::task::yield_now().await;
    }
    let then = summary().await;
    assert_eq!((then.phase.as_str(), then.answered, then.awaited), ("waiting", 3, 1));
    assert_eq!(then.reason, "3 of 4 members with training data have joined");

    let mut watch = server.handle.watch(&run, 0).await.unwrap();
    server.join(&Agent::new("last", vec![last], failing)).await;
    until(&mut watch, |h| matches!(h, Happened::Paused { .. })).await;
    let detail = server.handle.show(&run).await.unwrap();
    assert_eq!(detail.summary.phase, "paused");
    let mut ends: Vec<_> = detail.bad_ends.iter().map(|e| (e.member.to_string(), e.how, e.reason.as_str())).collect();
    ends.sort_by(|a, b| a.0.cmp(&b.0));
    let failed = |m: &str| (m.to_owned(), BadEnd::Failed, "out of memory");
    assert_eq!(ends, [failed("b"), failed("c"), failed("d")]);
    server.stop().await;
}

#[tokio::test]
async fn operators_use_a_socket_that_is_theirs_alone() {
    use std::os::unix::fs::PermissionsExt;
    use tessera_proto::v1::{self, admin_client::AdminClient};
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("admin.sock");
    // a socket that a killed coordinator left
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let server = Running::start(Config::in_dir(dir.path())).await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let error = tessera_server::Server::bind(Config::in_dir(dir.path())).await.unwrap_err();
    assert!(matches!(error, tessera_server::Error::Locked(_)), "{error}");

    let socket = path.clone();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://admin");
    let mut client = AdminClient::new(endpoint.connect_with_connector(connector).await.unwrap());
    server.join(&Agent::of_four(good())).await;
    let submit = v1::SubmitRunRequest { spec_toml: spec(2), run: "over-socket".into() };
    assert_eq!(client.submit_run(submit).await.unwrap().into_inner().run, "over-socket");
    let watch = v1::WatchRunRequest { run: "over-socket".into(), after: 1 };
    let events: Vec<_> = within(client.watch_run(watch).await.unwrap().into_inner().collect::<Vec<_>>()).await;
    let positions: Vec<u64> = events.iter().map(|e| e.as_ref().unwrap().position).collect();
    assert_eq!(positions, (2..2 + positions.len() as u64).collect::<Vec<_>>());
    let runs = client.list_runs(v1::ListRunsRequest {}).await.unwrap().into_inner().runs;
    assert_eq!((runs[0].phase.as_str(), runs[0].round), ("completed", 2));
    let shown = client.show_run(v1::ShowRunRequest { run: "over-socket".into() }).await.unwrap().into_inner();
    assert_eq!((shown.evaluated_round, shown.metrics.contains_key("loss")), (2, true));
    let fetch = v1::DownloadRequest { digest: runs[0].global.clone(), offset: 0 };
    let parts: Vec<_> = client.fetch_blob(fetch).await.unwrap().into_inner().collect().await;
    let bytes: Vec<u8> = parts.iter().flat_map(|p| p.as_ref().unwrap().chunk.to_vec()).collect();
    assert_eq!(Digest::of(&bytes).as_bytes()[..], runs[0].global[..]);
    let members = client.list_members(v1::ListMembersRequest {}).await.unwrap().into_inner().members;
    assert!(members.len() == 4 && members.iter().all(|m| m.online && m.agent == "four"));
    let ended = client.pause_run(v1::PauseRunRequest { run: "over-socket".into(), reason: "x".into() }).await.unwrap_err();
    assert_eq!((ended.code(), ended.message()), (tonic::Code::FailedPrecondition, "the run is over"));
    client
        .submit_run(v1::SubmitRunRequest { spec_toml: spec(2).replace("members = 4", "members = 9"), run: "p".into() })
        .await
        .unwrap();
    client.pause_run(v1::PauseRunRequest { run: "p".into(), reason: "new disks".into() }).await.unwrap();
    let shown = client.show_run(v1::ShowRunRequest { run: "p".into() }).await.unwrap().into_inner().summary.unwrap();
    assert_eq!((shown.phase.as_str(), shown.reason.as_str(), shown.answered, shown.awaited), ("paused", "new disks", 4, 5));
    client.resume_run(v1::ResumeRunRequest { run: "p".into() }).await.unwrap();
    client.stop_run(v1::StopRunRequest { run: "p".into() }).await.unwrap();
    let watch = v1::WatchRunRequest { run: "p".into(), after: 0 };
    let events: Vec<_> = within(client.watch_run(watch).await.unwrap().into_inner().collect::<Vec<_>>()).await;
    let events: Vec<_> = events.into_iter().map(|e| e.unwrap().event.unwrap()).collect();
    use v1::watch_run_response::Event;
    assert!(matches!(events.as_slice(), [Event::Paused(_), Event::Resumed(_), Event::Finished(_)]), "{events:?}");
    let missing = client.stop_run(v1::StopRunRequest { run: "nobody".into() }).await.unwrap_err();
    assert_eq!(missing.code(), tonic::Code::NotFound);
    let bad = client.show_run(v1::ShowRunRequest { run: "../x".into() }).await.unwrap_err();
    assert_eq!(bad.code(), tonic::Code::InvalidArgument);
    drop(client);
    server.stop().await;
}
