//! What happens when the disk is full, forgets, or lies; which blobs are kept; runs that go on from another one's globals.
//! Fault points belong to the whole process, so these tests run one at a time.

#![allow(clippy::unwrap_used)] // a test stops where something is not as it should be

mod support;

use fail::FailScenario;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{Act, Agent, Running, Script, good, published, spec, within};
use tempfile::TempDir;
use tessera_common::id::{Digest, RunId};
use tessera_common::round::Work;
use tessera_server::{Config, Handle, Happened};
use tokio::task::yield_now;

fn run_id() -> RunId {
    "durable".parse().unwrap()
}

/// A disk of a test may be nearly full.
fn in_dir(dir: &Path) -> Config {
    Config { reserve_bytes: 0, ..Config::in_dir(dir) }
}

/// Follows a run to its end, over stops of its watch.
async fn to_the_end(handle: &Handle) -> Vec<Happened> {
    let mut all = Vec::new();
    while !matches!(all.last(), Some(Happened::Finished(_))) {
        if let Ok(mut watch) = handle.watch(&run_id(), all.len() as u64).await {
            while let Some((position, happened)) = watch.next().await {
                assert_eq!(position, all.len() as u64 + 1);
                all.push(happened);
            }
        }
        yield_now().await;
    }
    all
}

async fn reason(handle: &Handle) -> Option<String> {
    let runs = handle.runs().await.unwrap();
    runs.into_iter().find(|r| r.run == run_id() && r.phase == "paused").map(|r| r.reason)
}

async fn paused(handle: &Handle) -> String {
    loop {
        if let Some(reason) = reason(handle).await {
            return reason;
        }
        yield_now().await;
    }
}

async fn undisturbed(rounds: u32) -> Vec<Digest> {
    let server = Running::start(Config::in_memory()).await;
    server.join(&Agent::of_four(good())).await;
    let history = server.complete(&spec(rounds)).await;
    server.stop().await;
    published(&history)
}

// Should: wait with a reason, go on by itself once there is room, and end as if nothing had been. Should not: acknowledge
// what is not durable, or need a restart.
#[tokio::test]
async fn a_disk_without_room_lets_the_run_wait() {
    let scenario = FailScenario::setup();
    let expected = undisturbed(3).await;
    for place in ["coordinator/journal-no-space", "coordinator/blob-no-space"] {
        let dir = TempDir::new().unwrap();
        let server = Running::start(in_dir(dir.path())).await;
        server.handle.submit(&spec(3), Some(run_id())).await.unwrap();
        // the second answer of round 2 meets the full disk
        let count = Arc::new(Mutex::new(0));
        let script: Script = Arc::new(move |a| {
            let mut count = count.lock().unwrap();
            *count += usize::from(a.work == Work::Fit && a.round == 2);
            if *count == 2 {
                *count += 100;
                fail::cfg(place, "return").unwrap();
            }
            Act::Good
        });
        // an agent as a real one: it comes back when its connection ends
        let agent = Agent::of_four(script);
        let joining = tokio::spawn({
            let (handle, agent) = (server.handle.clone(), agent.clone());
            async move {
                loop {
                    let channel = support::dial(&handle).await;
                    let _ = agent.converse(channel).await;
                }
            }
        });
        let reason = within(paused(&server.handle)).await;
        assert!(reason.contains("no storage space") && reason.contains("goes on by itself"), "{place}: {reason}");
        fail::remove(place);
        let history = within(to_the_end(&server.handle)).await;
        assert_eq!(published(&history), expected, "{place}");
        joining.abort();
        server.stop().await;
    }
    scenario.teardown();
}

// The suite must notice a coordinator that acknowledges before it has written: the check of every kill test, against a
// coordinator that was told to do so.
#[tokio::test]
async fn acknowledging_before_writing_is_noticed() {
    let scenario = FailScenario::setup();
    let mut asked_again = Vec::new();
    for early in [false, true] {
        let dir = TempDir::new().unwrap();
        let server = Running::start(in_dir(dir.path())).await;
        server.handle.submit(&spec(3), Some(run_id())).await.unwrap();
        let armed = Arc::new(AtomicBool::new(true));
        let agent = Agent::of_four(Arc::new(move |a| {
            if a.work == Work::Fit && a.round == 2 && armed.swap(false, Ordering::SeqCst) {
                if early {
                    fail::cfg("coordinator/ack-early", "return").unwrap();
                }
                fail::cfg("coordinator/journal-no-space", "return").unwrap();
            }
            Act::Good
        }));
        server.join(&agent).await;
        within(paused(&server.handle)).await;
        let of_round_two = |v: &tessera_proto::v1::Verdict, seen: &support::Seen| {
            seen.assignments.iter().any(|a| a.id.0 == v.assignment && a.work == Work::Fit && a.round == 2)
        };
        if early {
            within(async {
                while !agent.seen().verdicts.iter().any(|v| of_round_two(v, &agent.seen())) {
                    yield_now().await;
                }
            })
            .await;
        }
        let acknowledged: BTreeSet<u64> = agent.seen().verdicts.iter().map(|v| v.assignment).collect();
        let before = agent.seen().assignments.len();
        fail::remove("coordinator/ack-early");
        fail::remove("coordinator/journal-no-space");
        within(to_the_end(&server.handle)).await;
        let again = agent.seen().assignments.split_off(before);
        asked_again.push(again.iter().filter(|a| acknowledged.contains(&a.id.0)).count());
        server.stop().await;
    }
    assert_eq!(asked_again[0], 0, "in the right order nothing that was acknowledged is asked for again");
    assert!(asked_again[1] > 0, "in the wrong order it is, and the check sees it");
    scenario.teardown();
}

