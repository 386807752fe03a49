//! What can go wrong, how often, and mistakes that can be planted in the model.

use tessera_common::rng::{Stream, stream};

/// Something that goes wrong. The first group are places at which the coordinator dies, the second those of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    JournalBeforeWrite,
    JournalAfterWrite,
    JournalAfterFsync,
    BeforeCommand,
    AfterCommands,
    BeforeSnapshot,
    AfterSnapshot,
    BeforeVerdict,
    AfterVerdict,
    BlobBeforeStore,
    BlobAfterStore,
    FoldBeforeStore,
    FoldAfterStore,
    Loading,
    CoordinatorIdle,
    AgentBeforeTraining,
    AgentAfterTraining,
    AgentBeforeSend,
    AgentAfterSend,
    AgentBeforeVerdict,
    AgentAfterVerdict,
    AgentIdle,
    TailLost,
    TailTorn,
    TailKept,
    StoreLags,
    StoreLost,
    ClockForward,
    ClockBack,
    MessageLost,
    MessageDuplicated,
    MessageReordered,
    MessageDelayed,
    LinkCut,
    LinkHalfOpen,
    Absence,
    SlowTraining,
    TaskFailed,
    BadAnswer,
    FoldFailed,
    DiskFull,
    OperatorPause,
}

use Fault::*;

/// Every fault, and how likely it is each time that it could happen.
pub(crate) const FAULTS: [(Fault, f64); 42] = [
    (JournalBeforeWrite, 0.006),
    (JournalAfterWrite, 0.012),
    (JournalAfterFsync, 0.006),
    (BeforeCommand, 0.006),
    (AfterCommands, 0.006),
    (BeforeSnapshot, 0.02),
    (AfterSnapshot, 0.02),
    (BeforeVerdict, 0.01),
    (AfterVerdict, 0.01),
    (BlobBeforeStore, 0.008),
    (BlobAfterStore, 0.008),
    (FoldBeforeStore, 0.03),
    (FoldAfterStore, 0.03),
    (Loading, 0.1),
    (CoordinatorIdle, 0.01),
    (AgentBeforeTraining, 0.01),
    (AgentAfterTraining, 0.01),
    (AgentBeforeSend, 0.01),
    (AgentAfterSend, 0.01),
    (AgentBeforeVerdict, 0.01),
    (AgentAfterVerdict, 0.01),
    (AgentIdle, 0.01),
    // of a crash that has an unsynced tail: one of these three
    (TailLost, 0.3),
    (TailTorn, 0.5),
    (TailKept, 1.0),
    (StoreLags, 0.5),
    (StoreLost, 0.1),
    (ClockForward, 0.3),
    (ClockBack, 0.3),
    (MessageLost, 0.012),
    (MessageDuplicated, 0.012),
    (MessageReordered, 0.012),
    (MessageDelayed, 0.02),
    (LinkCut, 0.02),
    (LinkHalfOpen, 0.01),
    (Absence, 0.01),
    (SlowTraining, 0.03),
    (TaskFailed, 0.03),
    (BadAnswer, 0.02),
    (FoldFailed, 0.03),
    (DiskFull, 0.008),
    (OperatorPause, 0.01),
];

/// Most crashes of a run, of coordinator and agents together: it must get somewhere in between.
const CRASHES: u32 = 25;

impl Fault {
    pub(crate) fn is_crash(self) -> bool {
        self <= AgentIdle
    }

    /// Faults that change what is learned, and so have no place where the result must stay the same.
    pub(crate) fn changes_the_result(self) -> bool {
        matches!(self, TaskFailed | BadAnswer)
    }
}

