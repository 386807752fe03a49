//! Stand-ins for training and folding: digests of everything that they may depend on, and of nothing else.

use std::collections::BTreeMap;
use tessera_common::id::Digest;
use tessera_common::metric::Metrics;
use tessera_common::round::{Assignment, Fold, Work};
use tessera_common::update::UpdateRef;

/// What a member answers. The same work always gives the same answer.
pub(crate) fn answer(assignment: &Assignment) -> UpdateRef {
    let Assignment { member, work, round, global, statistics, .. } = assignment;
    let digest = Digest::of(format!("{member} {work:?} {round} {global:?} {statistics:?}").as_bytes());
    let draw = u32::from_le_bytes(std::array::from_fn(|i| digest.as_bytes()[i]));
    let mut metrics = Metrics::default();
    // sums of such values round, so that the order of members shows
    metrics.add("loss", f64::from(draw) / 7.0, 3.0);
    UpdateRef {
        member: member.clone(),
        assignment: assignment.id,
        blob: (*work != Work::Evaluate).then_some(digest),
        bytes: if *work == Work::Evaluate { 0 } else { 32 },
        examples: 3,
        weights: BTreeMap::new(),
        metrics,
    }
}

/// What a fold makes; `salt` is 0, but for a fold that depends on what it should not.
pub(crate) fn folded(fold: &Fold, salt: u32) -> Digest {
    let answers: Vec<_> = fold.answers.iter().map(|a| (&a.member, &a.blob)).collect();
    Digest::of(format!("{:?} {} {:?} {:?} {answers:?} {salt}", fold.kind, fold.round, fold.base, fold.inputs).as_bytes())
}
