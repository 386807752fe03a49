//! Blocks that stay at their members, with real processes: nothing depends on who serves a member, or dies.

// A test may panic, and no test uses all of what the tests share.
#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code, unreachable_pub, missing_debug_implementations)]

#[allow(dead_code, unreachable_pub)] // What this test does not use, others do.
mod support;

use serde_json::Value;
use support::{Running, kill, pid_of, result};
use tessera_client::config::AgentConfig;
use tessera_common::param::{Limits, ParamSet};

/// A short run in which every member keeps a head of its own, and has held-out samples to answer with it.
const SHORT: [&str; 8] = [
    "--set",
    "rounds=6",
    "--set",
    "data.held_out=0.2",
    "--set",
    "method=[{ preset = \"tessera\" }]",
    "--set",
    "model.private=[\"head\"]",
];

fn short(more: &[&'static str]) -> Vec<&'static str> {
    SHORT.iter().chain(more).copied().collect()
}

/// What must be the same: the final model, the statistics of its features, and all right answers.
fn end(result: &Value) -> [&Value; 3] {
    let method = &result["methods"]["tessera"];
    assert!(method["statistics"].is_string() && method["subsets"].is_object(), "{result}");
    [&result["digest"], &method["statistics"], &method["subsets"]]
}

// Should: be one digest. Should not: depend on which process serves a member.
#[test]
fn the_digest_is_the_same_for_any_number_of_processes() {
    let reference = result(&short(&["--processes", "1"]));
    let other = result(&short(&["--processes", "3"]));
    assert_eq!(end(&other), end(&reference));
    let shared = result(&short(&["--set", "model.private=[]"]));
    assert_ne!(shared["digest"], reference["digest"], "a private head is another model");
}

// Should: go on with the heads that the members had. Should not: lose them with the process.
#[test]
fn killing_an_agent_loses_no_private_block() {
    let reference = result(&short(&["--processes", "2"]));
    let out = tempfile::tempdir().unwrap();
    let mut running = Running::start(&short(&["--processes", "2"]), out.path());
    let victims = ["agent-0", "agent-1"].map(|name| running.wait_for(|v| v["type"] == "process" && v["name"] == name));
    for (victim, round) in victims.iter().zip([2, 4]) {
        running.wait_for(|v| v["type"] == "round" && v["round"] == round);
        kill(pid_of(victim), "-9");
    }
    let last = running.wait_for(|v| v["type"] == "result");
    assert!(running.child.wait().unwrap().success());
    assert_eq!(last["restarts"], 2);
    assert_eq!(end(&last), end(&reference));
    let model = std::fs::read(out.path().join("tessera/model.safetensors")).unwrap();
    let model = ParamSet::from_bytes(&model, &Limits::default()).unwrap();
    assert!(model.get("fusion.weight").is_some() && model.iter().all(|(name, _)| !name.starts_with("head")));
}

#[test]
fn a_state_folder_is_relative_to_the_settings() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.toml");
    std::fs::write(&file, "name = \"north\"\ncoordinator = \"localhost:1\"\nstate_dir = \"state\"\n").unwrap();
    assert_eq!(AgentConfig::load(&file).unwrap().state_dir.as_deref(), Some(dir.path().join("state").as_path()));
    std::fs::write(&file, "name = \"north\"\ncoordinator = \"localhost:1\"\n").unwrap();
    let without = AgentConfig::load(&file).unwrap();
    assert_eq!(without.state_dir.as_deref(), Some(dir.path().join("north.state").as_path()), "beside the settings");
}
