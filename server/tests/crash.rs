//! Stops at every place and at any moment: the run ends with the digest of an undisturbed run.

#![allow(clippy::unwrap_used)] // a test stops where something is not as it should be

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use support::{Act, Agent, Running, Script, good, published, spec, within};
use tempfile::TempDir;
use tessera_common::id::{Digest, RunId};
use tessera_common::round::Work;
use tessera_server::{Config, Handle, Happened, Server};
use tokio::runtime::Runtime;
use tonic::transport::Endpoint;

/// One member fails once, one answer is refused, so that journals have such entries too.
fn uneven() -> Script {
    Arc::new(|a| match (a.work, a.round, a.member.as_str()) {
        (Work::Fit, 1, "c") => Act::Fail,
        (Work::Fit, 2, "b") => Act::NotFinite,
        _ => Act::Good,
    })
}

fn run_id() -> RunId {
    "crashing".parse().unwrap()
}

/// The history of a run that nothing disturbs, in `dir`.
async fn undisturbed(dir: &Path) -> Vec<Happened> {
    let server = Running::start(Config::in_dir(dir)).await;
    server.join(&Agent::of_four(uneven())).await;
    server.handle.submit(&spec(3), Some(run_id())).await.unwrap();
    let history = server.follow(&run_id()).await;
    server.stop().await;
    history
}

/// Lengths of the journal after each of its records, from 0.
fn boundaries(journal: &[u8]) -> Vec<usize> {
    let mut at = 0;
    let mut all = vec![0];
    while at < journal.len() {
        at += 40 + u32::from_le_bytes(journal[at..at + 4].try_into().unwrap()) as usize;
        all.push(at);
    }
    all
}

/// A copy of a data folder as a crash would leave it when the journal had `len` bytes: with the blobs that the journal
/// names, and no store.
fn cut(from: &Path, len: usize) -> TempDir {
    let to = TempDir::new().unwrap();
    let run = Path::new("runs").join(run_id().as_str());
    fs::create_dir_all(to.path().join(&run)).unwrap();
    fs::create_dir_all(to.path().join("blobs")).unwrap();
    fs::copy(from.join(&run).join("spec.toml"), to.path().join(&run).join("spec.toml")).unwrap();
    let journal = fs::read(from.join(&run).join("journal")).unwrap();
    fs::write(to.path().join(&run).join("journal"), &journal[..len]).unwrap();
    let text = String::from_utf8_lossy(&journal[..len]).into_owned();
    for blob in fs::read_dir(from.join("blobs")).unwrap() {
        let path = blob.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if text.contains(name) {
            fs::copy(&path, to.path().join("blobs").join(name)).unwrap();
        }
    }
    to
}

