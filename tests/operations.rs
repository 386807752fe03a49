//! What operators do, with the real binary: fork, watch, export, replay, look for what is wrong.

// A test may panic, and no test uses all of what the tests share.
#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code, unreachable_pub, missing_debug_implementations)]
#![cfg(unix)]

#[path = "support/federation.rs"]
mod federation;

use federation::{Federation, SMALL, Setup, Victim};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use tessera_common::id::Digest;
use tessera_common::param::{Limits, ParamSet};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{ChildStdout, Command};

/// An operator's command on the coordinator's machine.
fn command(federation: &Federation, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
    command.args(words).env("TESSERA_ADMIN", federation.dir.path().join("admin.sock")).env_remove("FAILPOINTS");
    command.env("TESSERA_DATA_DIR", federation.data()).env("RUST_BACKTRACE", "0").stdin(Stdio::null()).kill_on_drop(true);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn call(federation: &Federation, words: &[&str]) -> Output {
    let mut command = command(federation, words);
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    federation.within(&words.join(" "), output).await.unwrap()
}

/// The output of a command that must succeed.
async fn done(federation: &Federation, words: &[&str]) -> String {
    let output = call(federation, words).await;
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{words:?}: {}\n{out}\n{err}\n{}", output.status, federation.logs());
    out
}

/// Its lines of JSON.
async fn json(federation: &Federation, words: &[&str]) -> Vec<Value> {
    let words: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
    done(federation, &words).await.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What a command says that must fail with this exit code.
async fn refused(federation: &Federation, words: &[&str], code: i32) -> String {
    let output = call(federation, words).await;
    let all = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{words:?}: {all}");
    all
}

/// Submits the federation's spec with these overrides, and follows the run to its end; what was said.
async fn run(federation: &Federation, id: &str, set: &[&str]) -> Vec<Value> {
    let path = federation.dir.path().join("spec.toml");
    std::fs::write(&path, federation.spec()).unwrap();
    let path = path.display().to_string();
    let set = set.iter().flat_map(|set| ["--set", set]);
    let words: Vec<&str> = ["run", "submit", &path, "--id", id].into_iter().chain(set).collect();
    assert_eq!(done(federation, &words).await.trim(), id);
    json(federation, &["run", "watch", id]).await
}

/// The model of each round, as a run was followed.
fn models(lines: &[Value]) -> Vec<(u64, String)> {
    let rounds = lines.iter().filter(|line| line["type"] == "round");
    rounds.map(|line| (line["round"].as_u64().unwrap(), line["model"].as_str().unwrap().to_owned())).collect()
}

fn is_consecutive(lines: &[Value]) -> bool {
    (1..).zip(lines).all(|(position, line)| line["position"] == position)
}

fn checks(report: &Value, verdict: &str) -> Vec<String> {
    let checks = report["checks"].as_array().unwrap().iter().filter(|c| c["verdict"] == verdict);
    checks.map(|c| c["check"].as_str().unwrap().to_owned()).collect()
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

// Should: follow a run from its start, and end with its outcome.
#[tokio::test(flavor = "multi_thread")]
async fn runs_are_watched_forked_and_exported() {
    let federation = Federation::started(SMALL).await;
    let first = run(&federation, "first", &[]).await;
    assert_eq!((first.last().unwrap()["type"].as_str(), is_consecutive(&first)), (Some("finished"), true), "{first:?}");
    let rounds = models(&first);
    assert_eq!(rounds.iter().map(|(round, _)| *round).collect::<Vec<_>>(), [0, 1, 2, 3]);

    let members = &json(&federation, &["members"]).await[0];
    assert_eq!(members.as_array().unwrap().iter().filter(|m| m["online"] == true).count(), SMALL.members + 1, "{members}");

    let globals = &json(&federation, &["run", "globals", "first"]).await[0];
    let listed = globals.as_array().unwrap().iter();
    let listed: Vec<_> = listed.map(|g| (g["round"].as_u64().unwrap(), g["digest"].as_str().unwrap().to_owned())).collect();
    assert_eq!(listed, rounds, "all are kept");
    let shown = done(&federation, &["run", "globals", "first"]).await;
    assert!(shown.contains(&rounds[3].1[..12]) && shown.contains("KiB"), "{shown}");

    // the same spec goes on to the same model
    let forked = done(&federation, &["run", "fork", "first", "--from-round", "2", "--id", "second"]).await;
    assert_eq!(forked.trim(), "second");
    let second = json(&federation, &["run", "watch", "second"]).await;
    assert_eq!(models(&second), rounds[2..], "{second:?}");
    // another one to another
    done(&federation, &["run", "fork", "first", "--from-round", "3", "--id", "third", "--set", "rounds=5"]).await;
    let third = json(&federation, &["run", "watch", "third"]).await;
    assert_eq!(models(&third).iter().map(|(round, _)| *round).collect::<Vec<_>>(), [3, 4, 5]);
    let gone = refused(&federation, &["run", "fork", "first", "--from-round", "42"], 3).await;
    assert!(gone.contains("42") && gone.contains("0, 1, 2, 3"), "{gone}");
    refused(&federation, &["run", "fork", "first", "--from-round", "2", "--set", "preset=pmcmfl"], 4).await;
    export(&federation, &rounds).await;
}

async fn export(federation: &Federation, rounds: &[(u64, String)]) {
    let out = |name: &str| -> (PathBuf, String) {
        let path = federation.dir.path().join("exported").join(name);
        (path.clone(), path.display().to_string())
    };
    std::fs::create_dir(federation.dir.path().join("exported")).unwrap();
    let (path, name) = out("model.safetensors");
    done(federation, &["model", "export", "first", "--out", &name]).await;
    let model = ParamSet::from_bytes(&read(&path), &Limits::default()).unwrap();
    assert!(model.iter().all(|(name, _)| name.contains('.') && !name.contains('/')), "{:?}", model.layout());
    assert!(model.iter().any(|(name, _)| name.starts_with("encoder.left.")), "{:?}", model.layout());
    let there = refused(federation, &["model", "export", "first", "--out", &name], 4).await;
    assert!(there.contains("--force"), "{there}");
    let said = &json(federation, &["model", "export", "first", "--out", &name, "--force", "--whole"]).await[0];
    assert_eq!((said["round"].as_u64(), said["model"].as_str()), (Some(3), Some(rounds[3].1.as_str())));
    assert_eq!(Digest::of(&read(&path)).to_string(), rounds[3].1);
    let (path, name) = out("two.safetensors");
    done(federation, &["model", "export", "first", "--round", "2", "--whole", "--out", &name]).await;
    let whole = read(&path);
    assert_eq!(Digest::of(&whole).to_string(), rounds[2].1);

    // a download that broke off goes on
    let (path, name) = out("again.safetensors");
    let part = path.with_file_name(format!(".again.safetensors.{}.part", &rounds[2].1[..12]));
    std::fs::write(&part, &whole[..whole.len() / 2]).unwrap();
    done(federation, &["model", "export", "first", "--round", "2", "--whole", "--out", &name]).await;
    assert_eq!(read(&path), whole);
    // one that went wrong is noticed, and does not come again
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&part, vec![0; whole.len() / 2]).unwrap();
    let words = ["model", "export", "first", "--round", "2", "--whole", "--out", &name];
    assert!(refused(federation, &words, 1).await.contains("thrown away"));
    done(federation, &words).await;
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 3, "nothing is left beside the files");
    let gone = refused(federation, &["model", "export", "first", "--round", "9", "--out", &out("x").1], 3).await;
    assert!(gone.contains("0, 1, 2, 3"), "{gone}");
}

// Should: find nothing in a sound folder, whether its coordinator runs or not, and name what was changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_replayed_and_looked_at() {
    let mut federation = Federation::started(SMALL).await;
    let lines = run(&federation, "kept", &["keep.updates=true"]).await;
    let model = models(&lines).last().unwrap().1.clone();
    let replayed = &json(&federation, &["run", "replay", "kept"]).await[0];
    let folds = replayed["folds"].as_array().unwrap();
    assert_eq!((replayed["holds"].as_bool(), replayed["phase"].as_str()), (Some(true), Some("completed")), "{replayed}");
    assert_eq!(replayed["model"], model.as_str());
    assert!(folds.len() >= 5 && folds.iter().all(|fold| fold["verdict"] == "same"), "{replayed}");
    refused(&federation, &["run", "replay", "other"], 3).await;

    let report = &json(&federation, &["doctor", "--deep"]).await[0];
    assert_eq!((report["failed"].as_u64(), checks(report, "fail")), (Some(0), Vec::new()), "{report}");
    let agent = federation.dir.path().join("agent-0.toml").display().to_string();
    let report = &json(&federation, &["doctor", "--config", &agent]).await[0];
    assert_eq!(report["failed"], 0, "{report}");
    assert!(checks(report, "ok").contains(&"clock".to_owned()), "{report}");

    federation.kill(Victim::Coordinator).await;
    let gone = refused(&federation, &["doctor", "--config", &agent], 1).await;
    assert!(gone.contains("nobody answers at"), "{gone}");
    let blob = federation.data().join("blobs").join(&model);
    let mut bytes = read(&blob);
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    let mut offline = command(&federation, &["doctor", "--deep", "--json"]);
    let output = offline.env_remove("TESSERA_ADMIN").output().await.unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), checks(&report, "fail")), (Some(1), vec!["blobs".to_owned()]), "{report}");
    let wrong = refused(&federation, &["run", "replay", "kept"], 1).await;
    assert!(wrong.contains(&format!("damaged: {model}")), "{wrong}");
}

