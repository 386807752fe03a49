//! What is seen of a run, and who looks at it.

use super::disk::{Entry, Told};
use super::invariants;
use super::setting::Setting;
use std::rc::Rc;
use tessera_common::id::{AssignmentId, Digest, MemberName, Millis};
use tessera_common::round::{Assignment, Fold, Published, State};
use tessera_common::update::UpdateRef;

/// Something that the invariants look at. Each is reported at the moment at which it takes effect outside of the process
/// that does it.
#[derive(Debug)]
pub(crate) enum Fact<'a> {
    /// The engine accepted an answer.
    Counted(&'a UpdateRef),
    /// Entries of the journal are fsynced.
    Durable(&'a [Entry]),
    /// A blob is durable.
    BlobKept(Digest),
    /// Work was told to a member.
    Given(&'a Assignment),
    /// A fold was begun.
    Folding(&'a Fold),
    /// A global is out.
    Published(&'a Published),
    /// A verdict left the coordinator.
    Verdict { member: &'a MemberName, assignment: AssignmentId, refused: Option<&'a str> },
    /// An agent has worked out an answer.
    Trained { agent: usize, incarnation: u32, assignment: AssignmentId },
    /// An answer left its agent.
    Sent { assignment: AssignmentId },
    /// The coordinator was started again and has read what it kept.
    Restarted(&'a Restart<'a>),
    /// A step of the simulation is over. `open` assignments are open by the coordinator's own books.
    Step { now: Millis, steps: u64, state: Option<&'a State>, open: usize },
    /// The run is over, and nobody holds an answer any more.
    Ended { history: &'a [Told], state: &'a State },
}

/// What a start found on its disk.
#[derive(Debug)]
pub(crate) struct Restart<'a> {
    /// The whole journal.
    pub(crate) entries: &'a [Entry],
    /// The state that it works with.
    pub(crate) state: &'a State,
    /// The state of the engine before the crash, after as many events.
    pub(crate) before: Option<&'a State>,
    pub(crate) history: &'a [Told],
}

/// What an invariant may know of the run beforehand.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) setting: Setting,
    /// History of the same run without faults.
    pub(crate) undisturbed: Option<Vec<Told>>,
}

/// Something that must always hold.
pub(crate) trait Invariant: std::fmt::Debug {
    /// Its name, that of its file.
    fn name(&self) -> &'static str;

    /// Looks at what happened.
    ///
    /// # Errors
    /// How it is violated.
    fn see(&mut self, fact: &Fact<'_>, known: &Known) -> Result<(), String>;
}

/// All invariants, and what they found.
#[derive(Debug)]
pub(crate) struct Watch {
    known: Rc<Known>,
    invariants: Vec<Box<dyn Invariant>>,
    pub(crate) violations: Vec<(&'static str, String)>,
}

impl Watch {
    pub(crate) fn new(known: Rc<Known>) -> Self {
        Self { known, invariants: invariants::all(), violations: Vec::new() }
    }

    pub(crate) fn see(&mut self, fact: &Fact<'_>) {
        for invariant in &mut self.invariants {
            if let Err(what) = invariant.see(fact, &self.known) {
                self.violations.push((invariant.name(), what));
            }
        }
    }
}
