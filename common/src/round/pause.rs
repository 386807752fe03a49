//! Pausing, going on, and the end of a run.

use super::{Collect, Command, Engine, Outcome, Phase, Reject};
use crate::id::{MemberName, Millis};

impl Engine {
    pub(super) fn finish(&mut self, outcome: Outcome) {
        self.state.phase = Phase::Done(outcome);
        self.commands.push_back(Command::Finish(outcome));
    }

    pub(super) fn pause(&mut self, reason: String) {
        let then = Box::new(std::mem::replace(&mut self.state.phase, Phase::Waiting));
        self.commands.push_back(Command::Pause { reason: reason.clone() });
        self.state.phase = Phase::Paused { reason, then };
    }

    pub(super) fn resume(&mut self, now: Millis) -> Result<(), Reject> {
        let Phase::Paused { then, .. } = &self.state.phase else {
            return Err(if matches!(self.state.phase, Phase::Done(_)) { Reject::Over } else { Reject::NotPaused });
        };
        self.state.phase = then.as_ref().clone();
        let deadline = self.deadline(now);
        if let Phase::Aggregating { fold, .. } = &self.state.phase {
            self.commands.push_back(Command::Fold(fold.clone()));
        }
        if let Some(collect) = self.state.phase.collect_mut() {
            collect.deadline = deadline;
            let open: Vec<Command> = collect.open.values().map(|o| Command::Assign(o.assignment.clone())).collect();
            self.commands.extend(open);
        }
        if self.state.phase == Phase::Waiting {
            self.start_if_ready(now);
        }
        self.ask_missing();
        self.advance(now);
        Ok(())
    }

    /// After a pause for want of answers: everybody who was asked and did not answer is asked again.
    fn ask_missing(&mut self) {
        let round = self.current_round();
        let Some(collect) = self.state.phase.collect().filter(|c| c.starved()) else { return };
        let work = collect.work;
        let silent: Vec<MemberName> = collect.asked.iter().filter(|m| !collect.accepted.contains_key(*m)).cloned().collect();
        for member in silent {
            let assignment = self.assign(member, work, round);
            if let Some(collect) = self.state.phase.collect_mut() {
                collect.add(assignment, 0);
            }
        }
    }

    pub(super) fn stop(&mut self) {
        if let Some(collect) = self.state.phase.collect_mut() {
            let open = std::mem::take(&mut collect.open);
            self.state.tally.dropped += open.len() as u64;
            let cancels =
                open.into_values().map(|o| Command::Cancel { member: o.assignment.member, assignment: o.assignment.id });
            self.commands.extend(cancels);
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
