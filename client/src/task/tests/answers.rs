//! Answers: what is reported, from which samples, and what they must equal.

use super::*;
use std::collections::BTreeSet;
use tessera_common::metric::Metric;
use tessera_common::prototype::Library;
use tessera_common::statistics::FeatureStatistics;

fn trained(sets: &[&str]) -> (Box<dyn Task>, MemberData, ParamSet) {
    let mut task = create(&spec("classify", sets)).unwrap();
    let data = member("m", samples(120, 1, patchy));
    let (_, global) = run_rounds(task.as_mut(), &data, 5);
    (task, data, global)
}

#[test]
fn every_answer_of_every_subset_is_counted() {
    let (mut task, data, global) = trained(&[]);
    let statistics = task.survey_features(&data, &global).unwrap();
    let metrics = task.evaluate(&data, &global, Some(&statistics)).unwrap();
    let answers = ["head", "near", "ncm", "near*", "ncm*", "whitened"];
    let mut expected = BTreeSet::from(["held-out/loss".to_owned(), "test/loss".to_owned()]);
    for split in ["held-out", "test"] {
        for subset in ["a", "b", "a+b"] {
            expected.extend(answers.iter().map(|answer| format!("{split}/{answer}/{subset}")));
        }
    }
    assert_eq!(metrics.0.keys().cloned().collect::<BTreeSet<_>>(), expected);
    // 60 test samples, of which every fifth lacks a
    let count = |name: &str| metrics.0[name].count;
    assert_eq!((count("test/head/a"), count("test/head/b"), count("test/ncm/a+b"), count("test/loss")), (48.0, 60.0, 48.0, 48.0));
    let value = |name: &str| metrics.value(name).unwrap();
    for answer in answers {
        for subset in ["a", "b", "a+b"] {
            let name = format!("test/{answer}/{subset}");
            assert!(value(&name) > 0.6, "{name}: {}", value(&name));
        }
    }
    assert_eq!(metrics.0["test/near/a+b"], metrics.0["test/head/a+b"]);
    assert_eq!(metrics.0["test/near*/a+b"], metrics.0["test/head/a+b"]);
    assert!(value("test/loss") < 0.8, "{}", value("test/loss"));
}

#[test]
fn without_library_and_statistics_only_the_head_answers() {
    let mut task = create(&spec("classify", &[])).unwrap();
    let mut data = member("m", samples(40, 1, |_| 0));
    data.held_out = Samples::default();
    let global = first_global(task.as_mut(), &[&data]);
    let metrics = task.evaluate(&data, &global, None).unwrap();
    let names: Vec<&str> = metrics.0.keys().map(String::as_str).collect();
    assert_eq!(names, ["test/head/a", "test/head/a+b", "test/head/b", "test/loss"]);
}

#[test]
fn a_class_without_statistics_is_never_answered() {
    let (mut task, data, global) = trained(&[]);
    let mut train = data.train.clone();
    train.labels.iter_mut().for_each(|l| *l = 2);
    let narrow = MemberData { train, ..data.clone() };
    let statistics = task.survey_features(&narrow, &global).unwrap();
    let metrics = task.evaluate(&data, &global, Some(&statistics)).unwrap();
    // all samples are answered with class 2, a quarter of them rightly
    assert_eq!(metrics.0["held-out/whitened/a"], Metric { sum: 10.0, count: 40.0 });
    assert_eq!(metrics.0["held-out/ncm*/b"], Metric { sum: 10.0, count: 40.0 });
}

#[test]
fn ncm_answers_as_the_means_say() {
    let (mut task, data, global) = trained(&[]);
    let statistics = task.survey_features(&data, &global).unwrap();
    let metrics = task.evaluate(&data, &global, Some(&statistics)).unwrap();
    // the held-out samples' own representations, one at a time, through the survey
    let means = FeatureStatistics::read("a", &statistics).unwrap().unwrap().means(1);
    let mut right = 0;
    for i in 0..data.held_out.len() {
        let one = MemberData { train: data.held_out.select(&[i]), ..data.clone() };
        let label = one.train.labels[0] as usize;
        let features = FeatureStatistics::read("a", &task.survey_features(&one, &global).unwrap()).unwrap().unwrap();
        let r = features.mean(label).unwrap();
        right += usize::from(by_hand(&means, &r) == label);
    }
    assert_eq!(metrics.0["held-out/ncm*/a"].sum, right as f64);
}

