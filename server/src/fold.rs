//! Folding: from the stored answers of a phase to the stored result.

use crate::blob::{Blob, BlobError, Blobs};
use std::sync::Arc;
use tessera_common::aggregate::{Contribution, FoldError, FoldInput, fold_initial, sum_statistics};
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

/// Carries out a fold: reads the answers' blobs side by side, writes the result as it goes.
///
/// # Errors
/// What could not be read, folded or written; nothing is stored then.
pub(crate) fn run(spec: &RunSpec, task: &Fold, blobs: &Blobs) -> Result<Digest, String> {
    let text = |error: BlobError| error.to_string();
    let mut layouts = Vec::new();
    let mut answers: Vec<(&UpdateRef, Blob)> = Vec::with_capacity(task.answers.len());
    for update in &task.answers {
        let digest = update.blob.ok_or_else(|| format!("the answer of {} has no tensors", update.member))?;
        let mut blob = blobs.open(&digest).map_err(text)?;
        blob.share_layout(&mut layouts);
        answers.push((update, blob));
    }
    answers.sort_by(|a, b| a.0.member.cmp(&b.0.member));
    let updates: Vec<Contribution<'_>> =
        answers.iter().map(|(update, blob)| Contribution { update, source: blob as &dyn Source }).collect();
    let open = |digest: Option<Digest>| digest.map(|d| blobs.open(&d)).transpose().map_err(text);
    let mut writer = blobs.writer().map_err(text)?;
    let folded: Result<(), FoldError> = match task.kind {
        FoldKind::Inputs | FoldKind::Features => sum_statistics(&updates, &mut writer),
        FoldKind::Initial => {
            let [initial] = updates.as_slice() else {
                return Err(format!("{} initial models, one is needed", updates.len()));
            };
            let inputs = open(task.inputs)?;
            fold_initial(initial.source, inputs.as_ref().map(|b| b as &dyn Source), &mut writer)
        }
        FoldKind::Round => {
            let base = open(task.base)?.ok_or("there is no global to start from")?;
            let strategy = strategy::create(spec).map_err(|e| e.to_string())?;
            strategy.fold(&FoldInput { spec, round: task.round, base: &base, updates: &updates }, &mut writer)
        }
    };
    folded.map_err(|e| e.to_string())?;
    writer.finish().map_err(text)
}
