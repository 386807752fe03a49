//! Who is asked, how long one waits, and when the global is evaluated.

use super::{Check, SpecError, units};
use crate::id::{MAX_NAME, MemberName};
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
    /// Only members with one of these labels take part; all if empty. The coordinator's operator gives labels to members
    /// when they enrol.
    // left out while empty: specs that older versions stored stay what they were
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
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
        )?;
        let visible = |label: &String| label.bytes().all(|b| b.is_ascii_graphic() && b != b',');
        let labels = self.labels.iter().all(|label| (1..=MAX_NAME).contains(&label.len()) && visible(label));
        check("cohort.labels", labels, "a label is 1 to 64 visible ASCII characters without a comma, such as region=eu")?;
        check("cohort.labels", self.labels.len() <= 100, "names more than 100 labels")
    }

    /// True if a member with these labels may take part, as far as labels go.
    pub fn admits(&self, labels: &[String]) -> bool {
        self.labels.is_empty() || labels.iter().any(|label| self.labels.contains(label))
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

#[cfg(test)]
mod tests {
    use crate::spec::RunSpec;

    fn spec(cohort: &str) -> Result<RunSpec, String> {
        let task = "task = { kind = \"classify\", classes = 2, modalities = { a = 2 } }";
        RunSpec::from_toml(&format!(
            "version = 1\nname = \"x\"\nrounds = 1\n{task}\ncohort = {{ members = 1, size = 1{cohort} }}"
        ))
        .map_err(|e| e.to_string())
    }

    #[test]
    fn labels_admit_and_are_left_out_of_specs_without_them() {
        let plain = spec("").unwrap();
        assert!(!plain.to_toml().contains("labels"), "specs of older versions stay what they were");
        assert!(plain.cohort.admits(&[]) && plain.cohort.admits(&["x".into()]));
        let some = spec(", labels = [\"region=eu\", \"icu\"]").unwrap();
        assert_eq!(RunSpec::from_toml(&some.to_toml()).unwrap(), some);
        let admits = |labels: &[&str]| some.cohort.admits(&labels.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>());
        assert!(admits(&["icu"]) && admits(&["x", "region=eu"]) && !admits(&[]) && !admits(&["region=us"]));
        for bad in ["", "a b", "a,b", &"x".repeat(65)] {
            let error = spec(&format!(", labels = [\"{bad}\"]")).unwrap_err();
            assert!(error.contains("cohort.labels"), "{error}");
        }
    }
}
