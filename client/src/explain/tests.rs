//! What is explained is what is sent.

use super::*;
use crate::data::{Modality, Samples};
use crate::task::{self, FitContext};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tessera_common::param::ParamSet;
use tessera_common::spec::set_key;
use tessera_common::statistics::{InputStatistics, Standardisation};

fn spec(sets: &[&str]) -> RunSpec {
    let text = "version = 1\nname = \"demo\"\nrounds = 5\ncohort = { members = 2, size = 2 }\n\
                prototypes = { min_count = 3 }\n\
                task = { kind = \"classify\", classes = 4, modalities = { a = 6, b = 5 } }";
    let mut table: toml::Table = toml::from_str(text).unwrap();
    sets.iter().for_each(|set| set_key(&mut table, set).unwrap());
    RunSpec::from_table(&table).unwrap()
}

/// Samples of classes 0, 1 and, twice only, 2; every third lacks b.
fn samples(n: usize) -> Samples {
    let values = |dim: usize| (0..n * dim).map(|i| (i * 7 % 13) as f32 - 6.0).collect();
    let labels = (0..n).map(|i| if i < 2 { 2 } else { (i % 2) as u32 }).collect();
    let present: Vec<u32> = (0..n).map(|i| if i % 3 == 0 { 1 } else { 3 }).collect();
    let modality = |name: &str, dim| Modality { name: name.into(), dim, values: values(dim) };
    Samples { modalities: vec![modality("a", 6), modality("b", 5)], labels, present }
}

fn data(train: usize) -> MemberData {
    let none = samples(0);
    MemberData { name: "north".parse().unwrap(), train: samples(train), held_out: samples(20), test: none }
}

fn config(policy: Policy) -> AgentConfig {
    AgentConfig { coordinator: Some("localhost:7".into()), policy, ..AgentConfig::new("site".parse().unwrap()) }
}

fn report(policy: Policy, data: MemberData, spec: &RunSpec) -> String {
    let mut out = String::new();
    run(&mut out, &policy, &[(data.name.clone(), Arc::new(data))].into(), spec).unwrap();
    out
}

fn shapes(set: &ParamSet) -> Vec<(String, TensorSpec)> {
    set.iter().map(|(name, tensor)| (name.to_owned(), tensor.spec().clone())).collect()
}

// Should: name every tensor, number and metric of a real round, with two epochs of training. Should not: name any other.
#[test]
fn what_is_explained_is_what_is_sent() {
    let sets: [&[&str]; 4] = [
        &[],
        &["model.private=[\"head\"]"],
        &["strategy.kind=\"fedavg\"", "task.standardise=false"],
        &["missing.fill=\"drop\"", "strategy.kind=\"fedavg\"", "strategy.blockwise=false"],
    ];
    for set in sets {
        let (spec, data) = (spec(set), data(40));
        let dry = dry::run(&spec, &data).unwrap();
        let part = |work| dry.parts.iter().find(|p| p.work == work).unwrap();
        let mut task = task::create(&spec).unwrap();
        let mut global = task.initialise().unwrap();
        let inputs = task.survey_inputs(&data).unwrap();
        assert_eq!(part(Work::Initialise).tensors, shapes(&global));
        assert_eq!(dry.parts.iter().any(|p| p.work == Work::SurveyInputs), spec.task.standardise);
        if spec.task.standardise {
            assert_eq!(part(Work::SurveyInputs).tensors, shapes(&inputs));
            let sums = InputStatistics::read_all(&inputs).unwrap();
            sums.iter().for_each(|(name, total)| Standardisation::from(total).write(name, &mut global));
        }
        let never = AtomicBool::new(false);
        let sent = task.fit(&FitContext { data: &data, global: &global, round: 1, cancel: &never }).unwrap();
        let fit = part(Work::Fit);
        assert_eq!((&fit.tensors, fit.bytes), (&shapes(&sent.update), sent.update.to_bytes().len() as u64), "{set:?}");
        assert_eq!((fit.examples, &fit.weights), (sent.examples, &sent.weights), "{set:?}");
        assert_eq!(fit.metrics, sent.metrics.0.keys().cloned().collect::<Vec<_>>());
        let statistics = task.survey_features(&data, &global).unwrap();
        assert_eq!(part(Work::SurveyFeatures).tensors, shapes(&statistics), "{set:?}");
        let mut next = global.clone();
        for name in ["a", "b", "fused"] {
            if let Some(sums) = tessera_common::prototype::ProtoSums::read(name, &sent.update).unwrap() {
                sums.means(1, 1).write(name, &mut next);
            }
        }
        let metrics = task.evaluate(&data, &next, Some(&statistics)).unwrap();
        assert_eq!(part(Work::Evaluate).metrics, metrics.0.keys().cloned().collect::<Vec<_>>(), "{set:?}");
        let all = task::create(&self::spec(&[])).unwrap().initialise().unwrap();
        let kept: Vec<_> =
            shapes(&all).into_iter().filter(|(name, _)| set == sets[1] && name.starts_with("param/head/")).collect();
        assert_eq!(dry.private, kept, "{set:?}");
    }
}

