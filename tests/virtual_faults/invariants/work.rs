//! Nobody trains twice: not for an answer that has left its agent, and not for work that was given twice.

use crate::cluster::watch::{Fact, Invariant, Known};
use std::collections::BTreeSet;
use tessera_common::id::AssignmentId;

#[derive(Debug, Default)]
pub(crate) struct NotTwice {
    sent: BTreeSet<AssignmentId>,
    /// By agent and its process.
    trained: BTreeSet<(usize, u32, AssignmentId)>,
}

impl Invariant for NotTwice {
    fn name(&self) -> &'static str {
        "work"
    }

    fn see(&mut self, fact: &Fact<'_>, _: &Known) -> Result<(), String> {
        match fact {
            Fact::Sent { assignment } => drop(self.sent.insert(*assignment)),
            Fact::Trained { agent, incarnation, assignment } => {
                if self.sent.contains(assignment) {
                    return Err(format!("agent {agent} trains for {assignment} again, whose answer had left"));
                }
                if !self.trained.insert((*agent, *incarnation, *assignment)) {
                    return Err(format!("agent {agent} trains twice for {assignment}"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
