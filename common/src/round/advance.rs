//! How a phase goes on: time, members that are gone, replacements, and the moment when it has its answers.

use super::collect::{Open, metrics_of};
use super::{Assignment, Collect, Command, Engine, FoldKind, Late, Member, PauseCause, Work, pause};
use crate::id::{AssignmentId, MemberName, Millis};
use crate::rng;
use std::collections::BTreeMap;

impl Member {
    /// When a phase that waits `limit` for somebody offline waits no longer for this member.
    fn missed_at(&self, limit: Millis) -> Option<Millis> {
        (!self.online).then(|| self.since.saturating_add(limit))
    }
}

impl Engine {
    pub(super) fn ticked(&mut self, now: Millis) {
        let dropped = self.drop_absent(now);
        let round = self.current_round();
        let Some(collect) = self.state.phase.collect() else { return };
        let (over, enough) = (now >= collect.deadline, collect.accepted.len() >= collect.quorum);
        if over && enough && collect.work == Work::Fit && self.waits_for_late(round) {
            self.conclude(now);
            return;
        }
        if over {
            self.expire(now);
        }
        // only now: who is asked here has its full time
        if dropped && !(over && enough) {
            self.replace_dropped();
        }
        if over || dropped || self.state.phase.collect().is_some_and(|c| c.complete(now)) {
            self.advance(now);
        }
    }

    /// The deadline is over: work that is not back has expired. It is given again if there is not enough without it.
    fn expire(&mut self, now: Millis) {
        let next = self.deadline(now);
        let retries = self.spec.cohort.retries;
        let Some(collect) = self.state.phase.collect_mut() else { return };
        let expired = std::mem::take(&mut collect.open);
        collect.deadline = next;
        let enough = collect.accepted.len() >= collect.quorum;
        for open in expired.into_values() {
            let member = open.assignment.member.clone();
            self.expire_one(&open.assignment);
            if !enough && open.attempt < retries {
                let online = self.state.members.get(&member).is_some_and(|m| m.online);
                let stand_in = if online { None } else { self.replacement() };
                self.ask_again(stand_in.unwrap_or(member), &open);
            }
        }
    }

    pub(super) fn expire_one(&mut self, assignment: &Assignment) {
        let Assignment { id, member, .. } = assignment.clone();
        self.state.tally.expired += 1;
        self.commands.push_back(Command::Cancel { member: member.clone(), assignment: id });
        self.strike(&member);
    }

    pub(super) fn cancel(&mut self, open: BTreeMap<AssignmentId, Open>) {
        self.state.tally.dropped += open.len() as u64;
        let cancels = open.into_values().map(|o| Command::Cancel { member: o.assignment.member, assignment: o.assignment.id });
        self.commands.extend(cancels);
    }

    // ---- members that are gone ----

    fn absence(&self) -> Option<Millis> {
        self.spec.cohort.absence.map(|a| a.as_millis() as Millis)
    }

    /// When the first member that is waited for has been offline for too long.
    pub(super) fn absence_ends(&self, collect: &Collect) -> Option<Millis> {
        let limit = self.absence()?;
        collect.waiting().filter_map(|m| self.state.members.get(m)?.missed_at(limit)).min()
    }

