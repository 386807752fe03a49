//! Who is asked, how long one waits, and when the global is evaluated.

use super::{Check, SpecError, units};
use crate::id::MemberName;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Who is asked, and how long one waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CohortSpec {
    /// Members that must have joined before the run starts.
    pub members: usize,
    /// Members asked in a round.
    pub size: usize,
    /// Fewest accepted updates that make a round; `most` if not given.
    #[serde(default)]
    pub quorum: Option<usize>,
    /// Most accepted updates of a round: when they are in, the rest is not waited for. The whole cohort if not given.
    #[serde(default)]
    pub most: Option<usize>,
    /// How long a round waits for the `most` members that were drawn first, before it takes the first answers.
    #[serde(default, with = "units")]
    pub patience: Duration,
    /// Longest that a phase waits for answers, such as "10m".
    #[serde(default = "ten_minutes", with = "units")]
    pub deadline: Duration,
    /// Longest that a phase waits for a member that is offline; up to the deadline if not given.
    #[serde(default, with = "units::optional", skip_serializing_if = "Option::is_none")]
    pub absence: Option<Duration>,
    /// What becomes of work that is not back when its round closes.
    #[serde(default)]
    pub late: Late,
    /// Exponent by which the weight of a late answer falls with the rounds that it is late, 0 to 1.
    #[serde(default = "half")]
    pub staleness: f64,
    /// How often an assignment that failed or expired is given again.
    #[serde(default = "two")]
    pub retries: u32,
    /// Failures in a row after which a member rests; 0 lets nobody rest.
    #[serde(default = "three")]
    pub strikes: u32,
    /// Only these members take part; all if empty.
    #[serde(default)]
    pub only: Vec<MemberName>,
}

/// What becomes of work that is not back when its round closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Late {
    /// It is cancelled.
    #[default]
    Drop,
    /// It is waited for until the next round closes, and counts there with less weight.
    NextRound,
}

fn ten_minutes() -> Duration {
    Duration::from_secs(600)
}

fn half() -> f64 {
    0.5
}

fn two() -> u32 {
    2
}

fn three() -> u32 {
    3
}

impl CohortSpec {
    /// Fewest accepted updates of a round.
    pub fn quorum(&self) -> usize {
        self.quorum.unwrap_or(self.most())
    }

    /// Most accepted updates of a round.
    pub fn most(&self) -> usize {
        self.most.unwrap_or(self.size)
    }

    pub(super) fn validate(&self, check: Check<'_>) -> Result<(), SpecError> {
        let month = Duration::from_secs(30 * 86_400);
        check("cohort.members", (1..=1_000_000).contains(&self.members), "must be 1 to 1000000")?;
        check("cohort.size", (1..=self.members).contains(&self.size), "must be 1 to cohort.members")?;
        check("cohort.most", (1..=self.size).contains(&self.most()), "must be 1 to cohort.size")?;
        check(
            "cohort.quorum",
            (1..=self.most()).contains(&self.quorum()),
            "must be 1 to cohort.most, or cohort.size without it",
        )?;
        check("cohort.deadline", self.deadline >= Duration::from_secs(1), "must be at least 1s")?;
        check("cohort.deadline", self.deadline <= month, "must be at most 30 days")?;
        check("cohort.patience", self.patience <= self.deadline, "must be at most cohort.deadline")?;
        let absence = self.absence.is_none_or(|a| a >= Duration::from_millis(1) && a <= month);
        check("cohort.absence", absence, "must be 1ms to 30 days; leave it out to wait until the deadline")?;
        check("cohort.staleness", (0.0..=1.0).contains(&self.staleness), "must be in [0, 1]")?;
        check("cohort.retries", self.retries <= 1000, "must be at most 1000")?;
        check("cohort.strikes", self.strikes <= 1000, "must be at most 1000")?;
        check(
            "cohort.only",
            self.only.is_empty() || self.only.len() >= self.members,
            "names fewer members than cohort.members asks for",
        )
    }
}

/// When the global is evaluated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluateSpec {
    /// Every so many rounds; 0 evaluates after the last round only, which is always done.
    pub every: u32,
    /// Members with data to evaluate on that must have joined before the run starts.
    pub members: usize,
}

impl Default for EvaluateSpec {
    fn default() -> Self {
        Self { every: 10, members: 0 }
    }
}