fn blobs(dir: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(dir.join("blobs")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.filter(|n| n.len() == 64).collect()
}

// Should: keep the last globals, the best one, and what the run works with. Should not: keep anything else for long.
#[tokio::test]
async fn blobs_that_no_run_needs_are_cleared_away() {
    let _alone = FailScenario::setup();
    let dir = TempDir::new().unwrap();
    let config = Config { blob_grace: Duration::from_millis(300), ..in_dir(dir.path()) };
    let server = Running::start(config).await;
    server.join(&Agent::of_four(good())).await;
    let spec = format!("{}\n[keep]\nglobals = 2\n", spec(6));
    server.handle.submit(&spec, Some(run_id())).await.unwrap();
    let history = server.follow(&run_id()).await;
    let globals = published(&history);
    let kept = server.handle.globals(&run_id()).await.unwrap();
    assert_eq!(kept.iter().map(|(round, ..)| *round).collect::<Vec<_>>(), [5, 6]);
    // the two globals, the statistics of round 6, and the sums over inputs
    within(async {
        while blobs(dir.path()).len() > 4 {
            yield_now().await;
        }
    })
    .await;
    for digest in &globals[5..] {
        assert!(blobs(dir.path()).contains(&digest.to_string()));
    }
    let gone = server.handle.fork(&run_id(), 2, None, None).await.unwrap_err().to_string();
    assert!(gone.contains("no global of round 2 any more; it keeps those of rounds 5, 6"), "{gone}");
    server.stop().await;
}

// Should: give the rounds that the first run had. Should not: survey or initialise again.
#[tokio::test]
async fn a_fork_goes_on_as_its_origin_did() {
    let _alone = FailScenario::setup();
    let dir = TempDir::new().unwrap();
    let server = Running::start(in_dir(dir.path())).await;
    let agent = Agent::of_four(good());
    server.join(&agent).await;
    server.handle.submit(&spec(5), Some(run_id())).await.unwrap();
    let origin = published(&server.follow(&run_id()).await);
    let before = agent.seen().assignments.len();
    let fork = server.handle.fork(&run_id(), 2, None, Some("fork".parse().unwrap())).await.unwrap();
    let history = server.follow(&fork).await;
    assert_eq!(published(&history), origin[2..]);
    let asked: BTreeSet<String> = agent.seen().assignments[before..].iter().map(|a| format!("{:?}", a.work)).collect();
    assert_eq!(asked, ["Evaluate", "Fit", "SurveyFeatures"].map(String::from).into());

    let refuse = async |text: &str| server.handle.fork(&run_id(), 2, Some(text), None).await.unwrap_err().to_string();
    assert!(refuse(&spec(2)).await.contains("must be above 2"));
    assert!(refuse(&spec(5).replace("left = 2", "left = 3")).await.contains("has its task and model"));
    let longer = server.handle.fork(&run_id(), 5, Some(&spec(7)), None).await.unwrap();
    assert_eq!(published(&server.follow(&longer).await).len(), 3, "rounds 5, 6 and 7");
    server.stop().await;

    // a fork is one after a restart too
    fs::remove_dir_all(dir.path().join("sled")).unwrap();
    let server = Running::start(in_dir(dir.path())).await;
    assert_eq!(published(&server.follow(&fork).await), origin[2..]);
    server.stop().await;
}

/// Stops a run in round 2 and returns the file of the global that it works with.
async fn stopped_in_round_two(dir: &Path) -> PathBuf {
    let server = Running::start(in_dir(dir)).await;
    server.handle.submit(&spec(3), Some(run_id())).await.unwrap();
    server.join(&Agent::of_four(Arc::new(|a| if a.round == 2 { Act::Silent } else { Act::Good }))).await;
    let mut watch = server.handle.watch(&run_id(), 0).await.unwrap();
    loop {
        if let Some((_, Happened::Published { published, .. })) = within(watch.next()).await
            && published.round == 1
        {
            server.stop().await;
            return dir.join("blobs").join(published.digest.to_string());
        }
    }
}

// Should: pause with the name of the file, and go on with an intact copy. Should not: train on wrong bytes.
#[tokio::test]
async fn a_global_that_the_disk_changed_pauses_its_run() {
    let _alone = FailScenario::setup();
    let dir = TempDir::new().unwrap();
    let file = stopped_in_round_two(dir.path()).await;
    let intact = fs::read(&file).unwrap();
    let mut changed = intact.clone();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(&file, &changed).unwrap();

    let server = Running::start(in_dir(dir.path())).await;
    server.join(&Agent::of_four(good())).await;
    let reason = within(paused(&server.handle)).await;
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(reason.contains(&name[..8]) && reason.contains("quarantine"), "{reason}");
    assert!(!file.exists());
    assert_eq!(fs::read(dir.path().join("blobs/quarantine").join(name)).unwrap(), changed, "nothing is deleted");
    fs::write(&file, &intact).unwrap();
    server.handle.resume(&run_id()).await.unwrap();
    assert_eq!(published(&within(to_the_end(&server.handle)).await), undisturbed(3).await);
    server.stop().await;
}

#[tokio::test]
async fn a_folder_of_a_newer_version_is_refused() {
    let _alone = FailScenario::setup();
    let dir = TempDir::new().unwrap();
    Running::start(in_dir(dir.path())).await.stop().await;
    fs::write(dir.path().join("FORMAT"), "99\n").unwrap();
    let error = tessera_server::Server::bind(in_dir(dir.path())).await.unwrap_err().to_string();
    assert!(error.contains("99") && error.contains(&dir.path().display().to_string()), "{error}");
}