async fn next(lines: &mut Lines<BufReader<ChildStdout>>) -> Value {
    serde_json::from_str(&lines.next_line().await.unwrap().expect("the run is not over")).unwrap()
}

// Should: go on where it was when the coordinator comes back. Should not: repeat or leave out anything.
#[tokio::test(flavor = "multi_thread")]
async fn watching_outlives_the_coordinator() {
    let mut federation = Federation::started(Setup { rounds: 12, ..SMALL }).await;
    let path = federation.dir.path().join("spec.toml");
    std::fs::write(&path, federation.spec()).unwrap();
    done(&federation, &["run", "submit", &path.display().to_string(), "--id", "long"]).await;
    let mut watch = command(&federation, &["run", "watch", "long", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut seen = Vec::new();
    while models(&seen).len() < 3 {
        seen.push(federation.within("a round", next(&mut lines)).await);
    }
    federation.kill(Victim::Coordinator).await;
    federation.start(Victim::Coordinator, "").await;
    while seen.last().is_none_or(|line| line["type"] != "finished") {
        seen.push(federation.within("the end", next(&mut lines)).await);
    }
    assert!(is_consecutive(&seen), "{seen:?}");
    assert_eq!(models(&seen).len(), 13);
    assert!(federation.within("the watch", watch.wait()).await.unwrap().success());

    done(&federation, &["run", "submit", &path.display().to_string(), "--id", "cut", "--set", "rounds=100000"]).await;
    done(&federation, &["run", "stop", "cut"]).await;
    let stopped = refused(&federation, &["run", "watch", "cut"], 1).await;
    assert!(stopped.trim_end().ends_with("stopped"), "{stopped}");
    refused(&federation, &["run", "watch", "none"], 3).await;
}
