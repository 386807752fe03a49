//! Folding: from the stored answers of a phase to the stored result.

use crate::blob::{Blob, BlobError, Blobs};
use std::sync::Arc;
use tessera_common::aggregate::{Contribution, FoldError, FoldInput, Sink, fold_initial, sum_statistics};
use tessera_common::id::Digest;
use tessera_common::param::Source;
use tessera_common::round::{Event, Fold, FoldKind};
use tessera_common::spec::RunSpec;
use tessera_common::strategy;
use tessera_common::update::UpdateRef;
use tokio::sync::Semaphore;

/// Carries out a fold on the blocking pool, when one of `permits` is free; what the engine is told of it.
pub(crate) async fn fold(spec: Arc<RunSpec>, task: Fold, blobs: Blobs, permits: Arc<Semaphore>) -> Event {
    let id = task.id;
    let outcome = match permits.acquire_owned().await {
        Ok(permit) => {
            let work = move || {
                let outcome = run(&spec, &task, &blobs);
                drop(permit);
                outcome
            };
            tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()))
        }
        Err(error) => Err(error.to_string()),
    };
    match outcome {
        Ok(digest) => Event::Folded { fold: id, digest },
        Err(reason) => Event::FoldFailed { fold: id, reason },
    }
}

/// Carries out a fold: checks that the blobs that it reads are intact, reads them side by side, and writes the result as it
/// goes.
///
/// # Errors
/// What could not be read, folded or written; nothing is stored then.
pub(crate) fn run(spec: &RunSpec, task: &Fold, blobs: &Blobs) -> Result<Digest, String> {
    let text = |error: BlobError| error.to_string();
    let mut writer = blobs.writer().map_err(text)?;
    run_into(spec, task, &|digest| blobs.open_verified(digest), &mut writer)?;
    writer.finish().map_err(text)
}

