//! Local runs: what is counted, what is drawn, what stays alone.

use super::*;
use tessera_common::prototype::ProtoSums;

#[test]
fn weights_count_the_samples_that_trained_a_block() {
    // 60 samples: index 7 lacks both, every third lacks b (20), i % 7 == 1 lacks a
    let counts = |fill: &str, blockwise: bool| {
        let sets = [format!("missing.fill={fill}"), format!("strategy.blockwise={blockwise}")];
        let mut task = create(&spec("classify", &[&sets[0], &sets[1]])).unwrap();
        let data = member("m", samples(60, 1, patchy));
        let global = first_global(task.as_mut(), &[&data]);
        let outcome = run_fit(task.as_mut(), &data, &global, 1).unwrap();
        assert_eq!(outcome.metrics.0["fit/loss"].count, 2.0 * f64::from(outcome.examples), "two epochs");
        (outcome.examples, outcome.weights)
    };
    let lacking = |bit: u32| (0..60).filter(|&i| i != 7 && patchy(i) & bit != 0).count() as u32;
    let (no_a, no_b) = (lacking(1), lacking(2));
    assert!(no_a > 3 && no_b > 10);
    let map = |pairs: &[(&str, u32)]| pairs.iter().map(|(n, w)| ((*n).to_owned(), *w)).collect::<BTreeMap<_, _>>();
    let base = [("encoder.a", 59 - no_a), ("encoder.b", 59 - no_b), ("fusion", 59), ("head", 59)];
    assert_eq!(counts("zero", true), (59, map(&base)));
    let tokens = [base.as_slice(), &[("token.a", no_a), ("token.b", no_b)]].concat();
    assert_eq!(counts("token", true), (59, map(&tokens)));
    let complete = 59 - no_a - no_b;
    let dropped = ["encoder.a", "encoder.b", "fusion", "head"].map(|name| (name, complete));
    assert_eq!(counts("drop", false), (complete, map(&dropped)));
}

#[test]
fn sums_are_those_of_the_local_model_and_rare_classes_stay_home() {
    let spec = spec("classify", &["prototypes.min_count=8"]);
    let mut task = create(&spec).unwrap();
    let mut train = samples(60, 1, patchy);
    // class 3 becomes rare
    let mut seen = 0;
    for label in train.labels.iter_mut().filter(|l| **l == 3) {
        seen += 1;
        *label = if seen > 7 { 0 } else { 3 };
    }
    let data = member("m", train);
    let global = first_global(task.as_mut(), &[&data]);
    let outcome = run_fit(task.as_mut(), &data, &global, 1).unwrap();
    let having = |bits: u32, class: u32| {
        let rows = data.train.present.iter().zip(&data.train.labels);
        rows.filter(|(p, l)| **p & bits == bits && **l == class).count() as f64
    };
    // what the same parameters give as a frozen global
    let local = next_global(&global, &FitOutcome { update: params_only(&outcome.update), ..outcome.clone() }, 1);
    let features = task.survey_features(&data, &local).unwrap();
    for (name, bits) in [("a", 1), ("b", 2), ("fused", 3)] {
        let sums = ProtoSums::read(name, &outcome.update).unwrap().unwrap();
        let expected: Vec<f64> = (0..4).map(|c| having(bits, c)).map(|n| if n >= 8.0 { n } else { 0.0 }).collect();
        assert_eq!(sums.count(), expected, "{name}");
        assert_eq!(sums.count()[3], 0.0);
        assert!(sums.row(3).iter().all(|&s| s == 0.0));
        if name != "fused" {
            let fresh = features.get(&format!("feature/{name}/sum")).unwrap().to_f64();
            assert!(fresh.iter().zip((0..4).flat_map(|c| sums.row(c).to_vec())).all(|(f, s)| f == &s), "{name}");
        }
    }
}

fn params_only(set: &ParamSet) -> ParamSet {
    let mut out = ParamSet::new();
    set.section("param/").for_each(|(name, tensor)| out.insert(name, tensor.clone()));
    out
}

#[test]
fn without_anything_missing_pm_and_con_are_the_same() {
    let run = |sets: &[&str]| {
        let data = member("m", samples(64, 1, |_| 0));
        run_rounds(create(&spec("classify", sets)).unwrap().as_mut(), &data, 4).0.update.to_bytes()
    };
    let pm = run(&["missing.fill=noise", "missing.mask=label"]);
    assert_eq!(pm, run(&["missing.fill=zero", "missing.mask=none"]));
    assert_eq!(pm, run(&["missing.fill=retrieved", "missing.mask=retrieved", "missing.mask_probability=0.5"]));
    assert_ne!(pm, run(&["prototypes.contrast=0.0"]), "the contrast must matter");
}

