//! Replaying a real run from its folder.

#![allow(clippy::unwrap_used)] // a test stops where something is not as it should be

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use support::{Act, Agent, Running, Script, published, spec};
use tempfile::TempDir;
use tessera_common::id::{Digest, RunId};
use tessera_common::round::{Event, FoldKind, Work};
use tessera_server::journal::{Entry, Journal};
use tessera_server::replay::{Replay, Verdict, replay};
use tessera_server::{Config, Happened};

fn run_id() -> RunId {
    "kept".parse().unwrap()
}

/// A run of three rounds in `dir` that keeps every update, with a failure and a refused answer; its history.
async fn complete(dir: &Path) -> Vec<Happened> {
    let uneven: Script = Arc::new(|a| match (a.work, a.round, a.member.as_str()) {
        (Work::Fit, 1, "c") => Act::Fail,
        (Work::Fit, 2, "b") => Act::NotFinite,
        _ => Act::Good,
    });
    let server = Running::start(Config::in_dir(dir)).await;
    server.join(&Agent::of_four(uneven)).await;
    server.handle.submit(&format!("{}\n[keep]\nupdates = true\n", spec(3)), Some(run_id())).await.unwrap();
    let history = server.follow(&run_id()).await;
    server.stop().await;
    history
}

/// Every file below a folder with its bytes.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(files(&path));
        } else if path.is_file() {
            // the operators' socket is none
            all.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
    all.sort();
    all
}

fn of_kind(replay: &Replay, kind: FoldKind) -> usize {
    replay.rounds.iter().filter(|check| check.kind == kind).count()
}

#[tokio::test]
async fn a_run_that_keeps_everything_folds_to_the_same_digests() {
    let dir = TempDir::new().unwrap();
    let history = complete(dir.path()).await;
    let before = files(dir.path());
    let found = replay(dir.path(), &run_id()).unwrap();
    assert_eq!(files(dir.path()), before, "nothing was written");

    assert!(found.rounds.iter().all(|check| check.verdict == Verdict::Same), "{:#?}", found.rounds);
    let kinds = [FoldKind::Inputs, FoldKind::Initial, FoldKind::Round, FoldKind::Features].map(|kind| of_kind(&found, kind));
    assert_eq!(kinds, [1, 1, 3, 2], "evaluations are due after rounds 2 and 3");
    let globals = found.rounds.iter().filter(|c| matches!(c.kind, FoldKind::Initial | FoldKind::Round)).map(|c| c.digest);
    assert_eq!(globals.collect::<Vec<_>>(), published(&history));
    let last = found.final_global.unwrap();
    assert_eq!((last.round, Some(&last.digest)), (3, published(&history).last()));
    assert_eq!((found.phase.as_str(), found.torn_bytes), ("completed", 0));
    assert!(found.records > 30 && found.blobs_checked > 20, "{found:#?}");
    assert_eq!(found.blobs_corrupt, []);

    // beside a coordinator, which holds the lock
    let server = Running::start(Config::in_dir(dir.path())).await;
    assert_eq!(replay(dir.path(), &run_id()).unwrap(), Replay { records: found.records, ..found });
    server.stop().await;
}

#[tokio::test]
async fn what_is_gone_damaged_or_torn_is_told() {
    let dir = TempDir::new().unwrap();
    complete(dir.path()).await;
    let whole = replay(dir.path(), &run_id()).unwrap();
    let blob = |digest: &Digest| dir.path().join("blobs").join(digest.to_string());
    let globals: Vec<_> = whole.rounds.iter().filter(|c| matches!(c.kind, FoldKind::Initial | FoldKind::Round)).collect();

    // the initial global is gone, and that of round 2 has another bit
    fs::remove_file(blob(&globals[0].digest)).unwrap();
    let mut bytes = fs::read(blob(&globals[2].digest)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(blob(&globals[2].digest), &bytes).unwrap();
    let journal = dir.path().join("runs").join(run_id().as_str()).join("journal");
    let intact = fs::read(&journal).unwrap();
    fs::write(&journal, [&intact[..], &intact[..30]].concat()).unwrap();
    let before = files(dir.path());
    let found = replay(dir.path(), &run_id()).unwrap();
    assert_eq!(files(dir.path()), before, "the tail is not cut off, the blob not put aside");
    assert_eq!((found.records, found.torn_bytes), (whole.records, 30));
    assert_eq!(found.blobs_checked, whole.blobs_checked - 1);
    assert_eq!(found.blobs_corrupt, [globals[2].digest]);
    for (check, expected) in found.rounds.iter().zip(&whole.rounds) {
        assert_eq!((check.round, check.kind, check.digest), (expected.round, expected.kind, expected.digest));
        match (&check.verdict, check.kind, check.round) {
            (Verdict::NotKept { what }, FoldKind::Round, 1) => {
                let text = format!("the global that it starts from, blob {}, is not kept", globals[0].digest.short());
                assert_eq!(*what, text);
            }
            (Verdict::NotKept { what }, FoldKind::Round, 3) => {
                assert!(what.contains("has bytes with the digest") && what.contains(&Digest::of(&bytes).short()), "{what}");
            }
            (verdict, kind, round) => assert_eq!(*verdict, Verdict::Same, "{kind:?} of round {round}"),
        }
    }
}

/// A coordinator that wrote down a result which the answers do not give.
#[tokio::test]
async fn a_result_that_does_not_follow_from_its_answers_is_found() {
    let dir = TempDir::new().unwrap();
    complete(dir.path()).await;
    let whole = replay(dir.path(), &run_id()).unwrap();
    let run = dir.path().join("runs").join(run_id().as_str());
    let spec_toml = fs::read_to_string(run.join("spec.toml")).unwrap();
    let mut entries: Vec<Entry> = Vec::new();
    let keep = &mut |_, payload: &[u8]| {
        entries.push(serde_json::from_slice(payload).unwrap());
        Ok(())
    };
    Journal::scan(&run.join("journal"), &spec_toml, keep).unwrap();
    let last =
        entries.iter_mut().rev().find_map(|e| if let Event::Folded { digest, .. } = &mut e.event { Some(digest) } else { None });
    let (honest, other) = (whole.rounds.last().unwrap(), whole.rounds[0].digest);
    assert_eq!(std::mem::replace(last.unwrap(), other), honest.digest);
    fs::remove_file(run.join("journal")).unwrap();
    Journal::create(&run.join("journal"), &spec_toml).unwrap().append(&entries).unwrap();

    let found = replay(dir.path(), &run_id()).unwrap();
    let (last, rest) = found.rounds.split_last().unwrap();
    assert_eq!(rest, &whole.rounds[..rest.len()]);
    assert_eq!((last.digest, &last.verdict), (other, &Verdict::Different { found: honest.digest }));
}

#[tokio::test]
async fn a_run_that_was_altered_or_is_not_there_is_an_error() {
    let dir = TempDir::new().unwrap();
    complete(dir.path()).await;
    let run = dir.path().join("runs").join(run_id().as_str());
    let text = fs::read_to_string(run.join("spec.toml")).unwrap();
    fs::write(run.join("spec.toml"), text.replace("seed = 7", "seed = 8")).unwrap();
    let error = replay(dir.path(), &run_id()).unwrap_err().to_string();
    assert!(error.contains("the file or the spec was altered"), "{error}");
    let error = replay(dir.path(), &"none".parse().unwrap()).unwrap_err().to_string();
    assert!(error.contains("cannot read") && error.contains("runs/none/spec.toml"), "{error}");
}
