//! A coordinator that runs, as it sees itself.

use super::Check;
use crate::cli::{self, plural, size};
use crate::run::{connect, status};
use anyhow::Result;
use std::path::Path;
use tessera_proto::VERSION;
use tessera_proto::v1::{
    Enrolled, GetStatusRequest, GetStatusResponse, ListMembersRequest, ListRunsRequest, MemberStatus, RunSummary,
};

/// Clocks of one machine that differ by more are not read alike.
const MOST_APART_MS: i64 = 2_000;

/// A certificate that ends within a week was not renewed when it should have been.
const SOON_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// What a coordinator says of itself, and our clock halfway between question and answer, in ms.
#[derive(Debug)]
pub(super) struct Answer {
    /// Runs that need somebody, with the reason.
    pub(super) waiting: Vec<(String, String)>,
    /// Members that should be connected, and are not.
    pub(super) offline: Vec<String>,
    /// Members whose certificate ended.
    pub(super) ended: Vec<String>,
    pub(super) status: GetStatusResponse,
    pub(super) here_ms: i64,
}

/// Milliseconds since the Unix epoch.
pub(super) fn now_ms() -> i64 {
    i64::try_from(cli::now_ms()).unwrap_or(i64::MAX)
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
    let named = |wanted: &dyn Fn(&MemberStatus) -> bool| -> Vec<String> {
        members.iter().filter(|m| wanted(m)).filter_map(|m| Some(m.member.as_ref()?.name.clone())).collect()
    };
    let (offline, ended) = (named(&is_missing), named(&|m| has_ended(m, status.time_ms)));
    Ok(Answer { waiting, offline, ended, status, here_ms })
}

/// It joined before, may join again, and is not here.
fn is_missing(member: &MemberStatus) -> bool {
    let joined = member.member.as_ref().is_some_and(|m| m.trains || m.evaluates);
    !member.online && joined && !member.enrolled.as_ref().is_some_and(|e| e.revoked)
}

