//! Every assignment has a number of its own and ends in one way.

use crate::cluster::disk::Entry;
use crate::cluster::watch::{Fact, Invariant, Known};
use std::collections::BTreeMap;
use tessera_common::id::AssignmentId;
use tessera_common::round::{Assignment, Event, State};

#[derive(Debug, Default)]
pub(crate) struct TallyAdds {
    given: BTreeMap<AssignmentId, Assignment>,
    ends: BTreeMap<AssignmentId, &'static str>,
}

impl TallyAdds {
    fn end(&mut self, entries: &[Entry]) -> Result<(), String> {
        for (_, event) in entries {
            let (id, how) = match event {
                Event::Answered(update) => (update.assignment, "answered"),
                Event::Refused { assignment, .. } => (*assignment, "refused"),
                Event::Failed { assignment, .. } => (*assignment, "failed"),
                _ => continue,
            };
            if let Some(before) = self.ends.insert(id, how) {
                return Err(format!("{id} is {before} and then {how}"));
            }
        }
        Ok(())
    }

    /// The tally counts what the journal has. An answer that came during a pause and was one too many is dropped.
    fn counts(&self, state: &State) -> Result<(), String> {
        let count = |how| self.ends.values().filter(|h| **h == how).count() as u64;
        let (answered, refused, t) = (count("answered"), count("refused"), state.tally);
        let dropped = answered.checked_sub(t.accepted);
        if t.rejected == refused && dropped.is_some_and(|n| n <= t.dropped) {
            Ok(())
        } else {
            Err(format!("{answered} answers and {refused} refusals are in the journal, the tally is {t:?}"))
        }
    }
}

fn adds_up(state: &State, open: usize) -> Result<(), String> {
    let (t, open) = (state.tally, open as u64);
    if t.given == t.accepted + t.rejected + t.dropped + t.expired + open {
        Ok(())
    } else {
        Err(format!("{t:?} and {open} open ones do not add up"))
    }
}

impl Invariant for TallyAdds {
    fn name(&self) -> &'static str {
        "tally"
    }

    fn see(&mut self, fact: &Fact<'_>, _: &Known) -> Result<(), String> {
        match fact {
            Fact::Given(assignment) => match self.given.insert(assignment.id, (*assignment).clone()) {
                Some(before) if before != **assignment => Err(format!("{before:?} became {assignment:?}")),
                _ => Ok(()),
            },
            Fact::Durable(entries) => self.end(entries),
            Fact::Restarted(restart) => {
                self.ends.clear();
                self.end(restart.entries)?;
                self.counts(restart.state)
            }
            Fact::Step { state: Some(state), open, .. } => {
                adds_up(state, *open)?;
                self.counts(state)
            }
            _ => Ok(()),
        }
    }
}
