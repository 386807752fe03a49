//! Private blocks: they stay at the member, last from round to round, and survive what may happen to an agent.

use super::*;
use std::path::{Path, PathBuf};

const HEAD: &str = "model.private=[\"head\"]";

fn with_state(spec: &RunSpec, folder: &Path) -> Box<dyn Task> {
    create_on(spec, &State { folder: Some(folder.to_owned()) }, &Device::flex()).unwrap()
}

fn bytes(task: &mut dyn Task, data: &MemberData, global: &ParamSet, round: Round) -> Vec<u8> {
    run_fit(task, data, global, round).unwrap().update.to_bytes()
}

/// Files of private values below `folder/member`, by name.
fn files(folder: &Path, member: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder.join(member)) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

/// Rounds in the names of a member's files.
fn rounds(folder: &Path, member: &str) -> Vec<String> {
    let round = |p: &PathBuf| p.file_name().unwrap().to_str().unwrap().split('-').nth(1).unwrap().to_owned();
    files(folder, member).iter().map(round).collect()
}

fn values(file: &Path) -> ParamSet {
    ParamSet::from_bytes(&std::fs::read(file).unwrap(), &Default::default()).unwrap()
}

// Should: send everything but the block. Should not: let it out in any answer, or take it from a global.
#[test]
fn a_private_block_never_leaves_its_member() {
    let shared = create(&spec("classify", &[])).unwrap().initialise().unwrap();
    for blockwise in [true, false] {
        let spec = spec("classify", &[HEAD, &format!("strategy.blockwise={blockwise}")]);
        let mut task = create(&spec).unwrap();
        let data = member("m", samples(60, 1, patchy));
        let initial = task.initialise().unwrap();
        let expected: Vec<&str> = shared.iter().map(|(n, _)| n).filter(|n| !n.starts_with("param/head/")).collect();
        assert_eq!(initial.iter().map(|(n, _)| n).collect::<Vec<_>>(), expected);
        assert!(initial.iter().all(|(name, tensor)| shared.get(name) == Some(tensor)), "the draws of the others are the same");
        assert_eq!(check::check_initial(&spec, &initial.layout()), Ok(()));
        let global = first_global(task.as_mut(), &[&data]);
        let outcome = run_fit(task.as_mut(), &data, &global, 1).unwrap();
        assert!(outcome.update.section("param/head").next().is_none() && !outcome.weights.contains_key("head"));
        assert!(outcome.update.section("param/fusion/").next().is_some() && outcome.weights["fusion"] == 59);
        for answer in [task.survey_features(&data, &global).unwrap(), task.survey_inputs(&data).unwrap()] {
            assert!(answer.section("param/").next().is_none());
        }
        let mut leaked = global.clone();
        leaked.insert("param/head/bias", shared.get("param/head/bias").unwrap().clone());
        let expected = "the global does not fit this task: it holds \"param/head/bias\", but block \"head\" is private";
        for error in [
            run_fit(task.as_mut(), &data, &leaked, 1).unwrap_err(),
            task.survey_features(&data, &leaked).unwrap_err(),
            task.evaluate(&data, &leaked, None).unwrap_err(),
        ] {
            assert!(error.to_string().starts_with(expected), "{error}");
        }
    }
}

// Should: start as a shared block would. Should not: change what the first round sends.
#[test]
fn the_first_round_is_that_of_a_shared_block() {
    let data = member("m", samples(60, 1, patchy));
    let first = |sets: &[&str]| {
        let mut task = create(&spec("classify", sets)).unwrap();
        let global = first_global(task.as_mut(), &[&data]);
        run_fit(task.as_mut(), &data, &global, 1).unwrap().update
    };
    let dir = tempfile::tempdir().unwrap();
    let (shared, private) = (first(&[]), first(&[HEAD]));
    assert!(private.iter().all(|(name, tensor)| shared.get(name) == Some(tensor)));
    let spec = spec("classify", &[HEAD]);
    let mut task = with_state(&spec, dir.path());
    let global = first_global(task.as_mut(), &[&data]);
    assert_eq!(files(dir.path(), "m"), Vec::<PathBuf>::new(), "nothing is written before something is learned");
    run_fit(task.as_mut(), &data, &global, 1).unwrap();
    let kept = values(&files(dir.path(), "m")[0]);
    let head = |set: &ParamSet| only_head(set).to_bytes();
    assert_eq!(head(&kept), head(&shared), "the trained head is the one that would have been sent");
    assert_eq!(kept.len(), 2);
}

