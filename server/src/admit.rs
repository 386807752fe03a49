//! Admitting answers: everything that must hold before an answer may count.

use crate::blob::{BlobError, Blobs};
use crate::error::Refusal;
use crate::refusals::joined;
use crate::runtime::{Handle, Standing, ToAgent};
use std::collections::BTreeMap;
use tessera_common::aggregate::check;
use tessera_common::audit::Entry;
use tessera_common::id::{AssignmentId, MemberName, RunId};
use tessera_common::param::Source;
use tessera_common::round::{Assignment, Event, MemberInfo, Reject, Work};
use tessera_common::spec::RunSpec;
use tessera_common::update::UpdateRef;
use tessera_proto::convert::{Malformed, member_name, run_id, shorten};
use tessera_proto::v1;
use tonic::Status;

/// Why an answer does not count.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    /// It cannot be used; the member is told why.
    Theirs(String),
    /// We cannot tell; the agent keeps it and sends it again.
    Ours(String),
}

/// Judges an answer from the connection of `who` that serves `served`. None if the run stands still, and nothing can be said.
///
/// # Errors
/// If the coordinator stops or cannot read what is stored: the connection ends, and the agent sends the answer again.
pub(crate) async fn admit(
    handle: &Handle,
    who: &str,
    served: &BTreeMap<MemberName, MemberInfo>,
    answer: v1::Answer,
) -> Result<Option<ToAgent>, Status> {
    let (run, member, assignment) = (answer.run.clone(), answer.member.clone(), answer.assignment);
    let verdict = |refused: Option<String>| {
        if let Some(reason) = &refused {
            let (run, member) = (shorten(run.clone()), shorten(member.clone()));
            tracing::warn!(run, member, assignment, reason, "an answer is refused");
        }
        Some(ToAgent::Verdict {
            run: shorten(run.clone()),
            member: shorten(member.clone()),
            assignment,
            refused: refused.map(shorten),
        })
    };
    match judge(handle, who, served, answer).await {
        Ok(refused) => Ok(verdict(refused)),
        Err(Refusal::Stopping) => Err(Refusal::Stopping.into()),
        Err(Refusal::Broken { run, reason } | Refusal::Waiting { run, reason }) => {
            tracing::debug!(%run, reason, "an answer waits for its run");
            Ok(None)
        }
        // what exactly is for our own log: it may name files
        Err(Refusal::NotStored(_)) => Err(Status::internal("the coordinator cannot read what it stores; send the answer again")),
        Err(refusal) => Ok(verdict(Some(refusal.to_string()))),
    }
}

/// Why the answer is refused; None if it counts.
async fn judge(
    handle: &Handle,
    who: &str,
    served: &BTreeMap<MemberName, MemberInfo>,
    answer: v1::Answer,
) -> Result<Option<String>, Refusal> {
    let (run, member, id) = (run_id(&answer.run)?, member_name(&answer.member)?, AssignmentId(answer.assignment));
    if !served.contains_key(&member) {
        return Ok(Some(format!("member {member} is not served by this connection")));
    }
    let (assignment, spec) = match handle.standing(&run, &member, id).await? {
        Standing::Settled { refused } => return Ok(refused),
        Standing::Open { assignment, spec } => (assignment, spec),
    };
    let (round, digest) = (assignment.round, tessera_proto::convert::digest(&answer.blob).ok());
    let checked = match <(RunId, UpdateRef)>::try_from(answer) {
        Err(Malformed(what)) => Err(Fault::Theirs(what)),
        Ok((_, update)) => {
            // Reading every value of every answer of a cohort at once would only thrash.
            let _permit = handle.shared.scans.acquire().await.map_err(|_| Refusal::Stopping)?;
            let blobs = handle.blobs().clone();
            let check = move || inspect(&spec, &assignment, &update, &blobs).map(|()| update);
            let checked = joined(&handle.shared.refusals, "answer", tokio::task::spawn_blocking(check).await);
            checked.unwrap_or_else(|status| Err(Fault::Ours(status.message().to_owned())))
        }
    };
    let (event, refused) = match checked {
        Ok(update) => (Event::Answered(update), None),
        Err(Fault::Theirs(why)) => {
            let why = shorten(why);
            (Event::Refused { member: member.clone(), assignment: id, reason: why.clone() }, Some(why))
        }
        Err(Fault::Ours(why)) => {
            tracing::error!(%run, %member, assignment = %id, why, "an answer cannot be checked");
            return Err(Refusal::NotStored(why));
        }
    };
    let happened = handle.happened(&run, event).await;
    if happened.is_ok() {
        handle.shared.audit.note(Entry {
            who: who.to_owned(),
            what: "answer".into(),
            run: Some(run.to_string()),
            round: Some(round),
            member: Some(member.to_string()),
            digest,
            verdict: refused.as_ref().map_or_else(|| "ok".to_owned(), |why| format!("refused: {why}")),
            ..Entry::default()
        });
    }
    match happened {
        Ok(()) | Err(Refusal::Engine(Reject::AlreadyAnswered(_))) => Ok(refused),
        // overtaken: by its own twin after a reconnect, whose verdict holds, or by the end of the phase
        Err(Refusal::Engine(reject)) => match handle.standing(&run, &member, id).await {
            Ok(Standing::Settled { refused }) => Ok(refused),
            Ok(Standing::Open { .. }) | Err(Refusal::Engine(_)) => Ok(refused.or(Some(reject.to_string()))),
            Err(refusal) => Err(refusal),
        },
        Err(refusal) => Err(refusal),
    }
}

