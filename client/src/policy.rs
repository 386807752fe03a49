//! What this site takes part in, whatever a coordinator asks.
//!
//! The session checks a run when it opens and again at every assignment, before anything is fetched or any sample is
//! read. A coordinator cannot change these settings: they come from the agent's own file alone.

use crate::config::member_info;
use crate::disk;
use crate::state::StateDir;
use crate::task::{MemberData, TASKS};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use tessera_common::id::{Digest, MemberName, RunId};
use tessera_common::spec::{RunSpec, SpecError};

/// A site's own rules, the table `[policy]` of an agent's settings. What is not set is not restricted.
///
/// `min_cohort` and `min_class_count` bound what becomes visible of one site in what the coordinator publishes. The
/// coordinator itself sees each answer; they do not hide anything from it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Kinds of tasks (`task.kind`).
    pub tasks: Option<Vec<String>>,
    /// Modalities that a run may use. A run that names another one which the member has is refused.
    pub modalities: Option<Vec<String>>,
    /// Members whose data may take part.
    pub members: Option<Vec<MemberName>>,
    /// Runs that this site takes part in, all told and over restarts. Needs a state folder to count in.
    pub max_runs: Option<u32>,
    /// Least accepted updates that make a round (`cohort.quorum`).
    pub min_cohort: Option<usize>,
    /// Least samples of a class and modality before anything of the class is sent (`prototypes.min_count`).
    pub min_class_count: Option<u32>,
}

impl Policy {
    /// True if it allows everything.
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }

    /// Checks the settings themselves: names that cannot be right, and limits that cannot be kept.
    ///
    /// # Errors
    /// Names the key and what would be right.
    pub fn validate<'a>(&self, served: impl IntoIterator<Item = &'a MemberName>, keeps_state: bool) -> Result<(), SpecError> {
        let kinds: Vec<&str> = TASKS.iter().map(|t| t.name).collect();
        if let Some(task) = self.tasks.iter().flatten().find(|t| !kinds.contains(&t.as_str())) {
            return Err(SpecError::unknown_name("policy.tasks", task, &kinds));
        }
        let served: Vec<&str> = served.into_iter().map(MemberName::as_str).collect();
        if let Some(member) = self.members.iter().flatten().find(|m| !served.contains(&m.as_str())) {
            return Err(SpecError::unknown_name("policy.members", member.as_str(), &served));
        }
        if self.max_runs.is_some() && !keeps_state {
            return Err(SpecError::invalid("policy.max_runs", "runs are counted over restarts, which needs a state_dir"));
        }
        Ok(())
    }

    /// Whether this member may take part in this run, `max_runs` aside.
    ///
    /// # Errors
    /// Names the key of the policy and what the run asks.
    pub fn check(&self, spec: &RunSpec, member: &MemberData) -> Result<(), String> {
        let among = |list: &[String]| if list.is_empty() { "nothing".to_owned() } else { list.join(", ") };
        if let Some(allowed) = &self.members
            && !allowed.contains(&member.name)
        {
            let names: Vec<String> = allowed.iter().map(ToString::to_string).collect();
            return Err(format!("members allows {}, and the run asks {}", among(&names), member.name));
        }
        if let Some(allowed) = &self.tasks
            && !allowed.contains(&spec.task.kind)
        {
            return Err(format!("tasks allows {}, and the run has task.kind = {:?}", among(allowed), spec.task.kind));
        }
        if let Some(allowed) = &self.modalities {
            let has = member_info(member).modalities;
            let uses = |name: &&String| has.contains(name) && !allowed.contains(name);
            if let Some(name) = spec.task.modalities.keys().find(uses) {
                return Err(format!("modalities allows {}, and the run uses {name:?}", among(allowed)));
            }
        }
        let quorum = spec.cohort.quorum();
        if let Some(least) = self.min_cohort.filter(|least| quorum < *least) {
            return Err(format!("min_cohort is {least}, and the run makes a round of {quorum} updates (cohort.quorum)"));
        }
        let count = spec.prototypes.min_count;
        if let Some(least) = self.min_class_count.filter(|least| count < *least) {
            let what = format!("the run has classes sent from {count} samples on (prototypes.min_count)");
            return Err(format!("min_class_count is {least}, and {what}"));
        }
        Ok(())
    }
}

