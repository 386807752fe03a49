//! `tessera doctor`: looks for what is wrong, or soon will be, and says what to do. Changes nothing.

#[cfg(feature = "client")]
mod agent;
mod coordinator;
#[cfg(any(feature = "server", feature = "client"))]
mod disk;
#[cfg(feature = "server")]
mod folder;
#[cfg(feature = "client")]
mod reach;
#[cfg(feature = "server")]
mod runs;

use crate::cli::{self, one_line, plural, print};
use crate::run::DEFAULT_ADMIN;
use anyhow::Result;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The folder of a coordinator that is told nothing else.
const DEFAULT_DATA_DIR: &str = "tessera-data";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Folder of a coordinator; `tessera-data` if it is there and nothing else is asked for.
    #[arg(long, value_name = "DIR", env = "TESSERA_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Admin interface of a coordinator: a socket, or host:port on loopback; `admin.sock` in the data folder if not given.
    #[arg(long, value_name = "PATH|ADDRESS", env = "TESSERA_ADMIN")]
    admin: Option<String>,
    /// Settings of an agent, to look at that.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Read every model and update too, and compare with its digest.
    #[arg(long)]
    deep: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Check {
    /// What.
    name: String,
    verdict: Verdict,
    /// What was found.
    finding: String,
    /// What to do; empty if nothing is wrong.
    todo: String,
}

impl Check {
    fn new(name: &str, verdict: Verdict, finding: impl ToString, todo: impl ToString) -> Self {
        // findings hold names of files and texts of other machines
        let [finding, todo] = [finding.to_string(), todo.to_string()].map(|text| one_line(&text));
        Self { name: name.to_owned(), verdict, finding, todo }
    }

    fn ok(name: &str, finding: impl ToString) -> Self {
        Self::new(name, Verdict::Ok, finding, "")
    }

    fn warn(name: &str, finding: impl ToString, todo: impl ToString) -> Self {
        Self::new(name, Verdict::Warn, finding, todo)
    }

    fn fail(name: &str, finding: impl ToString, todo: impl ToString) -> Self {
        Self::new(name, Verdict::Fail, finding, todo)
    }
}

pub(crate) fn main(arguments: Arguments) -> Result<ExitCode> {
    let checks = cli::runtime()?.block_on(examine(&arguments))?;
    if arguments.json {
        print(report_json(&checks))
    } else {
        report(&checks).into_iter().for_each(print)
    }
    Ok(if count(&checks, Verdict::Fail) == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn examine(arguments: &Arguments) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    if let Some(config) = &arguments.config {
        checks.extend(agent(config).await?);
    }
    let nothing = arguments.data_dir.is_none() && arguments.admin.is_none() && arguments.config.is_none();
    let default = Path::new(DEFAULT_DATA_DIR);
    let dir = arguments.data_dir.as_deref().or((nothing && default.is_dir()).then_some(default));
    let admin = arguments.admin.clone();
    if let Some(dir) = dir {
        checks.extend(folder(dir, admin, arguments.deep).await?);
    } else if let Some(admin) = admin.or(nothing.then(|| DEFAULT_ADMIN.to_owned())) {
        checks.extend(coordinator::examine(&coordinator::ask(&admin).await, &admin, None));
    }
    Ok(checks)
}

#[cfg(feature = "client")]
async fn agent(config: &Path) -> Result<Vec<Check>> {
    Ok(agent::examine(config).await)
}

#[cfg(not(feature = "client"))]
async fn agent(_: &Path) -> Result<Vec<Check>> {
    Err(cli::invalid("--config: this build has no agent; use one with the feature `client`"))
}

#[cfg(feature = "server")]
async fn folder(dir: &Path, admin: Option<String>, deep: bool) -> Result<Vec<Check>> {
    Ok(folder::examine(dir, admin, deep).await)
}

#[cfg(not(feature = "server"))]
async fn folder(_: &Path, _: Option<String>, _: bool) -> Result<Vec<Check>> {
    Err(cli::invalid("--data-dir: this build has no coordinator; use one with the feature `server`"))
}

fn count(checks: &[Check], verdict: Verdict) -> usize {
    checks.iter().filter(|c| c.verdict == verdict).count()
}

/// Lines for people.
fn report(checks: &[Check]) -> Vec<String> {
    let width = checks.iter().map(|c| c.name.chars().count()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for c in checks {
        lines.push(format!("{:4}  {:width$}  {}", c.verdict.name(), c.name, c.finding));
        if !c.todo.is_empty() {
            lines.push(format!("{:4}  {:width$}  -> {}", "", "", c.todo));
        }
    }
    let (failed, warnings) = (count(checks, Verdict::Fail), count(checks, Verdict::Warn));
    lines.push(format!("{}: {failed} failed, {}", plural(checks.len() as u64, "check"), plural(warnings as u64, "warning")));
    lines
}

fn report_json(checks: &[Check]) -> serde_json::Value {
    let check = |c: &Check| json!({ "check": c.name, "verdict": c.verdict.name(), "finding": c.finding, "todo": c.todo });
    json!({
        "checks": checks.iter().map(check).collect::<Vec<_>>(),
        "failed": count(checks, Verdict::Fail), "warnings": count(checks, Verdict::Warn),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_to_do() {
        let checks = [
            Check::ok("folder", "x is there"),
            Check::warn("leftovers", "1 file\u{1b}[2J", "remove it"),
            Check::fail("store", "broken", "repair it"),
        ];
        let lines = report(&checks);
        assert_eq!(
            lines,
            [
                "ok    folder     x is there",
                "warn  leftovers  1 file [2J",
                "                 -> remove it",
                "fail  store      broken",
                "                 -> repair it",
                "3 checks: 1 failed, 1 warning",
            ]
        );
        let json = report_json(&checks);
        assert_eq!((json["failed"].as_u64(), json["warnings"].as_u64()), (Some(1), Some(1)));
        assert_eq!(json["checks"][1]["todo"], "remove it");
    }
}
