//! `tessera data`: look at data sets, cut them into members.

use crate::cli::{self, print};
use anyhow::Result;
use std::path::PathBuf;
use std::process::ExitCode;
use tessera_client::data::{DataSpec, Dataset, Manifest};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Print modalities, numbers of features, classes and presence of a data set: a folder with a dataset.toml, or `digits`.
    Inspect {
        /// Folder or built-in name.
        source: String,
    },
    /// Cut a data set into members as the `data` table of a spec says, and write the manifest.
    Partition {
        /// Spec with a `data` table.
        spec: PathBuf,
        /// Seed of the draws; the spec's if not given.
        #[arg(long)]
        seed: Option<u64>,
        /// Manifest to write.
        #[arg(long, default_value = "partition.json")]
        out: PathBuf,
    },
}

pub(crate) fn main(arguments: Arguments) -> Result<ExitCode> {
    match arguments.verb {
        Verb::Inspect { source } => inspect(&source),
        Verb::Partition { spec, seed, out } => partition(&spec, seed, &out),
    }
}

fn inspect(source: &str) -> Result<ExitCode> {
    let dataset = Dataset::open(source).map_err(cli::invalid)?;
    let samples = &dataset.samples;
    let classes = if dataset.is_labelled() { format!("{} classes", dataset.classes.len()) } else { "no labels".to_owned() };
    print(format_args!("{}: {} samples, {classes}, {}", dataset.name, samples.len(), dataset.digest));
    if !dataset.card.licence.is_empty() {
        print(format_args!("licence: {}", dataset.card.licence));
    }
    for (m, modality) in samples.modalities.iter().enumerate() {
        let present = samples.present.iter().filter(|p| *p >> m & 1 == 1).count();
        print(format_args!("  {}: {} features, in {present} of {} samples", modality.name, modality.dim, samples.len()));
    }
    if let Some(clients) = &dataset.client {
        print(format_args!("  client: {}", counts(clients)));
    }
    if let Some(folds) = &dataset.fold {
        print(format_args!("  fold: {}", counts(folds)));
    }
    let dims: Vec<String> = samples.modalities.iter().map(|m| format!("{} = {}", m.name, m.dim)).collect();
    print(format_args!("for a run spec: classes = {}, modalities = {{ {} }}", dataset.classes.len(), dims.join(", ")));
    Ok(ExitCode::SUCCESS)
}

/// How often each value is there: "0 (12), 1 (13)"; the first twenty.
fn counts<T: Ord + std::fmt::Display>(values: &[T]) -> String {
    let mut counts = std::collections::BTreeMap::new();
    values.iter().for_each(|value| *counts.entry(value).or_insert(0usize) += 1);
    let shown: Vec<String> = counts.iter().take(20).map(|(value, count)| format!("{value} ({count})")).collect();
    let more = if counts.len() > 20 { format!(", ... {} in all", counts.len()) } else { String::new() };
    shown.join(", ") + &more
}

fn partition(path: &std::path::Path, seed: Option<u64>, out: &std::path::Path) -> Result<ExitCode> {
    let text = std::fs::read_to_string(path).map_err(|e| cli::invalid(format!("{}: {e}", path.display())))?;
    let table: toml::Table = toml::from_str(&text).map_err(|e| cli::invalid(format!("{}: {e}", path.display())))?;
    let data = table.get("data").and_then(toml::Value::as_table);
    let data = data.ok_or_else(|| cli::invalid(format!("{}: there is no [data] table", path.display())))?;
    let data = DataSpec::from_table(data).map_err(|e| cli::invalid(format!("{}: {e}", path.display())))?;
    let own = table.get("seed").and_then(toml::Value::as_integer).and_then(|s| u64::try_from(s).ok()).unwrap_or(0);
    let dataset = Dataset::open(&data.source).map_err(cli::invalid)?;
    let manifest = Manifest::make(&dataset, &data, seed.unwrap_or(own)).map_err(cli::invalid)?;
    manifest.save(out).map_err(cli::invalid)?;
    print(manifest.summary());
    print(out.display());
    Ok(ExitCode::SUCCESS)
}