/// A mistake in the model, to see that the invariants notice it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Planted {
    /// Verdicts leave before their events are durable.
    AcknowledgedBeforeFsync,
    /// Commands are carried out before their events are durable.
    EffectsBeforeFsync,
    /// What became of an answer is not kept.
    ReceiptForgotten,
    /// The agent sends an answer, then stores it.
    OutboxStoredAfterSending,
    /// The agent does not keep answers that it sent.
    OutboxForgotten,
    /// A message that comes twice is taken twice, and its answer counted twice.
    DuplicateCounted,
    /// An assignment that is given twice is done twice.
    DuplicateTrained,
    /// The engine is not told of a restart.
    RestartForgotten,
    /// A lost message ends no connection.
    GapIgnored,
    /// A member that connects again does not join again.
    JoinForgotten,
    /// An answer counts before its blob is durable.
    BlobNotSynced,
    /// A snapshot is taken before its events are durable, and used without looking at its place in the journal.
    SnapshotUnchecked,
    /// An answer is taken for whatever its member is asked at present.
    AnswerToAnotherRound,
    /// A fold is begun with fewer answers than it was given.
    QuorumIgnored,
    /// Records that are durable are cut off at a restart.
    JournalCutShort,
    /// An assignment is told under the number of the one before.
    NumberReused,
    /// What was told of the run is not in its snapshot.
    HistoryForgotten,
    /// A fold that is under way after a restart has another result.
    FoldDepends,
    /// Work of a member that is away has failed.
    AwayIsFailed,
}

pub(crate) const PLANTED: [Planted; 19] = [
    Planted::AcknowledgedBeforeFsync,
    Planted::EffectsBeforeFsync,
    Planted::ReceiptForgotten,
    Planted::OutboxStoredAfterSending,
    Planted::OutboxForgotten,
    Planted::DuplicateCounted,
    Planted::DuplicateTrained,
    Planted::RestartForgotten,
    Planted::GapIgnored,
    Planted::JoinForgotten,
    Planted::BlobNotSynced,
    Planted::SnapshotUnchecked,
    Planted::AnswerToAnotherRound,
    Planted::QuorumIgnored,
    Planted::JournalCutShort,
    Planted::NumberReused,
    Planted::HistoryForgotten,
    Planted::FoldDepends,
    Planted::AwayIsFailed,
];

/// How often each fault happened, in the order of [`FAULTS`].
pub(crate) type Counts = [u64; FAULTS.len()];

/// Decides what goes wrong.
#[derive(Debug)]
pub(crate) struct Dice {
    draws: Stream,
    rates: [f64; FAULTS.len()],
    /// False once the good days have begun.
    pub(crate) active: bool,
    crashes_left: u32,
    pub(crate) counts: Counts,
}

impl Dice {
    /// Every seed has its own mixture of faults: some are absent, some frequent, and one place to die is a favourite.
    pub(crate) fn new(seed: u64, active: bool, same_result: bool) -> Self {
        let mut draws = stream(seed, "faults", "", 0);
        let mut rates = [0.0; FAULTS.len()];
        for (rate, (fault, usual)) in rates.iter_mut().zip(FAULTS) {
            let factor = [0.0, 0.5, 1.0, 4.0][draws.below(4)];
            let absent = same_result && fault.changes_the_result();
            *rate = if absent { 0.0 } else { f64::min(usual * factor, 0.9) };
        }
        let places = FAULTS.iter().filter(|(fault, _)| fault.is_crash()).count();
        rates[draws.below(places)] = 0.15;
        rates[TailKept as usize] = 1.0;
        Self { draws, rates, active, crashes_left: CRASHES, counts: [0; FAULTS.len()] }
    }

    /// True if the fault happens here and now.
    pub(crate) fn hit(&mut self, fault: Fault) -> bool {
        let rate = self.rates[fault as usize];
        if !self.active || rate == 0.0 || self.draws.uniform() >= rate {
            return false;
        }
        if fault.is_crash() {
            if self.crashes_left == 0 {
                return false;
            }
            self.crashes_left -= 1;
        }
        self.counts[fault as usize] += 1;
        true
    }

    /// Counts a fault that is not drawn but follows from another.
    pub(crate) fn count(&mut self, fault: Fault) {
        self.counts[fault as usize] += 1;
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.draws.below(bound)
    }
}