fn only_head(set: &ParamSet) -> ParamSet {
    let mut out = ParamSet::new();
    set.section("param/head/").for_each(|(name, tensor)| out.insert(name, tensor.clone()));
    out
}

/// Updates of three rounds of two members under one global, with or without a folder.
fn three_rounds(spec: &RunSpec, folder: Option<&Path>, between: impl Fn(Box<dyn Task>) -> Box<dyn Task>) -> Vec<Vec<u8>> {
    let mut task = match folder {
        Some(folder) => with_state(spec, folder),
        None => create(spec).unwrap(),
    };
    let members = [member("one", samples(60, 1, patchy)), member("two", samples(48, 2, |_| 0))];
    let global = first_global(task.as_mut(), &[&members[0], &members[1]]);
    let mut out = Vec::new();
    for round in 1..=3 {
        for data in &members {
            out.push(bytes(task.as_mut(), data, &global, round));
            task = between(task);
        }
    }
    out
}

// Should: go on as if nothing had happened. Should not: need the same process, or mix members.
#[test]
fn a_restart_changes_nothing_with_a_folder() {
    let spec = spec("classify", &[HEAD]);
    let reference = three_rounds(&spec, None, |task| task);
    let dir = tempfile::tempdir().unwrap();
    // relative to nothing: the folder of the run is made by the task
    let folder = dir.path().join("state/run");
    assert_eq!(three_rounds(&spec, Some(&folder), |_| with_state(&spec, &folder)), reference);
    let forgetful = three_rounds(&spec, None, |_| create(&spec).unwrap());
    assert_eq!(forgetful[..2], reference[..2]);
    assert!(forgetful[2] != reference[2] && forgetful[3] != reference[3], "the values that were kept must matter");
    let (one, two) = (files(&folder, "one"), files(&folder, "two"));
    assert_eq!((rounds(&folder, "one"), rounds(&folder, "two")), (vec!["2".into(), "3".into()], vec!["2".into(), "3".into()]));
    assert_ne!(values(&one[1]), values(&two[1]), "each member has a head of its own");
    assert_ne!(values(&one[0]), values(&one[1]), "and trains it in every round");
}

// Should: start from what was there before the round. Should not: train on top of the lost answer.
#[test]
fn a_round_given_twice_gives_the_same_bytes() {
    let spec = spec("classify", &[HEAD]);
    let data = member("m", samples(60, 1, patchy));
    let dir = tempfile::tempdir().unwrap();
    for folder in [None, Some(dir.path())] {
        let fresh = || folder.map_or_else(|| create(&spec).unwrap(), |f| with_state(&spec, f));
        let mut task = fresh();
        let global = first_global(task.as_mut(), &[&data]);
        // rounds without this member lie between
        for round in [1, 2, 5, 9] {
            let once = bytes(task.as_mut(), &data, &global, round);
            let statistics = task.evaluate(&data, &global, None).unwrap();
            if folder.is_some() {
                task = fresh();
            }
            assert_eq!(bytes(task.as_mut(), &data, &global, round), once, "round {round} in {folder:?}");
            assert_eq!(task.evaluate(&data, &global, None).unwrap(), statistics);
        }
        // an answer may still be asked for that was given before the last one, if nothing was thrown away
        let error = run_fit(task.as_mut(), &data, &global, 5).unwrap_err().to_string();
        assert!(error.contains("the values before round 5 are gone, only those after rounds [5, 9] are kept"), "{error}");
        let other = bytes(task.as_mut(), &data, &global, 7);
        assert_eq!(bytes(task.as_mut(), &data, &global, 7), other);
    }
    assert_eq!(rounds(dir.path(), "m"), ["5", "7"]);
}