#[test]
fn every_policy_trains_and_differs_from_the_others() {
    // wrong labels, so that the nearest class is not always that of the label
    let mut train = samples(64, 1, patchy);
    (0..64).step_by(5).for_each(|i| train.labels[i] = (train.labels[i] + 1) % 4);
    let data = member("m", train);
    let run = |sets: &[&str], rounds| run_rounds(create(&spec("classify", sets)).unwrap().as_mut(), &data, rounds).0.update;
    let digest = |fill: &str, mask: &str, rounds| {
        let update = run(&[&format!("missing.fill={fill}"), &format!("missing.mask={mask}")], rounds);
        assert_eq!(crate::glue::non_finite(&update), None, "{fill}, {mask}");
        update.digest()
    };
    let fills = ["drop", "zero", "noise", "token", "label-prototype", "retrieved"];
    let filled: Vec<_> = fills.iter().map(|fill| digest(fill, "none", 3)).collect();
    for i in 0..fills.len() {
        for j in 0..i {
            assert_ne!(filled[i], filled[j], "{} and {} train alike", fills[i], fills[j]);
        }
    }
    let masked: Vec<_> = ["none", "label", "retrieved"].iter().map(|mask| digest("noise", mask, 3)).collect();
    assert!(masked[0] != masked[1] && masked[0] != masked[2] && masked[1] != masked[2], "{masked:?}");
    // nothing is filled where samples are dropped; the mask of a label is the fill of its prototype
    assert_eq!(digest("drop", "label", 3), filled[0]);
    assert_eq!(digest("zero", "label", 3), filled[4]);
    assert_eq!(digest("zero", "retrieved", 3), filled[5]);
}

#[test]
fn masks_wait_for_the_warm_up() {
    let run = |sets: &[&str], rounds| {
        let data = member("m", samples(64, 1, patchy));
        run_rounds(create(&spec("classify", sets)).unwrap().as_mut(), &data, rounds).0.update.digest()
    };
    let (late, none) = (["missing.mask=label", "missing.warmup=3"], ["missing.mask=none"]);
    assert_eq!(run(&late, 3), run(&none, 3));
    assert_ne!(run(&late, 4), run(&none, 4));
    assert_eq!(run(&["missing.mask=label", "missing.mask_probability=0.0"], 3), run(&none, 3));
}

#[test]
fn a_fedavg_update_holds_no_prototypes_and_every_block() {
    let mut task = create(&spec("classify", &["strategy={kind=\"fedavg\"}"])).unwrap();
    let both = member("both", samples(40, 1, |_| 0));
    let only_a = member("a", samples(40, 2, |_| 2));
    let global = first_global(task.as_mut(), &[&both]);
    let outcome = run_fit(task.as_mut(), &only_a, &global, 1).unwrap();
    assert!(outcome.update.section("proto/").next().is_none());
    assert_eq!(outcome.weights["encoder.b"], 0);
    let moved = |name: &str| outcome.update.get(name).unwrap() != global.get(name).unwrap();
    assert!(!moved("param/encoder.b/l1.weight") && moved("param/encoder.a/l1.weight") && moved("param/head/bias"));
}

