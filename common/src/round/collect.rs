//! Collecting answers: the gate that every phase with members shares.

use super::command::{Assignment, Work};
use super::reject::Reject;
use crate::id::{AssignmentId, MemberName, Millis};
use crate::metric::Metrics;
use crate::update::UpdateRef;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How many assignments ended in which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Given out.
    pub given: u64,
    /// Answered, and the answer is used.
    pub accepted: u64,
    /// Answered with something that cannot be used.
    pub rejected: u64,
    /// Failed at the member, or cancelled.
    pub dropped: u64,
    /// Not answered in time.
    pub expired: u64,
}

impl Tally {
    /// A member failed, or its answer cannot be used.
    pub(super) fn ended_badly(&mut self, failed: bool) {
        if failed {
            self.dropped += 1;
        } else {
            self.rejected += 1;
        }
    }

    /// Answers that were accepted turn out not to be used.
    pub(super) fn unused(&mut self, answers: usize) {
        self.accepted -= answers as u64;
        self.dropped += answers as u64;
    }
}

/// An assignment that is waited for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Open {
    pub(super) assignment: Assignment,
    pub(super) attempt: u32,
}

/// Answers that a phase waits for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Collect {
    pub(super) work: Work,
    pub(super) quorum: usize,
    pub(super) most: usize,
    pub(super) deadline: Millis,
    /// Until then the `most` of lowest rank are waited for; from then on the first answers will do.
    #[serde(default)]
    pub(super) patient_until: Millis,
    pub(super) open: BTreeMap<AssignmentId, Open>,
    pub(super) accepted: BTreeMap<MemberName, UpdateRef>,
    /// Everybody who was asked in this phase, replacements too, with its rank: 0 was drawn first.
    #[serde(deserialize_with = "ranks")]
    pub(super) asked: BTreeMap<MemberName, u32>,
    /// Who last failed or was refused, and why, for people.
    pub(super) last_fault: Option<String>,
}

/// States of the version before ranks list the names; there a rank decided nothing.
fn ranks<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<MemberName, u32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Asked {
        Ranked(BTreeMap<MemberName, u32>),
        Listed(BTreeSet<MemberName>),
    }
    Ok(match Asked::deserialize(d)? {
        Asked::Ranked(ranks) => ranks,
        Asked::Listed(names) => names.into_iter().zip(0..).collect(),
    })
}

/// Takes an assignment out of `open`, if it is `member`'s.
pub(super) fn close(
    open: &mut BTreeMap<AssignmentId, Open>,
    accepted: &BTreeMap<MemberName, UpdateRef>,
    id: AssignmentId,
    member: &MemberName,
) -> Result<Open, Reject> {
    if accepted.values().any(|u| u.assignment == id && u.member == *member) {
        return Err(Reject::AlreadyAnswered(id));
    }
    match open.get(&id) {
        None => Err(Reject::NotOpen(id)),
        Some(open) if open.assignment.member != *member => Err(Reject::NotYours(id, member.clone())),
        Some(_) => open.remove(&id).ok_or(Reject::NotOpen(id)),
    }
}

/// Sum of all metrics, in the order of the answers, which is that of member names.
pub(super) fn metrics_of(answers: &[UpdateRef]) -> Metrics {
    answers.iter().fold(Metrics::default(), |mut all, u| {
        all.merge(&u.metrics);
        all
    })
}

impl Collect {
    pub(super) fn new(work: Work, quorum: usize, most: usize, deadline: Millis) -> Self {
        Self {
            work,
            quorum,
            most,
            deadline,
            patient_until: 0,
            open: BTreeMap::new(),
            accepted: BTreeMap::new(),
            asked: BTreeMap::new(),
            last_fault: None,
        }
    }

    pub(super) fn add(&mut self, assignment: Assignment, attempt: u32) {
        let rank = self.asked.len() as u32;
        self.asked.entry(assignment.member.clone()).or_insert(rank);
        self.open.insert(assignment.id, Open { assignment, attempt });
    }

    /// Takes an open assignment out, if it is `member`'s.
    pub(super) fn close(&mut self, id: AssignmentId, member: &MemberName) -> Result<Open, Reject> {
        close(&mut self.open, &self.accepted, id, member)
    }

    fn rank(&self, member: &MemberName) -> u32 {
        self.asked.get(member).copied().unwrap_or(u32::MAX)
    }

    /// Nothing more is waited for, and there is enough.
    pub(super) fn complete(&self, now: Millis) -> bool {
        let accepted = self.accepted.len();
        if self.open.is_empty() {
            return accepted >= self.quorum.min(self.most);
        }
        accepted >= self.most && (now >= self.patient_until || self.best_are_in())
    }

    /// The `most` of lowest rank, among those that can still answer, have answered.
    fn best_are_in(&self) -> bool {
        let awaited = self.waiting().map(|m| self.rank(m)).min().unwrap_or(u32::MAX);
        self.accepted.keys().filter(|m| self.rank(m) < awaited).count() >= self.most
    }

    /// When patience ends, if enough answers wait for that.
    pub(super) fn patience_ends(&self) -> Option<Millis> {
        (self.accepted.len() >= self.most).then_some(self.patient_until)
    }

    /// Members that answered or still can.
    pub(super) fn candidates(&self) -> usize {
        self.open.len() + self.accepted.len()
    }

    /// Takes all answers out: the `most` of lowest rank in order of member name, and how many are not used.
    pub(super) fn take_answers(&mut self, most: usize) -> (Vec<UpdateRef>, usize) {
        let mut answers: Vec<UpdateRef> = std::mem::take(&mut self.accepted).into_values().collect();
        let surplus = answers.len().saturating_sub(most);
        if surplus > 0 {
            answers.sort_by_key(|a| self.rank(&a.member));
            answers.truncate(most);
            answers.sort_by(|a, b| a.member.cmp(&b.member));
        }
        (answers, surplus)
    }

    /// Nothing more is waited for, and there is not enough.
    pub(super) fn starved(&self) -> bool {
        self.open.is_empty() && self.accepted.len() < self.quorum
    }

    /// Members that are waited for.
    pub fn waiting(&self) -> impl Iterator<Item = &MemberName> {
        self.open.values().map(|o| &o.assignment.member)
    }

    /// Number of accepted answers.
    pub fn accepted(&self) -> usize {
        self.accepted.len()
    }

    /// What the members were asked for.
    pub fn work(&self) -> Work {
        self.work
    }
}
