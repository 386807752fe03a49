//! Following a run on the screen, over restarts of its coordinator too.

use super::admin::{Target, status};
use super::show::{digest_text, resting, resting_json, value};
use crate::cli::{self, Failure, Kind, failure, one_line, plural, print, size};
use anyhow::Result;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;
use tessera_proto::v1::watch_run_response::Event;
use tessera_proto::v1::{Metric, WatchRunRequest, WatchRunResponse};

/// Pauses between two attempts to reach a coordinator that went away: the first, and the longest.
const SOON: Duration = Duration::from_millis(100);
const LATEST: Duration = Duration::from_secs(2);
/// Metrics of an evaluation that fit on a line.
const SHOWN: usize = 6;

/// How far a run was followed.
#[derive(Debug, Default)]
struct Watch {
    after: u64,
    outcome: Option<String>,
    /// The coordinator knew the run once.
    met: bool,
    /// Something came since the last break.
    heard: bool,
}

/// Follows the run to its end or to Ctrl-C.
pub(super) async fn main(target: &Target, run: &str) -> Result<ExitCode> {
    tokio::select! {
        code = follow(target, run) => code,
        () = cli::interrupted() => Err(failure(Kind::Interrupted, "interrupted")),
    }
}

async fn follow(target: &Target, run: &str) -> Result<ExitCode> {
    let mut watch = Watch::default();
    let mut pause = SOON;
    let mut told = false;
    loop {
        let end = watch.listen(target, run).await;
        if let Some(outcome) = &watch.outcome {
            return Ok(if outcome == "completed" { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        if std::mem::take(&mut watch.heard) {
            (pause, told) = (SOON, false);
        }
        let why = match end {
            Ok(()) => "it ended the connection".to_owned(),
            // one that was never there is an error; one that went away comes back
            Err(error) if watch.met && passes(&error) => format!("{error:#}"),
            Err(error) => return Err(error),
        };
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(why, "the coordinator is away; waiting for it");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LATEST);
    }
}

/// It may be different at the next attempt.
fn passes(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Failure>().is_some_and(|f| f.kind == Kind::Unreachable)
}

impl Watch {
    /// Prints what happens until the run or the connection ends.
    async fn listen(&mut self, target: &Target, run: &str) -> Result<()> {
        let mut admin = target.connect().await?;
        let request = WatchRunRequest { run: run.to_owned(), after: self.after };
        let mut stream = admin.watch_run(request).await.map_err(status)?.into_inner();
        self.met = true;
        while let Some(entry) = stream.message().await.map_err(status)? {
            self.heard = true;
            self.after = entry.position;
            if let Some(event) = &entry.event {
                if target.json {
                    print(event_json(run, &entry, event))
                } else {
                    print(line(event))
                }
                if let Event::Finished(finished) = event {
                    self.outcome = Some(finished.outcome.clone());
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// An entry for people.
fn line(event: &Event) -> String {
    match event {
        Event::Published(p) => {
            let model = digest_text(&p.global).get(..12).unwrap_or_default().to_owned();
            let loss = p.metrics.get("fit/loss").map(|m| format!(", loss {:.4}", value(m))).unwrap_or_default();
            let members = plural(p.members.len() as u64, "member");
            format!("round {}: {members}{loss}, {} up, {} down, model {model}", p.round, size(p.bytes_up), size(p.bytes_down))
        }
        Event::Evaluated(e) => format!("round {} evaluated: {}", e.round, metrics_line(&e.metrics)),
        Event::Ended(e) => format!("{} {} (#{}): {}", one_line(&e.member), one_line(&e.how), e.assignment, one_line(&e.reason)),
        Event::Resting(r) => format!("resting: {}", resting(r)),
        Event::Paused(p) => format!("paused: {}", one_line(&p.reason)),
        Event::Resumed(_) => "resumed".to_owned(),
        Event::Finished(f) => one_line(&f.outcome),
    }
}

fn metrics_line(metrics: &BTreeMap<String, Metric>) -> String {
    if metrics.is_empty() {
        return "nothing to evaluate on".to_owned();
    }
    let mut words: Vec<String> =
        metrics.iter().take(SHOWN).map(|(name, m)| format!("{} {:.4}", one_line(name), value(m))).collect();
    if metrics.len() > SHOWN {
        words.push(format!("and {} more", metrics.len() - SHOWN));
    }
    words.join(", ")
}

/// An entry as JSON, of the same types as the lines of `simulate --json`.
fn event_json(run: &str, entry: &WatchRunResponse, event: &Event) -> Value {
    let mut all = match event {
        Event::Published(p) => json!({
            "type": "round", "round": p.round, "model": digest_text(&p.global), "members": p.members,
            "metrics": metrics_json(&p.metrics), "bytes": { "up": p.bytes_up, "down": p.bytes_down },
        }),
        Event::Evaluated(e) => json!({
            "type": "evaluation", "round": e.round, "statistics": digest_text(&e.statistics),
            "metrics": metrics_json(&e.metrics),
        }),
        Event::Ended(e) => json!({
            "type": "fault", "member": e.member, "assignment": e.assignment, "how": e.how, "reason": e.reason,
        }),
        Event::Resting(r) => {
            let mut all = resting_json(r);
            all["type"] = "resting".into();
            all
        }
        Event::Paused(p) => json!({ "type": "paused", "reason": p.reason }),
        Event::Resumed(_) => json!({ "type": "resumed" }),
        Event::Finished(f) => json!({ "type": "finished", "outcome": f.outcome }),
    };
    all["run"] = run.into();
    all["position"] = entry.position.into();
    all
}

fn metrics_json(metrics: &BTreeMap<String, Metric>) -> Value {
    metrics.iter().map(|(name, m)| (name.clone(), json!(value(m)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tessera_proto::v1::{AssignmentEnded, RestingMember, RoundEvaluated, RoundPublished, RunFinished, RunPaused};

    fn metrics(n: usize) -> BTreeMap<String, Metric> {
        (0..n).map(|i| (format!("m{i}"), Metric { sum: i as f64, count: 2.0 })).collect()
    }

    #[test]
    fn every_entry_is_one_line() {
        let published = Event::Published(RoundPublished {
            round: 3,
            global: vec![0xab; 32].into(),
            members: vec!["north".into()],
            metrics: [("fit/loss".to_owned(), Metric { sum: 3.0, count: 4.0 })].into(),
            bytes_up: 2048,
            bytes_down: 17,
        });
        assert_eq!(line(&published), "round 3: 1 member, loss 0.7500, 2.00 KiB up, 17 B down, model abababababab");
        let evaluated = |n| line(&Event::Evaluated(RoundEvaluated { round: 3, metrics: metrics(n), ..Default::default() }));
        assert_eq!(evaluated(0), "round 3 evaluated: nothing to evaluate on");
        assert_eq!(evaluated(2), "round 3 evaluated: m0 0.0000, m1 0.5000");
        assert!(evaluated(9).ends_with(", and 3 more"), "{}", evaluated(9));
        let (how, reason) = ("failed".to_owned(), "out\nof memory".to_owned());
        let ended = Event::Ended(AssignmentEnded { member: "south".into(), assignment: 7, how, reason });
        assert_eq!(line(&ended), "south failed (#7): out of memory");
        let resting = Event::Resting(RestingMember { member: "m3".into(), failures: 4, until_round: 12 });
        assert_eq!(line(&resting), "resting: m3 after 4 failures, asked again from round 12");
        assert_eq!(line(&Event::Paused(RunPaused { reason: "a\u{7}b".into() })), "paused: a b");
        assert_eq!(line(&Event::Finished(RunFinished { outcome: "stopped".into() })), "stopped");
    }

    #[test]
    fn an_entry_as_json_says_where_it_is() {
        let event = Event::Resting(RestingMember { member: "m3".into(), failures: 4, until_round: 12 });
        let entry = WatchRunResponse { position: 5, event: Some(event.clone()) };
        let expected = json!({
            "type": "resting", "run": "r", "position": 5, "member": "m3", "failures": 4, "until_round": 12,
        });
        assert_eq!(event_json("r", &entry, &event), expected);
        let event = Event::Evaluated(RoundEvaluated { round: 3, metrics: metrics(2), ..Default::default() });
        let entry = WatchRunResponse { position: 6, event: Some(event.clone()) };
        assert_eq!(event_json("r", &entry, &event)["metrics"], json!({ "m0": 0.0, "m1": 0.5 }));
    }

    #[test]
    fn only_a_coordinator_that_went_away_is_waited_for() {
        assert!(passes(&failure(Kind::Unreachable, "x")));
        assert!(!passes(&failure(Kind::NotFound, "x")) && !passes(&anyhow::anyhow!("broken")));
    }
}