// Should: answer with the member's own head. Should not: learn anything by it.
#[test]
fn evaluation_uses_the_members_own_values() {
    let spec = spec("classify", &[HEAD]);
    let mut task = create(&spec).unwrap();
    let data = member("m", samples(120, 1, |_| 0));
    let (_, global) = run_rounds(task.as_mut(), &data, 5);
    let loss =
        |task: &mut dyn Task, data: &MemberData| task.evaluate(data, &global, None).unwrap().value("held-out/loss").unwrap();
    let other = MemberData { name: "evaluator".parse().unwrap(), ..data.clone() };
    let own = loss(task.as_mut(), &data);
    let untrained = loss(task.as_mut(), &other);
    assert!(own < 0.7 * untrained, "{own} with its own head, {untrained} with the initial one");
    assert_eq!(loss(create(&spec).unwrap().as_mut(), &data), untrained, "the initial head comes from the seed");
    assert_eq!(loss(task.as_mut(), &data), own);
}

// Should: survey with the member's own encoder, send what is left.
#[test]
fn encoders_may_be_private() {
    let spec = spec("classify", &["model.private=[\"encoder.a\", \"fusion\"]"]);
    let mut task = create(&spec).unwrap();
    let (one, two) = (member("one", samples(60, 1, patchy)), member("two", samples(60, 1, patchy)));
    let global = first_global(task.as_mut(), &[&one]);
    let before = task.survey_features(&one, &global).unwrap();
    let outcome = run_fit(task.as_mut(), &one, &global, 1).unwrap();
    assert_eq!(outcome.weights.keys().collect::<Vec<_>>(), ["encoder.b", "head"]);
    let after = task.survey_features(&one, &global).unwrap();
    assert_ne!(before.get("feature/a/sum"), after.get("feature/a/sum"));
    assert_eq!(before.get("feature/b/sum"), after.get("feature/b/sum"), "the shared encoder is the global's");
    assert_eq!(task.survey_features(&two, &global).unwrap(), before, "another member's encoder is its own");
}

#[test]
fn blocks_that_cannot_be_private_are_refused() {
    let fault = |private: &str| create(&spec("classify", &[&format!("model.private={private}")])).err().unwrap().to_string();
    let unknown = fault("[\"haed\"]");
    assert_eq!(
        unknown,
        "`model.private` is not valid: there is no \"haed\"; did you mean `head`? valid: encoder.a, encoder.b, fusion, head"
    );
    assert!(fault("[\"token.a\"]").contains("there is no \"token.a\""), "this run has no tokens");
    assert!(fault("[\"head\", \"head\"]").contains("\"head\" is there twice"));
    let all = fault("[\"encoder.a\", \"encoder.b\", \"fusion\", \"head\"]");
    assert!(all.contains("`model.private` is not valid: every block is private, so nothing would be learned together"), "{all}");
}

#[test]
fn a_member_that_trains_no_shared_block_says_so() {
    let mut task = create(&spec("classify", &["model.private=[\"encoder.a\", \"fusion\", \"head\"]"])).unwrap();
    let global = first_global(task.as_mut(), &[&member("both", samples(40, 1, |_| 0))]);
    let error = run_fit(task.as_mut(), &member("m", samples(8, 1, |_| 2)), &global, 1).unwrap_err().to_string();
    assert_eq!(error, "member m has no sample to train on: none of its 8 trains a shared block");
}

// Should: leave private parameters free, for there is no global that they could be pulled to.
#[test]
fn the_proximal_term_pulls_shared_blocks_only() {
    let data = member("m", samples(64, 1, |_| 0));
    let moved = |mu: &str| {
        let dir = tempfile::tempdir().unwrap();
        let spec = spec("classify", &[HEAD, "train={optimizer=\"sgd\", lr=0.01, batch=8, epochs=4}", mu]);
        let mut task = with_state(&spec, dir.path());
        let global = first_global(task.as_mut(), &[&data]);
        let outcome = run_fit(task.as_mut(), &data, &global, 1).unwrap();
        let mut start = global.clone();
        start.extend(create(&super::spec("classify", &[])).unwrap().initialise().unwrap());
        let distance = |set: &ParamSet| -> f64 {
            let square = |(name, tensor): (&str, &tessera_common::param::Tensor)| -> f64 {
                tensor.to_f64().iter().zip(start.get(name).unwrap().to_f64()).map(|(a, b)| (a - b) * (a - b)).sum()
            };
            set.section("param/").map(square).sum::<f64>().sqrt()
        };
        (distance(&outcome.update), distance(&values(&files(dir.path(), "m")[0])))
    };
    let ((shared, head), (shared_pulled, head_pulled)) = (moved("train.proximal=0.0"), moved("train.proximal=50.0"));
    assert!(shared_pulled < 0.5 * shared, "{shared_pulled} against {shared}");
    assert!(head_pulled > 0.8 * head, "{head_pulled} against {head}");
}

