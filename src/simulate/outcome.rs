//! What came out of a simulation: one record per method, which table, JSON and report are made from.

use std::collections::{BTreeMap, BTreeSet};
use tessera_common::id::Digest;
use tessera_common::metric::Metrics;
use tessera_common::spec::{Inference, Library, RunSpec};

/// A finished simulation.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Name of the spec.
    pub(super) name: String,
    /// Seed of everything.
    pub(super) seed: u64,
    /// How the data was cut, for people.
    pub(super) partition: String,
    /// The methods, in the order of the spec.
    pub(super) methods: Vec<Method>,
    /// Children that died and were started again.
    pub(super) restarts: u32,
    /// The command that makes it again.
    pub(super) command: String,
}

/// One method's run.
#[derive(Debug)]
pub(super) struct Method {
    pub(super) name: String,
    pub(super) run: String,
    pub(super) spec: RunSpec,
    pub(super) rounds: Vec<RoundRecord>,
    pub(super) evaluations: Vec<Evaluation>,
    /// Assignments that did not end well: member, how, why.
    pub(super) faults: Vec<(String, String, String)>,
    pub(super) global: Option<Digest>,
    pub(super) statistics: Option<Digest>,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
    pub(super) finished: bool,
    /// Why it did not finish, where the coordinator said so.
    pub(super) reason: Option<String>,
}

/// One published round.
#[derive(Debug)]
pub(super) struct RoundRecord {
    pub(super) round: u32,
    pub(super) members: usize,
    pub(super) loss: Option<f64>,
}

/// Metrics of one evaluation.
#[derive(Debug)]
pub(super) struct Evaluation {
    pub(super) round: u32,
    pub(super) metrics: Metrics,
}

/// Accuracies of one answer by subset of modalities.
pub(super) type Subsets = BTreeMap<String, f64>;

impl Evaluation {
    /// The split that is shown: the test samples, or the members' held-out ones where there are none.
    pub(super) fn split(&self) -> &'static str {
        if self.metrics.0.keys().any(|name| name.starts_with("test/")) { "test" } else { "held-out" }
    }

    /// Accuracies on the split that is shown, by answer and subset.
    pub(super) fn tested(&self) -> BTreeMap<String, Subsets> {
        self.answers(self.split())
    }

    /// Accuracies on a split by answer and subset.
    pub(super) fn answers(&self, split: &str) -> BTreeMap<String, Subsets> {
        let mut answers: BTreeMap<String, Subsets> = BTreeMap::new();
        for (name, metric) in &self.metrics.0 {
            let mut parts = name.splitn(3, '/');
            let (Some(of), Some(answer), Some(subset)) = (parts.next(), parts.next(), parts.next()) else { continue };
            // how well samples are found is no accuracy: see `recalls`
            if let (true, false, Some(value)) = (of == split, answer.contains('@'), metric.value()) {
                answers.entry(answer.to_owned()).or_default().insert(subset.to_owned(), value);
            }
        }
        answers
    }

    /// `recall@K` and `chance@K` on a split, by direction such as `image>text`; empty for models that match nothing.
    pub(super) fn recalls(&self, split: &str) -> BTreeMap<String, Subsets> {
        let mut recalls: BTreeMap<String, Subsets> = BTreeMap::new();
        let found = self.metrics.0.iter().filter_map(|(name, metric)| {
            let (of, rest) = name.split_once('/')?;
            let (measure, way) = rest.split_once('/')?;
            (of == split && measure.contains('@')).then_some((measure, way, metric.value()?))
        });
        found.for_each(|(measure, way, value)| {
            recalls.entry(measure.to_owned()).or_default().insert(way.to_owned(), value);
        });
        recalls
    }
}

impl Method {
    /// Name of the answer that the spec asks for; `auto` is decided per subset.
    pub(super) fn answer(&self) -> &'static str {
        let fresh = self.spec.prototypes.library == Library::Fresh;
        match self.spec.missing.inference {
            Inference::Head => "head",
            Inference::Near if fresh => "near*",
            Inference::Near => "near",
            Inference::Ncm if fresh => "ncm*",
            Inference::Ncm => "ncm",
            Inference::Whitened => "whitened",
            Inference::Auto => "auto",
        }
    }

    /// Accuracies by subset for the answer that the spec asks for.
    pub(super) fn subsets(&self, evaluation: &Evaluation) -> Subsets {
        let tested = evaluation.tested();
        if self.spec.missing.inference != Inference::Auto {
            return tested.get(self.answer()).cloned().unwrap_or_default();
        }
        let held_out = evaluation.answers("held-out");
        let subsets: BTreeSet<&String> = tested.values().flat_map(Subsets::keys).collect();
        let best = |subset: &str| {
            // On a tie the name that comes first in the alphabet, so that equal runs choose alike.
            let scored = held_out.iter().filter_map(|(answer, s)| Some((answer, *s.get(subset)?)));
            scored.reduce(|a, b| if b.1 > a.1 { b } else { a }).map(|(answer, _)| answer.clone())
        };
        subsets.into_iter().filter_map(|s| Some((s.clone(), *tested.get(&best(s)?)?.get(s)?))).collect()
    }

    /// The last evaluation.
    pub(super) fn last(&self) -> Option<&Evaluation> {
        self.evaluations.last()
    }
}

/// Order in which subsets are shown: small ones first, then by name.
pub(super) fn ordered<'a>(subsets: impl IntoIterator<Item = &'a String>) -> Vec<&'a String> {
    let mut all: Vec<&String> = subsets.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    all.sort_by_key(|s| (s.matches('+').count(), s.as_str()));
    all
}