fn by_hand(library: &Library, r: &[f64]) -> usize {
    let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    let cosine = |c: usize| library.row(c).iter().zip(r).map(|(p, x)| p * x).sum::<f64>() / norm(library.row(c)) / norm(r);
    (0..library.classes()).filter(|&c| library.is_valid(c)).max_by(|&x, &y| cosine(x).total_cmp(&cosine(y))).unwrap()
}

#[test]
fn removing_one_modality_changes_no_number_of_the_other() {
    let (mut task, data, global) = trained(&[]);
    let without_b = |s: &Samples| {
        let mut s = s.clone();
        s.modalities.retain(|m| m.name == "a");
        s.present.iter_mut().for_each(|bits| *bits &= 1);
        s
    };
    let alone = MemberData {
        name: data.name.clone(),
        train: without_b(&data.train),
        held_out: without_b(&data.held_out),
        test: without_b(&data.test),
    };
    let of_a = |set: &ParamSet, section: &str| -> Vec<(String, Vec<u8>)> {
        set.section(section).map(|(name, tensor)| (name.to_owned(), tensor.data().to_vec())).collect()
    };
    let (inputs, inputs_alone) = (task.survey_inputs(&data).unwrap(), task.survey_inputs(&alone).unwrap());
    assert_eq!(of_a(&inputs, "input/a/"), of_a(&inputs_alone, "input/a/"));
    assert_eq!((inputs.len(), inputs_alone.len()), (6, 3));
    let (features, features_alone) =
        (task.survey_features(&data, &global).unwrap(), task.survey_features(&alone, &global).unwrap());
    assert_eq!(of_a(&features, "feature/a/"), of_a(&features_alone, "feature/a/"));
    assert_eq!((features.len(), features_alone.len()), (8, 4));
    let (both, one) =
        (task.evaluate(&data, &global, Some(&features)).unwrap(), task.evaluate(&alone, &global, Some(&features_alone)).unwrap());
    let mut compared = 0;
    for (name, metric) in both.0.iter().filter(|(name, _)| name.ends_with("/a")) {
        if !name.contains("/near") {
            assert_eq!(one.0.get(name), Some(metric), "{name}");
            compared += 1;
        }
    }
    assert_eq!(compared, 8);
}

#[test]
fn statistics_of_another_model_are_refused() {
    let (mut task, data, global) = trained(&[]);
    let mut wide = ParamSet::new();
    FeatureStatistics::of(4, 3, &[1.0f32; 6], &[0, 1], 1).write("a", &mut wide);
    let error = task.evaluate(&data, &global, Some(&wide)).unwrap_err().to_string();
    assert!(error.contains("statistics of \"a\" have shape [4, 3], this model needs [4, 64]"), "{error}");
}

#[test]
fn every_fill_answers() {
    for fill in ["drop", "zero", "noise", "token", "label-prototype", "retrieved"] {
        let (mut task, data, global) = trained(&[&format!("missing.fill={fill}")]);
        let metrics = task.evaluate(&data, &global, None).unwrap();
        let again = task.evaluate(&data, &global, None).unwrap();
        assert_eq!(metrics, again, "{fill}");
        let value = metrics.value("held-out/head/a").unwrap();
        assert!(value > 0.45, "{fill}: {value}");
    }
}

#[test]
fn raw_inputs_are_answered_without_a_network() {
    let spec = spec("classify", &[]);
    let (one, two, test) = (samples(80, 1, patchy), samples(80, 2, |_| 2), samples(200, 3, |_| 0));
    let members: Vec<(MemberName, &Samples)> = vec![("one".parse().unwrap(), &one), ("two".parse().unwrap(), &two)];
    let metrics = raw::whitened(&spec, &members, &test).unwrap();
    let value = |s: &str| metrics.value(&format!("raw-whitened/{s}")).unwrap();
    assert!(value("a") > 0.9 && value("b") > 0.9 && value("a+b") >= value("b"), "{metrics:?}");
    assert_eq!(metrics.0["raw-whitened/a+b"].count, 200.0);
}
