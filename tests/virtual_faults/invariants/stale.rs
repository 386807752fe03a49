//! What counts was made for the assignment that it answers: no answer of another round, work or global.

use crate::cluster::watch::{Fact, Invariant, Known};
use crate::cluster::work;
use std::collections::BTreeMap;
use tessera_common::id::AssignmentId;
use tessera_common::round::Assignment;

#[derive(Debug, Default)]
pub(crate) struct Stale {
    given: BTreeMap<AssignmentId, Assignment>,
}

impl Invariant for Stale {
    fn name(&self) -> &'static str {
        "stale"
    }

    fn see(&mut self, fact: &Fact<'_>, _: &Known) -> Result<(), String> {
        match fact {
            Fact::Given(assignment) => drop(self.given.insert(assignment.id, (*assignment).clone())),
            Fact::Counted(update) => {
                let id = update.assignment;
                let assignment = self.given.get(&id).ok_or(format!("an answer to {id} counts, which was given to nobody"))?;
                let expected = work::answer(assignment);
                if expected != **update {
                    return Err(format!("{id} is {assignment:?}, and {update:?} counts as its answer"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