// Should: name the file. Should not: train, or write over anything.
#[test]
fn damage_is_named_and_nothing_is_overwritten() {
    let spec = spec("classify", &[HEAD]);
    let data = member("m", samples(60, 1, patchy));
    let dir = tempfile::tempdir().unwrap();
    let mut task = with_state(&spec, dir.path());
    let global = first_global(task.as_mut(), &[&data]);
    (1..=2).for_each(|round| drop(run_fit(task.as_mut(), &data, &global, round).unwrap()));
    let file = files(dir.path(), "m")[1].clone();
    let good = std::fs::read(&file).unwrap();
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for bad in [&flipped[..], &good[..good.len() / 2], &[]] {
        std::fs::write(&file, bad).unwrap();
        let listed = files(dir.path(), "m");
        for error in [
            run_fit(task.as_mut(), &data, &global, 3).unwrap_err().to_string(),
            task.evaluate(&data, &global, None).unwrap_err().to_string(),
            task.survey_features(&data, &global).unwrap_err().to_string(),
        ] {
            assert!(error.contains(file.to_str().unwrap()) && error.contains("damaged"), "{error}");
        }
        assert_eq!(files(dir.path(), "m"), listed);
        assert_eq!(std::fs::read(&file).unwrap(), bad);
    }
    std::fs::write(&file, &good).unwrap();
    run_fit(task.as_mut(), &data, &global, 3).unwrap();
    let odd = dir.path().join("m/private-x.safetensors");
    std::fs::write(&odd, b"").unwrap();
    let error = run_fit(task.as_mut(), &data, &global, 4).unwrap_err().to_string();
    assert!(error.contains("private-x.safetensors: the name is not private-ROUND-DIGEST.safetensors"), "{error}");
}

// Should: ignore what a crash left half written. Should not: read it, or fail over it.
#[test]
fn a_crash_while_writing_leaves_the_old_values() {
    let spec = spec("classify", &[HEAD]);
    let data = member("m", samples(60, 1, patchy));
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut reference = with_state(&spec, other.path());
    let mut task = with_state(&spec, dir.path());
    let global = first_global(task.as_mut(), &[&data]);
    let expected: Vec<_> = (1..=2).map(|round| bytes(reference.as_mut(), &data, &global, round)).collect();
    assert_eq!(bytes(task.as_mut(), &data, &global, 1), expected[0]);
    let last = files(other.path(), "m")[1].file_name().unwrap().to_str().unwrap().to_owned();
    std::fs::write(dir.path().join("m").join(format!("{last}.tmp")), b"half").unwrap();
    let mut task = with_state(&spec, dir.path());
    assert_eq!(bytes(task.as_mut(), &data, &global, 2), expected[1]);
    assert_eq!(rounds(dir.path(), "m"), ["1", "2"], "and the half file is gone");
}

#[test]
fn the_state_of_another_run_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let data = member("m", samples(60, 1, patchy));
    let mut task = with_state(&spec("classify", &[HEAD]), dir.path());
    let global = first_global(task.as_mut(), &[&data]);
    run_fit(task.as_mut(), &data, &global, 1).unwrap();
    let state = State { folder: Some(dir.path().to_owned()) };
    let other = create_on(&spec("classify", &[HEAD, "seed=4"]), &state, &Device::flex()).err().unwrap().to_string();
    assert!(other.contains("spec.toml: this is the state of a run with the same id and another spec"), "{other}");
    assert!(create_on(&spec("classify", &["seed=4"]), &state, &Device::flex()).is_ok(), "without private blocks none is read");
}
