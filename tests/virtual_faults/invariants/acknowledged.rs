//! No update that was acknowledged is asked for again, nor is it gone after a restart.

use crate::cluster::disk::Entry;
use crate::cluster::watch::{Fact, Invariant, Known};
use std::collections::{BTreeMap, BTreeSet};
use tessera_common::id::{AssignmentId, MemberName, Round};
use tessera_common::round::{Event, Work};

#[derive(Debug, Default)]
pub(crate) struct Acknowledged {
    given: BTreeMap<AssignmentId, (MemberName, String, Round)>,
    acknowledged: BTreeSet<AssignmentId>,
    /// Work that is done for good.
    done: BTreeSet<(MemberName, String, Round)>,
}

fn name(work: Work) -> String {
    format!("{work:?}")
}

fn answers(entries: &[Entry]) -> BTreeSet<AssignmentId> {
    let answered = entries.iter().filter_map(|(_, event)| match event {
        Event::Answered(update) => Some(update.assignment),
        _ => None,
    });
    answered.collect()
}

impl Invariant for Acknowledged {
    fn name(&self) -> &'static str {
        "acknowledged"
    }

    fn see(&mut self, fact: &Fact<'_>, _: &Known) -> Result<(), String> {
        match fact {
            Fact::Verdict { assignment, refused: None, .. } => {
                self.acknowledged.insert(*assignment);
                self.done.extend(self.given.get(assignment).cloned());
            }
            Fact::Given(a) => {
                let what = (a.member.clone(), name(a.work), a.round);
                if self.acknowledged.contains(&a.id) || self.done.contains(&what) {
                    return Err(format!(
                        "{} asks for what was acknowledged: {:?} of round {} by {}",
                        a.id, a.work, a.round, a.member
                    ));
                }
                self.given.insert(a.id, what);
            }
            Fact::Restarted(restart) => {
                let kept = answers(restart.entries);
                if let Some(lost) = self.acknowledged.difference(&kept).next() {
                    return Err(format!("the answer to {lost} was acknowledged, and is gone after a restart"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
