mod held;

use super::*;
use crate::data::{Card, DataError, Dataset, Modality, Samples};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Row i has the label i mod `classes`, and i + 1 as its every feature.
fn toy(rows: usize, classes: usize, names: &[&str]) -> Dataset {
    let modality = |(m, name): (usize, &&str)| {
        let values = (0..rows).flat_map(|row| vec![row as f32 + 1.0; m + 1]).collect();
        Modality { name: (*name).to_owned(), dim: m + 1, values }
    };
    let samples = Samples {
        modalities: names.iter().enumerate().map(modality).collect(),
        labels: (0..rows).map(|row| (row % classes) as u32).collect(),
        present: vec![(1 << names.len()) - 1; rows],
    };
    let fold = (0..rows).map(|row| (row / classes % 3) as u32).collect();
    let client = (0..rows).map(|row| format!("{}", row % 12)).collect();
    let classes = (0..classes).map(|class| format!("c{class}")).collect();
    Dataset::new("toy", classes, samples, Some(fold), Some(client), Card::default()).unwrap()
}

fn spec(toml: &str) -> DataSpec {
    DataSpec::from_table(&toml::from_str(&format!("source = \"toy\"\n{toml}")).unwrap()).unwrap()
}

fn make(dataset: &Dataset, toml: &str, seed: u64) -> Manifest {
    Manifest::make(dataset, &spec(toml), seed).unwrap()
}

/// The message of a spec that is refused, by itself or for `dataset`.
fn refusal(dataset: &Dataset, toml: &str) -> String {
    let table = toml::from_str(&format!("source = \"toy\"\n{toml}")).unwrap();
    match DataSpec::from_table(&table) {
        Err(error) => error.to_string(),
        Ok(spec) => Manifest::make(dataset, &spec, 0).unwrap_err().to_string(),
    }
}

fn sizes(manifest: &Manifest) -> Vec<usize> {
    manifest.members.iter().map(|m| m.train.len() + m.held_out.len() + m.discarded.len()).collect()
}

fn mfeat() -> Dataset {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "deploy", "data", "mfeat"].iter().collect();
    Dataset::load(&folder).unwrap()
}

fn schemes() -> impl Strategy<Value = Scheme> {
    let alpha = prop::sample::select(vec![0.01, 0.1, 0.5, 100.0]);
    prop_oneof![
        Just(Scheme::Iid {}),
        Just(Scheme::Column {}),
        (alpha.clone(), 0usize..6).prop_map(|(alpha, min)| Scheme::Dirichlet { alpha, min }),
        (alpha, 0usize..6).prop_map(|(alpha, min)| Scheme::Quantity { alpha: Some(alpha), power: None, min }),
        (0..30u32, 0usize..6).prop_map(|(p, min)| Scheme::Quantity { alpha: None, power: Some(f64::from(p) / 10.0), min }),
    ]
}

fn patterns() -> impl Strategy<Value = Pattern> {
    // as people write them; serde_json reads a number of 17 digits to the last bit only with `float_roundtrip`
    let share = |below: u32| (0..below).prop_map(|n| f64::from(n) / 1000.0);
    let rates = || prop::option::of(share(1000)).prop_map(|rate| rate.map(|rate| ("b".to_owned(), rate)).into_iter().collect());
    prop_oneof![
        Just(Pattern::None {}),
        (share(900), rates()).prop_map(|(rate, rates)| Pattern::Sample { rate, rates }),
        (share(900), rates()).prop_map(|(rate, rates)| Pattern::Client { rate, rates }),
        share(1001).prop_map(|complete| Pattern::Unimodal { complete }),
        (share(400), 400..900u32)
            .prop_map(|(low, high)| (low, f64::from(high) / 1000.0))
            .prop_map(|(low, high)| Pattern::Label { low, high, rates: BTreeMap::new() }),
    ]
}

fn splits() -> impl Strategy<Value = Split> {
    prop_oneof![
        Just(Split::default()),
        (1usize..4).prop_map(|n| Split { test_per_class: Some(n), ..Split::default() }),
        (0u32..3).prop_map(|fold| Split { fold: Some(fold), ..Split::default() }),
    ]
}

