//! Faults against the real binary: processes that die at every fault point and at any moment, links that break, slow down
//! or go silent, a full disk. A run must end with the digest of an undisturbed one, without asking again for what it
//! acknowledged.
//!
//! The default suite has one of each kind. `just faults` runs the long ones and prints the table of docs/reliability.md.

// A test may panic, and no test uses all of what the tests share.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::large_futures,
    dead_code,
    unreachable_pub,
    missing_debug_implementations
)]
#![cfg(unix)]

#[path = "support/federation.rs"]
mod federation;
#[path = "support/proxy.rs"]
mod proxy;

use federation::{End, Federation, SMALL, Setup, Victim};
use proxy::{Link, Proxy};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tessera_common::id::Digest;
use tessera_proto::v1::watch_run_response::Event;

/// Longest that some rounds over a bad link may take.
const LONG: Duration = Duration::from_secs(1200);

/// More hits of a point than any run of these tests has.
const MOST_HITS: u32 = 100;

/// A run that was disturbed against one that was not.
fn compare(disturbed: &End, reference: &End, what: &str, federation: &Federation) {
    let digests = |e: &End| (e.global.clone(), e.statistics.clone());
    assert_eq!(disturbed.outcome, "completed", "{what}\n{}", federation.logs());
    assert_eq!(digests(disturbed), digests(reference), "{what}: another digest\n{}", federation.logs());
    assert_eq!(disturbed.tally.accepted, reference.tally.accepted, "{what}: an acknowledged update was asked for again");
}

/// A point and how many hits it lets pass.
type Place = (&'static str, u32);

/// Every place once for each number of hits, the first hits first.
fn places(points: &'static [&'static str]) -> impl Iterator<Item = Place> {
    (0..MOST_HITS).flat_map(move |hits| points.iter().map(move |point| (*point, hits)))
}

/// What a series of kills came to.
#[derive(Debug, Default)]
struct Series {
    /// Kills by point.
    kills: BTreeMap<&'static str, u32>,
    /// Places that were never reached.
    unreached: Vec<Place>,
    runs: u32,
}

impl Series {
    fn total(&self) -> u32 {
        self.kills.values().sum()
    }
}

/// Runs one run after the other, and in them kills processes at `wanted` different places, each once. A victim that died
/// is started again at once, with its next place.
async fn kill_at_places(victims: &[Victim], points: &'static [&'static str], rounds: u32, wanted: u32) -> Series {
    let mut federation = Federation::started(Setup { rounds, ..SMALL }).await;
    let reference = federation.run("reference").await;
    assert_eq!(reference.outcome, "completed");
    let mut series = Series::default();
    let mut queue = places(points);
    let mut dead_ends: BTreeMap<&'static str, u32> = BTreeMap::new();
    let mut next = 0;
    while series.total() < wanted {
        let Some((point, hits)) = queue.find(|(point, _)| dead_ends.get(point).is_none_or(|n| *n < 2)) else { break };
        let victim = victims[next % victims.len()];
        next += 1;
        federation.kill(victim).await;
        federation.start(victim, &format!("{point}={hits}*off->return")).await;
        series.runs += 1;
        let run = format!("run-{}", series.runs);
        let died = drive(&mut federation, victim, &run).await;
        if died {
            *series.kills.entry(point).or_default() += 1;
        } else {
            *dead_ends.entry(point).or_default() += 1;
            series.unreached.push((point, hits));
            // it must not die later, when nobody looks
            federation.kill(victim).await;
            federation.start(victim, "").await;
        }
        let what = format!("{victim:?} killed at hit {} of {point}", hits + 1);
        compare(&federation.end(&run).await, &reference, &what, &federation);
    }
    series
}