/// What has been answered in these journal bytes: member, and number of the assignment.
fn answered(journal: &[u8]) -> BTreeSet<(String, u64)> {
    let ends = boundaries(journal);
    let payloads = ends.windows(2).map(|w| serde_json::from_slice::<serde_json::Value>(&journal[w[0] + 40..w[1]]).unwrap());
    payloads
        .filter_map(|entry| {
            let update = entry.get("event")?.get("Answered")?;
            Some((update.get("member")?.as_str()?.to_owned(), update.get("assignment")?.as_u64()?))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_after_any_event_changes_nothing() {
    let whole = TempDir::new().unwrap();
    let expected = undisturbed(whole.path()).await;
    let journal = fs::read(whole.path().join("runs").join(run_id().as_str()).join("journal")).unwrap();
    let ends = boundaries(&journal);
    assert!(ends.len() > 30, "{} records", ends.len());
    for (records, &len) in ends.iter().enumerate() {
        // every other time the crash also tears the next record
        let torn = if records % 2 == 0 { 0 } else { (journal.len() - len).min(23) };
        let dir = cut(whole.path(), len + torn);
        let server = Running::start(Config::in_dir(dir.path())).await;
        let agent = Agent::of_four(uneven());
        server.join(&agent).await;
        let history = server.follow(&run_id()).await;
        server.stop().await;
        assert_eq!(published(&history), published(&expected), "after {records} records");
        let before = answered(&journal[..len]);
        let again: Vec<_> =
            agent.seen().assignments.into_iter().filter(|a| before.contains(&(a.member.to_string(), a.id.0))).collect();
        assert!(again.is_empty(), "after {records} records, asked again: {again:?}");
    }
}

/// A coordinator with an executor of its own, which can be killed.
struct Killable {
    runtime: Runtime,
    handle: Handle,
    addr: std::net::SocketAddr,
}

impl Killable {
    fn start(dir: &Path) -> Self {
        let runtime = Runtime::new().unwrap();
        let server = runtime.block_on(Server::bind(Config::in_dir(dir))).unwrap();
        let (handle, addr) = (server.handle(), server.local_addr());
        runtime.spawn(server.run(std::future::pending()));
        Self { runtime, handle, addr }
    }

    /// Drops every task where it stands. Nothing is flushed, kept or told.
    fn kill(self) {
        self.runtime.shutdown_timeout(Duration::from_secs(60));
    }
}

/// Kills the coordinator at moments that `seed` draws, until the run is over.
fn kill_at_random(dir: &Path, seed: u64) -> (Vec<Happened>, usize) {
    let client = Runtime::new().unwrap();
    let acknowledged = Arc::new(std::sync::Mutex::new(BTreeSet::new()));
    let mut kills = 0;
    loop {
        let server = Killable::start(dir);
        // lets so many assignments be answered, and then holds still until the kill
        let draw = Digest::of(format!("{seed} {kills}").as_bytes()).as_bytes()[0];
        let (budget, count) = (usize::from(draw % 12), Arc::new(AtomicUsize::new(0)));
        let (reached, mut signal) = tokio::sync::mpsc::channel::<()>(1);
        let known = acknowledged.clone();
        let script: Script = Arc::new(move |a| {
            assert!(!known.lock().unwrap().contains(&a.id.0), "assignment {} was acknowledged", a.id);
            if count.fetch_add(1, Ordering::SeqCst) < budget {
                return uneven()(a);
            }
            let _ = reached.try_send(());
            if draw.is_multiple_of(2) { Act::Silent } else { uneven()(a) }
        });
        let agent = Agent::of_four(script);
        let over = client.block_on(async {
            server.handle.submit(&spec(3), Some(run_id())).await.unwrap();
            let channel = Endpoint::from_shared(format!("http://{}", server.addr)).unwrap().connect().await.unwrap();
            let (talker, run) = (agent.clone(), run_id());
            tokio::spawn(async move { talker.converse(channel).await });
            let mut watch = server.handle.watch(&run, 0).await.unwrap();
            let finished = async {
                while let Some((_, happened)) = watch.next().await {
                    if matches!(happened, Happened::Finished(_)) {
                        return true;
                    }
                }
                false
            };
            tokio::select! {
                over = within(finished) => over,
                _ = signal.recv() => false,
            }
        });
        let history = over.then(|| client.block_on(async { history(&server.handle).await }));
        server.kill();
        kills += 1;
        acknowledged.lock().unwrap().extend(agent.seen().verdicts.iter().map(|v| v.assignment));
        if let Some(history) = history {
            client.shutdown_background();
            return (history, kills);
        }
        assert!(kills < 200, "no progress");
    }
}

async fn history(handle: &Handle) -> Vec<Happened> {
    let mut watch = handle.watch(&run_id(), 0).await.unwrap();
    let mut all = Vec::new();
    while let Some((_, happened)) = within(watch.next()).await {
        all.push(happened);
    }
    all
}

#[test]
fn kills_at_any_moment_change_nothing() {
    let whole = TempDir::new().unwrap();
    let expected = Runtime::new().unwrap().block_on(undisturbed(whole.path()));
    for seed in 0..4 {
        let dir = TempDir::new().unwrap();
        let (history, kills) = kill_at_random(dir.path(), seed);
        assert!(kills > 2, "seed {seed}: {kills}");
        assert_eq!(published(&history), published(&expected), "seed {seed}, {kills} kills");
    }
}

/// Follows a whole run once more, from a coordinator that was started anew.
async fn reread(dir: &Path) -> Vec<Happened> {
    let server = Running::start(Config::in_dir(dir)).await;
    let history = server.follow(&run_id()).await;
    server.stop().await;
    history
}

fn without_bytes_down(history: &[Happened]) -> Vec<Happened> {
    let mut history = history.to_vec();
    for entry in &mut history {
        if let Happened::Published { bytes_down, .. } = entry {
            *bytes_down = 0;
        }
    }
    history
}

#[tokio::test]
async fn a_history_is_the_same_after_a_restart_with_and_without_the_store() {
    let dir = TempDir::new().unwrap();
    let expected = undisturbed(dir.path()).await;
    assert_eq!(reread(dir.path()).await, expected, "from snapshots");

    fs::remove_dir_all(dir.path().join("sled")).unwrap();
    let from_journal = reread(dir.path()).await;
    assert_eq!(without_bytes_down(&from_journal), without_bytes_down(&expected), "from the journal alone");

    // a store that is broken
    fs::write(dir.path().join("sled/conf"), [0xaa; 40]).unwrap();
    assert_eq!(without_bytes_down(&reread(dir.path()).await), without_bytes_down(&expected));
    assert!(dir.path().join("sled.broken-1").is_dir());
    let server = Running::start(Config::in_dir(dir.path())).await;
    let members = server.handle.members().await.unwrap();
    assert_eq!(members.iter().map(|m| m.member.to_string()).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
    assert!(members.iter().all(|m| !m.online));
    server.stop().await;
}

#[tokio::test]
async fn a_store_that_lags_or_belongs_to_another_journal_is_caught_up() {
    let whole = TempDir::new().unwrap();
    let expected = undisturbed(whole.path()).await;
    let journal = fs::read(whole.path().join("runs/crashing/journal")).unwrap();
    let ends = boundaries(&journal);
    let dir = cut(whole.path(), ends[ends.len() / 2]);
    let half = Running::start(Config::in_dir(dir.path())).await;
    half.stop().await;
    // the store of half a run, with the whole journal
    fs::copy(whole.path().join("runs/crashing/journal"), dir.path().join("runs/crashing/journal")).unwrap();
    for blob in fs::read_dir(whole.path().join("blobs")).unwrap() {
        let path = blob.unwrap().path();
        fs::copy(&path, dir.path().join("blobs").join(path.file_name().unwrap())).unwrap();
    }
    assert_eq!(published(&reread(dir.path()).await), published(&expected), "the store lags");

    // the store of the whole run, with a journal that lost its end
    fs::write(dir.path().join("runs/crashing/journal"), &journal[..ends[ends.len() / 2]]).unwrap();
    let server = Running::start(Config::in_dir(dir.path())).await;
    server.join(&Agent::of_four(uneven())).await;
    assert_eq!(published(&server.follow(&run_id()).await), published(&expected), "the store is ahead");
    server.stop().await;
}

#[tokio::test]
async fn a_damaged_journal_stops_its_run_and_no_other() {
    let dir = TempDir::new().unwrap();
    undisturbed(dir.path()).await;
    let path: PathBuf = dir.path().join("runs/crashing/journal");
    let mut journal = fs::read(&path).unwrap();
    let second = boundaries(&journal)[1];
    journal[second + 50] ^= 1;
    fs::write(&path, &journal).unwrap();

    let server = Running::start(Config::in_dir(dir.path())).await;
    let runs = server.handle.runs().await.unwrap();
    assert_eq!(runs[0].phase, "broken");
    let place = format!("the record at byte {second} is damaged");
    assert!(runs[0].reason.contains(&place) && runs[0].reason.contains("runs/crashing/journal"), "{}", runs[0].reason);
    let refusal = server.handle.submit(&spec(3), Some(run_id())).await.unwrap_err().to_string();
    assert!(refusal.contains("run crashing stands still"), "{refusal}");
    server.join(&Agent::of_four(good())).await;
    assert_eq!(published(&server.complete(&spec(2)).await).len(), 3, "another run goes on");
    server.stop().await;

    fs::remove_dir_all(dir.path().join("runs/crashing")).unwrap();
    let server = Running::start(Config::in_dir(dir.path())).await;
    let runs = server.handle.runs().await.unwrap();
    assert!(runs.iter().any(|r| r.run == run_id() && r.reason.contains("is gone")), "the index remembers it");
    server.stop().await;
}

#[tokio::test]
async fn a_submission_that_was_cut_short_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    fs::create_dir_all(dir.path().join("runs/.new-half")).unwrap();
    fs::write(dir.path().join("runs/.new-half/spec.toml"), "version").unwrap();
    let server = Running::start(Config::in_dir(dir.path())).await;
    assert_eq!(server.handle.runs().await.unwrap(), []);
    assert_eq!(fs::read_dir(dir.path().join("runs")).unwrap().count(), 0);
    server.handle.submit(&spec(3), Some("half".parse().unwrap())).await.unwrap();
    server.stop().await;
}
