//! The first of three speeds: engine and tasks alone.

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
