//! The conformance suite: what every strategy in the table must do.

use super::*;
use crate::aggregate::Contribution;
use crate::id::AssignmentId;
use crate::metric::Metrics;
use crate::param::{MemorySource, ParamSet, Tensor, param_name};
use crate::rng::stream;
use crate::update::UpdateRef;
use std::collections::BTreeSet;

const BLOCKS: [&str; 3] = ["encoder.a", "encoder.b", "head"];

fn spec(kind: &str) -> RunSpec {
    RunSpec::from_toml(&format!(
        "version = 1\nname = \"t\"\nrounds = 3\nstrategy = {{ kind = \"{kind}\" }}\nprototypes = {{ min_count = 1 }}\n\
         task = {{ kind = \"classify\", classes = 2, modalities = {{ a = 1, b = 1 }} }}\ncohort = {{ members = 2, size = 2 }}"
    ))
    .unwrap()
}

/// A model whose values are drawn from `seed`; `input/a/mean` stands for everything that a strategy must carry along.
fn model(seed: u64) -> ParamSet {
    let mut rng = stream(seed, "model", "", 0);
    let mut set = ParamSet::new();
    for block in BLOCKS {
        set.insert(
            param_name(block, "weight"),
            Tensor::f32(&[5], &std::array::from_fn::<f32, 5, _>(|_| rng.uniform_f32(-1.0, 1.0))),
        );
    }
    set
}

fn global(seed: u64) -> ParamSet {
    let mut set = model(seed);
    set.insert("input/a/mean", Tensor::f64(&[1], &[0.5]));
    for modality in ["a", "b"] {
        set.insert(format!("width/{modality}"), Tensor::f32(&[2, 0], &[]));
    }
    set
}

fn update(member: &str, seed: u64, examples: u32, with_a: bool) -> (UpdateRef, MemorySource) {
    let mut set = model(seed);
    if with_a {
        set.insert("proto/a/sum", Tensor::f64(&[2, 2], &[seed as f64, 1.0, 0.0, 0.0]));
        set.insert("proto/a/count", Tensor::f64(&[2], &[1.0, 0.0]));
    }
    let trained = |block: &str| if block == "encoder.a" && !with_a { 0 } else { examples };
    let reference = UpdateRef {
        member: member.parse().unwrap(),
        assignment: AssignmentId(1),
        blob: Some(set.digest()),
        bytes: 0,
        examples,
        weights: BLOCKS.iter().map(|b| ((*b).to_owned(), trained(b))).collect(),
        metrics: Metrics::default(),
    };
    (reference, set.into())
}

fn fold(def: &StrategyDef, base: &ParamSet, updates: &[(UpdateRef, MemorySource)]) -> Result<ParamSet, FoldError> {
    let spec = spec(def.name);
    let base = MemorySource::from(base.clone());
    let updates: Vec<Contribution<'_>> =
        updates.iter().map(|(update, source)| Contribution { update, source, late: 0 }).collect();
    let mut out = Vec::new();
    create(&spec).unwrap().fold(&FoldInput { spec: &spec, round: 1, base: &base, updates: &updates }, &mut out)?;
    Ok(ParamSet::from_bytes(&out, &Default::default()).unwrap())
}

#[test]
fn names_and_help_are_unique() {
    let names: BTreeSet<&str> = STRATEGIES.iter().map(|d| d.name).collect();
    let helps: BTreeSet<&str> = STRATEGIES.iter().map(|d| d.help).collect();
    assert_eq!((names.len(), helps.len()), (STRATEGIES.len(), STRATEGIES.len()));
}

#[test]
fn unknown_keys_are_refused() {
    for def in STRATEGIES {
        let table: toml::Table = toml::from_str(&format!("kind = \"{}\"\nno_such_key = 1", def.name)).unwrap();
        let error = (def.create)(&table).unwrap_err().to_string();
        assert!(error.contains("no_such_key") && error.contains("[strategy]"), "{}: {error}", def.name);
    }
}

#[test]
fn order_of_arrival_does_not_matter() {
    for def in STRATEGIES {
        let updates = |order: [usize; 3]| order.map(|i| update(&format!("m{i}"), i as u64, 3 * i as u32 + 1, i != 1));
        let one = fold(def, &global(9), &updates([0, 1, 2])).unwrap();
        assert_eq!(one.digest(), fold(def, &global(9), &updates([2, 0, 1])).unwrap().digest(), "{}", def.name);
    }
}

#[test]
fn identical_updates_give_that_update_back() {
    for def in STRATEGIES {
        let updates = [update("m0", 5, 7, true), update("m1", 5, 11, true), update("m2", 5, 1, true)];
        let next = fold(def, &global(9), &updates).unwrap();
        for (name, tensor) in model(5).iter() {
            assert_eq!(next.get(name), Some(tensor), "{}: {name}", def.name);
        }
    }
}

#[test]
fn nothing_but_parameters_and_library_changes() {
    for def in STRATEGIES {
        let base = global(9);
        let next = fold(def, &base, &[update("m0", 1, 2, true)]).unwrap();
        for (name, tensor) in base.iter().filter(|(n, _)| !n.starts_with("param/") && !n.starts_with("proto/")) {
            assert_eq!(next.get(name), Some(tensor), "{}: {name}", def.name);
        }
    }
}

#[test]
fn without_updates_the_global_stays() {
    for def in STRATEGIES {
        assert_eq!(fold(def, &global(9), &[]).unwrap().digest(), global(9).digest(), "{}", def.name);
    }
}

#[test]
fn a_member_without_a_modality_leaves_its_prototypes_alone() {
    for def in STRATEGIES {
        let alone = fold(def, &global(9), &[update("m0", 1, 2, true)]).unwrap();
        let joined = fold(def, &global(9), &[update("m0", 1, 2, true), update("m1", 2, 40, false)]).unwrap();
        let library = |set: &ParamSet| set.section("proto/a/").map(|(n, t)| (n.to_owned(), t.clone())).collect::<Vec<_>>();
        assert_eq!(library(&alone), library(&joined), "{}", def.name);
        let kept = create(&spec(def.name)).unwrap().plan(&spec(def.name), 1).prototypes;
        assert_eq!(!library(&alone).is_empty(), kept, "{}: the plan says whether a library is kept", def.name);
    }
}

#[test]
fn values_that_are_not_finite_are_refused_with_the_member() {
    for def in STRATEGIES {
        let (reference, _) = update("culprit", 1, 2, true);
        let mut set = model(1);
        set.insert(param_name("head", "weight"), Tensor::f32(&[5], &[1.0, f32::INFINITY, 0.0, 0.0, 0.0]));
        let error = fold(def, &global(9), &[(reference, set.into())]).unwrap_err().to_string();
        assert!(error.contains("culprit"), "{}: {error}", def.name);
    }
}

#[test]
fn a_cohort_is_drawn_from_the_pool_without_repeats() {
    for def in STRATEGIES {
        let pool: Vec<MemberName> = (0..20).map(|i| format!("m{i:02}").parse().unwrap()).collect();
        let strategy = create(&spec(def.name)).unwrap();
        let draw = |round| strategy.select(&pool, 7, &mut stream(1, "select", "", round));
        let cohort: BTreeSet<MemberName> = draw(1).into_iter().collect();
        assert_eq!(cohort.len(), 7, "{}", def.name);
        assert!(cohort.iter().all(|m| pool.contains(m)), "{}", def.name);
        assert_eq!(draw(1), draw(1), "{}: equal streams draw alike", def.name);
    }
}
