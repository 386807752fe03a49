//! Starting from another run's global, and what a run needs of what is stored.

use super::{Command, Engine, Phase, Published, Reject, State};
use crate::global::GlobalRef;
use crate::id::{Digest, Round};
use crate::metric::Metrics;
use std::collections::BTreeSet;

impl Engine {
    /// The global of another run is this run's global of that round; the run goes on when its members have joined.
    pub(super) fn forked(&mut self, round: Round, digest: Digest) -> Result<(), Reject> {
        let rounds = self.spec.rounds;
        if self.state.phase != Phase::Waiting || self.state.global.is_some() || !self.state.members.is_empty() {
            return Err(Reject::Begun);
        }
        if round >= rounds {
            return Err(Reject::ForkedTooLate { round, rounds });
        }
        self.state.global = Some(GlobalRef { round, digest });
        let published = Published { round, digest, members: Vec::new(), metrics: Metrics::default() };
        self.commands.push_back(Command::Publish(published));
        Ok(())
    }
}

impl State {
    /// Every digest that the run still needs, also under a pause: its global, statistics and sums over inputs, the fold
    /// under way, answers that count, and what open work is done with.
    pub fn references(&self) -> BTreeSet<Digest> {
        let mut all: BTreeSet<Digest> = [self.global, self.statistics].into_iter().flatten().map(|g| g.digest).collect();
        all.extend(self.inputs);
        let phase = self.phase.under_pause();
        if let Phase::Aggregating { fold, .. } = phase {
            all.extend(fold.base.into_iter().chain(fold.inputs).chain(fold.answers.iter().filter_map(|a| a.blob)));
        }
        if let Some(collect) = phase.collect() {
            all.extend(collect.accepted.values().filter_map(|a| a.blob));
            all.extend(collect.open.values().flat_map(|o| [o.assignment.global, o.assignment.statistics]).flatten());
        }
        all.extend(self.late.answered.values().filter_map(|a| a.blob));
        all.extend(self.late.open.values().filter_map(|o| o.assignment.global));
        all
    }
}
