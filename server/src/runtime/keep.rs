//! Which blobs a run keeps beyond those that it works with: its latest globals, the best one, and updates if asked for.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use tessera_common::id::{Digest, Round};
use tessera_common::metric::Metrics;
use tessera_common::spec::KeepSpec;

/// What a run keeps. Follows from its journal, hence the same after every restart.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    globals: BTreeMap<Round, Digest>,
    statistics: BTreeMap<Round, Digest>,
    /// Largest mean of the metric that `keep.best` names, and its round.
    best: Option<(f64, Round)>,
    /// Every update, if the spec asks for that.
    updates: BTreeSet<Digest>,
}

impl Kept {
    /// A global is out.
    pub(super) fn published(&mut self, round: Round, digest: Digest, keep: &KeepSpec) {
        self.globals.insert(round, digest);
        self.prune(keep);
    }

    /// A global was evaluated.
    pub(super) fn evaluated(&mut self, round: Round, statistics: Option<Digest>, metrics: &Metrics, keep: &KeepSpec) {
        if let Some(statistics) = statistics {
            self.statistics.insert(round, statistics);
        }
        let mean =
            keep.best.as_ref().and_then(|name| metrics.0.get(name)).and_then(|m| m.value()).filter(|mean| mean.is_finite());
        if let Some(mean) = mean
            && self.best.is_none_or(|(best, _)| mean > best)
        {
            self.best = Some((mean, round));
        }
        self.prune(keep);
    }

    /// An update counts.
    pub(super) fn answered(&mut self, blob: Option<Digest>, keep: &KeepSpec) {
        if keep.updates {
            self.updates.extend(blob);
        }
    }

    fn prune(&mut self, keep: &KeepSpec) {
        let best = self.best.map(|(_, round)| round);
        while self.globals.keys().filter(|round| Some(**round) != best).count() > keep.globals as usize {
            let Some(oldest) = self.globals.keys().copied().find(|round| Some(*round) != best) else { return };
            self.globals.remove(&oldest);
        }
        self.statistics.retain(|round, _| self.globals.contains_key(round));
    }

    /// Kept globals by round.
    pub(super) fn globals(&self) -> &BTreeMap<Round, Digest> {
        &self.globals
    }

    /// Everything that is kept.
    pub(super) fn digests(&self) -> impl Iterator<Item = Digest> {
        self.globals.values().chain(self.statistics.values()).chain(&self.updates).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tessera_common::metric::Metric;

    fn digest(n: u32) -> Digest {
        Digest::of(&n.to_le_bytes())
    }

    #[test]
    fn the_last_ones_and_the_best_one_are_kept() {
        let keep = KeepSpec { globals: 3, best: Some("accuracy".into()), updates: false };
        let mut kept = Kept::default();
        for (round, accuracy) in [(0, 0.1), (1, 0.9), (2, 0.5), (3, f64::NAN), (4, 0.9), (5, 0.2), (6, 0.3)] {
            kept.published(round, digest(round), &keep);
            let metrics = Metrics([("accuracy".to_owned(), Metric { sum: accuracy * 10.0, count: 10.0 })].into());
            kept.evaluated(round, Some(digest(round + 100)), &metrics, &keep);
            kept.answered(Some(digest(7)), &keep);
        }
        assert_eq!(kept.globals().keys().copied().collect::<Vec<_>>(), [1, 4, 5, 6], "the first of two equal ones is the best");
        let expected: BTreeSet<Digest> = [1, 4, 5, 6, 101, 104, 105, 106].map(digest).into();
        assert_eq!(kept.digests().collect::<BTreeSet<_>>(), expected);
    }

    #[test]
    fn updates_are_kept_if_the_spec_says_so() {
        let keep = KeepSpec { globals: 1, best: None, updates: true };
        let mut kept = Kept::default();
        kept.answered(Some(digest(1)), &keep);
        kept.answered(None, &keep);
        kept.published(0, digest(2), &keep);
        kept.published(1, digest(3), &keep);
        assert_eq!(kept.digests().collect::<BTreeSet<_>>(), [1, 3].map(digest).into());
    }
}
