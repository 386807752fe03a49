//! What a member is told of its answer is true, and the same each time.

use crate::cluster::watch::{Fact, Invariant, Known};
use std::collections::{BTreeMap, BTreeSet};
use tessera_common::id::AssignmentId;
use tessera_common::round::Event;

#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    counted: BTreeSet<AssignmentId>,
    told: BTreeMap<AssignmentId, bool>,
}

impl Invariant for Verdicts {
    fn name(&self) -> &'static str {
        "verdicts"
    }

    fn see(&mut self, fact: &Fact<'_>, _: &Known) -> Result<(), String> {
        match fact {
            Fact::Counted(update) => {
                self.counted.insert(update.assignment);
                if self.told.get(&update.assignment) == Some(&false) {
                    return Err(format!("{} was told that its answer is refused, and now it counts", update.member));
                }
            }
            Fact::Restarted(restart) => {
                // what counted and was not durable never happened
                let answers = restart.entries.iter().filter_map(|(_, event)| match event {
                    Event::Answered(update) => Some(update.assignment),
                    _ => None,
                });
                self.counted = answers.collect();
            }
            Fact::Verdict { member, assignment, refused } => {
                let good = refused.is_none();
                if good != self.counted.contains(assignment) {
                    return Err(format!("{member} is told of {assignment}: refused {refused:?}, which is not true"));
                }
                if self.told.insert(*assignment, good).is_some_and(|before| before != good) {
                    return Err(format!("{member} is told of {assignment} that it is refused, and that it is not"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
