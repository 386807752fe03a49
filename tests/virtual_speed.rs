//! The first of three speeds: engine and tasks alone.

// A test may panic, and no test uses all of what the tests share.
#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code, unreachable_pub, missing_debug_implementations)]

#[path = "support/virtual_run.rs"]
mod virtual_run;

use tessera_client::data::{DataSpec, Dataset, Manifest};
use tessera_common::spec::{Preset, RunSpec, merge};

fn run(preset: &str, rounds: u32, seed: u64, order: u64) -> virtual_run::End {
    let mut table: toml::Table = toml::from_str(include_str!("../deploy/runs/L.toml")).unwrap();
    let data = DataSpec::from_table(table["data"].as_table().unwrap()).unwrap();
    let manifest = Manifest::make(&Dataset::builtin("digits").unwrap(), &data, seed).unwrap();
    table.remove("data");
    table.remove("method");
    let own: toml::Table = toml::from_str(&format!(
        "rounds = {rounds}\nseed = {seed}\ncohort = {{ members = {} }}\nevaluate = {{ members = 1, every = 0 }}\n\
         task = {{ kind = \"classify\", classes = 10, modalities = {{ left = 32, right = 32 }} }}",
        manifest.members.iter().filter(|m| !m.train.is_empty()).count()
    ))
    .unwrap();
    merge(&mut table, &Preset::find(preset).unwrap().table());
    merge(&mut table, &own);
    virtual_run::run(&RunSpec::from_table(&table).unwrap(), virtual_run::members(&manifest), order)
}

// Should: give the same models and statistics whatever the order in which members answer.
#[test]
fn the_order_of_arrival_does_not_matter() {
    for preset in ["tessera", "pmcmfl"] {
        let [one, two] = [1, 2].map(|order| run(preset, 2, 0, order));
        assert_eq!((one.global, one.statistics), (two.global, two.statistics), "{preset}");
        assert_eq!(one.metrics, two.metrics, "{preset}");
    }
}

// Should: be the member's own local training, bit for bit. Should not: be changed by weighing, summing and dividing.
#[test]
fn one_member_in_a_federation_is_local_training() {
    use tessera_client::task::{self, FitContext};
    let data =
        DataSpec::from_table(&toml::from_str("source = \"digits\"\nclients = 1\nsplit = { test_per_class = 40 }").unwrap());
    let manifest = Manifest::make(&Dataset::builtin("digits").unwrap(), &data.unwrap(), 0).unwrap();
    let spec = RunSpec::from_toml(
        "version = 1\nname = \"one\"\nrounds = 2\nevaluate = { members = 1, every = 0 }\ncohort = { members = 1, size = 1 }\n\
         task = { kind = \"classify\", classes = 10, modalities = { left = 32, right = 32 }, standardise = false }\n\
         strategy = { kind = \"fedavg\" }\nprototypes = { contrast = 0.0, contrast_fused = 0.0 }",
    )
    .unwrap();
    let members = virtual_run::members(&manifest);
    let end = virtual_run::run(&spec, members.clone(), 0);
    let data = members.values().find(|m| !m.train.is_empty()).unwrap();
    let mut task = task::create(&spec).unwrap();
    let mut model = task.initialise().unwrap();
    for round in 1..=2 {
        let cancel = std::sync::atomic::AtomicBool::new(false);
        let fit = task.fit(&FitContext { data, global: &model, round, cancel: &cancel }).unwrap();
        model.extend(fit.update);
    }
    assert_eq!(model.digest(), end.global);
}
