use super::*;
use crate::param::{MemorySource, Tensor, param_name};
use proptest::prelude::*;

pub(crate) fn spec(strategy: &str) -> RunSpec {
    RunSpec::from_toml(&format!(
        "version = 1\nname = \"t\"\nrounds = 3\nstrategy = {strategy}\nprototypes = {{ min_count = 1 }}\n\
         task = {{ kind = \"classify\", classes = 2, modalities = {{ a = 1, b = 1 }} }}\ncohort = {{ members = 2, size = 2 }}"
    ))
    .unwrap()
}

fn base() -> MemorySource {
    let mut set = ParamSet::new();
    for block in ["encoder.a", "encoder.b", "head"] {
        set.insert(param_name(block, "weight"), Tensor::f32(&[2], &[10.0, 20.0]));
    }
    for modality in ["a", "b"] {
        set.insert(format!("width/{modality}"), Tensor::f32(&[3, 0], &[]));
    }
    set.into()
}

/// An update of every block, with prototype sums for `a`.
fn update(member: &str, values: [f32; 2], examples: u32, of_a: u32, of_b: u32) -> (UpdateRef, MemorySource) {
    let mut set = ParamSet::new();
    for block in ["encoder.a", "encoder.b", "head"] {
        set.insert(param_name(block, "weight"), Tensor::f32(&[2], &values));
    }
    if of_a > 0 {
        let n = f64::from(of_a);
        set.insert("proto/a/sum", Tensor::f64(&[2, 3], &[n * f64::from(values[0]), n, n, 0.0, 0.0, 0.0]));
        set.insert("proto/a/count", Tensor::f64(&[2], &[n, 0.0]));
    }
    let weights = [("encoder.a", of_a), ("encoder.b", of_b), ("head", examples)];
    let update = UpdateRef {
        member: member.parse().unwrap(),
        assignment: crate::id::AssignmentId(1),
        blob: Some(set.digest()),
        bytes: 0,
        examples,
        weights: weights.into_iter().map(|(b, w)| (b.to_owned(), w)).collect(),
        metrics: Default::default(),
    };
    (update, set.into())
}

fn fold(strategy: &str, base: &MemorySource, updates: &[(UpdateRef, MemorySource)]) -> Result<ParamSet, FoldError> {
    fold_late(&spec(strategy), base, updates, &[])
}

/// `late` says by how many rounds the first updates are late.
fn fold_late(
    spec: &RunSpec,
    base: &MemorySource,
    updates: &[(UpdateRef, MemorySource)],
    late: &[u32],
) -> Result<ParamSet, FoldError> {
    let late = late.iter().copied().chain(std::iter::repeat(0));
    let updates: Vec<Contribution<'_>> =
        updates.iter().zip(late).map(|((update, source), late)| Contribution { update, source, late }).collect();
    let input = FoldInput { spec, round: 1, base, updates: &updates };
    let mut out = Vec::new();
    crate::strategy::create(spec).unwrap().fold(&input, &mut out)?;
    Ok(ParamSet::from_bytes(&out, &Default::default()).unwrap())
}

fn weight(set: &ParamSet, block: &str) -> Vec<f32> {
    set.get(&param_name(block, "weight")).unwrap().to_f32().unwrap()
}

#[test]
fn the_mean_is_weighted_by_samples() {
    let updates = [update("m1", [1.0, 0.0], 1, 1, 0), update("m2", [4.0, 1.0], 2, 0, 2)];
    let plain = fold("{ kind = \"fedavg\" }", &base(), &updates).unwrap();
    for block in ["encoder.a", "encoder.b", "head"] {
        assert_eq!(weight(&plain, block), [3.0, (2.0f64 / 3.0) as f32]);
    }
    let blockwise = fold("{ kind = \"fedavg\", blockwise = true }", &base(), &updates).unwrap();
    assert_eq!(weight(&blockwise, "encoder.a"), [1.0, 0.0], "only m1 has a");
    assert_eq!(weight(&blockwise, "encoder.b"), [4.0, 1.0], "only m2 has b");
    assert_eq!(weight(&blockwise, "head"), weight(&plain, "head"));
}

#[test]
fn a_block_that_nobody_trained_stays() {
    let updates = [update("m1", [1.0, 0.0], 1, 1, 0)];
    let next = fold("{ kind = \"fedavg\", blockwise = true }", &base(), &updates).unwrap();
    assert_eq!(weight(&next, "encoder.b"), [10.0, 20.0]);
}

