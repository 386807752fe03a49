//! A new run that goes on from a round of another one.

use super::{admin::status, detail, submit};
use crate::cli::invalid;
use anyhow::Result;
use std::path::PathBuf;
use tessera_proto::v1::ForkRunRequest;
use tessera_proto::v1::admin_client::AdminClient;
use tonic::transport::Channel;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Id of the run to go on from.
    run: String,
    /// The published round whose model the new run starts from; `tessera run globals` lists those that are kept.
    #[arg(long, value_name = "R")]
    from_round: u32,
    /// Id of the new run.
    #[arg(long)]
    id: Option<String>,
    /// Override a key, such as rounds=40.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Spec of the new run; that of the old one if not given.
    #[arg(long, value_name = "FILE")]
    spec: Option<PathBuf>,
}

/// Forks a run; the id of the new one.
pub(super) async fn fork(admin: &mut AdminClient<Channel>, arguments: Arguments) -> Result<String> {
    let Arguments { run, from_round, id, set, spec } = arguments;
    let spec_toml = match spec {
        Some(path) => submit::read(&path, &set)?.to_toml(),
        // the coordinator has it
        None if set.is_empty() => String::new(),
        None => overridden(&run, &detail(admin, &run).await?.spec_toml, &set)?,
    };
    let request = ForkRunRequest { run, from_round, spec_toml, new_run: id.unwrap_or_default() };
    Ok(admin.fork_run(request).await.map_err(status)?.into_inner().run)
}

/// A run's own spec with overrides.
fn overridden(run: &str, spec_toml: &str, set: &[String]) -> Result<String> {
    let preset = set.iter().find(|s| s.split('=').next().is_some_and(|key| key.trim() == "preset"));
    if let Some(preset) = preset {
        let why = "a preset lies under a spec, and the spec of a run has every key: set the keys themselves, or give --spec";
        return Err(invalid(format!("--set {preset}: {why}")));
    }
    Ok(submit::understand(&format!("the spec of run {run}"), spec_toml, set)?.to_toml())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tessera_common::spec::RunSpec;

    const SPEC: &str = r#"version = 1
name = "t"
rounds = 3
task = { kind = "classify", classes = 2, modalities = { left = 2 } }
cohort = { members = 3, size = 3 }
"#;

    fn sets(set: &[&str]) -> Vec<String> {
        set.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn overrides_lie_over_the_spec_of_the_run() {
        let own = RunSpec::from_toml(SPEC).unwrap().to_toml();
        let new = overridden("first", &own, &sets(&["rounds=9", "cohort.size=2"])).unwrap();
        let new = RunSpec::from_toml(&new).unwrap();
        assert_eq!((new.rounds, new.cohort.size, new.cohort.members), (9, 2, 3));
    }

    #[test]
    fn overrides_that_would_do_nothing_or_are_wrong_are_refused() {
        let own = RunSpec::from_toml(SPEC).unwrap().to_toml();
        let error = |set: &str| overridden("first", &own, &sets(&[set])).unwrap_err().to_string();
        assert!(error("preset=pmcmfl").contains("--set preset=pmcmfl: a preset lies under"), "{}", error("preset=pmcmfl"));
        let unknown = error("round=9");
        assert!(unknown.contains("round") && unknown.contains("`rounds`"), "{unknown}");
        assert!(error("cohort.size=7").contains("the spec of run first: "), "{}", error("cohort.size=7"));
    }
}
