//! The acceptance numbers of docs/mlip.md. They take an hour on two cores: `just mlip` runs them and prints the tables.

// A test may panic, and no test uses all of what the tests share.
#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code, unreachable_pub, missing_debug_implementations)]

#[path = "support/pictures.rs"]
mod pictures;
mod support;

use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use tessera_client::data::{Dataset, Samples};
use tessera_client::task::{self, FitContext, MemberData};
use tessera_common::spec::RunSpec;

/// Recall@1 of pictures by their captions for captions that were never trained on.
fn generated(model: &str, seed: u64, steps: u32) -> f64 {
    let words: Vec<String> = pictures::words().iter().map(|w| format!("{w:?}")).collect();
    let text = format!(
        "version = 1\nname = \"pictures\"\nrounds = 1\nseed = {seed}\ncohort = {{ members = 1, size = 1 }}\n\
         strategy = {{ kind = \"fedavg\" }}\nprototypes = {{ contrast = 0, contrast_fused = 0 }}\n\
         task = {{ kind = \"mlip\", classes = 8, modalities = {{ image = 1728, text = 40 }}, standardise = false }}\n\
         train = {{ optimizer = \"adamw\", lr = 2e-3, weight_decay = 0.05, decay = \"matrices\", beta2 = 0.98, batch = 96, \
         steps = {steps}, schedule = \"cosine\", warmup = 0.05, per_step = true }}\n\
         [model]\nimage = {{ mean = [0.5, 0.5, 0.5], std = [0.35, 0.35, 0.35] }}\n\
         text = {{ width = 48, context = 4, words = {{ list = [{}] }} }}",
        words.join(", ")
    );
    let mut table: toml::Table = toml::from_str(&text).unwrap();
    model.lines().for_each(|line| tessera_common::spec::set_key(&mut table, line).unwrap());
    let spec = RunSpec::from_table(&table).unwrap();
    let (train, test) = pictures::split();
    let each = (steps as usize * 96).div_ceil(train.len());
    let data = MemberData {
        name: "all".parse().unwrap(),
        train: pictures::samples(&train, each, seed, "training pictures"),
        held_out: Samples::default(),
        test: pictures::samples(&test, 4, seed, "test pictures"),
    };
    let mut task = task::create(&spec).unwrap();
    let mut global = task.initialise().unwrap();
    let cancel = AtomicBool::new(false);
    let fitted = task.fit(&FitContext { data: &data, global: &global, round: 1, cancel: &cancel }).unwrap();
    global.extend(fitted.update);
    let metrics = task.evaluate(&data, &global, None).unwrap();
    assert!((metrics.value("test/chance@1/image>text").unwrap() - 1.0 / 96.0).abs() < 1e-12);
    metrics.value("test/recall@1/image>text").unwrap()
}

#[test]
#[ignore = "minutes; run by `just mlip`"]
fn generated_pictures_gain_from_the_filter_block() {
    let arms = [("plain tower", "model.image.frequency=0"), ("filter block", "model.loss.frequency=0.0")];
    let means = arms.map(|(name, model)| {
        let found: Vec<f64> = (0..3).map(|seed| generated(model, seed, 300)).collect();
        println!("generated pictures, recall@1 of 96 new captions, {name}: {found:.3?}");
        found.iter().sum::<f64>() / found.len() as f64
    });
    println!("means {means:.3?}, chance {:.3}", 1.0 / 96.0);
    assert!(means[1] >= 0.54 && means[1] >= means[0] + 0.03, "{means:?}");
}

const SEEDS: [u64; 3] = [0, 1, 2];
const VENDORS: [&str; 4] = ["fluent", "noto", "openmoji", "twemoji"];

/// One simulation of a file of deploy/runs/mlip, its methods by name.
fn run(file: &str, settings: &[String], seed: u64) -> serde_json::Map<String, Value> {
    let (file, seed) = (format!("deploy/runs/mlip/{file}.toml"), seed.to_string());
    let mut arguments = vec![file.as_str(), "--seed", &seed];
    settings.iter().for_each(|set| arguments.extend(["--set", set]));
    support::result(&arguments)["methods"].as_object().unwrap().clone()
}

/// Values by method and measure, one for each simulation.
type Found = BTreeMap<(String, String), Vec<f64>>;

/// Measures of a method's result: name, and where it stands.
const MEASURES: [(&str, &[&str]); 10] = [
    ("test i>t @1", &["recall", "test", "recall@1", "image>text"]),
    ("test i>t @5", &["recall", "test", "recall@5", "image>text"]),
    ("test t>i @1", &["recall", "test", "recall@1", "text>image"]),
    ("held-out i>t @1", &["recall", "held-out", "recall@1", "image>text"]),
    ("held-out i>t @5", &["recall", "held-out", "recall@5", "image>text"]),
    ("test chance @1", &["recall", "test", "chance@1", "image>text"]),
    ("test class", &["answers", "cross*", "image"]),
    ("test class, whitened", &["answers", "whitened", "image"]),
    ("held-out class", &["held_out", "cross*", "image"]),
    ("held-out class, whitened", &["held_out", "whitened", "image"]),
];

