//! Refusals: values that the sender must see, as opposed to failures of ours.

use crate::id::{AssignmentId, MemberName, Round};

/// Why an event is refused. The state is then as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// The member never joined this run.
    #[error("member {0} has not joined this run")]
    UnknownMember(MemberName),
    /// Nobody waits for this work: it was cancelled, has expired, or belongs to an earlier round.
    #[error("assignment {0} is no longer open: it was cancelled, has expired, or its round is over")]
    NotOpen(AssignmentId),
    /// The assignment was given to somebody else.
    #[error("assignment {0} was not given to {1}")]
    NotYours(AssignmentId, MemberName),
    /// This answer is already in.
    #[error("assignment {0} is already answered")]
    AlreadyAnswered(AssignmentId),
    /// Only a run that nothing has happened to can start from the global of another.
    #[error("the run has begun already; only a new run can start from another run's global")]
    Begun,
    /// The fork starts where the run would be over.
    #[error("a run of {rounds} rounds cannot go on after round {round}; it needs more rounds")]
    ForkedTooLate {
        /// The round of the global.
        round: Round,
        /// Rounds of the run.
        rounds: Round,
    },
    /// The run is over.
    #[error("the run is over")]
    Over,
    /// The run is not paused.
    #[error("the run is not paused")]
    NotPaused,
    /// The run is paused.
    #[error("the run is paused already")]
    Paused,
    /// No fold of this number is awaited.
    #[error("no fold {0} is awaited")]
    StaleFold(u64),
}
