//! A run replayed from its folder, on the screen and as JSON.

use crate::cli::{Kind, failure, invalid, one_line, plural, print, size};
use crate::table::Table;
use anyhow::Result;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;
use tessera_common::id::RunId;
use tessera_common::round::FoldKind;
use tessera_server::replay::{Replay, RoundCheck, Verdict, replay};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Id of the run.
    run: String,
    /// Folder of the coordinator, which may be running.
    #[arg(long, value_name = "DIR", env = "TESSERA_DATA_DIR", default_value = "tessera-data")]
    data_dir: PathBuf,
}

/// Replays a run; fails if anything is not as the journal says.
pub(super) fn main(arguments: &Arguments, json: bool) -> Result<ExitCode> {
    let run: RunId = arguments.run.parse().map_err(invalid)?;
    let (dir, folder) = (&arguments.data_dir, arguments.data_dir.join("runs").join(run.as_str()));
    if !folder.is_dir() {
        return Err(failure(
            Kind::NotFound,
            format!("there is no run {run} in {}: no folder {}", dir.display(), folder.display()),
        ));
    }
    let found = replay(dir, &run)?;
    if json {
        print(replay_json(&run, &found))
    } else {
        lines(&run, &found).into_iter().for_each(print)
    }
    Ok(if holds(&found) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn is_wrong(check: &RoundCheck) -> bool {
    match check.verdict {
        Verdict::Same | Verdict::NotKept { .. } => false,
        Verdict::Different { .. } | Verdict::Failed { .. } => true,
    }
}

fn holds(found: &Replay) -> bool {
    found.blobs_corrupt.is_empty() && !found.rounds.iter().any(is_wrong)
}

fn kind(kind: FoldKind) -> &'static str {
    match kind {
        FoldKind::Inputs => "input sums",
        FoldKind::Initial => "initial model",
        FoldKind::Round => "model",
        FoldKind::Features => "feature sums",
    }
}

fn verdict(verdict: &Verdict) -> (&'static str, String) {
    match verdict {
        Verdict::Same => ("same", String::new()),
        Verdict::Different { found } => ("different", format!("folding again gives {}", found.short())),
        Verdict::NotKept { what } => ("not-kept", one_line(what)),
        Verdict::Failed { why } => ("failed", one_line(why)),
    }
}

fn replay_json(run: &RunId, found: &Replay) -> Value {
    let fold = |check: &RoundCheck| {
        let (word, text) = verdict(&check.verdict);
        json!({
            "round": check.round, "made": kind(check.kind), "digest": check.digest.to_string(), "verdict": word, "detail": text,
        })
    };
    json!({
        "run": run.to_string(), "holds": holds(found), "events": found.records, "torn_bytes": found.torn_bytes,
        "phase": found.phase, "round": found.final_global.map(|g| g.round),
        "model": found.final_global.map(|g| g.digest.to_string()),
        "folds": found.rounds.iter().map(fold).collect::<Vec<_>>(),
        "blobs": { "read": found.blobs_checked, "corrupt": found.blobs_corrupt.iter().map(ToString::to_string).collect::<Vec<_>>() },
    })
}

fn lines(run: &RunId, found: &Replay) -> Vec<String> {
    let mut lines = Vec::new();
    if !found.rounds.is_empty() {
        let mut table = Table::new(["round", "made", "digest", "folded again", ""]);
        for check in &found.rounds {
            let (word, text) = verdict(&check.verdict);
            table.row([check.round.to_string(), kind(check.kind).to_owned(), check.digest.short(), word.replace('-', " "), text]);
        }
        lines.push(table.to_string());
    }
    let model = found.final_global.map_or("no model yet".to_owned(), |g| format!("round {}, model {}", g.round, g.digest));
    lines.push(format!("{run}: {}, at the end it is {}, {model}", plural(found.records, "event"), found.phase));
    if found.torn_bytes > 0 {
        let torn = size(found.torn_bytes);
        lines.push(format!("behind them {torn} that are no whole event: never acknowledged, cut off at the next start"));
    }
    lines.push(format!("{} read, {} damaged", plural(found.blobs_checked, "blob"), found.blobs_corrupt.len()));
    lines.extend(found.blobs_corrupt.iter().map(|digest| format!("damaged: {digest}")));
    let count = |wanted: &str| found.rounds.iter().filter(|c| verdict(&c.verdict).0 == wanted).count();
    let (same, gone) = (count("same"), count("not-kept"));
    let wrong = found.rounds.len() - same - gone;
    lines.push(format!("folded again: {same} the same, {wrong} not, {gone} with parts that are not kept"));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use tessera_common::global::GlobalRef;
    use tessera_common::id::Digest;

    fn found(verdict: Verdict) -> Replay {
        let digest = Digest::of(b"g");
        Replay {
            records: 9,
            torn_bytes: 17,
            rounds: vec![
                RoundCheck { round: 0, kind: FoldKind::Initial, digest, verdict: Verdict::Same },
                RoundCheck { round: 1, kind: FoldKind::Round, digest, verdict },
            ],
            final_global: Some(GlobalRef { round: 1, digest }),
            phase: "fitting".into(),
            blobs_checked: 3,
            blobs_corrupt: Vec::new(),
        }
    }

    #[test]
    fn only_what_is_there_can_be_wrong() {
        assert!(holds(&found(Verdict::Same)));
        assert!(holds(&found(Verdict::NotKept { what: "x".into() })));
        assert!(!holds(&found(Verdict::Different { found: Digest::of(b"h") })));
        assert!(!holds(&found(Verdict::Failed { why: "x".into() })));
        assert!(!holds(&Replay { blobs_corrupt: vec![Digest::of(b"b")], ..found(Verdict::Same) }));
    }

    #[test]
    fn a_replay_says_what_it_found() {
        let run: RunId = "first".parse().unwrap();
        let lines = lines(&run, &found(Verdict::Different { found: Digest::of(b"h") }));
        assert!(lines[0].contains("initial model") && lines[0].contains(&Digest::of(b"h").short()), "{}", lines[0]);
        assert!(lines[1].starts_with("first: 9 events, at the end it is fitting, round 1, model "), "{}", lines[1]);
        assert!(lines[2].contains("17 B"), "{}", lines[2]);
        assert_eq!(lines[4], "folded again: 1 the same, 1 not, 0 with parts that are not kept");
        let json = replay_json(&run, &found(Verdict::NotKept { what: "the answer of north".into() }));
        assert_eq!((json["holds"].as_bool(), json["folds"][1]["verdict"].as_str()), (Some(true), Some("not-kept")));
    }

    #[test]
    fn a_run_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let arguments = Arguments { run: "first".into(), data_dir: dir.path().to_owned() };
        let error = main(&arguments, false).unwrap_err();
        assert!(error.to_string().starts_with("there is no run first in "), "{error}");
        assert_eq!(crate::cli::exit_code_of(&error), ExitCode::from(3));
    }
}
