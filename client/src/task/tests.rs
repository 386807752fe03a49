//! What every task must do, walked over the table of tasks, on synthetic data.

use super::*;
use crate::data::Modality;
use std::sync::atomic::AtomicBool;
use tessera_common::aggregate::check;
use tessera_common::param::{TensorSpec, block_of};
use tessera_common::rng;
use tessera_common::spec::set_key;

mod answers;
mod fit;
mod parity;
mod private;

/// A spec for a task of this kind, with overrides.
fn spec(kind: &str, sets: &[&str]) -> RunSpec {
    let text = format!(
        r#"
        version = 1
        name = "t"
        rounds = 5
        seed = 3
        task = {{ kind = "{kind}", classes = 4, modalities = {{ a = 6, b = 5 }} }}
        strategy = {{ kind = "pmcm" }}
        prototypes = {{ min_count = 1 }}
        cohort = {{ members = 2, size = 2 }}
        "#
    );
    let mut table: toml::Table = toml::from_str(&text).unwrap();
    own_keys(kind).iter().for_each(|set| set_key(&mut table, set).unwrap());
    sets.iter().for_each(|set| set_key(&mut table, set).unwrap());
    RunSpec::from_table(&table).unwrap()
}

/// What a task of this kind needs to take the features `a` and `b` as they are.
fn own_keys(kind: &str) -> &'static [&'static str] {
    match kind {
        "mlip" => &[
            "task.standardise=false",
            "train.lr=0.02",
            "model.image={ kind = \"embedding\", modality = \"a\", frequency = 0 }",
            "model.text={ kind = \"embedding\", modality = \"b\" }",
        ],
        _ => &[],
    }
}

/// The block that encodes modality `m` of a task.
fn encoder(kind: &str, m: usize) -> &'static str {
    match kind {
        "mlip" => ["image", "text"][m],
        _ => ["encoder.a", "encoder.b"][m],
    }
}

/// `n` samples of 4 classes: modality m of class c is a Gaussian about a mean of its own; `missing` takes modalities away.
fn samples(n: usize, seed: u64, missing: impl Fn(usize) -> u32) -> Samples {
    let mut draw = rng::stream(seed, "test data", "", 0);
    let mut means = rng::stream(99, "test means", "", 0);
    let dims = [("a", 6), ("b", 5)];
    let centres: Vec<Vec<f64>> = dims.iter().map(|(_, d)| (0..4 * d).map(|_| 2.0 * means.normal()).collect()).collect();
    let labels: Vec<u32> = (0..n).map(|i| (i % 4) as u32).collect();
    let present: Vec<u32> = (0..n).map(|i| 3 & !missing(i)).collect();
    let mut modality = |m: usize| {
        let (name, dim) = dims[m];
        let mut values = Vec::new();
        for i in 0..n {
            for j in 0..dim {
                let x = (5.0 + centres[m][labels[i] as usize * dim + j] + draw.normal()) as f32;
                values.push(if present[i] >> m & 1 == 1 { x } else { 0.0 });
            }
        }
        Modality { name: name.into(), dim, values }
    };
    let modalities = vec![modality(0), modality(1)];
    Samples { modalities, labels, present }
}

fn member(name: &str, train: Samples) -> MemberData {
    MemberData {
        name: name.parse().unwrap(),
        train,
        held_out: samples(40, 8, |_| 0),
        test: samples(60, 9, |i| (i % 5 == 0) as u32),
    }
}

/// A third of the samples lacks b, a few lack a, one lacks both.
fn patchy(i: usize) -> u32 {
    match i {
        7 => 3,
        _ if i.is_multiple_of(3) => 2,
        _ if i % 7 == 1 => 1,
        _ => 0,
    }
}

/// The first global of a run over these members, standardised by their own survey.
fn first_global(task: &mut dyn Task, members: &[&MemberData]) -> ParamSet {
    use tessera_common::statistics::{InputStatistics, Standardisation};
    let mut global = task.initialise().unwrap();
    let mut sums: BTreeMap<String, InputStatistics> = BTreeMap::new();
    for data in members {
        for (name, one) in InputStatistics::read_all(&task.survey_inputs(data).unwrap()).unwrap() {
            match sums.get_mut(&name) {
                Some(total) => total.merge(&one).unwrap(),
                None => drop(sums.insert(name, one)),
            }
        }
    }
    sums.iter().for_each(|(name, total)| Standardisation::from(total).write(name, &mut global));
    global
}

/// The global after one member's update: its parameters, and the library renewed by its sums.
fn next_global(global: &ParamSet, outcome: &FitOutcome, round: Round) -> ParamSet {
    use tessera_common::prototype::{Library, ProtoSums};
    let mut next = ParamSet::new();
    global.iter().for_each(|(name, tensor)| next.insert(name, tensor.clone()));
    for (name, tensor) in outcome.update.section("param/") {
        next.insert(name, tensor.clone());
    }
    for name in ["a", "b", "fused"] {
        if let Some(sums) = ProtoSums::read(name, &outcome.update).unwrap() {
            let old = Library::read(name, global).unwrap();
            let ones: Vec<f64> = sums.count().iter().map(|&n| f64::from(u8::from(n > 0.0))).collect();
            Library::renew(old.as_ref(), &sums, &ones, round, 1.0, 0.0, 0).unwrap().write(name, &mut next);
        }
    }
    next
}

