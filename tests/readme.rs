//! The commands of README's "A real deployment in five minutes", as they stand there.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::print_stdout)]
#![cfg(unix)]

use std::fs;
use std::path::Path;
use std::process::Command;

/// The commands of the section's console block, each with its comment.
fn commands(readme: &str) -> Vec<(String, String)> {
    let section = readme.split("## A real deployment in five minutes").nth(1).expect("README has the section");
    let block = section.split("```console").nth(1).and_then(|s| s.split("```").next()).expect("it has a console block");
    let line = |line: &str| {
        let (command, comment) = line.split_once("  #").unwrap_or((line, ""));
        (command.trim().to_owned(), comment.trim().to_owned())
    };
    block.lines().filter_map(|l| l.strip_prefix("$ ")).map(line).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target)
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

// Should: give a finished run by nothing but the commands of the page. Should not: need a file or a step that is not there.
#[test]
fn the_commands_of_the_readme_make_a_federation() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().unwrap();
    // the page is read in a fresh clone: data that an earlier reader made is not there
    copy(&root.join("deploy/data/mfeat"), &dir.path().join("deploy/data/mfeat"));
    let sites = dir.path().join("deploy/examples/three-sites");
    copy(&root.join("deploy/examples/three-sites"), &sites);
    for site in ["north", "south", "east"] {
        let _ = fs::remove_dir_all(sites.join(site));
        for name in ["agent.toml", "agent-tls.toml", "data/dataset.toml"] {
            let from = root.join("deploy/examples/three-sites").join(site).join(name);
            if from.exists() {
                fs::create_dir_all(sites.join(site).join("data")).unwrap();
                fs::copy(from, sites.join(site).join(name)).unwrap();
            }
        }
    }
    let mut script = String::from("set -eu\ntrap 'kill $(jobs -p) 2>/dev/null' EXIT\n");
    let commands = commands(&fs::read_to_string(root.join("README.md")).unwrap());
    assert!(commands[0].0.starts_with("cargo build --release"), "{commands:?}");
    let mut terminals = 0;
    // the binary of this test stands for the one that the first command builds
    for (command, comment) in &commands[1..] {
        if comment.starts_with("terminal") {
            terminals += 1;
            // without `exec` the shell would be killed at the end, and its child go on
            script.push_str(&format!("(exec {command}) > terminal-{terminals}.log 2>&1 &\n"));
            if command.contains("tessera server") {
                // whoever types needs longer than a coordinator to start
                script.push_str("until [ -S coordinator/admin.sock ]; do sleep 0.05; done\n");
            }
        } else {
            script.push_str(&format!("{command}\n"));
        }
    }
    assert_eq!(terminals, 3, "{script}");
    let bin = Path::new(env!("CARGO_BIN_EXE_tessera")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("timeout");
    shell.args(["120", "bash", "-c", &script]).current_dir(dir.path()).env("PATH", path).env_remove("TESSERA_ADMIN");
    // another test, or a coordinator of whoever runs this, may have the port of the page
    let output = shell.env("TESSERA_LISTEN", "127.0.0.1:0").output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let log = |n: u32| fs::read_to_string(sites.join(format!("terminal-{n}.log"))).unwrap_or_default();
    let logs: String = (1..=terminals).map(log).collect();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{script}\n{out}\n{err}\n{logs}", output.status);
    assert!(out.contains("completed"), "{out}\n{err}\n{logs}");
}