/// Its certificate ended, by the coordinator's clock, and it is not out on purpose.
fn has_ended(member: &MemberStatus, now_ms: u64) -> bool {
    let ended = |e: &Enrolled| !e.revoked && e.certificate_expires_ms > 0 && e.certificate_expires_ms < now_ms;
    member.enrolled.as_ref().is_some_and(ended)
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

fn answered(Answer { waiting, offline, ended, status, here_ms }: &Answer, admin: &str, dir: Option<&Path>) -> Vec<Check> {
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
    checks.extend(certificates(status));
    checks.push(trouble(status));
    checks.extend(waiting.iter().map(|(run, why)| {
        let todo = format!("`tessera run show {run}` says more; mend the cause, then `tessera run resume {run}`");
        Check::warn("run", format!("{run} is {why}"), todo)
    }));
    checks.push(match &offline[..] {
        [] => Check::ok("members", "all that ever joined are connected"),
        away => Check::warn("members", format!("not connected: {}", away.join(", ")), "look at their agents, if they should be"),
    });
    if !ended.is_empty() {
        let finding = format!("the certificate ended of {}", ended.join(", "));
        let todo = "give each a new token by `tessera enrol NAME`, or `tessera members revoke NAME` if it is not to come back";
        checks.push(Check::warn("members", finding, todo));
    }
    checks
}

/// The coordinator's own certificate and authority.
fn certificates(status: &GetStatusResponse) -> Vec<Check> {
    let (name, expires) = ("its certificate", status.certificate_expires_ms);
    if expires == 0 {
        let todo = "for anything but tests, start it without --plaintext, which gives it certificates of its own";
        return vec![Check::warn(name, "none: agents connect in plaintext", todo)];
    }
    let todo = match status.authority.as_str() {
        "" => "put a new one into the files of --tls-cert and --tls-key; it is taken without a restart",
        _ => "it makes a new one in time by itself; `tessera certificates rotate` makes one now, or its log says why not",
    };
    let certificate = match expires.checked_sub(status.time_ms) {
        None => Check::fail(name, format!("it ended {}: agents refuse it", cli::time(expires)), todo),
        Some(left) if left < SOON_MS => Check::warn(name, format!("it ends soon, {}", cli::time(expires)), todo),
        Some(_) => Check::ok(name, format!("it ends {}", cli::time(expires))),
    };
    let authority = match status.authority.as_str() {
        "" => "not its own: that of --client-ca".to_owned(),
        hash => format!("its own, SHA-256 {hash}"),
    };
    vec![certificate, Check::ok("its authority", authority)]
}

/// What went wrong in requests since the start.
fn trouble(status: &GetStatusResponse) -> Check {
    let refused = format!("{} refused since its start", plural(status.refused, "request or handshake"));
    match status.panics {
        0 => Check::ok("requests", format!("none panicked; {refused}")),
        n => {
            let todo = "each is a bug of ours: please report it with the lines around \"panicked\" in the coordinator's log";
            Check::warn("requests", format!("{} panicked; {refused}", plural(n, "request")), todo)
        }
    }
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
    use tessera_proto::v1::Member;

    fn healthy() -> GetStatusResponse {
        GetStatusResponse {
            version: VERSION.into(),
            time_ms: 1_000_000,
            free_bytes: 1 << 30,
            total_bytes: 4 << 30,
            certificate_expires_ms: 1_000_000 + 2 * SOON_MS,
            authority: "ab".repeat(32),
            ..GetStatusResponse::default()
        }
    }

    fn answer(status: GetStatusResponse, here_ms: i64) -> Answer {
        Answer { waiting: Vec::new(), offline: Vec::new(), ended: Vec::new(), status, here_ms }
    }

    fn verdicts(status: GetStatusResponse) -> Vec<(String, Verdict)> {
        let checks = examine(&Ok(answer(status, 1_000_500)), "a.sock", None);
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
        assert_eq!(found(&|s| s.certificate_expires_ms = 0), ("its certificate".into(), Verdict::Warn));
        assert_eq!(found(&|s| s.certificate_expires_ms = 999_999), ("its certificate".into(), Verdict::Fail));
        assert_eq!(found(&|s| s.certificate_expires_ms = 1_000_001), ("its certificate".into(), Verdict::Warn));
        assert_eq!(found(&|s| s.panics = 1), ("requests".into(), Verdict::Warn));
    }

    #[test]
    fn one_that_is_not_there_fails_and_an_old_one_is_told() {
        let one = |error| examine(&Err(error), "a.sock", None).remove(0).verdict;
        assert_eq!(one(failure(Kind::Unreachable, "no coordinator")), Verdict::Fail);
        assert_eq!(one(failure(Kind::Invalid, "Unimplemented")), Verdict::Warn);
    }

    #[test]
    fn members_that_should_be_here_are_told_from_those_that_are_out() {
        let joined = Member { name: "north".into(), trains: true, ..Member::default() };
        let of = |change: &dyn Fn(&mut Enrolled)| {
            let mut enrolled = Enrolled { certificate_expires_ms: 5_000, ..Enrolled::default() };
            change(&mut enrolled);
            MemberStatus { member: Some(joined.clone()), online: false, agent: String::new(), enrolled: Some(enrolled) }
        };
        let plain = of(&|_| ());
        assert!(is_missing(&plain) && has_ended(&plain, 6_000) && !has_ended(&plain, 4_000));
        let revoked = of(&|e| e.revoked = true);
        assert!(!is_missing(&revoked) && !has_ended(&revoked, 6_000));
        let waits = of(&|e| e.certificate_expires_ms = 0);
        assert!(!has_ended(&waits, 6_000));
        assert!(!is_missing(&MemberStatus { member: Some(Member::default()), ..waits }), "it never joined");
    }

    #[test]
    fn another_folder_is_noticed() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let status = GetStatusResponse { data_dir: a.path().display().to_string(), ..healthy() };
        let answer = Ok(answer(status, 1_000_000));
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