/// On one line, as TOML: `min_cohort = 3; tasks = ["classify"]`.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_open() {
            return f.write_str("no policy");
        }
        let text = toml::to_string(self).map_err(|_| fmt::Error)?;
        f.write_str(&text.lines().collect::<Vec<_>>().join("; "))
    }
}

/// File in the state folder; no run can have its name.
const FILE: &str = ".runs.json";

/// Runs that this site took part in, for `max_runs`.
#[derive(Debug)]
pub(crate) struct Ledger {
    most: u32,
    /// By id and digest of the spec: ids come again when a coordinator is set up anew.
    runs: BTreeSet<(RunId, Digest)>,
    /// None if the disk of the state folder took nothing when the agent started.
    state: Option<Arc<StateDir>>,
}

impl Ledger {
    /// What was counted so far. None if the policy sets no `max_runs`.
    ///
    /// # Errors
    /// If the file is damaged or cannot be read; forgetting it would lift the limit.
    pub(crate) fn open(policy: &Policy, state: Option<Arc<StateDir>>) -> io::Result<Option<Self>> {
        let Some(most) = policy.max_runs else { return Ok(None) };
        let runs = state.as_ref().map(|s| Self::counted(s.path())).transpose()?.unwrap_or_default();
        Ok(Some(Self { most, runs, state }))
    }

