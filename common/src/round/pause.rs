//! Pausing, going on, and the end of a run.

use super::{Collect, Command, Engine, Outcome, PauseCause, Phase, Reject};
use crate::id::{MemberName, Millis};

impl Engine {
    pub(super) fn finish(&mut self, outcome: Outcome) {
        self.state.phase = Phase::Done(outcome);
        self.commands.push_back(Command::Finish(outcome));
    }

    pub(super) fn pause(&mut self, cause: PauseCause, reason: String) {
        let then = Box::new(std::mem::replace(&mut self.state.phase, Phase::Waiting));
        self.commands.push_back(Command::Pause { reason: reason.clone() });
        self.state.phase = Phase::Paused { reason, cause, then };
    }

    /// A pause that would end by itself becomes one that does not.
    pub(super) fn pause_asked(&mut self, asked: String) -> Result<(), Reject> {
        let rules = self.spec.rules;
        match &mut self.state.phase {
            Phase::Paused { cause: cause @ PauseCause::Starved, reason, .. } if rules >= 2 => {
                (*cause, *reason) = (PauseCause::Asked, asked.clone());
                self.commands.push_back(Command::Pause { reason: asked });
            }
            Phase::Paused { .. } => return Err(Reject::Paused),
            Phase::Waiting
            | Phase::Surveying(_)
            | Phase::Initialising(_)
            | Phase::Fitting { .. }
            | Phase::Aggregating { .. }
            | Phase::Evaluating(_)
            | Phase::Done(_) => self.pause(PauseCause::Asked, asked),
        }
        Ok(())
    }

    pub(super) fn resume(&mut self, now: Millis) -> Result<(), Reject> {
        if !matches!(self.state.phase, Phase::Paused { .. }) {
            return Err(if matches!(self.state.phase, Phase::Done(_)) { Reject::Over } else { Reject::NotPaused });
        }
        self.go_on(now);
        Ok(())
    }

    /// Goes on after a pause.
    pub(super) fn go_on(&mut self, now: Millis) {
        let Phase::Paused { then, .. } = &self.state.phase else { return };
        self.state.phase = then.as_ref().clone();
        self.wait_anew(now);
        if let Phase::Aggregating { fold, .. } = &self.state.phase {
            self.commands.push_back(Command::Fold(fold.clone()));
        }
        let awaited = self.state.phase.collect().into_iter().flat_map(|c| c.open.values()).chain(self.state.late.open.values());
        self.commands.extend(awaited.map(|o| Command::Assign(o.assignment.clone())));
        if self.state.phase == Phase::Waiting {
            self.start_if_ready(now);
        }
        self.ask_missing();
        self.advance(now);
    }

    /// True if a pause for want of answers can end now that `member` has joined: it owes an answer, or could stand in.
    pub(super) fn helps(&self, member: &MemberName) -> bool {
        let Phase::Paused { cause: PauseCause::Starved, then, .. } = &self.state.phase else { return false };
        self.spec.rules >= 2
            && then.collect().is_some_and(|collect| {
                let owes = collect.asked.contains_key(member) && !collect.accepted.contains_key(member);
                owes || self.stand_ins(collect).contains(member)
            })
    }

    /// After a pause for want of answers: everybody who was asked and did not answer is asked again.
    fn ask_missing(&mut self) {
        let Some(collect) = self.state.phase.collect().filter(|c| c.starved()) else { return };
        let silent: Vec<MemberName> = collect.asked.keys().filter(|m| !collect.accepted.contains_key(*m)).cloned().collect();
        silent.into_iter().for_each(|member| self.ask_one_more(member));
    }

    pub(super) fn stop(&mut self) {
        let late = std::mem::take(&mut self.state.late);
        self.cancel(late.open);
        if let Some(collect) = self.state.phase.collect_mut() {
            let open = std::mem::take(&mut collect.open);
            self.cancel(open);
        } else if let Phase::Paused { then, .. } = &mut self.state.phase
            && let Some(collect) = then.collect_mut()
        {
            self.state.tally.dropped += collect.open.len() as u64;
        }
        self.finish(Outcome::Stopped);
    }
}

pub(super) fn starved_text(collect: &Collect) -> String {
    let (work, accepted, asked) = (collect.work, collect.accepted.len(), collect.asked.len());
    let last = collect.last_fault.as_ref().map(|f| format!("; the last fault, of {f}")).unwrap_or_default();
    format!("{work:?}: {accepted} usable answers of {asked} asked, {} are needed{last}", collect.quorum)
}
