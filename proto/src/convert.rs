//! Wire to domain and back. Everything that comes from outside passes through a `TryFrom` here.

use crate::v1;
use bytes::Bytes;
use std::collections::BTreeMap;
use tessera_common::id::{AssignmentId, Digest, MemberName, RunId};
use tessera_common::metric::{Metric, Metrics};
use tessera_common::round::{Assignment, MemberInfo, Tally, Work};
use tessera_common::update::UpdateRef;

/// Most blocks that an answer may weigh.
const MAX_BLOCKS: usize = 65_536;
/// Most modalities that a member may name.
const MAX_MODALITIES: usize = 64;
/// Longest text of a reason that is kept, in bytes.
pub const MAX_REASON: usize = 2048;

/// A message that does not say anything valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("message not understood: {0}")]
pub struct Malformed(pub String);

impl From<Malformed> for tonic::Status {
    fn from(error: Malformed) -> Self {
        tonic::Status::invalid_argument(error.to_string())
    }
}

fn malformed(what: &str, error: impl std::fmt::Display) -> Malformed {
    Malformed(format!("{what}: {error}"))
}

/// A run id.
///
/// # Errors
/// If the text is no name.
pub fn run_id(text: &str) -> Result<RunId, Malformed> {
    text.parse().map_err(|e| malformed("run", e))
}

/// A member's name.
///
/// # Errors
/// If the text is no name.
pub fn member_name(text: &str) -> Result<MemberName, Malformed> {
    text.parse().map_err(|e| malformed("member", e))
}

/// A digest.
///
/// # Errors
/// If there are not 32 bytes.
pub fn digest(bytes: &[u8]) -> Result<Digest, Malformed> {
    Digest::try_from(bytes).map_err(|_| Malformed(format!("digest: {} bytes, not 32", bytes.len())))
}

/// A digest, or none if there are no bytes.
///
/// # Errors
/// If there are neither 0 nor 32 bytes.
pub fn optional_digest(bytes: &[u8]) -> Result<Option<Digest>, Malformed> {
    if bytes.is_empty() { Ok(None) } else { digest(bytes).map(Some) }
}

/// The bytes of a digest.
pub fn digest_bytes(digest: &Digest) -> Bytes {
    Bytes::copy_from_slice(digest.as_bytes())
}

fn optional_bytes(digest: Option<&Digest>) -> Bytes {
    digest.map(digest_bytes).unwrap_or_default()
}

