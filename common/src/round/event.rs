//! What happens to a run. Events are plain data: the journal keeps them, and a run is a fold over them.

use crate::id::{AssignmentId, Digest, MemberName, Round};
use crate::update::UpdateRef;
use serde::{Deserialize, Serialize};

/// What a member says of itself when it joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// It has data to train on.
    pub trains: bool,
    /// It has data to evaluate on.
    pub evaluates: bool,
    /// Modalities that it has, for people; names are checked where they matter, in its updates.
    pub modalities: Vec<String>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// The run starts from the global of another run. Only as the first event of a run.
    Forked {
        /// The other run.
        from: String,
        /// The round that published the global; the run goes on with the next one.
        round: Round,
        /// The global.
        global: Digest,
    },
    /// A member is reachable.
    Joined {
        /// Who.
        member: MemberName,
        /// What it has.
        info: MemberInfo,
    },
    /// A member is no longer reachable.
    Left {
        /// Who.
        member: MemberName,
    },
    /// A member answered; its blob, if any, is stored and checked.
    Answered(UpdateRef),
    /// A member answered with something that cannot be used.
    Refused {
        /// Who.
        member: MemberName,
        /// What it answered.
        assignment: AssignmentId,
        /// What is wrong with the answer.
        reason: String,
    },
    /// A member could not do what it was asked.
    Failed {
        /// Who.
        member: MemberName,
        /// What it was asked.
        assignment: AssignmentId,
        /// What went wrong.
        reason: String,
    },
    /// A fold is done and its result stored.
    Folded {
        /// Which.
        fold: u64,
        /// The stored result.
        digest: Digest,
    },
    /// A fold could not be done.
    FoldFailed {
        /// Which.
        fold: u64,
        /// What went wrong.
        reason: String,
    },
    /// Time passed. Needed only when a deadline is over.
    Ticked,
    /// The coordinator was restarted: nobody is connected, and no fold is running.
    Restarted,
    /// Somebody asked for a pause.
    PauseAsked {
        /// Why.
        reason: String,
    },
    /// Somebody asked to go on.
    ResumeAsked,
    /// Somebody asked for the end.
    StopAsked,
}