/// The samples of a member must be those rows, with zeros for what is missing.
fn check_samples(samples: &Samples, rows: &[usize], dataset: &Dataset) {
    assert_eq!(samples.len(), rows.len());
    assert_eq!(samples.present.len(), rows.len());
    for (at, &row) in rows.iter().enumerate() {
        assert_eq!(samples.labels[at], dataset.samples.labels[row]);
        for (bit, modality) in samples.modalities.iter().enumerate() {
            let expected = if samples.has(at, bit) { row as f32 + 1.0 } else { 0.0 };
            assert!(modality.row(at).iter().all(|&value| value == expected));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_row_is_given_once(
        scheme in schemes(), pattern in patterns(), split in splits(), clients in 1usize..9, classes in 2usize..5,
        held_out in prop::sample::select(vec![0.0, 0.1, 0.9]), seed in any::<u64>(),
    ) {
        let dataset = toy(120, classes, &["a", "b", "c"]);
        let data = DataSpec {
            source: "toy".into(), clients, split, partition: scheme.clone(), missing: pattern.clone(), held_out, modalities: None,
        };
        // a few patterns leave nothing on a few rows, which is refused and tested elsewhere
        let manifest = match Manifest::make(&dataset, &data, seed) {
            Ok(manifest) => manifest,
            Err(error) => {
                prop_assert!(error.to_string().contains("nothing is left to train"), "{}", error);
                return Ok(());
            }
        };
        let mut rows: Vec<usize> = manifest.test.clone();
        for (member, size) in manifest.members.iter().zip(sizes(&manifest)) {
            rows.extend(member.train.iter().chain(&member.held_out).chain(&member.discarded));
            let min = match scheme { Scheme::Dirichlet { min, .. } | Scheme::Quantity { min, .. } => min, _ => 1 };
            prop_assert!(size >= min);
            let aside = ((size as f64 * held_out).round() as usize).min(size.saturating_sub(1));
            prop_assert_eq!(member.held_out.len(), aside);
            if pattern == (Pattern::None {}) {
                prop_assert!(member.discarded.is_empty() && member.present.iter().all(|&mask| mask == 7));
            }
        }
        rows.sort_unstable();
        prop_assert_eq!(rows, (0..120).collect::<Vec<_>>());
        // the same again, byte for byte, and through the file
        let json = manifest.to_json();
        prop_assert_eq!(&json, &Manifest::make(&dataset, &data, seed).unwrap().to_json());
        prop_assert_eq!(&Manifest::from_json("m.json", &json).unwrap(), &manifest);
        for member in &manifest.members {
            let splits = manifest.member_samples(&dataset, member.name.as_str()).unwrap();
            check_samples(&splits.train, &member.train, &dataset);
            check_samples(&splits.held_out, &member.held_out, &dataset);
            prop_assert_eq!(&splits.train.present, &member.present);
            prop_assert!(splits.held_out.present.iter().all(|&mask| mask == 7));
            prop_assert!(splits.test.is_empty() && splits.test.modalities.len() == 3);
        }
        let test = manifest.member_samples(&dataset, EVALUATOR).unwrap().test;
        check_samples(&test, &manifest.test, &dataset);
    }

    #[test]
    fn damaged_manifests_never_panic(at in any::<prop::sample::Index>(), byte in 32u8..127) {
        let dataset = toy(40, 2, &["a", "b"]);
        let manifest = make(&dataset, "clients = 3\nmissing = { kind = \"sample\", rate = 0.5 }", 1);
        let mut json = manifest.to_json().into_bytes();
        let at = at.index(json.len());
        json[at] = byte;
        if let Ok(other) = Manifest::from_json("m.json", std::str::from_utf8(&json).unwrap()) {
            for name in ["client-00", "client-01", "client-02", EVALUATOR] {
                let _ = other.member_samples(&dataset, name);
            }
            let _ = other.summary().to_string();
        }
    }
}

#[test]
fn digits_are_split_and_cut_as_measured() {
    let digits = Dataset::builtin("digits").unwrap();
    let toml = "clients = 30\nsplit = { test_per_class = 40 }\npartition = { kind = \"dirichlet\", alpha = 0.1, min = 3 }";
    let manifest = make(&digits, toml, 10);
    assert_eq!((manifest.test.len(), sizes(&manifest).iter().sum::<usize>()), (400, 1397));
    for class in 0..10 {
        assert_eq!(manifest.test.iter().filter(|&&row| digits.samples.labels[row] == class).count(), 40);
    }
    assert!(sizes(&manifest).iter().all(|&size| size >= 3));
    assert_eq!(manifest.to_json(), make(&digits, toml, 10).to_json());
    assert_ne!(manifest.to_json(), make(&digits, toml, 11).to_json());
    assert_eq!(manifest.members[29].name.as_str(), "client-29");
    let mfeat = make(&mfeat(), "clients = 10\nsplit = { test_per_class = 40 }\nmodalities = [\"pix\", \"fou\"]", 10);
    assert_eq!((mfeat.test.len(), sizes(&mfeat)), (400, vec![160; 10]));
    assert_eq!(mfeat.modalities, ["fou", "pix"]);
    // its rows are in class order, so this holds only if they are shuffled first
    assert!(mfeat.members.iter().all(|member| member.labels.len() == 10));
}

#[test]
fn the_partition_is_pinned() {
    // a change here silently changes every simulated federation of every user
    let toml = "clients = 10\nsplit = { test_per_class = 40 }\npartition = { kind = \"dirichlet\", alpha = 0.1, min = 3 }\n\
        missing = { kind = \"sample\", rate = 0.5 }\nheld_out = 0.1";
    let manifest = make(&Dataset::builtin("digits").unwrap(), toml, 0);
    let digest = tessera_common::id::Digest::of(manifest.to_json().as_bytes());
    assert_eq!((manifest.dataset.digest.short(), digest.short()), ("50d217f82d0c".to_owned(), "d0de791cc03f".to_owned()));
}

/// Mean over seeds.
fn mean(seeds: u64, value: impl Fn(u64) -> f64) -> f64 {
    (0..seeds).map(value).sum::<f64>() / seeds as f64
}

#[test]
fn skew_is_as_published() {
    // the data's card: Dirichlet 0.1 over 10 clients, sizes 37 / 172 / 364, 4.9 classes; 0.5: 67 / 171 / 314, 8.7
    let digits = Dataset::builtin("digits").unwrap();
    for (alpha, min, median, max, classes) in [(0.1, 37.0, 172.0, 364.0, 4.9), (0.5, 67.0, 171.0, 314.0, 8.7)] {
        let toml = format!("clients = 10\npartition = {{ kind = \"dirichlet\", alpha = {alpha}, min = 0 }}");
        let summaries: Vec<Summary> = (0..20).map(|seed| make(&digits, &toml, seed).summary()).collect();
        let mean = |value: &dyn Fn(&Summary) -> f64| summaries.iter().map(value).sum::<f64>() / 20.0;
        let near = |own: f64, published: f64, by: f64| assert!((own - published).abs() < by, "{alpha}: {own} {published}");
        near(mean(&|s| s.rows.min as f64), min, 20.0);
        near(mean(&|s| s.rows.median), median, 25.0);
        near(mean(&|s| s.rows.max as f64), max, 60.0);
        near(mean(&|s| s.classes), classes, 0.6);
    }
}

#[test]
fn a_minimum_that_no_draw_reaches_is_reached_by_moving() {
    let dataset = toy(120, 2, &["a"]);
    let manifest = make(&dataset, "clients = 20\npartition = { kind = \"dirichlet\", alpha = 0.01, min = 6 }", 3);
    assert_eq!(sizes(&manifest), [6; 20]);
    assert_eq!(manifest.draws, MAX_DRAWS);
    assert!(manifest.moved > 60, "{}", manifest.moved);
    let easy = make(&dataset, "clients = 2\npartition = { kind = \"dirichlet\", alpha = 100.0, min = 6 }", 3);
    assert_eq!((easy.draws, easy.moved), (1, 0));
}

#[test]
fn iid_and_quantity_keep_the_labels_even() {
    let dataset = toy(4000, 2, &["a"]);
    let iid = make(&dataset, "clients = 7", 0);
    assert!(sizes(&iid).iter().all(|&size| size == 571 || size == 572), "{:?}", sizes(&iid));
    let power = make(&dataset, "clients = 4\npartition = { kind = \"quantity\", power = 1.0 }", 0);
    let mut by_rank = sizes(&power);
    by_rank.sort_unstable();
    // 1, 1/2, 1/3, 1/4 of 4000 / (25/12)
    assert!(by_rank.iter().zip([480, 640, 960, 1920]).all(|(a, b)| a.abs_diff(b) <= 1), "{by_rank:?}");
    for member in iid.members.iter().chain(&power.members) {
        let share = member.labels[&0] as f64 / member.train.len() as f64;
        assert!((share - 0.5).abs() < 0.1, "{share}");
    }
    let aside = make(&dataset, "clients = 1\nheld_out = 0.5", 0).members.remove(0).held_out;
    assert!((1700..2300).contains(&aside.iter().sum::<usize>().div_euclid(2000)), "held-out rows are drawn");
    let orders: BTreeSet<Vec<usize>> = (0..10)
        .map(|seed| sizes(&make(&dataset, "clients = 4\npartition = { kind = \"quantity\", power = 1.0 }", seed)))
        .collect();
    assert!(orders.len() > 3, "which member is large is drawn");
}

#[test]
fn natural_clients_are_kept_or_grouped() {
    let dataset = toy(120, 2, &["a"]);
    let each = make(&dataset, "clients = 12\npartition = { kind = \"column\" }", 0);
    assert_eq!(each.members[10].ids, ["10"], "as numbers, not as text");
    assert_eq!(each.members[10].train, (0..10).map(|i| 10 + 12 * i).collect::<Vec<_>>());
    let grouped = make(&dataset, "clients = 5\npartition = { kind = \"column\" }", 0);
    assert_eq!(grouped.members[1].ids, ["1", "6", "11"]);
    assert_eq!(sizes(&grouped), [30, 30, 20, 20, 20]);
    let more = refusal(&dataset, "clients = 13\npartition = { kind = \"column\" }");
    assert_eq!(more, "`data.clients` is not valid: the client column has 12 ids with rows to train; ask for 1 to 12 members");
    let digits = Dataset::builtin("digits").unwrap();
    assert!(refusal(&digits, "clients = 2\npartition = { kind = \"column\" }").contains("has no [client] column"));
}

/// Share of rows that keep each modality, of all that were to train.
fn share(manifest: &Manifest, bit: usize) -> f64 {
    let kept: usize = manifest.members.iter().flat_map(|m| &m.present).filter(|&&mask| mask >> bit & 1 == 1).count();
    kept as f64 / sizes(manifest).iter().sum::<usize>() as f64
}

#[test]
fn samples_lose_modalities_at_the_rate() {
    let dataset = toy(8000, 4, &["a", "b"]);
    let manifest = make(&dataset, "clients = 10\nmissing = { kind = \"sample\", rate = 0.5, rates = { b = 0.2 } }", 0);
    assert_ne!(manifest.members[0].present[..100], manifest.members[1].present[..100], "members draw for themselves");
    assert!((share(&manifest, 0) - 0.5).abs() < 0.03);
    assert!((share(&manifest, 1) - 0.8).abs() < 0.03);
    let summary = manifest.summary();
    // both are lost with .5 x .2
    assert!((summary.discarded as f64 / 8000.0 - 0.1).abs() < 0.02);
    assert_eq!(summary.discarded + manifest.members.iter().flat_map(|m| m.labels.values()).sum::<usize>(), 8000);
    assert_eq!((summary.complete, summary.lacking[0].members), (0, 0));
    assert!((summary.lacking[0].rows - 0.4 / 0.9).abs() < 0.03);
}

#[test]
fn clients_lose_modalities_whole() {
    let dataset = toy(400, 2, &["a", "b"]);
    let toml = "clients = 40\nmissing = { kind = \"client\", rate = 0.5 }";
    let manifest = make(&dataset, toml, 0);
    let with_rows = manifest.members.iter().filter(|m| !m.train.is_empty());
    assert!(with_rows.clone().all(|m| m.discarded.is_empty() && m.present.iter().all(|&mask| mask == m.present[0])));
    // a member that lost both keeps no row, and its rows are not counted
    let empty = 40 - with_rows.count();
    assert_eq!(manifest.summary().empty, empty);
    assert_eq!(manifest.summary().discarded, 10 * empty);
    let kept = mean(50, |seed| share(&make(&dataset, toml, seed), 0));
    assert!((kept - 0.5).abs() < 0.05, "{kept}");
    // hardly ever complete by chance, so one is made so
    for seed in 0..20 {
        let rare = make(&dataset, "clients = 3\nmissing = { kind = \"client\", rate = 0.999 }", seed);
        assert_eq!(rare.summary().complete, 1);
    }
}

#[test]
fn some_clients_have_one_modality() {
    let dataset = toy(300, 2, &["a", "b", "c"]);
    let masks = |toml: &str| {
        let manifest = make(&dataset, toml, 4);
        let mut counts = BTreeMap::new();
        for member in &manifest.members {
            assert!(member.discarded.is_empty() && member.present.iter().all(|&mask| mask == member.present[0]));
            *counts.entry(member.present[0]).or_insert(0) += 1;
        }
        counts
    };
    let some = masks("clients = 30\nmissing = { kind = \"unimodal\", complete = 0.2 }");
    assert_eq!(some, [(1, 8), (2, 8), (4, 8), (7, 6)].into());
    assert_eq!(masks("clients = 30\nmissing = { kind = \"unimodal\" }"), [(1, 10), (2, 10), (4, 10)].into());
}

#[test]
fn labels_decide_what_is_lost() {
    let dataset = toy(6000, 3, &["a", "b"]);
    let manifest = make(&dataset, "clients = 5\nmissing = { kind = \"label\", rates = { b = [0.1, 0.5, 0.9] } }", 0);
    for (class, rate) in [(0, 0.1), (1, 0.5), (2, 0.9)] {
        let of_class = |m: &MemberRows| {
            m.train.iter().zip(&m.present).filter(|(row, _)| *row % 3 == class).map(|(_, &p)| p).collect::<Vec<_>>()
        };
        let masks: Vec<u32> = manifest.members.iter().flat_map(of_class).collect();
        assert_eq!(masks.len(), 2000, "modality a is never lost, so no row is discarded");
        let lost = masks.iter().filter(|&&mask| mask == 1).count() as f64 / 2000.0;
        assert!((lost - rate).abs() < 0.05, "{class}: {lost}");
    }
    let drawn = make(&dataset, "clients = 5\nmissing = { kind = \"label\", low = 0.3, high = 0.6 }", 0);
    assert!((0.4..0.7).contains(&share(&drawn, 0)) && (0.4..0.7).contains(&share(&drawn, 1)));
}

#[test]
fn what_rows_lack_by_nature_stays_lacking() {
    let mut samples = toy(90, 3, &["a", "b", "c"]).samples;
    samples.present = (0..90).map(|row| row % 8).collect();
    let classes = ["x", "y", "z"].map(str::to_owned).to_vec();
    let dataset = Dataset::new("toy", classes, samples, None, None, Card::default()).unwrap();
    let manifest = make(
        &dataset,
        "clients = 4\nsplit = { test_per_class = 3 }\nmissing = { kind = \"sample\", rate = 0.3 }\nmodalities = [\"a\", \"c\"]",
        0,
    );
    let has = |row: usize| ((row & 1) | ((row >> 2) & 1) << 1) as u32;
    let given = sizes(&manifest).iter().sum::<usize>() + manifest.test.len();
    assert_eq!(given, (0..90).filter(|&row| has(row) != 0).count(), "rows without a or c are left out");
    for member in &manifest.members {
        assert!(member.train.iter().zip(&member.present).all(|(&row, &mask)| mask & !has(row) == 0));
        assert!(manifest.member_samples(&dataset, member.name.as_str()).is_ok());
    }
    let test = manifest.member_samples(&dataset, EVALUATOR).unwrap().test;
    assert_eq!(test.present, manifest.test.iter().map(|&row| has(row)).collect::<Vec<_>>());
    check_samples(&test, &manifest.test, &dataset);
    assert_eq!(test.dims().into_keys().collect::<Vec<_>>(), ["a", "c"]);
}

#[test]
fn specs_that_cannot_be_right_are_refused() {
    let dataset = toy(60, 3, &["a", "b"]);
    for (toml, why) in [
        ("clients = 0", "`data.clients` is not valid: must be 1 to 1000000"),
        ("clients = 61", "`data.clients` is not valid: 61 members of at least 1 rows need more than the 60 rows to train"),
        ("clients = 2\nclinets = 2", "unknown key `clinets` in [data]: did you mean `clients`?"),
        (
            "clients = 2\npartition = { kind = \"dirichlt\", alpha = 1.0 }",
            "did you mean `dirichlet`? valid: iid, dirichlet, column, quantity",
        ),
        (
            "clients = 2\npartition = { kind = \"dirichlet\", alhpa = 1.0 }",
            "unknown key `alhpa` in [data]: did you mean `alpha`?",
        ),
        ("clients = 2\npartition = { kind = \"iid\", alpha = 1.0 }", "unknown"),
        (
            "clients = 2\npartition = { kind = \"dirichlet\", alpha = 0.0 }",
            "`data.partition.alpha` is not valid: must be 0.001 to 1000000",
        ),
        ("clients = 2\npartition = { kind = \"dirichlet\", alpha = nan }", "`data.partition.alpha` is not valid"),
        (
            "clients = 9\npartition = { kind = \"dirichlet\", alpha = 1.0, min = 7 }",
            "9 members of at least 7 rows need more than the 60",
        ),
        ("clients = 2\npartition = { kind = \"quantity\" }", "quantity wants alpha or power, and not both"),
        ("clients = 2\nheld_out = 1.0", "`data.held_out` is not valid: must be in [0, 1)"),
        ("clients = 2\nsplit = { fold = 0, test_per_class = 1 }", "give test_per_class or fold, not both"),
        ("clients = 2\nsplit = { fold = 7 }", "there is no fold 7; there are [0, 1, 2]"),
        ("clients = 2\nsplit = { test_per_class = 20 }", "class c0 has 20 rows, so none would be left to train"),
        ("clients = 2\nmodalities = [\"a\", \"text\"]", "`data.modalities` is not valid: there is no \"text\"; valid: a, b"),
        ("clients = 2\nmodalities = [\"a\", \"a\"]", "names one twice"),
        ("clients = 2\nmissing = { kind = \"sample\", rate = 1.5 }", "`data.missing.rate` is not valid: must be in [0, 1]"),
        ("clients = 2\nmissing = { kind = \"sample\", rate = 1.0 }", "takes every modality from every row"),
        ("clients = 2\nmissing = { kind = \"client\", rate = 1.0 }", "with 1 no member could be complete"),
        ("clients = 2\nmissing = { kind = \"sample\", rates = { c = 0.5 } }", "there is no \"c\"; valid: a, b"),
        ("clients = 2\nmissing = { kind = \"label\", rates = { a = [0.5] } }", "gives 1 probabilities; there are 3 classes"),
        ("clients = 2\nmissing = { kind = \"label\", low = 0.5, high = 0.4 }", "must not be above `high`"),
        ("clients = 2\nmissing = { kind = \"none\", rate = 0.5 }", "unknown"),
    ] {
        let refused = refusal(&dataset, toml);
        assert!(refused.contains(why), "{toml}: {refused}");
    }
}

#[test]
fn a_manifest_survives_its_file() {
    let dataset = toy(60, 3, &["a", "b"]);
    let manifest = make(&dataset, "clients = 3\nmissing = { kind = \"sample\", rate = 0.5 }", 0);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("manifest.json");
    manifest.save(&path).unwrap();
    manifest.save(&path).unwrap();
    assert_eq!(Manifest::load(&path).unwrap(), manifest);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o400, 0o400);
        assert_eq!(mode & 0o022, 0, "only its owner writes it");
    }
    let nowhere = manifest.save(&folder.path().join("none/manifest.json")).unwrap_err().to_string();
    assert!(nowhere.starts_with("cannot write "), "{nowhere}");
    assert!(Manifest::load(&folder.path().join("none.json")).unwrap_err().to_string().starts_with("cannot read "));
}

