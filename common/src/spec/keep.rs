//! What the coordinator keeps.

use super::{Check, SpecError};
use crate::metric::MAX_METRIC_NAME;
use serde::{Deserialize, Serialize};

/// What the coordinator keeps beyond what the run works with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeepSpec {
    /// Latest globals that are kept.
    pub globals: u32,
    /// Name of a metric: the global with the largest mean of it at an evaluation is kept too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best: Option<String>,
    /// Keep every update, so that all rounds can be folded again.
    pub updates: bool,
}

impl Default for KeepSpec {
    fn default() -> Self {
        Self { globals: 10, best: None, updates: false }
    }
}

impl KeepSpec {
    pub(super) fn validate(&self, check: Check<'_>) -> Result<(), SpecError> {
        check("keep.globals", (1..=1_000_000).contains(&self.globals), "must be 1 to 1000000")?;
        let named = self.best.as_ref().is_none_or(|name| (1..=MAX_METRIC_NAME).contains(&name.len()));
        check("keep.best", named, "name a metric of an evaluation in 1 to 200 bytes, such as \"held-out/head/left+right\"")
    }
}