fn collect(found: &mut Found, methods: &serde_json::Map<String, Value>, prefix: &str) {
    for (method, result) in methods {
        assert_eq!(result["finished"], true, "{method}: {}", result["reason"]);
        for (measure, path) in MEASURES {
            let value = path.iter().fold(result, |at, key| &at[key]);
            if let Some(value) = value.as_f64() {
                found.entry((format!("{prefix}{method}"), measure.to_owned())).or_default().push(value);
            }
        }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn level(found: &Found, method: &str, measure: &str) -> f64 {
    mean(&found[&(method.to_owned(), measure.to_owned())])
}

fn print(found: &Found) {
    for ((method, measure), values) in found {
        let (m, n) = (mean(values), values.len());
        let sd = (values.iter().map(|v| (v - m).powi(2)).sum::<f64>() / (n.max(2) - 1) as f64).sqrt();
        println!("{method:24} {measure:26} {m:.3} +- {sd:.3}  of {n}");
    }
}

/// Recall@1 without learning: the name whose mean training drawing correlates best with the picture, pixel by pixel.
fn pixel_matching(held_out: &str) -> f64 {
    let data = Dataset::open("deploy/data/emoji/things.toml").unwrap();
    let (vendors, folds) = (data.client.as_ref().unwrap(), data.fold.as_ref().unwrap());
    let (image, text) = (&data.samples.modalities[0], &data.samples.modalities[1]);
    let name = |row: usize| -> Vec<u32> { text.row(row).iter().map(|v| v.to_bits()).collect() };
    let known = |row: &usize| folds[*row] != 0;
    let centred = |values: Vec<f64>| -> Vec<f64> {
        let m = mean(&values);
        let length = values.iter().map(|v| (v - m).powi(2)).sum::<f64>().sqrt();
        values.into_iter().map(|v| (v - m) / length.max(1e-12)).collect()
    };
    let mut drawings: BTreeMap<Vec<u32>, Vec<f64>> = BTreeMap::new();
    for row in (0..vendors.len()).filter(known).filter(|&row| vendors[row] != held_out) {
        let sum = drawings.entry(name(row)).or_insert_with(|| vec![0.0; image.dim]);
        sum.iter_mut().zip(image.row(row)).for_each(|(s, v)| *s += f64::from(*v));
    }
    let drawings: Vec<(Vec<u32>, Vec<f64>)> = drawings.into_iter().map(|(name, sum)| (name, centred(sum))).collect();
    let queries: Vec<usize> = (0..vendors.len()).filter(known).filter(|&row| vendors[row] == held_out).collect();
    let right = queries.iter().filter(|&&row| {
        let query = centred(image.row(row).iter().map(|v| f64::from(*v)).collect());
        let score = |drawing: &[f64]| drawing.iter().zip(&query).map(|(a, b)| a * b).sum::<f64>();
        let best = drawings.iter().max_by(|a, b| score(&a.1).total_cmp(&score(&b.1))).unwrap();
        best.0 == name(row)
    });
    right.count() as f64 / queries.len() as f64
}

#[test]
#[ignore = "half an hour; run by `just mlip`"]
fn the_filter_block_gains_on_vendors_that_nobody_trained_on() {
    let (mut all, mut gains) = (Found::new(), Vec::new());
    for vendor in VENDORS {
        println!("{vendor} held out: pixel matching finds {:.3}", pixel_matching(vendor));
        for seed in SEEDS {
            let methods = run("pooled", &[format!("data.split.client={vendor}")], seed);
            let mut one = Found::new();
            collect(&mut one, &methods, "");
            let gain = |method| level(&one, method, "test i>t @1") - level(&one, "clip-3", "test i>t @1");
            gains.push(gain("filter"));
            collect(&mut all, &methods, &format!("{vendor}/"));
            collect(&mut all, &methods, "");
        }
    }
    print(&all);
    println!("filter block less plain tower of its size, recall@1: {:.3} ({gains:.3?})", mean(&gains));
    assert!(mean(&gains) >= 0.05, "{gains:?}");
}

#[test]
#[ignore = "minutes; run by `just mlip`"]
fn merging_half_of_the_tokens_costs_no_recall() {
    let mut found = Found::new();
    SEEDS.iter().for_each(|&seed| collect(&mut found, &run("merging", &["data.split.client=noto".into()], seed), ""));
    print(&found);
    let of = |method| level(&found, method, "test i>t @1");
    assert!(of("token-18") >= of("token") - 0.02, "{} against {}", of("token-18"), of("token"));
}

#[test]
#[ignore = "minutes; run by `just mlip`"]
fn three_vendors_together_are_worth_more_than_one() {
    let mut found = Found::new();
    for vendor in VENDORS {
        let methods = run("vendors", &[format!("data.split.client={vendor}")], 0);
        collect(&mut found, &methods, "");
        collect(&mut found, &methods, &format!("{vendor}/"));
    }
    print(&found);
    let of = |method| level(&found, method, "test i>t @1");
    assert!(of("federated") >= 1.5 * of("alone"), "{} against {}", of("federated"), of("alone"));
}

#[test]
#[ignore = "minutes; run by `just mlip`"]
fn sites_with_pictures_alone_add_knowledge_of_classes() {
    let mut found = Found::new();
    SEEDS.iter().for_each(|&seed| collect(&mut found, &run("images-only", &[], seed), ""));
    print(&found);
    for measure in ["test class", "held-out class"] {
        let of = |method| level(&found, method, measure);
        assert!(of("with-prototypes") > of("pairs-alone"), "{measure}: {} against {}", of("with-prototypes"), of("pairs-alone"));
    }
}

#[test]
#[ignore = "minutes; run by `just mlip`"]
fn incomplete_sites_help_a_federation() {
    let mut found = Found::new();
    SEEDS.iter().for_each(|&seed| collect(&mut found, &run("sites", &[], seed), ""));
    print(&found);
    let of = |method| level(&found, method, "test class");
    let best = VENDORS.iter().map(|vendor| of(vendor)).fold(0.0, f64::max);
    let together = of("six-sites");
    assert!(together > best && together > of("pairs-only"), "{together} against {best} and {}", of("pairs-only"));
}
