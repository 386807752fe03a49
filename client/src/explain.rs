//! What a site will send, before it sends anything: `tessera client --explain`.
//!
//! Nothing here is written down by hand that could differ from what is sent. The run's own task answers every kind of
//! work on the member's own data, with two changes: training makes no step, which leaves names, shapes and counts as they
//! are, and what only the coordinator has (the other members' sums) is made up. One more batch is trained on to
//! learn the names of the metrics.

mod dry;
#[cfg(test)]
mod tests;

use crate::audit::work_name;
use crate::config::{AgentConfig, ConfigError, Members, member_info};
use crate::policy::{Ledger, Policy};
use crate::task::MemberData;
use dry::Part;
use std::fmt::Write;
use tessera_common::param::{Dtype, TensorSpec, block_of};
use tessera_common::round::Work;
use tessera_common::spec::RunSpec;

/// What the members of this agent will say of themselves, and with a spec, every tensor and number that they will send in
/// a run with it, what stays, and what the site's policy refuses. Reads the data; connects to nobody.
///
/// # Errors
/// If the data cannot be read, or the runs that were counted for `max_runs`.
pub fn explain(config: &AgentConfig, spec: Option<&RunSpec>) -> Result<String, ConfigError> {
    let members = config.members()?;
    let mut out = String::new();
    introduce(&mut out, config, &members);
    policy(&mut out, config)?;
    match spec {
        None => line(&mut out, "\nGive the spec of a run to see what is sent in it: every tensor with its shape and size."),
        Some(spec) => run(&mut out, &config.policy, &members, spec)?,
    }
    Ok(out)
}

/// Appends a line; text can always be written to text.
fn line(out: &mut String, text: impl std::fmt::Display) {
    let _ = writeln!(out, "{text}");
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn introduce(out: &mut String, config: &AgentConfig, members: &Members) {
    let coordinator = config.coordinator.as_deref().unwrap_or("that it is enrolled at");
    line(out, format_args!("Agent {} and the coordinator {coordinator}", config.name));
    line(out, format_args!("\nSent when it joins: the agent's name, its version {}, and of each member", tessera_proto::VERSION));
    for data in members.values() {
        let info = member_info(data);
        let yes = |is| if is { "yes" } else { "no" };
        let (name, modalities) = (&data.name, list(&info.modalities));
        let (trains, evaluates) = (yes(info.trains), yes(info.evaluates));
        line(out, format_args!("  {name}: trains {trains}, evaluates {evaluates}, modalities {modalities}"));
    }
    line(out, "\nNever sent, in any run: samples, the label of a sample, names of files and folders.");
    line(out, "A failure sends its text, which may name a modality, a class, or the number of a sample.");
}

fn policy(out: &mut String, config: &AgentConfig) -> Result<(), ConfigError> {
    if config.policy.is_open() {
        line(out, "\nSite policy: none; whatever run the coordinator opens is taken part in.");
        return Ok(());
    }
    line(out, "\nSite policy, which no coordinator can change:");
    let text = toml::to_string(&config.policy).map_err(|e| ConfigError::Invalid(e.to_string()))?;
    text.lines().for_each(|text| line(out, format_args!("  {text}")));
    if let (Some(most), Some(dir)) = (config.policy.max_runs, &config.state_dir) {
        let used = Ledger::counted(dir).map_err(|e| ConfigError::Invalid(e.to_string()))?.len();
        line(out, format_args!("  {used} of {most} runs are used up"));
    }
    Ok(())
}

fn run(out: &mut String, policy: &Policy, members: &Members, spec: &RunSpec) -> Result<(), ConfigError> {
    let modalities: Vec<String> = spec.task.modalities.iter().map(|(name, dim)| format!("{name} ({dim})")).collect();
    let (classes, kind, strategy) = (spec.task.classes, &spec.task.kind, spec.strategy_kind());
    line(out, format_args!("\nRun {}: {kind}, {classes} classes, {}; strategy {strategy}", spec.name, list(&modalities)));
    for data in members.values() {
        line(out, format_args!("\nMember {}", data.name));
        let only = &spec.cohort.only;
        if let Err(why) = policy.check(spec, data) {
            line(out, format_args!("  refused by the site policy: {why}"));
            line(out, "  Sent in this run: this text, whenever the coordinator asks. No data are touched.");
        } else if !only.is_empty() && !only.contains(&data.name) && !member_info(data).evaluates {
            line(out, "  is not asked: it is not in cohort.only. Sent in this run: nothing.");
        } else {
            member(out, data, spec)?;
        }
    }
    Ok(())
}

fn member(out: &mut String, data: &MemberData, spec: &RunSpec) -> Result<(), ConfigError> {
    let dry = dry::run(spec, data).map_err(|e| ConfigError::Invalid(format!("member {}: {e}", data.name)))?;
    for part in &dry.parts {
        line(out, format_args!("\n  {}: {}", work_name(part.work), when(part.work, spec)));
        show(out, part, spec);
    }
    if !dry.private.is_empty() {
        line(out, "\n  stays at the member: private blocks (in the state folder, if there is one)");
        dry.private.iter().for_each(|(name, spec)| tensor(out, name, spec));
    }
    Ok(())
}

/// When the coordinator asks for it.
fn when(work: Work, spec: &RunSpec) -> String {
    let rounds = spec.rounds;
    let evaluations = match spec.evaluate.every {
        0 => format!("after round {rounds}"),
        every => format!("after every {every} rounds and after round {rounds}"),
    };
    match work {
        Work::Initialise => "once at most, if this member is drawn for it; from the seed, without any data".to_owned(),
        Work::SurveyInputs => "once, before round 1".to_owned(),
        Work::Fit => format!("in every one of {rounds} rounds that it is drawn for"),
        Work::SurveyFeatures | Work::Evaluate => evaluations,
    }
}

fn show(out: &mut String, part: &Part, spec: &RunSpec) {
    if let Some(failure) = &part.failure {
        return line(out, format_args!("    cannot be done; sent: the text {failure:?}"));
    }
    part.tensors.iter().for_each(|(name, spec)| tensor(out, name, spec));
    if part.bytes > 0 {
        line(out, format_args!("    in all {} tensors, {} bytes with their names", part.tensors.len(), part.bytes));
    }
    if part.examples > 0 {
        line(out, format_args!("    number of samples used: {}", part.examples));
    }
    let weights: Vec<String> = part.weights.iter().map(|(block, n)| format!("{block} {n}")).collect();
    if !weights.is_empty() {
        line(out, format_args!("    number of samples that train each block: {}", weights.join(", ")));
    }
    if !part.metrics.is_empty() {
        let names = part.metrics.join(", ");
        line(out, format_args!("    metrics, each a sum and a number of samples: {names}"));
    }
    for (name, classes) in &part.withheld {
        let counts: Vec<String> = classes.iter().map(|(class, n)| format!("{class} ({n} samples)")).collect();
        let floor = spec.prototypes.min_count;
        line(out, format_args!("    left out of {name}: classes with fewer than {floor} samples: {}", counts.join(", ")));
    }
    if !part.withheld.is_empty() {
        line(out, "    (their samples are trained on, and are in sums over inputs and in numbers of samples)");
    }
}

fn tensor(out: &mut String, name: &str, spec: &TensorSpec) {
    let kind = match spec.dtype {
        Dtype::F32 => "f32",
        Dtype::F64 => "f64",
    };
    let block = block_of(name).map(|block| format!(", block {block}")).unwrap_or_default();
    line(out, format_args!("    {name} {kind} {:?}, {} bytes{block}", spec.shape, spec.bytes()));
}