    /// The runs that were counted in a state folder.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) fn counted(dir: &Path) -> io::Result<BTreeSet<(RunId, Digest)>> {
        let path = dir.join(FILE);
        let said = |why: &dyn std::fmt::Display| {
            let text = format!("{}: {why}; it counts runs for policy.max_runs, move it away to count anew", path.display());
            io::Error::other(text)
        };
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| said(&e)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(error) => Err(said(&error)),
        }
    }

    /// True if the run is counted already.
    pub(crate) fn has(&self, run: &RunId, spec: Digest) -> bool {
        self.runs.contains(&(run.clone(), spec))
    }

    /// Counts a run, durably, unless it is counted already.
    ///
    /// # Errors
    /// If there were `max_runs` others, or it cannot be counted.
    pub(crate) fn admit(&mut self, run: &RunId, spec: Digest) -> Result<(), String> {
        let key = (run.clone(), spec);
        if self.runs.contains(&key) {
            return Ok(());
        }
        let (most, before) = (self.most, self.runs.len());
        if before >= most as usize {
            return Err(format!("max_runs is {most}, and this site took part in {before} other runs"));
        }
        let uncounted = |why: String| format!("max_runs is {most}, and the run cannot be counted: {why}");
        let state = self.state.as_ref().ok_or_else(|| uncounted("the state folder takes nothing".into()))?;
        self.runs.insert(key.clone());
        let kept =
            serde_json::to_vec(&self.runs).map_err(io::Error::other).and_then(|bytes| disk::replace(state.path(), FILE, &bytes));
        kept.map_err(|error| {
            self.runs.remove(&key);
            uncounted(format!("{}: {error}", state.path().join(FILE).display()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Modality, Samples};

    fn spec(more: &str) -> RunSpec {
        let text = format!(
            "version = 1\nname = \"t\"\nrounds = 2\n{more}\ncohort = {{ members = 4, size = 3, quorum = 2 }}\n\
             task = {{ kind = \"classify\", classes = 2, modalities = {{ left = 1, right = 1 }} }}"
        );
        RunSpec::from_toml(&text).unwrap()
    }

    /// A member that has the left modality alone.
    fn north() -> MemberData {
        let modality = |name: &str| Modality { name: name.into(), dim: 1, values: vec![1.0, 2.0] };
        let train = Samples { modalities: vec![modality("left"), modality("right")], labels: vec![0, 1], present: vec![1, 1] };
        let none = train.select(&[]);
        MemberData { name: "north".parse().unwrap(), train, held_out: none.clone(), test: none }
    }

    fn policy(text: &str) -> Policy {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn each_key_refuses_by_its_name_and_what_is_asked() {
        let spec = spec("prototypes = { min_count = 3 }");
        for (text, refusal) in [
            ("members = [\"south\"]", "members allows south, and the run asks north"),
            ("tasks = [\"segment\"]", "tasks allows segment, and the run has task.kind = \"classify\""),
            ("tasks = []", "tasks allows nothing, and the run has task.kind = \"classify\""),
            ("modalities = [\"right\"]", "modalities allows right, and the run uses \"left\""),
            ("min_cohort = 3", "min_cohort is 3, and the run makes a round of 2 updates (cohort.quorum)"),
            (
                "min_class_count = 4",
                "min_class_count is 4, and the run has classes sent from 3 samples on (prototypes.min_count)",
            ),
        ] {
            assert_eq!(policy(text).check(&spec, &north()), Err(refusal.to_owned()), "{text}");
        }
    }

    // Should: let through what is within every bound. Should not: mind a modality of the run that the member lacks.
    #[test]
    fn what_is_within_the_policy_is_allowed() {
        let all = "members = [\"north\"]\ntasks = [\"classify\"]\nmodalities = [\"left\"]\nmin_cohort = 2\nmin_class_count = 8";
        assert_eq!(policy(all).check(&spec(""), &north()), Ok(()));
        assert_eq!(Policy::default().check(&spec("prototypes = { min_count = 1 }"), &north()), Ok(()));
        assert!(Policy::default().is_open() && !policy("tasks = []").is_open());
        assert_eq!(Policy::default().to_string(), "no policy");
        assert_eq!(policy("min_cohort = 2\ntasks = [\"classify\"]").to_string(), "tasks = [\"classify\"]; min_cohort = 2");
    }

    #[test]
    fn settings_that_cannot_be_right_are_refused() {
        let north: MemberName = "north".parse().unwrap();
        let fault = |text: &str| policy(text).validate([&north], false).unwrap_err().to_string();
        assert!(fault("tasks = [\"clasify\"]").contains("`policy.tasks` is not valid: there is no \"clasify\"; did you mean"));
        assert!(fault("members = [\"nort\"]").contains("`policy.members` is not valid: there is no \"nort\"; did you mean"));
        assert!(fault("max_runs = 1").contains("`policy.max_runs` is not valid: runs are counted over restarts"));
        assert!(policy("max_runs = 1\nmembers = [\"north\"]").validate([&north], true).is_ok());
        assert!(toml::from_str::<Policy>("min_cohrt = 2").unwrap_err().to_string().contains("min_cohrt"));
    }

    #[test]
    fn runs_are_counted_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::take(dir.path()).unwrap();
        let two = policy("max_runs = 2");
        let open = || Ledger::open(&two, state.clone()).unwrap().unwrap();
        let (a, b): (RunId, RunId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let (one, other) = (Digest::of(b"1"), Digest::of(b"2"));
        assert_eq!(open().admit(&a, one), Ok(()));
        assert_eq!(open().admit(&a, one), Ok(()), "the same again");
        assert_eq!(open().admit(&a, other), Ok(()), "another spec is another run");
        let refusal = "max_runs is 2, and this site took part in 2 other runs".to_owned();
        assert_eq!(open().admit(&b, one), Err(refusal));
        assert!(open().has(&a, other) && !open().has(&b, one));
        assert!(Ledger::open(&Policy::default(), state.clone()).unwrap().is_none());
        std::fs::write(dir.path().join(FILE), "[").unwrap();
        let error = Ledger::open(&two, state.clone()).unwrap_err().to_string();
        assert!(error.contains(".runs.json") && error.contains("move it away to count anew"), "{error}");
    }

    // Should: refuse what it cannot count. Should not: let a full disk lift the limit.
    #[test]
    fn a_run_that_cannot_be_counted_is_refused() {
        let run: RunId = "a".parse().unwrap();
        let mut nowhere = Ledger::open(&policy("max_runs = 2"), None).unwrap().unwrap();
        let refusal = "max_runs is 2, and the run cannot be counted: the state folder takes nothing";
        assert_eq!(nowhere.admit(&run, Digest::of(b"")), Err(refusal.to_owned()));
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(&policy("max_runs = 2"), StateDir::take(dir.path()).unwrap()).unwrap().unwrap();
        std::fs::create_dir(dir.path().join(format!("{FILE}.tmp"))).unwrap();
        assert!(ledger.admit(&run, Digest::of(b"")).unwrap_err().contains("the run cannot be counted"));
        assert!(!ledger.has(&run, Digest::of(b"")));
    }
}