/// As [`run`], from blobs that `open` gives into any sink.
///
/// # Errors
/// What could not be read, folded or written; what is in the sink is of no use then.
pub(crate) fn run_into(
    spec: &RunSpec,
    task: &Fold,
    open: &dyn Fn(&Digest) -> Result<Blob, BlobError>,
    sink: &mut dyn Sink,
) -> Result<(), String> {
    let text = |error: BlobError| error.to_string();
    let mut layouts = Vec::new();
    let mut answers: Vec<(&UpdateRef, Blob)> = Vec::with_capacity(task.answers.len());
    for update in &task.answers {
        let digest = update.blob.ok_or_else(|| format!("the answer of {} has no tensors", update.member))?;
        let mut blob = open(&digest).map_err(text)?;
        blob.share_layout(&mut layouts);
        answers.push((update, blob));
    }
    answers.sort_by(|a, b| a.0.member.cmp(&b.0.member));
    let updates: Vec<Contribution<'_>> = answers
        .iter()
        .map(|(update, blob)| {
            let late = task.stale.get(&update.member).copied().unwrap_or(0);
            Contribution { update, source: blob as &dyn Source, late }
        })
        .collect();
    let optional = |digest: Option<Digest>| digest.map(|d| open(&d)).transpose().map_err(text);
    let folded: Result<(), FoldError> = match task.kind {
        FoldKind::Inputs | FoldKind::Features => sum_statistics(&updates, sink),
        FoldKind::Initial => {
            let [initial] = updates.as_slice() else {
                return Err(format!("{} initial models, one is needed", updates.len()));
            };
            let inputs = optional(task.inputs)?;
            fold_initial(initial.source, inputs.as_ref().map(|b| b as &dyn Source), sink)
        }
        FoldKind::Round => {
            let base = optional(task.base)?.ok_or("there is no global to start from")?;
            let strategy = strategy::create(spec).map_err(|e| e.to_string())?;
            strategy.fold(&FoldInput { spec, round: task.round, base: &base, updates: &updates }, sink)
        }
    };
    folded.map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tessera_common::id::AssignmentId;
    use tessera_common::metric::Metrics;
    use tessera_common::param::{Limits, ParamSet, Tensor};

    fn store(blobs: &Blobs, set: &ParamSet) -> Digest {
        let mut writer = blobs.writer().unwrap();
        writer.write(&set.to_bytes()).unwrap();
        writer.finish().unwrap()
    }

    /// A round of five members whose values do not add up to the same in every order of plain f32 or f64 sums.
    fn round(blobs: &Blobs) -> Fold {
        let value = |k: u32, i: u32| (f64::from(k * 37 + i * 11).sin() * 10f64.powi((k as i32 * 5 + i as i32) % 16 - 8)) as f32;
        let model = |k: u32| {
            let mut set = ParamSet::new();
            set.insert("param/head/w", Tensor::f32(&[3, 4], &(0..12).map(|i| value(k, i)).collect::<Vec<_>>()));
            set
        };
        let answers = (1..6).map(|k| UpdateRef {
            member: format!("m{k}").parse().unwrap(),
            assignment: AssignmentId(u64::from(k)),
            blob: Some(store(blobs, &model(k))),
            bytes: 0,
            examples: 10 + k,
            weights: [("head".to_owned(), 10 + k)].into(),
            metrics: Metrics::default(),
        });
        let (base, answers) = (Some(store(blobs, &model(0))), answers.collect());
        Fold { id: 1, kind: FoldKind::Round, round: 1, base, inputs: None, answers, stale: Default::default() }
    }

    fn spec() -> RunSpec {
        let text = r#"
            version = 1
            name = "t"
            rounds = 1
            strategy = { kind = "fedavg" }
            task = { kind = "classify", classes = 2, modalities = { left = 2 } }
            cohort = { members = 5, size = 5 }
        "#;
        RunSpec::from_toml(text).unwrap()
    }

    #[test]
    fn the_order_of_answers_does_not_matter() {
        let dir = tempfile::TempDir::new().unwrap();
        for blobs in [Blobs::in_memory(1 << 20), Blobs::in_dir(dir.path(), 1 << 20).unwrap()] {
            let mut task = round(&blobs);
            let expected = run(&spec(), &task, &blobs).unwrap();
            for _ in 0..5 {
                task.answers.rotate_left(1);
                assert_eq!(run(&spec(), &task, &blobs), Ok(expected));
                task.answers.swap(0, 3);
                assert_eq!(run(&spec(), &task, &blobs), Ok(expected));
            }
            let global = ParamSet::from_bytes(&blobs.read(&expected).unwrap(), &Limits::default()).unwrap();
            assert_ne!(global.digest(), task.base.unwrap());
        }
    }

    #[test]
    fn a_late_answer_weighs_less() {
        let blobs = Blobs::in_memory(1 << 20);
        let mut task = round(&blobs);
        let fresh = run(&spec(), &task, &blobs).unwrap();
        task.stale = [("m2".parse().unwrap(), 1)].into();
        let late = run(&spec(), &task, &blobs).unwrap();
        assert_ne!(late, fresh);
        task.stale.clear();
        // this strategy weighs every block by the member's examples
        let examples = &mut task.answers[1].examples;
        *examples = tessera_common::aggregate::late_weight(*examples, 1, spec().cohort.staleness);
        assert_eq!(run(&spec(), &task, &blobs), Ok(late));
    }

    #[test]
    fn what_cannot_be_folded_is_said_and_nothing_is_stored() {
        let dir = tempfile::TempDir::new().unwrap();
        let blobs = Blobs::in_dir(dir.path(), 1 << 20).unwrap();
        let task = round(&blobs);
        let files = || std::fs::read_dir(dir.path()).unwrap().count();
        let before = files();
        let without = |change: &dyn Fn(&mut Fold)| {
            let mut task = task.clone();
            change(&mut task);
            run(&spec(), &task, &blobs).unwrap_err()
        };
        let mut odd = ParamSet::new();
        odd.insert("param/head/w", Tensor::f32(&[12], &[f32::NAN; 12]));
        let odd = store(&blobs, &odd);
        assert!(without(&|t| t.answers[2].blob = Some(odd)).contains("m3"), "names the member");
        assert!(without(&|t| t.answers[2].blob = None).contains("the answer of m3 has no tensors"));
        assert!(without(&|t| t.base = None).contains("no global to start from"));
        assert!(without(&|t| t.kind = FoldKind::Initial).contains("5 initial models"));
        assert_eq!(files(), before + 1, "only what the test itself stored");
    }

    #[test]
    fn damaged_blobs_are_not_folded() {
        let dir = tempfile::TempDir::new().unwrap();
        let blobs = Blobs::in_dir(dir.path(), 1 << 20).unwrap();
        let task = round(&blobs);
        let expected = run(&spec(), &task, &blobs).unwrap();
        for digest in [task.base.unwrap(), task.answers[3].blob.unwrap()] {
            let path = dir.path().join(digest.to_string());
            let intact = std::fs::read(&path).unwrap();
            let mut damaged = intact.clone();
            // a bit of a value: the header is as it was
            *damaged.last_mut().unwrap() ^= 1;
            std::fs::write(&path, damaged).unwrap();
            // a new process, which has not seen the bytes
            let blobs = Blobs::in_dir(dir.path(), 1 << 20).unwrap();
            let why = run(&spec(), &task, &blobs).unwrap_err();
            assert!(why.contains(&digest.to_string()) && why.contains("put back an intact copy"), "{why}");
            std::fs::write(&path, intact).unwrap();
            assert_eq!(run(&spec(), &task, &blobs), Ok(expected), "and once it is back");
        }
    }
}