/// Brings a run to its end; starts the victim again when it dies. True if it died.
async fn drive(federation: &mut Federation, victim: Victim, run: &str) -> bool {
    let mut died = false;
    let mut process = match victim {
        Victim::Coordinator => federation.coordinator.take(),
        Victim::Agent(i) => federation.agents[i].take(),
    }
    .expect("the victim was started");
    let over = async {
        federation.eventually("the submission", || federation.submit(run)).await;
        federation.finished(run).await;
    };
    let what = format!("{run}, before the death of {victim:?}");
    let ended = federation.within(&what, async {
        tokio::select! {
            () = over => true,
            status = process.child.wait() => {
                // the point aborts; anything else is a death of another kind
                assert_eq!(status.unwrap().signal(), Some(6), "{}", federation.logs());
                false
            }
        }
    });
    if ended.await {
        match victim {
            Victim::Coordinator => federation.coordinator = Some(process),
            Victim::Agent(i) => federation.agents[i] = Some(process),
        }
    } else {
        died = true;
        federation.start(victim, "").await;
        federation.eventually("the submission", || federation.submit(run)).await;
        federation.within(&format!("{run}, after the death of {victim:?}"), federation.finished(run)).await;
    }
    died
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_and_an_agent_that_die_at_a_fault_point_change_nothing() {
    static COORDINATOR: [&str; 2] = ["coordinator/journal-after-write", "coordinator/blob-after-rename"];
    static AGENT: [&str; 2] = ["agent/outbox-record-written", "agent/answer-after"];
    assert_eq!(kill_at_places(&[Victim::Coordinator], &COORDINATOR, 3, 2).await.total(), 2);
    assert_eq!(kill_at_places(&[Victim::Agent(0)], &AGENT, 3, 2).await.total(), 2);
}

/// Kills processes at moments that `seed` draws, while a run is on its way.
async fn kill_at_random(seed: u64, kills: u32) {
    let mut federation = Federation::started(Setup { rounds: 6, ..SMALL }).await;
    let reference = federation.run("reference").await;
    for kill in 0..kills {
        let run = format!("run-{kill}");
        federation.eventually("the submission", || federation.submit(&run)).await;
        let draw = Digest::of(format!("{seed} {kill}").as_bytes());
        let victim = [Victim::Coordinator, Victim::Agent(0), Victim::Agent(1)][usize::from(draw.as_bytes()[0]) % 3];
        let moment = std::time::Duration::from_millis(u64::from(draw.as_bytes()[1]) * 2);
        // the moment is the point: any will do
        tokio::time::sleep(moment).await;
        federation.kill(victim).await;
        federation.start(victim, "").await;
        federation.within(&run, federation.finished(&run)).await;
        compare(&federation.end(&run).await, &reference, &format!("{victim:?} killed after {moment:?}"), &federation);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_at_random_moments_change_nothing() {
    kill_at_random(1, 3).await;
}

/// Lets `disturb` do something to the links once round 1 is out, and expects the digest of an undisturbed run.
async fn over_a_link(link: Link, disturbed: impl AsyncFn(&Federation)) {
    let setup = Setup { rounds: 6, ..SMALL };
    let mut federation = Federation::new(setup).await;
    federation.start(Victim::Coordinator, "").await;
    let proxy = Proxy::start(federation.address.clone().unwrap()).await;
    federation.dial = Some(proxy.address.to_string());
    for i in 0..setup.agents {
        federation.start(Victim::Agent(i), "").await;
    }
    let reference = federation.run("reference").await;
    federation.eventually("the submission", || federation.submit("run")).await;
    federation.within("round 1", federation.until("run", |e| matches!(e, Event::Published(p) if p.round == 1))).await;
    proxy.set(link);
    disturbed(&federation).await;
    proxy.set(Link::Open);
    federation.within("the run", federation.finished("run")).await;
    compare(&federation.end("run").await, &reference, &format!("{link:?}"), &federation);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_link_changes_nothing() {
    over_a_link(Link::Cut, async |federation| {
        federation.eventually("the loss of all members", async || federation.online().await == 0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_link_is_noticed_within_two_seconds_and_changes_nothing() {
    over_a_link(Link::Silent, async |federation| {
        let start = Instant::now();
        federation.eventually("the loss of all members", async || federation.online().await == 0).await;
        let took = start.elapsed().as_secs_f64();
        println!("noticed a silent link after {took:.2} s");
        // three heartbeats of half a second, and what a busy machine adds
        assert!(took < 2.0 + 3.0, "{took} s");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_link_changes_nothing() {
    over_a_link(Link::Slow(20_000), async |federation| {
        federation.within("round 2", federation.until("run", |e| matches!(e, Event::Published(p) if p.round == 2))).await;
    })
    .await;
}

/// Kills the coordinator in the middle of a run, damages what it had on disk, and starts it again.
async fn damaged_between(federation: &mut Federation, run: &str, records: u64, damage: impl FnOnce(&Path)) {
    federation.eventually("the submission", || federation.submit(run)).await;
    let journal = federation.data().join("runs").join(run).join("journal");
    federation.eventually("some of the run", async || std::fs::metadata(&journal).is_ok_and(|m| m.len() > records)).await;
    federation.kill(Victim::Coordinator).await;
    damage(&federation.data());
    federation.start(Victim::Coordinator, "").await;
    federation.within(run, federation.finished(run)).await;
}

/// Cuts `cut` bytes off the end of a run's journal.
fn cut(data: &Path, run: &str, cut: u64) {
    let file = std::fs::File::options().write(true).open(data.join("runs").join(run).join("journal")).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length.saturating_sub(cut)).unwrap();
}

/// Takes the store away, cuts the journal, or both, `times` times.
async fn damage(times: u64) {
    let mut federation = Federation::started(SMALL).await;
    let reference = federation.run("reference").await;
    for i in 0..times {
        let (run, draw) = (format!("run-{i}"), Digest::of(&i.to_le_bytes()));
        let bytes = u64::from(u16::from_le_bytes([draw.as_bytes()[0], draw.as_bytes()[1]])) % 4096 + 1;
        let when = 1_000 + u64::from(draw.as_bytes()[2]) * 15;
        damaged_between(&mut federation, &run, when, |data| {
            if i % 3 != 1 {
                cut(data, &run, bytes);
            }
            if i % 3 != 0 {
                std::fs::remove_dir_all(data.join("sled")).unwrap();
            }
        })
        .await;
        compare(&federation.end(&run).await, &reference, &format!("damage {i}, {bytes} bytes"), &federation);
    }
    let log = std::fs::read_to_string(federation.dir.path().join("coordinator.log")).unwrap();
    assert!(log.contains("cutting off a torn record"), "the log says what was done to the journal");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_gone_and_a_journal_that_lost_its_end_change_nothing() {
    damage(3).await;
}

/// The coordinator on a disk of `megabytes`; None where the machine lets nobody mount one. The path is how this process
/// sees that disk.
async fn on_a_small_disk(federation: &mut Federation, megabytes: u32) -> Option<PathBuf> {
    std::fs::create_dir_all(federation.data()).unwrap();
    let script = format!("mount -t tmpfs -o size={megabytes}m,mode=700 tmpfs \"$0\" && exec \"$@\"");
    let mut command = tokio::process::Command::new("unshare");
    command.args(["-rm", "sh", "-c", &script]).arg(federation.data()).arg(env!("CARGO_BIN_EXE_tessera"));
    command.args(federation.coordinator_words());
    federation.launch_coordinator(command, "").await;
    federation.address.as_ref()?;
    let inside = federation.data().strip_prefix("/").unwrap().to_owned();
    let id = federation.child(Victim::Coordinator).id()?;
    let seen = PathBuf::from(format!("/proc/{id}/root")).join(inside);
    seen.join("lock").exists().then_some(seen)
}

/// Fills a disk but for `leave` bytes. With bytes left it is never full in between: a write that meets a full disk is
/// another trouble than a reserve that is touched.
fn fill(disk: &Path, leave: u64) -> PathBuf {
    use std::io::Write;
    let filler = disk.join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    for size in [1 << 20, 4096, 1] {
        let free = || tessera_server::space::free(disk).unwrap().free;
        while free() >= leave + size && file.write_all(&vec![0; size as usize]).is_ok() {}
    }
    filler
}

// Should: wait with a reason while there is no room, and go on by itself. Should not: fail, or leave something half-written.
async fn full_disk(setup: Setup, leave: u64, reason: &str) {
    let mut federation = Federation::new(setup).await;
    let Some(disk) = on_a_small_disk(&mut federation, 24).await else {
        println!("skipped: this machine lets nobody mount a small disk (unshare -rm mount -t tmpfs)");
        return;
    };
    for i in 0..setup.agents {
        federation.start(Victim::Agent(i), "").await;
    }
    let reference = federation.run("reference").await;
    federation.eventually("the submission", || federation.submit("run")).await;
    federation.within("round 1", federation.until("run", |e| matches!(e, Event::Published(p) if p.round == 1))).await;
    let filler = fill(&disk, leave);
    federation
        .eventually("a pause", async || {
            let summary = federation.summary("run").await;
            summary.is_some_and(|s| s.phase == "paused" && s.reason.contains(reason) && s.reason.contains("goes on by itself"))
        })
        .await;
    std::fs::remove_file(filler).unwrap();
    federation.within("the run", federation.finished("run")).await;
    compare(&federation.end("run").await, &reference, "a full disk", &federation);
    let left = std::fs::read_dir(disk.join("blobs")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let half: Vec<String> = left.filter(|n| n.ends_with(".tmp") || n.ends_with(".up")).collect();
    assert!(half.is_empty(), "{half:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_lets_the_run_wait() {
    full_disk(Setup { rounds: 6, coordinator: &["--reserve", "0B"], ..SMALL }, 0, "goes on by itself").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_is_not_begun_without_room_for_its_updates() {
    full_disk(Setup { rounds: 6, coordinator: &["--reserve", "4MiB"], ..SMALL }, 2 << 20, "that stay free (--reserve)").await;
}

// ---- the long ones: `just faults` ----

fn table(title: &str, series: &Series) {
    println!("{title}: {} kills at {} points in {} runs, all digests equal", series.total(), series.kills.len(), series.runs);
    for (point, kills) in &series.kills {
        println!("  {point:<44} {kills:>4}");
    }
    let never: BTreeSet<&str> =
        series.unreached.iter().map(|(point, _)| *point).filter(|p| !series.kills.contains_key(p)).collect();
    println!("  not reached in these runs: {}", never.into_iter().collect::<Vec<_>>().join(", "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "many minutes: just faults"]
async fn two_hundred_kills_of_the_coordinator() {
    let series = kill_at_places(&[Victim::Coordinator], tessera_server::FAULT_POINTS, 3, 200).await;
    table("coordinator", &series);
    assert_eq!(series.total(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "many minutes: just faults"]
async fn two_hundred_kills_of_agents() {
    let victims = [Victim::Agent(0), Victim::Agent(1)];
    let series = kill_at_places(&victims, tessera_client::FAULT_POINTS, 8, 200).await;
    table("agents", &series);
    assert_eq!(series.total(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: just faults"]
async fn a_hundred_kills_at_random_moments() {
    kill_at_random(7, 100).await;
    println!("100 kills at random moments, all digests equal");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: just faults"]
async fn sixty_damaged_stores_and_journals() {
    damage(60).await;
    println!("60 times without the store, with a shortened journal, or both: all digests equal");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: just faults"]
async fn a_hundred_rounds_of_twenty_members_with_lost_messages_and_one_death_each() {
    let setup = Setup { members: 20, agents: 4, rounds: 100, ..SMALL };
    let calm = Federation::started(setup).await;
    let reference = calm.run("run").await;
    drop(calm);
    let mut federation = Federation::new(setup).await;
    federation.everywhere =
        ["coordinator/lose-sent", "agent/lose-sent", "agent/lose-blob"].map(|p| format!("{p}=5%return")).join(";");
    federation.start(Victim::Coordinator, "").await;
    for i in 0..setup.agents {
        federation.start(Victim::Agent(i), "").await;
    }
    federation.eventually("the submission", || federation.submit("run")).await;
    let victims = [Victim::Coordinator, Victim::Agent(0), Victim::Agent(1), Victim::Agent(2), Victim::Agent(3)];
    for (i, victim) in victims.into_iter().enumerate() {
        let round = 15 * (i as u32 + 1);
        let out = federation.until("run", move |e| matches!(e, Event::Published(p) if p.round >= round));
        tokio::time::timeout(LONG, out).await.unwrap_or_else(|_| panic!("round {round} hangs\n{}", federation.logs()));
        federation.kill(victim).await;
        federation.start(victim, "").await;
    }
    let end = tokio::time::timeout(LONG, federation.finished("run")).await;
    end.unwrap_or_else(|_| panic!("the run hangs\n{}", federation.logs()));
    compare(&federation.end("run").await, &reference, "lost messages", &federation);
    println!("100 rounds, 20 members, 5% of messages lost, 5 processes killed: the digest of the undisturbed run");
}

/// Resident memory of a process, in KiB.
#[cfg(target_os = "linux")]
fn resident(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: just faults"]
async fn the_coordinator_does_not_grow_with_the_rounds() {
    let mut federation = Federation::started(Setup { rounds: 2000, ..SMALL }).await;
    federation.eventually("the submission", || federation.submit("run")).await;
    let id = federation.child(Victim::Coordinator).id().unwrap();
    let mut seen = Vec::new();
    for round in [200, 2000] {
        let out = federation.until("run", move |e| matches!(e, Event::Published(p) if p.round == round));
        tokio::time::timeout(LONG, out).await.unwrap_or_else(|_| panic!("round {round} hangs\n{}", federation.logs()));
        seen.push(resident(id));
    }
    println!("resident memory of the coordinator: {} KiB after 200 rounds, {} KiB after 2000", seen[0], seen[1]);
    assert!(seen[1] as f64 <= seen[0] as f64 * 1.1, "{seen:?}");
}
