//! What a member sends back.

use crate::id::{AssignmentId, Digest, MemberName};
use crate::metric::Metrics;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Largest aggregation weight. Below 2^29, so that weight times f32 is exact in f64.
pub const MAX_WEIGHT: u32 = (1 << 29) - 1;

/// A stored update: everything about it but its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpdateRef {
    /// Who sent it.
    pub member: MemberName,
    /// What it answers.
    pub assignment: AssignmentId,
    /// Digest of its tensors; None if the answer is metrics alone.
    pub blob: Option<Digest>,
    /// Length of the blob in bytes.
    pub bytes: u64,
    /// Samples that were used for training.
    pub examples: u32,
    /// Per parameter block, how many of them trained it. A block that is not named was not trained.
    pub weights: BTreeMap<String, u32>,
    /// Additive metrics.
    pub metrics: Metrics,
}