#[test]
fn a_member_without_a_modality_neither_shifts_nor_erases_its_prototypes() {
    let with = update("m1", [1.0, 0.0], 4, 4, 0);
    let alone = fold("{ kind = \"pmcm\" }", &base(), std::slice::from_ref(&with)).unwrap();
    let joined = fold("{ kind = \"pmcm\" }", &base(), &[with, update("m2", [9.0, 9.0], 50, 0, 50)]).unwrap();
    for part in ["mean", "count", "contributors", "round"] {
        let name = format!("proto/a/{part}");
        assert_eq!(alone.get(&name), joined.get(&name), "{name}");
    }
    assert_eq!(joined.get("proto/a/mean").unwrap().to_f64()[..3], [1.0, 1.0, 1.0]);
    // a round in which nobody has it leaves the library as it was
    let kept = fold("{ kind = \"pmcm\" }", &joined.clone().into(), &[update("m2", [9.0, 9.0], 50, 0, 50)]).unwrap();
    assert_eq!(kept.get("proto/a/mean"), joined.get("proto/a/mean"));
}

#[test]
fn a_late_update_weighs_less() {
    assert_eq!([0, 1, 2].map(|late| late_weight(8, late, 1.0)), [8, 4, 2]);
    assert_eq!([0, 1, 100].map(|late| late_weight(8, late, 0.0)), [8; 3]);
    assert_eq!((late_weight(1, 9, 1.0), late_weight(0, 9, 1.0)), (1, 0), "it counts at least as one sample, or not at all");
    let max = crate::update::MAX_WEIGHT;
    assert_eq!(late_weight(max, 0, 0.5), max);
    let updates = [update("m1", [4.0, 0.0], 8, 0, 8), update("m2", [1.0, 3.0], 2, 2, 0)];
    for kind in ["{ kind = \"fedavg\", blockwise = true }", "{ kind = \"pmcm\" }", "{ kind = \"fedprox\", blockwise = true }"] {
        let mut spec = spec(kind);
        spec.cohort.staleness = 1.0;
        let next = fold_late(&spec, &base(), &updates, &[1]).unwrap();
        assert_eq!(weight(&next, "head"), [3.0, 1.0], "8 samples count as 4: (4 * 4 + 2 * 1) / 6");
        assert_eq!(weight(&next, "encoder.b"), [4.0, 0.0], "nobody else trained it");
    }
}

#[test]
fn a_late_update_leaves_the_library_alone() {
    let fresh = update("m1", [1.0, 0.0], 4, 4, 0);
    let alone = fold("{ kind = \"pmcm\" }", &base(), std::slice::from_ref(&fresh)).unwrap();
    let both = [update("m2", [9.0, 9.0], 50, 50, 0), fresh];
    let next = fold_late(&spec("{ kind = \"pmcm\" }"), &base(), &both, &[1]).unwrap();
    for part in ["mean", "count", "contributors", "round"] {
        let name = format!("proto/a/{part}");
        assert_eq!(alone.get(&name), next.get(&name), "{name}");
    }
    assert_ne!(alone.get("param/head/weight"), next.get("param/head/weight"));
}

#[test]
fn values_that_are_not_finite_are_refused() {
    let updates = [update("good", [1.0, 0.0], 1, 0, 0), update("bad", [f32::NAN, 0.0], 1, 0, 0)];
    let error = fold("{ kind = \"fedavg\" }", &base(), &updates).unwrap_err().to_string();
    assert!(error.contains("bad") && error.contains("not finite"), "{error}");
}

proptest! {
    #[test]
    fn order_does_not_matter(values in prop::collection::vec((any::<[i16; 2]>(), 1u32..100_000), 1..8), seed in any::<u64>()) {
        let mut updates: Vec<_> = values
            .iter()
            .enumerate()
            .map(|(i, (v, n))| update(&format!("m{i}"), [f32::from(v[0]) / 7.0, f32::from(v[1]) * 1e-9], *n, *n / 2, *n / 3))
            .collect();
        let mut late: Vec<u32> = (0..updates.len() as u32).map(|i| i % 3).collect();
        for strategy in ["{ kind = \"fedavg\" }", "{ kind = \"pmcm\" }"] {
            let one = fold_late(&spec(strategy), &base(), &updates, &late).unwrap();
            crate::rng::stream(seed, "test", "", 0).shuffle(&mut updates);
            crate::rng::stream(seed, "test", "", 0).shuffle(&mut late);
            prop_assert_eq!(one.digest(), fold_late(&spec(strategy), &base(), &updates, &late).unwrap().digest());
        }
    }
}

