//! A coordinator that runs, as it sees itself.

use super::Check;
use crate::cli::{self, size};
use crate::run::{connect, status};
use anyhow::Result;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use tessera_proto::VERSION;
use tessera_proto::v1::{GetStatusRequest, GetStatusResponse, ListMembersRequest, ListRunsRequest, RunSummary};

/// Clocks of one machine that differ by more are not read alike.
const MOST_APART_MS: i64 = 2_000;

/// What a coordinator says of itself, and our clock halfway between question and answer, in ms.
#[derive(Debug)]
pub(super) struct Answer {
    /// Runs that need somebody, with the reason.
    pub(super) waiting: Vec<(String, String)>,
    /// Members that are not connected.
    pub(super) offline: Vec<String>,
    pub(super) status: GetStatusResponse,
    pub(super) here_ms: i64,
}

/// Milliseconds since the Unix epoch.
pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Asks a coordinator how it is.
///
/// # Errors
/// If nobody answers, or it does not know the question.
pub(super) async fn ask(admin: &str) -> Result<Answer> {
    let mut client = connect(admin).await?;
    let before = now_ms();
    let status = client.get_status(GetStatusRequest {}).await.map_err(status)?.into_inner();
    let here_ms = before.midpoint(now_ms());
    let runs = client.list_runs(ListRunsRequest {}).await.map_err(crate::run::status)?.into_inner().runs;
    let needs = |r: &RunSummary| matches!(r.phase.as_str(), "paused" | "broken");
    let waiting = runs.into_iter().filter(needs).map(|r| (r.run, format!("{}: {}", r.phase, r.reason))).collect();
    let members = client.list_members(ListMembersRequest {}).await.map_err(crate::run::status)?.into_inner().members;
    let offline = members.into_iter().filter(|m| !m.online).filter_map(|m| Some(m.member?.name)).collect();
    Ok(Answer { waiting, offline, status, here_ms })
}

/// Checks of a running coordinator. `dir` is the folder that it should have, if that is known.
pub(super) fn examine(answer: &Result<Answer>, admin: &str, dir: Option<&Path>) -> Vec<Check> {
    match answer {
        Ok(answer) => answered(answer, admin, dir),
        Err(error) => {
            let name = "coordinator";
            vec![match cli::exit_code_of(error) == std::process::ExitCode::from(4) {
                // it is there, and of a version that does not know the question
                true => Check::warn(name, format!("{error:#}"), "use the tessera of the coordinator's version"),
                false => Check::fail(name, format!("{error:#}"), "start it, or name its admin interface with --admin"),
            }]
        }
    }
}

fn answered(Answer { waiting, offline, status, here_ms }: &Answer, admin: &str, dir: Option<&Path>) -> Vec<Check> {
    let mut checks = vec![version(&status.version, admin)];
    if let Some(dir) = dir
        && !same_folder(dir, Path::new(&status.data_dir))
    {
        let (found, dir) = (shown_folder(&status.data_dir), dir.display());
        let finding = format!("the one at {admin} has {found}, not {dir}");
        checks.push(Check::warn("its folder", finding, "give --data-dir and --admin of the same coordinator"));
    }
    let there = i64::try_from(status.time_ms).unwrap_or(i64::MAX);
    checks.push(clock(there.saturating_sub(*here_ms), MOST_APART_MS, "its clock"));
    checks.push(if status.trouble.is_empty() {
        Check::ok("its disk", room(status))
    } else {
        Check::fail("its disk", &status.trouble, "mend that; runs go on by themselves")
    });
    checks.push(match &status.quarantined[..] {
        [] => Check::ok("damaged blobs", "it found none"),
        blobs => {
            let short: Vec<&str> = blobs.iter().map(|b| b.get(..12).unwrap_or(b)).collect();
            let finding = format!("{} put aside because their bytes were wrong: {}", blobs.len(), short.join(", "));
            Check::warn("damaged blobs", finding, "look at the disk; `tessera run fork` goes on from a round that is intact")
        }
    });
    checks.extend(waiting.iter().map(|(run, why)| {
        let todo = format!("`tessera run show {run}` says more; mend the cause, then `tessera run resume {run}`");
        Check::warn("run", format!("{run} is {why}"), todo)
    }));
    checks.push(match &offline[..] {
        [] => Check::ok("members", "all that ever joined are connected"),
        away => Check::warn("members", format!("not connected: {}", away.join(", ")), "look at their agents, if they should be"),
    });
    checks
}

