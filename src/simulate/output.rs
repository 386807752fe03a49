//! The run folder and what is printed at the end.

use super::children::Children;
use super::outcome::{Evaluation, Method, Outcome, Subsets, ordered};
use super::plan::Plan;
use super::report;
use super::watch::size;
use crate::cli;
use crate::model;
use crate::run;
use crate::table::Table;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use tessera_common::id::Digest;
use tessera_common::param::{Limits, ParamSet, Tensor};
use tessera_proto::v1::admin_client::AdminClient;
use tonic::transport::Channel;

/// Writes models, libraries, manifest, metrics and report.
pub(super) async fn write(plan: &Plan, outcome: &Outcome, children: &mut Children) -> Result<()> {
    let mut admin = run::connect(&children.admin()).await?;
    for method in &outcome.methods {
        let folder = plan.out.join(&method.name);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("run.toml"), method.spec.to_toml())?;
        if let Some(digest) = method.global {
            let global = fetch(&mut admin, digest).await?;
            save(&folder.join("model.safetensors"), &model::parameters(&global))?;
            let statistics = match method.statistics {
                Some(digest) => Some(fetch(&mut admin, digest).await?),
                None => None,
            };
            save(&folder.join("prototypes.safetensors"), &prototypes(&global, statistics.as_ref()))?;
        }
        fs::write(folder.join("metrics.jsonl"), metrics_lines(method))?;
    }
    let lines: String = outcome.methods.iter().map(metrics_lines).collect();
    fs::write(plan.out.join("metrics.jsonl"), lines)?;
    fs::write(plan.out.join("spec.toml"), toml::to_string(&plan.table)?)?;
    fs::write(plan.out.join("manifest.json"), format!("{:#}\n", manifest(outcome)))?;
    fs::write(plan.out.join("report.html"), report::html(outcome)).context("cannot write the report")
}

async fn fetch(admin: &mut AdminClient<Channel>, digest: Digest) -> Result<ParamSet> {
    let mut bytes = Vec::new();
    model::fetch(admin, &digest, 0, &mut bytes).await?;
    if Digest::of(&bytes) != digest {
        bail!("the coordinator sent other bytes than those of {digest}");
    }
    Ok(ParamSet::from_bytes(&bytes, &Limits::default())?)
}

