//! What the whole-system tests share: the real binary, its NDJSON, and waiting for conditions.

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

/// Command line of `tessera simulate`, quiet and with JSON.
pub fn simulate(arguments: &[&str], out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
    command.arg("simulate").args(arguments).arg("--json").arg("--out").arg(out);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a simulation to its end and returns its result line.
pub fn result(arguments: &[&str]) -> Value {
    let out = tempfile::tempdir().unwrap();
    let output = simulate(arguments, out.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{arguments:?}: {}\n{text}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    let last = text.lines().last().expect("there is a result line");
    let value: Value = serde_json::from_str(last).unwrap();
    assert_eq!(value["type"], "result");
    value
}

/// A running simulation whose lines are read one by one.
pub struct Running {
    pub child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Running {
    pub fn start(arguments: &[&str], out: &Path) -> Self {
        let mut child = simulate(arguments, out).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next line that `wanted` likes; panics if the output ends before.
    pub fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        for line in self.lines.by_ref() {
            let value: Value = serde_json::from_str(&line.unwrap()).unwrap();
            if wanted(&value) {
                return value;
            }
        }
        panic!("the output ended before the awaited line");
    }
}

/// Process id of a child of the simulation, from its `process` line.
pub fn pid_of(line: &Value) -> u32 {
    u32::try_from(line["pid"].as_u64().unwrap()).unwrap()
}

/// True while a process lives (a zombie does not).
#[cfg(target_os = "linux")]
pub fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with('Z')))
}

/// Sends a signal by the system's own `kill`.
pub fn kill(pid: u32, signal: &str) {
    let status = Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
    assert!(status.success(), "kill {signal} {pid}");
}

/// Waits for `condition`, which something else brings about, and panics after a minute.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed().as_secs() < 60, "{what} did not come true in a minute");
        std::thread::yield_now();
    }
}