#[test]
fn a_manifest_that_contradicts_itself_is_refused() {
    let good = make(&toy(60, 3, &["a", "b"]), "clients = 3\nsplit = { test_per_class = 2 }", 0);
    let refused = |change: &dyn Fn(&mut Manifest)| {
        let mut manifest = good.clone();
        change(&mut manifest);
        Manifest::from_json("m.json", &manifest.to_json()).unwrap_err().to_string()
    };
    let row = good.members[1].train[0];
    type Change = Box<dyn Fn(&mut Manifest)>;
    let changes: Vec<(Change, String)> = vec![
        (Box::new(|m| m.schema_version = 2), "is of version 2; this build reads version 1".into()),
        (Box::new(|m| m.dataset.rows = 5), "but the data set has 5 rows".into()),
        (Box::new(|m| m.dataset.source = "other".into()), "names two data sets, \"toy\" and \"other\"".into()),
        (Box::new(|m| m.modalities.reverse()), "not in name order".into()),
        (Box::new(|m| m.members.swap(0, 1)), "must list the 3 members that its spec asks for, in order".into()),
        (Box::new(|m| m.data.clients = 4), "must list the 4 members".into()),
        (Box::new(|m| m.data.held_out = 2.0), "`data.held_out` is not valid".into()),
        (Box::new(|m| m.members[0].present[0] = 0), "client-00 has the mask 0, which must be 1 to 3".into()),
        (Box::new(|m| m.members[0].present[0] = 4), "client-00 has the mask 4, which must be 1 to 3".into()),
        (Box::new(|m| m.members[0].present.truncate(1)), "rows to train on, but".into()),
        (Box::new(|m| m.members[0].train.reverse()), "client-00 has rows that are not ascending".into()),
        (Box::new(move |m| m.test = vec![row]), format!("row {row} is given to client-01 and again to evaluator")),
        (Box::new(|m| *m.members[0].labels.entry(0).or_default() = usize::MAX), "client-00 counts other than".into()),
        (Box::new(|m| m.members[0].labels.extend([(9, 1)])), "client-00 counts a class that is not below 3".into()),
    ];
    for (change, why) in changes {
        let message = refused(change.as_ref());
        assert!(message.starts_with("m.json: ") && message.contains(&why), "{message}");
    }
    for text in ["", "{}", "[1, 2", &good.to_json().replace("\"seed\"", "\"sed\"")] {
        let message = Manifest::from_json("m.json", text).unwrap_err().to_string();
        assert!(message.starts_with("m.json: is not a partition manifest: "), "{message}");
    }
}

