//! How often an assignment was begun: work that ends its process every time must not be tried for ever.

use super::Outbox;
use crate::disk;
use crate::fault::point;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use tessera_common::id::{AssignmentId, Digest, RunId};
use tessera_common::round::Assignment;

/// An assignment that was begun so often without an end is not begun again.
pub(crate) const MOST_STARTS: u32 = 3;

impl Outbox {
    fn marker(&self, run: &RunId, id: AssignmentId) -> PathBuf {
        self.folder(run).join(format!("{}.started", id.0))
    }

    /// Notes that this assignment is begun, and says how often it was begun before without an end. At [`MOST_STARTS`] nothing
    /// is noted: it is not to be begun.
    ///
    /// The note outlives the process, not the machine: it is not synced.
    pub(crate) fn begin(&self, run: &RunId, spec: &Digest, assignment: &Assignment) -> u32 {
        let path = self.marker(run, assignment.id);
        let of = identity(spec, assignment);
        let before = starts(&path, &of);
        if before < MOST_STARTS {
            let note = format!("{} {of}\n", before + 1);
            let written = self.make(&self.folder(run)).and_then(|()| fs::write(&path, note));
            self.tell(written, "cannot note that work is begun");
            point("agent/marker-written");
        }
        before
    }

    /// Notes that the work has ended, or that it never began.
    pub(crate) fn ended(&self, run: &RunId, id: AssignmentId) {
        self.tell(disk::remove(&self.marker(run, id)), "cannot note that work has ended");
    }
}

/// What an assignment is, with the spec of its run: ids come again when a coordinator is set up anew.
fn identity(spec: &Digest, assignment: &Assignment) -> Digest {
    Digest::of(format!("{spec} {assignment:?}").as_bytes())
}

/// The count in a file if it is of this very assignment; 0 if it is not, or is damaged.
fn starts(path: &Path, of: &Digest) -> u32 {
    let read = || -> io::Result<Option<u32>> {
        let text = fs::read_to_string(path)?;
        let parts = text.trim_end().split_once(' ');
        Ok(parts.filter(|(_, found)| *found == of.to_string()).and_then(|(count, _)| count.parse().ok()))
    };
    read().ok().flatten().unwrap_or(0)
}