/// Text shortened to [`MAX_REASON`] bytes.
pub fn shorten(mut text: String) -> String {
    if text.len() > MAX_REASON {
        let end = (0..=MAX_REASON).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// Metrics from the wire.
///
/// # Errors
/// If one is not finite or there are too many.
pub fn metrics(wire: BTreeMap<String, v1::Metric>) -> Result<Metrics, Malformed> {
    let metrics = Metrics(wire.into_iter().map(|(name, m)| (name, Metric { sum: m.sum, count: m.count })).collect());
    match metrics.fault() {
        Some(fault) => Err(malformed("metrics", fault)),
        None => Ok(metrics),
    }
}

/// Metrics for the wire.
pub fn wire_metrics(metrics: &Metrics) -> BTreeMap<String, v1::Metric> {
    metrics.0.iter().map(|(name, m)| (name.clone(), v1::Metric { sum: m.sum, count: m.count })).collect()
}

impl TryFrom<v1::Member> for (MemberName, MemberInfo) {
    type Error = Malformed;
    fn try_from(wire: v1::Member) -> Result<Self, Malformed> {
        if wire.modalities.len() > MAX_MODALITIES {
            return Err(Malformed(format!("{} modalities, at most {MAX_MODALITIES} are taken", wire.modalities.len())));
        }
        if let Some(bad) = wire.modalities.iter().find(|m| !tessera_common::id::is_valid_name(m)) {
            return Err(Malformed(format!("modality {:?} is no valid name", shorten(bad.clone()))));
        }
        let info = MemberInfo { trains: wire.trains, evaluates: wire.evaluates, modalities: wire.modalities };
        Ok((member_name(&wire.name)?, info))
    }
}

/// A member for the wire.
pub fn wire_member(name: &MemberName, info: &MemberInfo) -> v1::Member {
    v1::Member { name: name.to_string(), trains: info.trains, evaluates: info.evaluates, modalities: info.modalities.clone() }
}

impl TryFrom<v1::Answer> for (RunId, UpdateRef) {
    type Error = Malformed;
    fn try_from(wire: v1::Answer) -> Result<Self, Malformed> {
        if wire.weights.len() > MAX_BLOCKS {
            return Err(Malformed(format!("{} block weights, at most {MAX_BLOCKS} are taken", wire.weights.len())));
        }
        let update = UpdateRef {
            member: member_name(&wire.member)?,
            assignment: AssignmentId(wire.assignment),
            blob: optional_digest(&wire.blob)?,
            bytes: wire.blob_bytes,
            examples: wire.examples,
            weights: wire.weights,
            metrics: metrics(wire.metrics)?,
        };
        Ok((run_id(&wire.run)?, update))
    }
}

/// An answer for the wire.
pub fn wire_answer(run: &RunId, update: &UpdateRef) -> v1::Answer {
    v1::Answer {
        run: run.to_string(),
        member: update.member.to_string(),
        assignment: update.assignment.0,
        blob: optional_bytes(update.blob.as_ref()),
        blob_bytes: update.bytes,
        examples: update.examples,
        weights: update.weights.clone(),
        metrics: wire_metrics(&update.metrics),
    }
}

impl TryFrom<v1::Assignment> for (RunId, Assignment) {
    type Error = Malformed;
    fn try_from(wire: v1::Assignment) -> Result<Self, Malformed> {
        let work = match wire.work() {
            v1::Work::Initialise => Work::Initialise,
            v1::Work::SurveyInputs => Work::SurveyInputs,
            v1::Work::Fit => Work::Fit,
            v1::Work::SurveyFeatures => Work::SurveyFeatures,
            v1::Work::Evaluate => Work::Evaluate,
            v1::Work::Unspecified => return Err(Malformed(format!("work {} is not known to this version", wire.work))),
        };
        let assignment = Assignment {
            id: AssignmentId(wire.id),
            member: member_name(&wire.member)?,
            work,
            round: wire.round,
            global: optional_digest(&wire.global)?,
            statistics: optional_digest(&wire.statistics)?,
        };
        Ok((run_id(&wire.run)?, assignment))
    }
}

/// An assignment for the wire.
pub fn wire_assignment(run: &RunId, assignment: &Assignment) -> v1::Assignment {
    let work = match assignment.work {
        Work::Initialise => v1::Work::Initialise,
        Work::SurveyInputs => v1::Work::SurveyInputs,
        Work::Fit => v1::Work::Fit,
        Work::SurveyFeatures => v1::Work::SurveyFeatures,
        Work::Evaluate => v1::Work::Evaluate,
    };
    v1::Assignment {
        run: run.to_string(),
        member: assignment.member.to_string(),
        id: assignment.id.0,
        work: work.into(),
        round: assignment.round,
        global: optional_bytes(assignment.global.as_ref()),
        statistics: optional_bytes(assignment.statistics.as_ref()),
    }
}

impl From<Tally> for v1::Tally {
    fn from(t: Tally) -> Self {
        v1::Tally { given: t.given, accepted: t.accepted, rejected: t.rejected, dropped: t.dropped, expired: t.expired }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_survives_the_wire() {
        let update = UpdateRef {
            member: "client-01".parse().unwrap(),
            assignment: AssignmentId(7),
            blob: Some(Digest::of(b"x")),
            bytes: 12,
            examples: 40,
            weights: [("encoder.left".to_owned(), 20)].into(),
            metrics: Metrics([("fit/loss".to_owned(), Metric { sum: 2.5, count: 40.0 })].into()),
        };
        let run: RunId = "run-1".parse().unwrap();
        assert_eq!(<(RunId, UpdateRef)>::try_from(wire_answer(&run, &update)), Ok((run, update)));
    }

    #[test]
    fn an_assignment_survives_the_wire() {
        let run: RunId = "run-1".parse().unwrap();
        for work in [Work::Initialise, Work::SurveyInputs, Work::Fit, Work::SurveyFeatures, Work::Evaluate] {
            let assignment = Assignment {
                id: AssignmentId(3),
                member: "a".parse().unwrap(),
                work,
                round: 2,
                global: Some(Digest::of(b"g")),
                statistics: None,
            };
            let back = <(RunId, Assignment)>::try_from(wire_assignment(&run, &assignment));
            assert_eq!(back, Ok((run.clone(), assignment)));
        }
    }

    #[test]
    fn bad_messages_say_what_is_wrong() {
        let good = v1::Answer { run: "r".into(), member: "m".into(), assignment: 1, ..Default::default() };
        let cases = [
            (v1::Answer { run: "a/b".into(), ..good.clone() }, "run"),
            (v1::Answer { member: String::new(), ..good.clone() }, "member"),
            (v1::Answer { blob: Bytes::from_static(b"short"), ..good.clone() }, "5 bytes, not 32"),
            (
                v1::Answer { metrics: [("x".into(), v1::Metric { sum: f64::NAN, count: 1.0 })].into(), ..good.clone() },
                "not finite",
            ),
        ];
        for (answer, expected) in cases {
            let error = <(RunId, UpdateRef)>::try_from(answer).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let unknown = v1::Assignment { run: "r".into(), member: "m".into(), work: 99, ..Default::default() };
        assert!(<(RunId, Assignment)>::try_from(unknown).is_err());
        assert_eq!(shorten("é".repeat(2000)).len(), MAX_REASON);
    }
}