fn run_fit(task: &mut dyn Task, data: &MemberData, global: &ParamSet, round: Round) -> Result<FitOutcome, TaskError> {
    task.fit(&FitContext { data, global, round, cancel: &AtomicBool::new(false) })
}

/// Rounds of one member alone; the last outcome and global.
fn run_rounds(task: &mut dyn Task, data: &MemberData, rounds: Round) -> (FitOutcome, ParamSet) {
    let mut global = first_global(task, &[data]);
    let mut outcome = run_fit(task, data, &global, 1).unwrap();
    for round in 1..=rounds {
        if round > 1 {
            outcome = run_fit(task, data, &global, round).unwrap();
        }
        global = next_global(&global, &outcome, round);
    }
    (outcome, global)
}

#[test]
fn every_task_has_a_stable_manifest() {
    for def in TASKS {
        let make = |sets: &[&str]| {
            (def.create)(&spec(def.name, sets), &State::default(), &Device::flex()).unwrap().initialise().unwrap()
        };
        let one = make(&[]);
        assert_eq!(one.to_bytes(), make(&[]).to_bytes(), "{}", def.name);
        let other = make(&["seed=4"]);
        assert_eq!(one.layout(), other.layout(), "{}", def.name);
        assert_ne!(one.digest(), other.digest(), "{}: the seed must matter", def.name);
        assert_eq!(check::check_initial(&spec(def.name, &[]), &one.layout()), Ok(()), "{}", def.name);
    }
}

#[test]
fn every_task_sends_what_the_coordinator_accepts() {
    for def in TASKS {
        for (fill, blockwise) in [("zero", true), ("noise", false), ("token", true), ("drop", true)] {
            let sets = [format!("missing.fill={fill}"), format!("strategy.blockwise={blockwise}")];
            let spec = spec(def.name, &[&sets[0], &sets[1]]);
            if (def.name, fill) == ("mlip", "token") {
                assert!(create(&spec).err().unwrap().to_string().contains("missing.fill"));
                continue;
            }
            let mut task = create(&spec).unwrap();
            let data = member("m", samples(60, 1, patchy));
            let global = first_global(task.as_mut(), &[&data]);
            let outcome = run_fit(task.as_mut(), &data, &global, 1).unwrap();
            let layout = outcome.update.layout();
            let update = tessera_common::update::UpdateRef {
                member: data.name.clone(),
                assignment: tessera_common::id::AssignmentId(1),
                blob: None,
                bytes: layout.total(),
                examples: outcome.examples,
                weights: outcome.weights.clone(),
                metrics: outcome.metrics.clone(),
            };
            assert_eq!(check::check_update(&spec, &global.layout(), &update, &layout), Ok(()), "{}, {fill}", def.name);
            let features = task.survey_features(&data, &global).unwrap();
            assert_eq!(check::check_features(&spec, &global.layout(), &features.layout()), Ok(()), "{}", def.name);
            let inputs = task.survey_inputs(&data).unwrap();
            assert_eq!(check::check_inputs(&spec, &inputs.layout()), Ok(()), "{}", def.name);
            assert_eq!(task.evaluate(&data, &global, Some(&features)).unwrap().fault(), None);
        }
    }
}

#[test]
fn every_task_repeats_itself_and_learns() {
    for def in TASKS {
        let spec = spec(def.name, &["missing.fill=noise", "missing.mask=label", "missing.mask_probability=0.5"]);
        let data = member("m", samples(80, 1, patchy));
        let run = |rounds| run_rounds(create(&spec).unwrap().as_mut(), &data, rounds);
        let ((one, _), (two, _)) = (run(3), run(3));
        assert_eq!(one.update.to_bytes(), two.update.to_bytes(), "{}", def.name);
        // a task that has served another member answers as a fresh one does
        let mut used = create(&spec).unwrap();
        run_rounds(used.as_mut(), &member("other", samples(40, 5, patchy)), 2);
        assert_eq!(run_rounds(used.as_mut(), &data, 3).0.update.to_bytes(), one.update.to_bytes(), "{}", def.name);
        let loss = |rounds| run(rounds).0.metrics.value("fit/loss").unwrap();
        let (first, last) = (loss(1), loss(6));
        // features of one class cannot be told apart, so a contrast of pairs has a floor
        let share = if def.name == "mlip" { 0.96 } else { 0.7 };
        assert!(last < share * first, "{}: loss {first} -> {last}", def.name);
    }
}