    /// Ends work of members that are offline for too long. True if there was any.
    fn drop_absent(&mut self, now: Millis) -> bool {
        let Some(limit) = self.absence() else { return false };
        let (members, phase) = (&self.state.members, &mut self.state.phase);
        let Some(collect) = phase.collect_mut() else { return false };
        let gone = |open: &Open| {
            let missed = members.get(&open.assignment.member).and_then(|m| m.missed_at(limit));
            missed.is_some_and(|at| at <= now)
        };
        let (dropped, open): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut collect.open).into_iter().partition(|(_, open)| gone(open));
        collect.open = open;
        let Some(open) = dropped.values().next() else { return false };
        collect.last_fault = Some(format!("{}: offline for longer than cohort.absence", open.assignment.member));
        self.cancel(dropped);
        true
    }

    /// Finds replacements for members that are gone, as far as they are needed.
    fn replace_dropped(&mut self) {
        while self.state.phase.collect().is_some_and(short)
            && let Some(member) = self.replacement()
        {
            self.ask_one_more(member);
        }
    }

    // ---- replacements ----

    /// Members that could stand in for another in this phase, in order of name: online, and not asked in it yet.
    pub(super) fn stand_ins(&self, collect: &Collect) -> Vec<MemberName> {
        let replaces = match collect.work {
            Work::Fit | Work::Initialise => true,
            // surveys ask all but those that rest
            Work::SurveyInputs | Work::SurveyFeatures => self.spec.rules >= 2,
            Work::Evaluate => false,
        };
        let online = |name: &MemberName| self.state.members.get(name).is_some_and(|m| m.online);
        let free = |name: &MemberName| replaces && !collect.asked.contains_key(name) && online(name);
        self.pool().into_iter().filter(free).collect()
    }

    /// A stand-in, drawn from the run's stream. Those that rest come last.
    fn replacement(&self) -> Option<MemberName> {
        let collect = self.state.phase.collect()?;
        let free = self.awake(self.stand_ins(collect), 1, self.current_round());
        // each replacement draws anew, so the stream takes the number of the assignment
        let purpose = format!("replace-{}", self.state.next_assignment);
        rng::stream(self.spec.seed, &purpose, "", 0).choose(&free, 1).pop()
    }

    /// Asks another member for what the phase collects.
    pub(super) fn ask_one_more(&mut self, member: MemberName) {
        let round = self.current_round();
        let Some(work) = self.state.phase.collect().map(Collect::work) else { return };
        let assignment = self.assign(member, work, round);
        if let Some(collect) = self.state.phase.collect_mut() {
            collect.add(assignment, 0);
        }
    }

    // ---- the end of a phase ----

    /// Goes on if the phase has what it needs, finds replacements if it can, or pauses.
    pub(super) fn advance(&mut self, now: Millis) {
        while let Some(collect) = self.state.phase.collect().filter(|c| c.starved()) {
            let reason = pause::starved_text(collect);
            let Some(member) = self.replacement() else {
                self.pause(PauseCause::Starved, reason);
                return;
            };
            self.ask_one_more(member);
        }
        if self.state.phase.collect().is_some_and(|c| c.complete(now)) {
            self.conclude(now);
        }
    }

    /// The phase has its answers.
    fn conclude(&mut self, now: Millis) {
        let (round, rules) = (self.current_round(), self.spec.rules);
        let Some(collect) = self.state.phase.collect_mut() else { return };
        let (work, deadline, open) = (collect.work, collect.deadline, std::mem::take(&mut collect.open));
        // under rules 1 all answers that came during a pause were used
        let most = if rules >= 2 { collect.most } else { usize::MAX };
        let (answers, surplus) = collect.take_answers(most);
        self.state.tally.unused(surplus);
        let kind = match work {
            Work::Fit => return self.fold_round(now, answers, Late { round, deadline, open, answered: BTreeMap::new() }),
            Work::SurveyInputs => FoldKind::Inputs,
            Work::Initialise => FoldKind::Initial,
            Work::SurveyFeatures => FoldKind::Features,
            Work::Evaluate => {
                self.cancel(open);
                return self.evaluated(now, metrics_of(&answers));
            }
        };
        self.cancel(open);
        self.fold(kind, round, answers, BTreeMap::new());
    }
}

/// Fewer can still answer than the phase needs: the whole cohort of a round, the quorum of anything else.
fn short(collect: &Collect) -> bool {
    let needed = if matches!(collect.work, Work::Fit | Work::Initialise) { collect.most } else { collect.quorum };
    collect.candidates() < needed
}
