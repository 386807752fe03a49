//! What the engine has folded, and what it goes on with.

use super::collect::metrics_of;
use super::{Command, Engine, Fold, FoldKind, PauseCause, Phase, Published, Reject};
use crate::global::GlobalRef;
use crate::id::{Digest, MemberName, Millis, Round};
use crate::metric::Metrics;
use crate::update::UpdateRef;
use std::collections::BTreeMap;

impl Engine {
    pub(super) fn fold(&mut self, kind: FoldKind, round: Round, answers: Vec<UpdateRef>, stale: BTreeMap<MemberName, u32>) {
        let metrics = metrics_of(&answers);
        let fold = Fold {
            id: self.state.next_fold,
            kind,
            round,
            base: self.state.global.map(|g| g.digest),
            inputs: self.state.inputs.filter(|_| kind == FoldKind::Initial),
            answers,
            stale,
        };
        self.state.next_fold += 1;
        self.commands.push_back(Command::Fold(fold.clone()));
        self.state.phase = Phase::Aggregating { fold, metrics };
    }

    /// The fold of this number, if it is the one that is awaited, and the metrics that came with its answers.
    fn awaited(&self, id: u64) -> Result<(&Fold, &Metrics), Reject> {
        match &self.state.phase {
            Phase::Aggregating { fold, metrics } if fold.id == id => Ok((fold, metrics)),
            Phase::Waiting
            | Phase::Surveying(_)
            | Phase::Initialising(_)
            | Phase::Fitting { .. }
            | Phase::Aggregating { .. }
            | Phase::Evaluating(_)
            | Phase::Done(_)
            | Phase::Paused { .. } => Err(Reject::StaleFold(id)),
        }
    }

    pub(super) fn folded(&mut self, now: Millis, id: u64, digest: Digest) -> Result<(), Reject> {
        let (fold, metrics) = self.awaited(id)?;
        let (kind, round, metrics) = (fold.kind, fold.round, metrics.clone());
        let members = fold.answers.iter().map(|a| a.member.clone()).collect();
        match kind {
            FoldKind::Inputs => {
                self.state.inputs = Some(digest);
                self.initialise(now);
            }
            FoldKind::Initial | FoldKind::Round => {
                self.state.global = Some(GlobalRef { round, digest });
                self.commands.push_back(Command::Publish(Published { round, digest, members, metrics }));
                self.after_publish(now, round);
            }
            FoldKind::Features => {
                self.state.statistics = Some(GlobalRef { round, digest });
                self.evaluate(now);
            }
        }
        Ok(())
    }

    pub(super) fn fold_failed(&mut self, id: u64, reason: String) -> Result<(), Reject> {
        let round = self.awaited(id)?.0.round;
        self.pause(PauseCause::Fold, format!("the answers of round {round} could not be folded: {reason}"));
        Ok(())
    }
}