#[test]
fn every_task_stops_when_cancelled() {
    for def in TASKS {
        let mut task = create(&spec(def.name, &[])).unwrap();
        let data = member("m", samples(20, 1, patchy));
        let global = first_global(task.as_mut(), &[&data]);
        let cancelled = task.fit(&FitContext { data: &data, global: &global, round: 1, cancel: &AtomicBool::new(true) });
        assert_eq!(cancelled, Err(TaskError::Cancelled), "{}", def.name);
    }
}

#[test]
fn every_task_serves_a_member_that_lacks_a_modality() {
    for def in TASKS {
        let mut task = create(&spec(def.name, &[])).unwrap();
        let both = member("both", samples(40, 1, |_| 0));
        let mut only_a = samples(40, 2, |_| 2);
        only_a.modalities.pop();
        only_a.present.iter_mut().for_each(|bits| *bits &= 1);
        let only_a = member("only-a", only_a);
        let global = first_global(task.as_mut(), &[&both, &only_a]);
        let outcome = run_fit(task.as_mut(), &only_a, &global, 1).unwrap();
        let (own, other) = (encoder(def.name, 0), encoder(def.name, 1));
        assert!(outcome.update.iter().all(|(name, _)| !name.contains("/b/") && block_of(name) != Some(other)));
        // without a library nothing of a picture alone can be learned: its prototypes are sent, its parameters count nowhere
        let trained = if def.name == "mlip" { 0 } else { 40 };
        assert!(!outcome.weights.contains_key(other) && outcome.weights[own] == trained, "{}", def.name);
        assert!(outcome.update.section("proto/fused/").next().is_none(), "no sample is complete");
        let statistics = task.survey_features(&only_a, &global).unwrap();
        assert!(statistics.section("feature/b/").next().is_none());
        let metrics = task.evaluate(&only_a, &global, Some(&statistics)).unwrap();
        assert_eq!(metrics.0["held-out/whitened/a"].count, 40.0);
        if def.name == "classify" {
            // its own statistics say nothing of b: the head answers
            assert_eq!(metrics.0["held-out/whitened/b"], metrics.0["held-out/head/b"]);
        }
    }
}

#[test]
fn data_that_do_not_fit_are_named() {
    for def in TASKS {
        let mut task = create(&spec(def.name, &[])).unwrap();
        let good = samples(20, 1, |_| 0);
        let mut fault = |change: &dyn Fn(&mut Samples)| {
            let mut bad = good.clone();
            change(&mut bad);
            task.survey_inputs(&member("site-7", bad)).unwrap_err().to_string()
        };
        let dim = fault(&|s| s.modalities[0].dim = 4);
        assert_eq!(dim, "data of member site-7: modality \"a\" has 4 features, task.modalities says 6");
        let label = fault(&|s| s.labels[3] = 4);
        assert_eq!(label, "data of member site-7: sample 3 has class 4; task.classes = 4 allows 0 to 3");
        let nan = fault(&|s| s.modalities[1].values[11] = f32::NAN);
        assert_eq!(nan, "data of member site-7: feature 1 of modality \"b\" is not finite in sample 2");
        assert!(fault(&|s| s.modalities[1].values.truncate(9)).contains("9 values, not 20 samples of 5"));
        assert!(fault(&|s| s.present.truncate(9)).contains("presence bits of 9 samples"));
    }
}

#[test]
fn a_global_that_does_not_fit_is_named() {
    for def in TASKS {
        let task_standardises = spec(def.name, &[]).task.standardise;
        let mut task = create(&spec(def.name, &[])).unwrap();
        let data = member("m", samples(20, 1, |_| 0));
        let good = first_global(task.as_mut(), &[&data]);
        let mut fault = |remove: &str, name: &str, tensor: Option<tessera_common::param::Tensor>| {
            let mut bad = ParamSet::new();
            good.iter().filter(|(n, _)| remove.is_empty() || !n.starts_with(remove)).for_each(|(n, t)| bad.insert(n, t.clone()));
            tensor.into_iter().for_each(|t| bad.insert(name, t));
            let fit = run_fit(task.as_mut(), &data, &bad, 1).unwrap_err().to_string();
            assert_eq!(task.evaluate(&data, &bad, None).unwrap_err().to_string(), fit);
            fit
        };
        let stored = |spec: &TensorSpec| tessera_common::param::Tensor::f64(&spec.shape, &vec![1.0; spec.elements()]);
        assert!(fault("param/", "", None).contains("is missing"), "{}", def.name);
        if task_standardises {
            assert!(fault("input/a/", "", None).contains("input/a/mean is missing, but task.standardise = true"));
            assert!(fault("", "input/b/std", Some(stored(&TensorSpec::f64(&[2])))).contains("input/b/std"));
        }
        let library = fault("", "proto/a/mean", Some(stored(&TensorSpec::f64(&[4, 2]))));
        assert!(library.contains("proto/a/count"), "{library}");
    }
}

#[test]
fn an_unknown_task_is_met_with_the_nearest() {
    let spec = spec("clasify", &[]);
    let error = create(&spec).err().unwrap().to_string();
    assert!(error.contains("did you mean `classify`?"), "{error}");
}