fn version(theirs: &str, admin: &str) -> Check {
    let finding = format!("version {theirs} answers at {admin}");
    if theirs == VERSION {
        Check::ok("coordinator", finding)
    } else {
        Check::warn("coordinator", finding, format!("this is version {VERSION}: use the same one"))
    }
}

fn shown_folder(dir: &str) -> &str {
    if dir.is_empty() { "no folder (everything is in memory)" } else { dir }
}

fn same_folder(a: &Path, b: &Path) -> bool {
    match (std::fs::canonicalize(a), std::fs::canonicalize(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

fn room(status: &GetStatusResponse) -> String {
    match status.total_bytes {
        0 => "no trouble".to_owned(),
        total => format!("no trouble, {} of {} free", size(status.free_bytes), size(total)),
    }
}

/// Judges how far another clock is ahead of ours, in ms.
pub(super) fn clock(ahead_ms: i64, most_ms: i64, whose: &str) -> Check {
    let seconds = ahead_ms.unsigned_abs() as f64 / 1000.0;
    let finding = match ahead_ms {
        _ if ahead_ms.abs() <= most_ms => return Check::ok("clock", format!("{whose} agrees with ours to {seconds:.1} s")),
        1.. => format!("{whose} is {seconds:.1} s ahead of ours"),
        _ => format!("{whose} is {seconds:.1} s behind ours"),
    };
    Check::warn(
        "clock",
        finding,
        "set both clocks (NTP): times in logs do not fit together, and certificates are read against them",
    )
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use crate::cli::{Kind, failure};

    fn healthy() -> GetStatusResponse {
        GetStatusResponse {
            version: VERSION.into(),
            time_ms: 1_000_000,
            free_bytes: 1 << 30,
            total_bytes: 4 << 30,
            ..GetStatusResponse::default()
        }
    }

    fn verdicts(status: GetStatusResponse) -> Vec<(String, Verdict)> {
        let checks =
            examine(&Ok(Answer { waiting: Vec::new(), offline: Vec::new(), status, here_ms: 1_000_500 }), "a.sock", None);
        checks.into_iter().map(|c| (c.name, c.verdict)).collect()
    }

    #[test]
    fn a_healthy_one_passes() {
        assert!(verdicts(healthy()).iter().all(|(_, v)| *v == Verdict::Ok), "{:?}", verdicts(healthy()));
    }

    #[test]
    fn each_fault_is_named() {
        let found = |change: &dyn Fn(&mut GetStatusResponse)| {
            let mut status = healthy();
            change(&mut status);
            let bad: Vec<_> = verdicts(status).into_iter().filter(|(_, v)| *v != Verdict::Ok).collect();
            assert_eq!(bad.len(), 1, "{bad:?}");
            bad[0].clone()
        };
        assert_eq!(found(&|s| s.version = "9.0.0".into()), ("coordinator".into(), Verdict::Warn));
        assert_eq!(found(&|s| s.time_ms = 1_010_000), ("clock".into(), Verdict::Warn));
        assert_eq!(found(&|s| s.trouble = "full".into()), ("its disk".into(), Verdict::Fail));
        assert_eq!(found(&|s| s.quarantined = vec!["ab".repeat(32)]), ("damaged blobs".into(), Verdict::Warn));
    }

    #[test]
    fn one_that_is_not_there_fails_and_an_old_one_is_told() {
        let one = |error| examine(&Err(error), "a.sock", None).remove(0).verdict;
        assert_eq!(one(failure(Kind::Unreachable, "no coordinator")), Verdict::Fail);
        assert_eq!(one(failure(Kind::Invalid, "Unimplemented")), Verdict::Warn);
    }

    #[test]
    fn another_folder_is_noticed() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let status = GetStatusResponse { data_dir: a.path().display().to_string(), ..healthy() };
        let answer = Ok(Answer { waiting: Vec::new(), offline: Vec::new(), status, here_ms: 1_000_000 });
        let named = |dir: &Path| examine(&answer, "a.sock", Some(dir)).iter().any(|c| c.name == "its folder");
        assert!(named(b.path()) && !named(a.path()) && !named(&a.path().join(".")));
    }

    #[test]
    fn clocks_are_compared_in_both_directions() {
        assert_eq!(clock(1_999, 2_000, "its clock").verdict, Verdict::Ok);
        assert_eq!(clock(-90_000, 2_000, "its clock").finding, "its clock is 90.0 s behind ours");
        assert_eq!(clock(2_500, 2_000, "its clock").finding, "its clock is 2.5 s ahead of ours");
    }
}
