//! Collecting answers: the gate that every phase with members shares.

use super::command::{Assignment, Work};
use super::reject::Reject;
use crate::id::{AssignmentId, MemberName, Millis};
use crate::metric::Metrics;
use crate::update::UpdateRef;
use serde::{Deserialize, Serialize};
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
    pub(super) open: BTreeMap<AssignmentId, Open>,
    pub(super) accepted: BTreeMap<MemberName, UpdateRef>,
    /// Everybody who was asked in this phase, replacements too.
    pub(super) asked: BTreeSet<MemberName>,
    /// Who last failed or was refused, and why, for people.
    pub(super) last_fault: Option<String>,
}

impl Collect {
    pub(super) fn new(work: Work, quorum: usize, most: usize, deadline: Millis) -> Self {
        Self {
            work,
            quorum,
            most,
            deadline,
            open: BTreeMap::new(),
            accepted: BTreeMap::new(),
            asked: BTreeSet::new(),
            last_fault: None,
        }
    }

    pub(super) fn add(&mut self, assignment: Assignment, attempt: u32) {
        self.asked.insert(assignment.member.clone());
        self.open.insert(assignment.id, Open { assignment, attempt });
    }

    /// Takes an open assignment out, if it is `member`'s.
    pub(super) fn close(&mut self, id: AssignmentId, member: &MemberName) -> Result<Open, Reject> {
        if self.accepted.values().any(|u| u.assignment == id && u.member == *member) {
            return Err(Reject::AlreadyAnswered(id));
        }
        match self.open.get(&id) {
            None => Err(Reject::NotOpen(id)),
            Some(open) if open.assignment.member != *member => Err(Reject::NotYours(id, member.clone())),
            Some(_) => self.open.remove(&id).ok_or(Reject::NotOpen(id)),
        }
    }

    /// Nothing more is waited for, and there is enough.
    pub(super) fn complete(&self) -> bool {
        self.accepted.len() >= self.most || (self.open.is_empty() && self.accepted.len() >= self.quorum)
    }

    /// Nothing more is waited for, and there is not enough.
    pub(super) fn starved(&self) -> bool {
        self.open.is_empty() && self.accepted.len() < self.quorum
    }

    /// Sum of all metrics, in order of member name.
    pub(super) fn metrics(&self) -> Metrics {
        self.accepted.values().fold(Metrics::default(), |mut all, u| {
            all.merge(&u.metrics);
            all
        })
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
