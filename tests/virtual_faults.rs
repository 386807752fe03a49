//! A virtual cluster under faults: thousands of seeds, each with its own crashes, losses, outages and clock jumps.
//!
//! A seed that fails is run again, with everything that happens in it, by the command that its message names. For a long
//! run: `TESSERA_SEEDS=100000 cargo test --test virtual_faults -- --nocapture`.

// A test may panic, and says on demand what it saw.
#![allow(clippy::unwrap_used, clippy::print_stdout, unreachable_pub)]

#[path = "virtual_faults/cluster.rs"]
mod cluster;

use cluster::{FAULTS, KINDS, Kind, Outcome, PLANTED, Planted};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Seeds of the usual run, of each kind.
const SEEDS: u64 = 2_000;
/// Seeds within which a planted mistake must be noticed.
const UNTIL_NOTICED: u64 = 200;
const THREADS: usize = 2;
/// What faults must lead to now and then.
const SEEN: [&str; 7] = [
    "assignments dropped",
    "assignments expired",
    "connections ended by a gap",
    "folds with late answers",
    "pauses",
    "snapshots used",
    "verdicts said again",
];

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}, which is no number")))
}

/// What is wrong with a run, and how to see it again.
fn complaint(seed: u64, kind: Kind, outcome: &Outcome) -> Option<String> {
    if outcome.violations.is_empty() && outcome.ended {
        return None;
    }
    let what: Vec<String> = outcome.violations.iter().map(|(name, text)| format!("  {name}: {text}")).collect();
    Some(format!(
        "seed {seed}, {kind:?}:\n{}\n  see it again: \
         TESSERA_SEED={seed} cargo test --test virtual_faults -- --nocapture one_seed",
        what.join("\n")
    ))
}

#[derive(Debug, Default)]
struct Summary {
    runs: u64,
    steps: u64,
    ended: u64,
    counts: Vec<u64>,
    seen: BTreeMap<&'static str, u64>,
    complaints: Vec<String>,
}

impl Summary {
    fn add(&mut self, seed: u64, kind: Kind, outcome: &Outcome) {
        self.runs += 1;
        self.steps += outcome.steps;
        self.ended += u64::from(outcome.ended);
        self.add_counts(&outcome.counts, &outcome.seen);
        self.complaints.extend(complaint(seed, kind, outcome));
    }

    fn add_counts(&mut self, counts: &[u64], seen: &BTreeMap<&'static str, u64>) {
        self.counts.resize(FAULTS.len(), 0);
        self.counts.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
        seen.iter().for_each(|(what, n)| *self.seen.entry(what).or_default() += n);
    }

    fn merge(&mut self, other: Summary) {
        self.runs += other.runs;
        self.steps += other.steps;
        self.ended += other.ended;
        self.add_counts(&other.counts, &other.seen);
        self.complaints.extend(other.complaints);
    }

    fn print(&self, seconds: f64) {
        println!("{:<22} {:>9}", "fault", "injected");
        for ((fault, _), count) in FAULTS.iter().zip(&self.counts) {
            println!("{:<22} {count:>9}", format!("{fault:?}"));
        }
        println!("{:<22} {:>9}", "all", self.counts.iter().sum::<u64>());
        self.seen.iter().for_each(|(what, count)| println!("{what:<30} {count:>9}"));
        let (runs, ended, steps, violations) = (self.runs, self.ended, self.steps, self.complaints.len());
        println!(
            "{runs} runs, {ended} ended, {steps} steps, {violations} violations, {seconds:.1} s, {:.0} runs/s",
            runs as f64 / seconds
        );
    }
}

// Should: end every run under every fault, with every invariant kept. Should not: pass because nothing went wrong.
#[test]
fn nothing_is_lost_whatever_goes_wrong() {
    let seeds = number("TESSERA_SEEDS").unwrap_or(SEEDS);
    let (next, start) = (AtomicU64::new(0), Instant::now());
    let work = || {
        let mut summary = Summary::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds || summary.complaints.len() > 5 {
                return summary;
            }
            for kind in KINDS {
                summary.add(seed, kind, &cluster::run(seed, kind, None, false));
            }
        }
    };
    let mut summary = Summary::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().for_each(|thread| summary.merge(thread.join().unwrap()));
    });
    summary.print(start.elapsed().as_secs_f64());
    assert!(summary.complaints.is_empty(), "{}", summary.complaints.join("\n"));
    let runs = KINDS.len() as u64 * seeds;
    assert_eq!((summary.runs, summary.ended), (runs, runs));
    // a long run may be a short one, too
    let enough = u64::from(seeds >= SEEDS) * 20;
    for ((fault, _), count) in FAULTS.iter().zip(&summary.counts) {
        assert!(*count >= enough, "{fault:?} happened {count} times only: the suite has gone blind for it");
    }
    for what in SEEN {
        let count = summary.seen.get(what).copied().unwrap_or(0);
        assert!(count >= enough, "{what}: {count} times only: the suite has gone blind for it");
    }
}

/// The first seed in which a mistake is noticed, and the invariants that notice it, in that order.
fn noticed(mistake: Planted) -> Option<(u64, Kind, Vec<&'static str>)> {
    let runs = (0..UNTIL_NOTICED).flat_map(|seed| KINDS.map(|kind| (seed, kind)));
    let mut outcomes = runs.map(|(seed, kind)| (seed, kind, cluster::run(seed, kind, Some(mistake), false)));
    let (seed, kind, outcome) = outcomes.find(|(_, _, outcome)| !outcome.violations.is_empty())?;
    let mut names: Vec<&'static str> = Vec::new();
    for (name, _) in outcome.violations {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Some((seed, kind, names))
}

// Should: notice every mistake that is planted. Should not: have an invariant that notices none.
#[test]
fn planted_mistakes_are_noticed() {
    let mut idle: BTreeSet<_> = cluster::names().into_iter().collect();
    println!("{:<26} {:>5}  {:<9} noticed by", "mistake", "seed", "kind");
    for mistake in PLANTED {
        let found = noticed(mistake);
        let Some((seed, kind, names)) = found else { panic!("{mistake:?} is not noticed within {UNTIL_NOTICED} seeds") };
        println!("{:<26} {seed:>5}  {:<9} {}", format!("{mistake:?}"), format!("{kind:?}"), names.join(", "));
        idle.retain(|name| !names.contains(name));
    }
    assert!(idle.is_empty(), "nothing shows that these can fail: {idle:?}");
}

// Should: be the same run each time, to the last draw.
#[test]
fn a_seed_is_a_run() {
    for kind in KINDS {
        let [one, two] = [(); 2].map(|()| cluster::run(7, kind, None, false));
        assert_eq!((one.steps, one.counts), (two.steps, two.counts));
    }
}

// Runs one seed, and shows all that happens: the one of TESSERA_SEED, or 0.
#[test]
fn one_seed() {
    let seed = number("TESSERA_SEED").unwrap_or(0);
    for kind in KINDS {
        let outcome = cluster::run(seed, kind, None, true);
        let wrong = complaint(seed, kind, &outcome);
        assert!(wrong.is_none(), "{}", wrong.unwrap_or_default());
    }
}