#[test]
fn a_member_without_usable_samples_says_so() {
    let fit = |fill: &str, train: Samples| {
        let mut task = create(&spec("classify", &[&format!("missing.fill={fill}")])).unwrap();
        let global = first_global(task.as_mut(), &[&member("both", samples(40, 1, |_| 0))]);
        run_fit(task.as_mut(), &member("m", train), &global, 1).unwrap_err().to_string()
    };
    assert!(fit("zero", samples(8, 1, |_| 3)).contains("member m has no sample to train on: none of its 8 has a modality"));
    assert!(fit("drop", samples(8, 1, |_| 2)).contains("none of its 8 is complete"));
    assert!(fit("zero", Samples::default()).contains("none at all"));
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run() {
    let data = member("m", samples(64, 1, |_| 0));
    let mut task = create(&spec("classify", &["train.optimizer=sgd", "train.lr=1e38"])).unwrap();
    let global = first_global(task.as_mut(), &[&data]);
    let error = run_fit(task.as_mut(), &data, &global, 1).unwrap_err();
    assert!(matches!(error, TaskError::Diverged { .. } | TaskError::NotFinite(_)), "{error}");
    assert!(error.to_string().contains("train.lr"), "{error}");
}

#[test]
fn proximal_term_clipping_and_schedule_act() {
    let distance = |sets: &[&str], round: Round| {
        let data = member("m", samples(64, 1, |_| 0));
        let mut task = create(&spec("classify", sets)).unwrap();
        let global = first_global(task.as_mut(), &[&data]);
        let outcome = run_fit(task.as_mut(), &data, &global, round).unwrap();
        let square = |(name, tensor): (&str, &tessera_common::param::Tensor)| -> f64 {
            tensor.to_f64().iter().zip(global.get(name).unwrap().to_f64()).map(|(a, b)| (a - b) * (a - b)).sum()
        };
        outcome.update.section("param/").map(square).sum::<f64>().sqrt()
    };
    let sgd = ["train.optimizer=sgd", "train.lr=0.1"];
    let free = distance(&sgd, 1);
    assert!(distance(&[&sgd[..], &["train.proximal=5.0"]].concat(), 1) < 0.9 * free);
    // 4 steps of at most lr * clip each
    let clipped = distance(&[&sgd[..], &["train.clip=0.01"]].concat(), 1);
    assert!(clipped <= 4.0 * 0.1 * 0.01 * 1.0001 && clipped > 0.5 * 4.0 * 0.1 * 0.01, "{clipped}");
    assert!(distance(&[&sgd[..], &["train.schedule=linear"]].concat(), 5) < 0.5 * free, "round 5 of 5 has a fifth of the rate");
    let momentum = distance(&[&sgd[..], &["train.momentum=0.9"]].concat(), 1);
    assert!(momentum > free, "{momentum} against {free}");
    let decay = distance(&["train.optimizer=adamw", "train.weight_decay=10.0"], 1);
    assert!(decay > distance(&[], 1), "decay pulls towards zero");
}

/// Representations of length 0 have no direction; their gradient must still be a number.
#[test]
fn gradients_stay_finite_where_representations_vanish() {
    let mut task = create(&spec("classify", &[])).unwrap();
    let data = member("m", samples(32, 1, patchy));
    let (_, trained) = run_rounds(task.as_mut(), &data, 1);
    let mut flat = ParamSet::new();
    for (name, tensor) in trained.iter() {
        let zero = name.starts_with("param/encoder.a/l2") || name.starts_with("param/fusion/");
        let zeros = || tessera_common::param::Tensor::f32(tensor.shape(), &vec![0.0; tensor.spec().elements()]);
        flat.insert(name, if zero { zeros() } else { tensor.clone() });
    }
    let outcome = run_fit(task.as_mut(), &data, &flat, 2).unwrap();
    assert_eq!(crate::glue::non_finite(&outcome.update), None);
    assert!(outcome.metrics.value("fit/loss").unwrap().is_finite());
    assert_ne!(outcome.update.get("param/fusion/weight"), flat.get("param/fusion/weight"));
}

/// Members with equal shards, full batches and one step are, on average, one member with the union.
#[test]
fn equal_shards_in_one_step_equal_the_union() {
    let union = samples(60, 1, patchy);
    let spec = spec("classify", &["train={optimizer=\"sgd\", lr=0.1, batch=100, epochs=1}"]);
    let mut task = create(&spec).unwrap();
    let whole = member("m", union.clone());
    let global = first_global(task.as_mut(), &[&whole]);
    let used: Vec<usize> = (0..60).filter(|&i| i != 7).collect();
    // 59 used samples in shards of 20, 20 and 19, weighted by their size
    let shards: Vec<Samples> = used.chunks(20).map(|rows| union.select(rows)).collect();
    let outcomes: Vec<FitOutcome> =
        shards.into_iter().map(|s| run_fit(task.as_mut(), &member("m", s), &global, 1).unwrap()).collect();
    let one = run_fit(task.as_mut(), &whole, &global, 1).unwrap();
    let mut moved = 0.0f64;
    for (name, tensor) in one.update.section("param/") {
        let mut mean = vec![0.0; tensor.spec().elements()];
        for outcome in &outcomes {
            let values = outcome.update.get(name).unwrap().to_f64();
            mean.iter_mut().zip(values).for_each(|(m, v)| *m += v * f64::from(outcome.examples) / 59.0);
        }
        for ((m, w), start) in mean.iter().zip(tensor.to_f64()).zip(global.get(name).unwrap().to_f64()) {
            assert!((m - w).abs() < 1e-6, "{name}: {m} and {w}");
            moved = moved.max((w - start).abs());
        }
    }
    assert!(moved > 1e-2, "{moved}");
}