#[test]
fn a_manifest_is_for_one_data_set() {
    let dataset = toy(60, 3, &["a", "b"]);
    let mut manifest = make(&dataset, "clients = 3", 0);
    let other = toy(60, 3, &["a", "c"]);
    let mismatch = manifest.member_samples(&other, "client-00").unwrap_err();
    assert!(matches!(mismatch, DataError::Mismatch { .. }), "{mismatch}");
    let unknown = manifest.member_samples(&dataset, "client-0").unwrap_err().to_string();
    assert_eq!(
        unknown,
        "there is no member \"client-0\" in the partition; it has the members client-00 to client-02 and \"evaluator\""
    );
    manifest.modalities[1] = "z".into();
    let gone = manifest.member_samples(&dataset, "client-00").unwrap_err().to_string();
    assert!(gone.ends_with("not all of a, z are there"), "{gone}");
}

#[test]
fn a_thousand_members_are_cut_and_served() {
    let digits = Dataset::builtin("digits").unwrap();
    let toml = "clients = 1000\npartition = { kind = \"dirichlet\", alpha = 0.5, min = 1 }\n\
        missing = { kind = \"unimodal\", complete = 0.2 }";
    let manifest = make(&digits, toml, 0);
    assert_eq!((manifest.members[0].name.as_str(), manifest.members[999].name.as_str()), ("client-000", "client-999"));
    let served: usize =
        manifest.members.iter().map(|m| manifest.member_samples(&digits, m.name.as_str()).unwrap().train.len()).sum();
    assert_eq!(served, 1797);
    let text = manifest.summary().to_string();
    assert!(text.starts_with("1000 members, 1 / ") && text.contains("200 members are complete"), "{text}");
    assert!(text.contains("left: 400 members and"), "{text}");
}