fn save(path: &Path, set: &ParamSet) -> Result<()> {
    fs::write(path, set.to_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

/// Everything that is not a parameter: standardisation, library as uploaded, statistics of the final model's features.
fn prototypes(global: &ParamSet, statistics: Option<&ParamSet>) -> ParamSet {
    let mut all = ParamSet::new();
    for section in ["input/", "proto/"] {
        global.section(section).for_each(|(name, tensor)| all.insert(name, tensor.clone()));
    }
    for (name, tensor) in statistics.iter().flat_map(|s| s.iter()) {
        all.insert(name, Tensor::clone(tensor));
    }
    all
}

fn metrics_lines(method: &Method) -> String {
    let rounds = method
        .rounds
        .iter()
        .map(|r| (r.round, json!({ "method": method.name, "round": r.round, "members": r.members, "loss": r.loss })));
    let evaluations = method.evaluations.iter().map(|e| {
        let values: serde_json::Map<String, Value> =
            e.metrics.0.iter().filter_map(|(n, m)| Some((n.clone(), json!(m.value()?)))).collect();
        (e.round, json!({ "method": method.name, "round": e.round, "metrics": values }))
    });
    let mut lines: Vec<(u32, Value)> = rounds.chain(evaluations).collect();
    lines.sort_by_key(|(round, _)| *round);
    lines.into_iter().map(|(_, line)| format!("{line}\n")).collect()
}

fn digest_text(digest: Option<Digest>) -> Value {
    digest.map_or(Value::Null, |d| json!(d.to_string()))
}

fn method_json(method: &Method) -> Value {
    let subsets = method.last().map(|e| method.subsets(e)).unwrap_or_default();
    json!({
        "run": method.run,
        "digest": digest_text(method.global),
        "statistics": digest_text(method.statistics),
        "rounds": method.rounds.last().map_or(0, |r| r.round),
        "answer": method.answer(),
        "subsets": subsets,
        "answers": method.last().map(|e| e.tested()).unwrap_or_default(),
        "held_out": method.last().map(|e| e.answers("held-out")).unwrap_or_default(),
        "recall": method.last().map(|e| SPLITS.map(|split| (split.to_owned(), json!(e.recalls(split)))))
            .map(|all| Value::Object(all.into_iter().collect())),
        "bytes": { "up": method.bytes_up, "down": method.bytes_down },
        "faults": method.faults.len(),
        "finished": method.finished,
        "reason": method.reason,
        "split": method.last().map(Evaluation::split),
    })
}

/// A value for each method, under its name.
fn by_method(outcome: &Outcome, value: impl Fn(&Method) -> Value) -> Value {
    outcome.methods.iter().map(|m| (m.name.clone(), value(m))).collect()
}

/// The digest of everything: that of the one method, or of all of them in order.
fn digest(outcome: &Outcome) -> Option<Digest> {
    match &outcome.methods[..] {
        [one] => one.global,
        many => {
            let all: Option<Vec<String>> = many.iter().map(|m| Some(format!("{} {}\n", m.name, m.global?))).collect();
            Some(Digest::of(all?.concat().as_bytes()))
        }
    }
}

fn manifest(outcome: &Outcome) -> Value {
    json!({
        "schema_version": 1,
        "tessera": env!("CARGO_PKG_VERSION"),
        "name": outcome.name,
        "seed": outcome.seed,
        "command": outcome.command,
        "digest": digest_text(digest(outcome)),
        "specs": by_method(outcome, |m| json!(m.spec.to_toml())),
        "partition": "partition.json",
        "target": format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        "methods": by_method(outcome, method_json),
    })
}

/// Prints the table, or the last line of the NDJSON.
pub(super) fn print(plan: &Plan, outcome: &Outcome, json: bool) {
    let up: u64 = outcome.methods.iter().map(|m| m.bytes_up).sum();
    let down: u64 = outcome.methods.iter().map(|m| m.bytes_down).sum();
    let report = plan.out.join("report.html");
    if json {
        let run = outcome.methods.iter().map(|m| m.run.as_str()).collect::<Vec<_>>().join(",");
        cli::print(json!({
            "type": "result",
            "run": run,
            "digest": digest_text(digest(outcome)),
            "rounds": outcome.methods.iter().filter_map(|m| Some(m.rounds.last()?.round)).max().unwrap_or(0),
            "methods": by_method(outcome, method_json),
            "bytes": { "up": up, "down": down },
            "restarts": outcome.restarts,
            "report": report.display().to_string(),
        }));
        return;
    }
    cli::print(format_args!("\n{}\n", outcome.partition));
    let unfinished: Vec<&Method> = outcome.methods.iter().filter(|m| !m.finished).collect();
    for method in &unfinished {
        let reason = method.reason.as_deref().unwrap_or("it was stopped");
        cli::print(format_args!("{} did not finish: {reason}\n", method.name));
    }
    let splits: Vec<&str> = outcome.methods.iter().filter_map(|m| m.last()).map(Evaluation::split).collect();
    if splits.contains(&"held-out") {
        cli::print("accuracy on the members' held-out samples: there are no test samples (data.split)\n");
    } else if unfinished.is_empty() && outcome.methods.iter().filter_map(|m| m.last()).all(|e| e.metrics.0.is_empty()) {
        cli::print("no accuracies: there is nothing to evaluate on; set data.split or data.held_out\n");
    }
    cli::print(accuracy_table(outcome));
    for split in SPLITS {
        if let Some(table) = recall_table(outcome, split) {
            cli::print(format_args!("\nfound among the first 1 / 5 / 10, of the {split} samples, in percent\n"));
            cli::print(table);
        }
    }
    cli::print(format_args!("\n{} up, {} down, {} processes restarted", size(up), size(down), outcome.restarts));
    for method in &outcome.methods {
        let Some(global) = method.global else { continue };
        let end = if method.finished { "" } else { " (not finished)" };
        let path = plan.out.join(&method.name).join("model.safetensors");
        cli::print(format_args!("model {} {}{end}", global.short(), path.display()));
    }
    cli::print(format_args!("report {}", report.display()));
}

/// Accuracy in percent per method and subset: the method's own answer, and for comparison all others.
fn accuracy_table(outcome: &Outcome) -> Table {
    let subsets: Vec<Subsets> = outcome.methods.iter().filter_map(|m| m.last()).flat_map(|e| e.tested().into_values()).collect();
    let columns = ordered(subsets.iter().flat_map(Subsets::keys));
    let mut table = Table::new(["method", "answer"].into_iter().chain(columns.iter().map(|c| c.as_str())));
    for method in &outcome.methods {
        let Some(evaluation) = method.last() else { continue };
        let own = method.answer();
        let mut rows: Vec<(String, Subsets)> = evaluation.tested().into_iter().filter(|(a, _)| a != own).collect();
        rows.insert(0, (format!("{own} (its own)"), method.subsets(evaluation)));
        for (i, (answer, accuracies)) in rows.into_iter().enumerate() {
            let name = if i == 0 { method.name.clone() } else { String::new() };
            let cell = |c: &&String| accuracies.get(*c).map_or_else(|| "-".to_owned(), |a| format!("{:.1}", 100.0 * a));
            table.row([name, answer].into_iter().chain(columns.iter().map(cell)));
        }
    }
    table
}

/// Splits that samples are found in.
const SPLITS: [&str; 2] = ["test", "held-out"];

/// Recall in percent per method and direction, with what guessing gives below; None if no method matches samples.
fn recall_table(outcome: &Outcome, split: &str) -> Option<Table> {
    let all: Vec<(&str, BTreeMap<String, Subsets>)> =
        outcome.methods.iter().filter_map(|m| Some((m.name.as_str(), m.last()?.recalls(split)))).collect();
    let ways: BTreeSet<&String> = all.iter().flat_map(|(_, recalls)| recalls.values().flat_map(Subsets::keys)).collect();
    if ways.is_empty() {
        return None;
    }
    let mut table = Table::new(["method"].into_iter().chain(ways.iter().map(|way| way.as_str())));
    let mut row = |name: &str, measure: &str, recalls: &BTreeMap<String, Subsets>| {
        let cell = |way: &&String| {
            let value = |k: usize| recalls.get(&format!("{measure}@{k}")).and_then(|ways| ways.get(*way));
            let text = |k: usize| value(k).map_or_else(|| "-".to_owned(), |v| format!("{:.1}", 100.0 * v));
            [1, 5, 10].map(text).join(" / ")
        };
        table.row([name.to_owned()].into_iter().chain(ways.iter().map(cell)));
    };
    all.iter().for_each(|(name, recalls)| row(name, "recall", recalls));
    if let Some((_, recalls)) = all.iter().find(|(_, recalls)| !recalls.is_empty()) {
        row("(chance)", "chance", recalls);
    }
    Some(table)
}