impl Clone for MemorySource {
    fn clone(&self) -> Self {
        let mut set = ParamSet::new();
        for (name, entry) in self.layout().entries() {
            let mut bytes = vec![0; entry.spec.bytes()];
            self.read(name, 0, &mut bytes).unwrap();
            set.insert(name.clone(), Tensor::from_bytes(entry.spec.clone(), bytes).unwrap());
        }
        set.into()
    }
}

mod check {
    use super::super::check::*;
    use super::*;

    fn altered(change: impl FnOnce(&mut ParamSet, &mut UpdateRef)) -> Result<(), String> {
        let (mut reference, source) = update("m1", [1.0, 2.0], 4, 4, 0);
        let mut set = ParamSet::new();
        for (name, entry) in source.layout().entries() {
            let mut bytes = vec![0; entry.spec.bytes()];
            source.read(name, 0, &mut bytes).unwrap();
            set.insert(name.clone(), Tensor::from_bytes(entry.spec.clone(), bytes).unwrap());
        }
        change(&mut set, &mut reference);
        let source = MemorySource::from(set);
        check_update(&spec("{ kind = \"pmcm\" }"), base().layout(), &reference, source.layout())?;
        check_values(&source)
    }

    #[test]
    fn every_fault_is_named() {
        altered(|_, _| ()).unwrap();
        type Change = fn(&mut ParamSet, &mut UpdateRef);
        let cases: &[(Change, &str)] = &[
            (
                |s, _| s.insert("param/head/weight", Tensor::f32(&[2], &[1.0, f32::NAN])),
                "\"param/head/weight\" holds NaN at element 1",
            ),
            (|s, _| s.insert("param/head/weight", Tensor::f32(&[1, 2], &[1.0, 2.0])), "expected F32 [2]"),
            (|s, _| s.insert("param/head/weight", Tensor::f64(&[2], &[1.0, 2.0])), "is F64"),
            (
                |s, _| s.insert("param/head/bias", Tensor::f32(&[1], &[1.0])),
                "\"param/head/bias\" is not part of this run's model",
            ),
            (|s, _| s.insert("proto/c/sum", Tensor::f64(&[2, 3], &[0.0; 6])), "\"proto/c/sum\" is not part"),
            (|s, _| s.insert("proto/a/sum", Tensor::f64(&[2, 2], &[0.0; 4])), "expected F64 [2, 3]"),
            (|s, _| s.insert("proto/b/sum", Tensor::f64(&[2, 3], &[0.0; 6])), "\"proto/b/count\" is missing"),
            (|s, _| s.insert("proto/a/count", Tensor::f64(&[2], &[-1.0, 0.0])), "holds -1"),
            (|s, _| s.insert("proto/a/sum", Tensor::f64(&[2, 3], &[1e300; 6])), "\"proto/a/sum\" holds 1"),
            (|_, u| u.examples = 0, "0 examples"),
            (
                |_, u| {
                    u.weights.insert("head".into(), 5);
                },
                "more than its 4 examples",
            ),
            (
                |_, u| {
                    u.weights.insert("tail".into(), 1);
                },
                "\"tail\" has a weight but no parameters",
            ),
        ];
        for (change, expected) in cases {
            let error = altered(change).unwrap_err();
            assert!(error.contains(expected), "{error} does not say {expected}");
        }
    }

    #[test]
    fn part_of_a_block_is_refused() {
        let (reference, _) = update("m1", [1.0, 2.0], 4, 4, 0);
        let mut wide = ParamSet::new();
        wide.insert("param/head/weight", Tensor::f32(&[2], &[1.0, 2.0]));
        wide.insert("param/head/bias", Tensor::f32(&[2], &[1.0, 2.0]));
        let mut set = ParamSet::new();
        set.insert("param/head/weight", Tensor::f32(&[2], &[1.0, 2.0]));
        let weights = [("head".to_owned(), 4)].into();
        let reference = UpdateRef { weights, ..reference };
        let error = check_update(&spec("{ kind = \"pmcm\" }"), &wide.layout(), &reference, &set.layout()).unwrap_err();
        assert!(error.contains("\"param/head/bias\" is missing"), "{error}");
    }
}
