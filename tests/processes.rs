//! The real binary, real processes, real sockets, kills.

// A test may panic, and no test uses all of what the tests share.
#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code, unreachable_pub, missing_debug_implementations)]

mod support;

use serde_json::Value;
use support::{Running, eventually, is_alive, kill, pid_of, result};

/// A shorter version of the built-in example: two methods would only double the time.
const SHORT: [&str; 4] = ["--set", "rounds=6", "--set", "method=[{ preset = \"pmcmfl\" }]"];

fn short(more: &[&'static str]) -> Vec<&'static str> {
    SHORT.iter().chain(more).copied().collect()
}

// Should: be one digest. Should not: depend on how the members are spread over processes and threads.
#[test]
fn the_digest_is_the_same_for_any_number_of_processes_and_threads() {
    let reference = result(&short(&["--processes", "1", "--threads", "1"]));
    assert!(reference["digest"].as_str().unwrap().len() == 64);
    for more in
        [["--processes", "2", "--threads", "1"], ["--processes", "5", "--threads", "1"], ["--processes", "2", "--threads", "2"]]
    {
        let other = result(&short(&more));
        assert_eq!(other["digest"], reference["digest"], "{more:?}");
        assert_eq!(other["methods"]["pmcmfl"]["statistics"], reference["methods"]["pmcmfl"]["statistics"], "{more:?}");
        assert_eq!(other["methods"]["pmcmfl"]["subsets"], reference["methods"]["pmcmfl"]["subsets"], "{more:?}");
    }
    let seeded = result(&short(&["--seed", "1"]));
    assert_ne!(seeded["digest"], reference["digest"], "another seed is another model");
}

// Should: end with the digest of an undisturbed run. Should not: lose the run, or ask for more than is missing.
#[test]
fn killing_the_coordinator_and_an_agent_changes_nothing() {
    let reference = result(&SHORT);
    for victim in ["coordinator", "agent-1"] {
        let out = tempfile::tempdir().unwrap();
        let mut running = Running::start(&short(&["--processes", "2"]), out.path());
        let process = running.wait_for(|v| v["type"] == "process" && v["name"] == victim);
        running.wait_for(|v| v["type"] == "round" && v["round"] == 2);
        kill(pid_of(&process), "-9");
        let end = running.wait_for(|v| v["type"] == "result");
        assert!(running.child.wait().unwrap().success());
        assert_eq!(end["digest"], reference["digest"], "{victim} was killed");
        assert_eq!(end["restarts"], 1, "{victim} was killed");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_interrupt_ends_every_process() {
    let out = tempfile::tempdir().unwrap();
    let mut running = Running::start(&["--set", "rounds=100000", "--processes", "2"], out.path());
    let mut pids = Vec::new();
    while pids.len() < 3 {
        pids.push(pid_of(&running.wait_for(|v| v["type"] == "process")));
    }
    running.wait_for(|v| v["type"] == "round" && v["round"] == 1);
    kill(running.child.id(), "-INT");
    assert_eq!(running.child.wait().unwrap().code(), Some(130));
    for pid in pids {
        eventually("the child's end", || !is_alive(pid));
    }
}

#[test]
fn the_run_folder_holds_what_it_should() {
    let out = tempfile::tempdir().unwrap();
    let output = support::simulate(&short(&[]), out.path()).output().unwrap();
    assert!(output.status.success());
    for file in ["pmcmfl/model.safetensors", "pmcmfl/prototypes.safetensors", "pmcmfl/run.toml", "partition.json", "spec.toml"] {
        assert!(out.path().join(file).is_file(), "{file}");
    }
    let manifest: Value = serde_json::from_str(&std::fs::read_to_string(out.path().join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["seed"], 0);
    let metrics = std::fs::read_to_string(out.path().join("metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().filter(|l| l.contains("\"loss\":")).count(), 6);
    let report = std::fs::read_to_string(out.path().join("report.html")).unwrap();
    for part in ["<svg", "pmcmfl", "left+right", manifest["digest"].as_str().unwrap()] {
        assert!(report.contains(part), "the report lacks {part:?}");
    }
    for part in ["<script", "http://", "https://"] {
        assert!(!report.replace("http://www.w3.org/2000/svg", "").contains(part), "the report has {part:?}");
    }
    // the same cut again, from its manifest
    let partition = out.path().join("partition.json").display().to_string();
    let again = result(&[&SHORT[..], &["--partition", &partition]].concat());
    assert_eq!(again["digest"], manifest["digest"]);
}

#[test]
fn bad_input_is_refused_with_the_key_and_an_exit_code() {
    let out = tempfile::tempdir().unwrap();
    let cases = [
        (vec!["--set", "cohort.sise=3"], "did you mean `size`?"),
        (vec!["--set", "data.source=no-such-folder"], "no-such-folder"),
        (vec!["--set", "data.missing.kind=sampel"], "sample"),
        (vec!["--set", "method=[{ preset = \"pmcm-fl\" }]"], "did you mean `pmcmfl`?"),
        (vec!["--set", "model.hiden=8"], "did you mean `hidden`?"),
        (vec!["--set", "task.kind=clasify"], "did you mean `classify`?"),
        (vec!["no-such-file.toml"], "no-such-file.toml"),
    ];
    for (arguments, expected) in cases {
        let output = support::simulate(&arguments, out.path()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{arguments:?}: {text}");
        assert!(text.contains(expected), "{arguments:?}: {text}");
    }
}
