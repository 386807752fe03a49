//! Runs on the screen and as JSON.

use crate::cli::{one_line, plural, print};
use crate::table::Table;
use serde_json::json;
use tessera_common::id::Digest;
use tessera_proto::v1::{AssignmentEnded, Metric, RestingMember, RunSummary, ShowRunResponse};

/// A digest as text; empty if there is none.
pub(super) fn digest_text(bytes: &[u8]) -> String {
    Digest::try_from(bytes).map(|d| d.to_string()).unwrap_or_default()
}

fn summary_json(s: &RunSummary) -> serde_json::Value {
    json!({
        "run": s.run, "name": s.name, "strategy": s.strategy, "phase": s.phase, "round": s.round, "rounds": s.rounds,
        "reason": s.reason, "global": digest_text(&s.global), "statistics": digest_text(&s.statistics),
        "bytes": { "up": s.bytes_up, "down": s.bytes_down }, "answered": s.answered, "awaited": s.awaited,
    })
}

/// Prints all runs: a table, and below it why runs wait.
pub(super) fn list(runs: &[RunSummary], json: bool) {
    if json {
        return print(serde_json::Value::Array(runs.iter().map(summary_json).collect()));
    }
    let mut table = Table::new(["run", "name", "strategy", "round", "phase", "answers", "model"]);
    for s in runs {
        // of a run that waits for members they are members
        let asks = s.awaited > 0 && s.phase != "waiting";
        let answers = if asks { format!("{}/{}", s.answered, s.answered + s.awaited) } else { String::new() };
        let model = digest_text(&s.global).get(..12).unwrap_or_default().to_owned();
        let round = format!("{}/{}", s.round, s.rounds);
        table.row([s.run.clone(), s.name.clone(), s.strategy.clone(), round, s.phase.clone(), answers, model]);
    }
    print(table);
    runs.iter().filter_map(reason).for_each(print);
}

/// "RUN is paused: why", if there is a why.
fn reason(s: &RunSummary) -> Option<String> {
    (!s.reason.is_empty()).then(|| format!("{} is {}: {}", s.run, s.phase, one_line(&s.reason)))
}

/// Mean of a metric; not a number if nothing was counted.
pub(super) fn value(m: &Metric) -> f64 {
    if m.count > 0.0 { m.sum / m.count } else { f64::NAN }
}

/// Prints one run.
pub(super) fn run(shown: &ShowRunResponse, json: bool) {
    let Some(s) = &shown.summary else { return };
    if json {
        return print(run_json(shown, s));
    }
    lines(shown, s).into_iter().for_each(print);
}

/// "m3 after 4 failures, asked again from round 12".
pub(super) fn resting(r: &RestingMember) -> String {
    let failures = plural(r.failures.into(), "failure");
    format!("{} after {failures}, asked again from round {}", one_line(&r.member), r.until_round)
}

pub(super) fn resting_json(r: &RestingMember) -> serde_json::Value {
    json!({ "member": r.member, "failures": r.failures, "until_round": r.until_round })
}

fn run_json(shown: &ShowRunResponse, s: &RunSummary) -> serde_json::Value {
    let metrics: serde_json::Map<_, _> = shown.metrics.iter().map(|(n, m)| (n.clone(), json!(value(m)))).collect();
    let end = |e: &AssignmentEnded| json!({ "member": e.member, "assignment": e.assignment, "how": e.how, "reason": e.reason });
    let mut all = summary_json(s);
    all["metrics"] = metrics.into();
    all["evaluated_round"] = shown.evaluated_round.into();
    all["waiting"] = json!(shown.waiting);
    all["resting"] = shown.resting.iter().map(resting_json).collect();
    all["bad_ends"] = shown.bad_ends.iter().map(end).collect();
    all["spec"] = shown.spec_toml.clone().into();
    all
}

fn lines(shown: &ShowRunResponse, s: &RunSummary) -> Vec<String> {
    let mut lines = vec![format!("{} ({}), {}, round {} of {}: {}", s.run, s.name, s.strategy, s.round, s.rounds, s.phase)];
    if !s.reason.is_empty() {
        let word = if s.phase == "paused" { "paused because" } else { "reason" };
        lines.push(format!("{word}: {}", one_line(&s.reason)));
    }
    if !shown.bad_ends.is_empty() {
        lines.push("what did not end well since the latest model:".to_owned());
        let end = |e: &AssignmentEnded| format!("  {} {}: {}", e.member, e.how, one_line(&e.reason));
        lines.extend(shown.bad_ends.iter().map(end));
    }
    lines.push(format!("model {}", digest_text(&s.global)));
    lines.push(format!("{} bytes up, {} bytes down", s.bytes_up, s.bytes_down));
    if let Some(t) = shown.tally {
        lines.push(format!(
            "assignments: {} given, {} accepted, {} rejected, {} dropped, {} expired",
            t.given, t.accepted, t.rejected, t.dropped, t.expired
        ));
    }
    if !shown.waiting.is_empty() {
        lines.push(format!("waiting for {}", shown.waiting.join(", ")));
    }
    lines.extend(shown.resting.iter().map(|r| format!("resting: {}", resting(r))));
    if !shown.metrics.is_empty() {
        lines.push(format!("metrics after round {}:", shown.evaluated_round));
        lines.extend(shown.metrics.iter().map(|(name, m)| format!("  {name} {:.4}", value(m))));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paused() -> ShowRunResponse {
        let summary = RunSummary {
            run: "first".into(),
            phase: "paused".into(),
            reason: "Fit: 1 usable answers of 3 asked,\n2 are needed".into(),
            ..RunSummary::default()
        };
        let end = AssignmentEnded {
            member: "north".into(),
            assignment: 7,
            how: "failed".into(),
            reason: "out\u{1b}[2J of memory".into(),
        };
        let rest = |member: &str, failures, until_round| RestingMember { member: member.into(), failures, until_round };
        let resting = vec![rest("m3", 4, 12), rest("m5", 1, 3)];
        ShowRunResponse { summary: Some(summary), bad_ends: vec![end], resting, ..ShowRunResponse::default() }
    }

    #[test]
    fn a_paused_run_says_why_and_members_do_not_steer_the_terminal() {
        let shown = paused();
        let s = shown.summary.as_ref().unwrap();
        let lines = lines(&shown, s);
        assert_eq!(lines[1], "paused because: Fit: 1 usable answers of 3 asked, 2 are needed");
        assert_eq!(lines[3], "  north failed: out [2J of memory");
        assert!(lines.contains(&"resting: m3 after 4 failures, asked again from round 12".to_owned()), "{lines:?}");
        assert!(lines.contains(&"resting: m5 after 1 failure, asked again from round 3".to_owned()), "{lines:?}");
        assert_eq!(reason(s).unwrap(), "first is paused: Fit: 1 usable answers of 3 asked, 2 are needed");
        assert_eq!(reason(&RunSummary::default()), None);
        let json = run_json(&shown, s);
        assert_eq!(json["resting"][1], json!({ "member": "m5", "failures": 1, "until_round": 3 }));
        assert_eq!((json["bad_ends"][0]["member"].as_str(), json["phase"].as_str()), (Some("north"), Some("paused")));
    }
}