#[test]
fn a_report_names_tensors_blocks_bytes_and_what_stays() {
    let spec = spec(&["model.private=[\"head\"]"]);
    let text = report(Policy::default(), data(40), &spec);
    for expected in [
        "Run demo: classify, 4 classes, a (6), b (5); strategy pmcm",
        "  fit: in every one of 5 rounds that it is drawn for",
        "    proto/a/count f64 [4], 32 bytes",
        ", block fusion",
        "    number of samples used: 40",
        "    left out of a: classes with fewer than 3 samples: 2 (2 samples)",
        "    metrics, each a sum and a number of samples: fit/loss",
        "held-out/whitened/a+b",
        "  stays at the member: private blocks (in the state folder, if there is one)\n    param/head/",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert_eq!(text.matches("param/head/weight").count(), 1, "{text}");
}

// Should: say what is refused, why, and that this is all. Should not: look at what would have been sent.
#[test]
fn a_refused_run_sends_its_refusal_alone() {
    let policy = Policy { min_cohort: Some(3), ..Policy::default() };
    let text = report(policy, data(40), &spec(&[]));
    let why = "refused by the site policy: min_cohort is 3, and the run makes a round of 2 updates (cohort.quorum)";
    assert!(text.contains(why) && !text.contains("param/"), "{text}");
}

#[test]
fn work_that_cannot_be_done_is_told() {
    let spec = spec(&["task.modalities={ c = 2 }"]);
    let text = report(Policy::default(), data(40), &spec);
    assert!(text.contains("cannot be done; sent: the text \"member north has no sample to train on"), "{text}");
    let mut wrong = data(40);
    wrong.train.labels[0] = 9;
    let text = report(Policy::default(), wrong, &self::spec(&[]));
    assert!(text.contains("sample 0 has class 9"), "{text}");
}

#[test]
fn a_site_is_told_what_its_members_are() {
    let dir = tempfile::tempdir().unwrap();
    let dataset = "name = \"toy\"\nclasses = [\"cat\", \"dog\"]\n[modalities.a]\nfile = \"t.csv\"\nprefix = \"a\"\n\
                   [label]\nfile = \"t.csv\"\nkey = \"label\"\n";
    std::fs::write(dir.path().join("dataset.toml"), dataset).unwrap();
    std::fs::write(dir.path().join("t.csv"), "a0,a1,label\n1,2,cat\n3,4,dog\n5,6,cat\n7,8,dog\n").unwrap();
    let member = |path: &Path| toml::from_str(&format!("name = \"north\"\ndata = {path:?}\nheld_out = 0.5")).unwrap();
    let policy = Policy { max_runs: Some(3), ..Policy::default() };
    let state = tempfile::tempdir().unwrap();
    std::fs::write(state.path().join(".runs.json"), format!("[[\"x\",\"{}\"]]", "0".repeat(64))).unwrap();
    let config = AgentConfig { member: vec![member(dir.path())], state_dir: Some(state.path().into()), ..config(policy) };
    let text = explain(&config, None).unwrap();
    for expected in [
        "Agent site and the coordinator localhost:7",
        "  north: trains yes, evaluates yes, modalities a",
        "  max_runs = 3\n  1 of 3 runs are used up",
        "Give the spec of a run",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(!state.path().join(".lock").exists(), "it changes nothing");
}
