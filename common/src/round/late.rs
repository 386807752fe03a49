//! Late work: what is not back when its round closes may count in the next round, with less weight.

use super::collect::{Open, close};
use super::{Engine, FoldKind, Reject};
use crate::id::{AssignmentId, MemberName, Millis, Round};
use crate::spec;
use crate::update::UpdateRef;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Work of the round that closed last, and what came of it since.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Late {
    /// The round that it was given in.
    pub(super) round: Round,
    /// When it should have been back.
    pub(super) deadline: Millis,
    pub(super) open: BTreeMap<AssignmentId, Open>,
    pub(super) answered: BTreeMap<MemberName, UpdateRef>,
}

impl Late {
    /// Members that are still waited for.
    pub fn waiting(&self) -> impl Iterator<Item = &MemberName> {
        self.open.values().map(|o| &o.assignment.member)
    }

    /// Number of late answers that wait for the next fold.
    pub fn answered(&self) -> usize {
        self.answered.len()
    }

    /// True if the assignment is late work, open or answered.
    pub(super) fn knows(&self, id: AssignmentId) -> bool {
        self.open.contains_key(&id) || self.answered.values().any(|u| u.assignment == id)
    }

    fn close(&mut self, id: AssignmentId, member: &MemberName) -> Result<Open, Reject> {
        close(&mut self.open, &self.answered, id, member)
    }
}

impl Engine {
    /// True if work of a round that closes now is waited for. After the last round nothing would come of it.
    pub(super) fn waits_for_late(&self, round: Round) -> bool {
        self.spec.cohort.late == spec::Late::NextRound && round < self.spec.rounds
    }

    pub(super) fn answered_late(&mut self, update: UpdateRef) -> Result<(), Reject> {
        let member = update.member.clone();
        self.state.late.close(update.assignment, &member)?;
        self.state.late.answered.insert(member.clone(), update);
        self.state.tally.accepted += 1;
        self.trust(&member);
        Ok(())
    }

    /// Late work is not given again: the next round has its own.
    pub(super) fn late_ended_badly(&mut self, member: &MemberName, id: AssignmentId, failed: bool) -> Result<(), Reject> {
        self.state.late.close(id, member)?;
        self.state.tally.ended_badly(failed);
        self.strike(member);
        Ok(())
    }

    /// Folds the round that has just closed with the late answers of the round before, and keeps what is open for the
    /// next one.
    ///
    /// A member that has a fresh answer counts with that one alone.
    pub(super) fn fold_round(&mut self, now: Millis, mut answers: Vec<UpdateRef>, closed: Late) {
        let round = closed.round;
        let before = std::mem::take(&mut self.state.late);
        self.give_up(now, before.open, before.deadline);
        let fresh: BTreeSet<MemberName> = answers.iter().map(|a| a.member.clone()).collect();
        let mut stale = BTreeMap::new();
        for (member, update) in before.answered {
            if fresh.contains(&member) {
                self.state.tally.unused(1);
            } else {
                stale.insert(member, round - before.round);
                answers.push(update);
            }
        }
        answers.sort_by(|a, b| a.member.cmp(&b.member));
        if self.waits_for_late(round) {
            self.state.late = closed;
        } else {
            self.cancel(closed.open);
        }
        self.fold(FoldKind::Round, round, answers, stale);
    }

    /// Late work that is still not back is not waited for any longer. It has expired if its own deadline is over.
    fn give_up(&mut self, now: Millis, open: BTreeMap<AssignmentId, Open>, deadline: Millis) {
        if now < deadline {
            self.cancel(open);
            return;
        }
        for open in open.into_values() {
            self.expire_one(&open.assignment);
        }
    }
}