/// Everything about an answer that does not depend on the run's state.
fn inspect(spec: &RunSpec, assignment: &Assignment, update: &UpdateRef, blobs: &Blobs) -> Result<(), Fault> {
    let theirs = |why: &str| Err(Fault::Theirs(why.to_owned()));
    let digest = match (assignment.work, update.blob) {
        (Work::Evaluate, Some(_)) => return theirs("an evaluation has metrics alone, this one has tensors"),
        (Work::Evaluate, None) if update.metrics.0.is_empty() => return theirs("an evaluation without metrics"),
        (Work::Evaluate, None) => return if update.bytes == 0 { Ok(()) } else { theirs("bytes without tensors") },
        (Work::Initialise | Work::SurveyInputs | Work::Fit | Work::SurveyFeatures, None) => {
            return theirs("the answer has no tensors");
        }
        (Work::Initialise | Work::SurveyInputs | Work::Fit | Work::SurveyFeatures, Some(digest)) => digest,
    };
    // whoever clears away blobs does not know yet that this one counts
    blobs.touch(&digest).map_err(fault)?;
    let blob = blobs.open(&digest).map_err(fault)?;
    let total = blob.layout().total();
    if update.bytes != total {
        return Err(Fault::Theirs(format!("the answer says {} bytes, its tensors have {total}", update.bytes)));
    }
    let base = assignment.global.map(|g| blobs.open(&g)).transpose().map_err(|e| Fault::Ours(e.to_string()))?;
    let base = base.as_ref().map(Source::layout);
    let no_global = || Fault::Ours(format!("assignment {} has no global", assignment.id));
    let fits = match assignment.work {
        Work::Fit => check::check_update(spec, base.ok_or_else(no_global)?, update, blob.layout()),
        Work::SurveyFeatures => check::check_features(spec, base.ok_or_else(no_global)?, blob.layout()),
        Work::SurveyInputs => check::check_inputs(spec, blob.layout()),
        Work::Initialise | Work::Evaluate => check::check_initial(spec, blob.layout()),
    };
    let sound = fits.and_then(|()| check::check_values(&blob));
    match (blob.fault(), sound) {
        (Some(fault), _) => Err(Fault::Ours(fault.to_owned())),
        (None, outcome) => outcome.map_err(Fault::Theirs),
    }
}

/// Whose fault it is that an answer's blob cannot be opened.
fn fault(error: BlobError) -> Fault {
    let text = error.to_string();
    match error {
        BlobError::Io { .. } | BlobError::Lost(_) | BlobError::Corrupt { .. } => Fault::Ours(text),
        BlobError::Missing(_)
        | BlobError::Malformed { .. }
        | BlobError::Offset { .. }
        | BlobError::TooLarge { .. }
        | BlobError::Overflow { .. }
        | BlobError::Short { .. }
        | BlobError::Mismatch { .. } => Fault::Theirs(text),
    }
}
