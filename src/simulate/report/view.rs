//! What the report says about the outcome: means, bests and sentences, computed in one place.

use super::super::outcome::{Evaluation, Method, Outcome, Subsets, ordered};
use super::markup::{in_percent, list, percent};
use std::collections::BTreeSet;

/// Answers in the order in which they are shown, and what each is.
pub(super) const ANSWERS: [(&str, &str); 6] = [
    ("head", "the fused head, with the run's fill for what is missing"),
    ("near", "the fused head, with the prototype of the nearest class for what is missing"),
    ("near*", "near, with fresh prototypes"),
    ("ncm", "the class whose prototypes are nearest to what is present by cosine (nearest class mean), no head"),
    ("ncm*", "ncm, with fresh prototypes"),
    ("whitened", "a sum of linear discriminants, one for each modality that is present"),
];

/// Most subsets that get a column and a chart each.
pub(super) const FEW: usize = 7;

/// Most methods that a caption names.
pub(super) const NAMED: usize = 4;

/// The outcome, and what follows from it.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) outcome: &'a Outcome,
    /// All subsets of modalities that were tested, in the order in which they are shown.
    pub(super) subsets: Vec<String>,
    /// Accuracy of each method's own answer by subset after its last evaluation; empty where there was none.
    pub(super) own: Vec<Subsets>,
}

/// Number of modalities in a subset.
pub(super) fn order(subset: &str) -> usize {
    subset.matches('+').count() + 1
}

/// Accuracies of all answers of a split, those that are known by name first.
pub(super) fn answers(evaluation: &Evaluation, split: &str) -> Vec<(String, Subsets)> {
    let rank = |name: &str| ANSWERS.iter().position(|(known, _)| *known == name).unwrap_or(ANSWERS.len());
    let mut answers: Vec<(String, Subsets)> = evaluation.answers(split).into_iter().collect();
    answers.sort_by_key(|(name, _)| rank(name));
    answers
}

impl<'a> View<'a> {
    /// Looks at an outcome.
    pub(super) fn of(outcome: &'a Outcome) -> Self {
        let all: BTreeSet<String> = outcome
            .methods
            .iter()
            .flat_map(|m| &m.evaluations)
            .flat_map(|e| e.tested().into_values().flat_map(Subsets::into_keys))
            .collect();
        let subsets = ordered(&all).into_iter().cloned().collect();
        let own = outcome.methods.iter().map(|m| m.last().map(|e| m.subsets(e)).unwrap_or_default()).collect();
        Self { outcome, subsets, own }
    }

    /// Methods with their numbers.
    pub(super) fn methods(&self) -> impl Iterator<Item = (usize, &'a Method)> + use<'a> {
        self.outcome.methods.iter().enumerate()
    }

    /// Subsets of one modality.
    pub(super) fn singles(&self) -> Vec<&str> {
        self.subsets.iter().map(String::as_str).filter(|s| order(s) == 1).collect()
    }

    /// The subset of all modalities, if it is more than one.
    pub(super) fn complete(&self) -> Option<&str> {
        self.subsets.last().map(String::as_str).filter(|s| order(s) > 1 && order(s) == self.singles().len())
    }

    /// Subsets that get a chart: all if they are few, else single modalities and the complete set.
    pub(super) fn shown(&self) -> Vec<&str> {
        match self.subsets.len() {
            0..=FEW => self.subsets.iter().map(String::as_str).collect(),
            _ => self.singles().into_iter().chain(self.complete()).collect(),
        }
    }

    /// Accuracy of a method's own answer, mean over `subsets`; None if one of them is lacking.
    pub(super) fn mean(&self, method: usize, subsets: &[&str]) -> Option<f64> {
        mean(self.own.get(method)?, subsets)
    }

    /// Accuracies of every method on `subsets`, best first; on a tie in the order of the spec.
    fn ranked(&self, subsets: &[&str]) -> Vec<(usize, f64)> {
        let mut ranked: Vec<(usize, f64)> = self.methods().filter_map(|(i, _)| Some((i, self.mean(i, subsets)?))).collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        ranked
    }

    /// The round of the last evaluation, if it is that of every method.
    pub(super) fn evaluated(&self) -> Option<u32> {
        let mut rounds = self.outcome.methods.iter().map(|m| m.last().map(|e| e.round));
        let first = rounds.next()??;
        rounds.all(|r| r == Some(first)).then_some(first)
    }

    fn name(&self, method: usize) -> &'a str {
        &self.outcome.methods[method].name
    }

    /// The finding of the whole simulation: the best method on single modalities, against the first.
    pub(super) fn finding(&self) -> String {
        let singles = self.singles();
        let ranked = self.ranked(&singles);
        let Some(&(best, top)) = ranked.first() else { return "No method was tested on single modalities.".to_owned() };
        let place = match &singles[..] {
            [one] => format!("On {one}"),
            many => format!("On single modalities (mean of {})", shortened(many)),
        };
        let all = |i: usize| Some(in_percent(self.mean(i, &[self.complete()?])?));
        let text = format!("{place}, {} answers {} right", self.name(best), in_percent(top));
        // Against the first method; the first itself against the second best.
        let Some(&(other, value)) = ranked.iter().find(|(i, _)| *i == 0 && best != 0).or(ranked.get(1)) else {
            let all = all(best).map(|a| format!(", with all modalities {a}")).unwrap_or_default();
            return format!("{text}{all}.");
        };
        let lead = points(top, value);
        let other_name = self.name(other);
        let text = match lead.as_str() {
            "0.0" => format!("{text}, level with {other_name}"),
            _ => format!("{text}, {lead} points above {other_name} ({})", in_percent(value)),
        };
        match (all(best), all(other)) {
            (Some(a), Some(b)) => format!("{text}; with all modalities {a} against {b}."),
            _ => format!("{text}."),
        }
    }

    /// How sure an accuracy is, from the number of samples it was counted on.
    pub(super) fn doubt(&self) -> Option<String> {
        let metrics = self.outcome.methods.iter().filter_map(|m| Some((m, &m.last()?.metrics)));
        let tested: Vec<(f64, f64)> = metrics
            .flat_map(|(_, metrics)| &metrics.0)
            .filter(|(name, _)| name.starts_with("test/") && name.matches('/').count() == 2)
            .filter_map(|(_, metric)| Some((metric.value()?.clamp(0.0, 1.0), metric.count)))
            .collect();
        let least = tested.iter().map(|(_, n)| *n).fold(f64::INFINITY, f64::min);
        let most = tested.iter().map(|(_, n)| *n).fold(0.0, f64::max);
        let error = tested.iter().map(|(p, n)| (p * (1.0 - p) / n).sqrt()).fold(0.0, f64::max);
        if tested.is_empty() {
            return None;
        }
        let samples = if least < most { format!("{least} to {most}") } else { format!("{most}") };
        Some(format!(
            "Each accuracy is counted on {samples} test samples, which alone gives it a standard error of at most {} points. \
             This is one seed ({}): repeat with others before a small difference is believed.",
            percent(error),
            self.outcome.seed
        ))
    }

    /// Finding of a subset's chart.
    pub(super) fn subset_finding(&self, subset: &str) -> String {
        let ranked = self.ranked(&[subset]);
        let words: Vec<String> =
            ranked.iter().take(NAMED).map(|(i, accuracy)| format!("{} {}", self.name(*i), in_percent(*accuracy))).collect();
        let more = ranked.len() - words.len();
        match &words[..] {
            [] => "no accuracy was measured at the last evaluation.".to_owned(),
            words if more > 0 => format!("at the last evaluation {}, {more} more below.", words.join(", ")),
            words => format!("at the last evaluation {}.", words.join(", ")),
        }
    }

    /// Finding of the chart of a method's answers.
    pub(super) fn answers_finding(&self, method: usize, tested: &[(String, Subsets)]) -> String {
        let singles = self.singles();
        let scored = tested.iter().filter_map(|(name, s)| Some((name, mean(s, &singles)?)));
        let Some((best, top)) = scored.reduce(|a, b| if b.1 > a.1 { b } else { a }) else {
            return "no answer was tested on every single modality.".to_owned();
        };
        let own = self.outcome.methods[method].answer();
        let single = if singles.len() == 1 { "the single modality" } else { "single modalities" };
        let text = format!("{best} is right most often on {single} ({}", in_percent(top));
        match self.mean(method, &singles) {
            _ if best == own => format!("{text}), which is its own answer."),
            Some(value) => format!("{text}); its own answer, {own}, {}.", in_percent(value)),
            None => format!("{text}); its own answer, {own}, was not tested on all of them."),
        }
    }
}

/// Mean over `subsets`; None if there is none or one is lacking.
fn mean(accuracies: &Subsets, subsets: &[&str]) -> Option<f64> {
    let values: Option<Vec<f64>> = subsets.iter().map(|s| accuracies.get(*s).copied()).collect();
    values.filter(|v| !v.is_empty()).map(|v| v.iter().sum::<f64>() / v.len() as f64)
}

/// Difference in points between two shares as they are shown, so that the text adds up.
fn points(a: f64, b: f64) -> String {
    let shown = |share: f64| percent(share).parse().unwrap_or(100.0 * share);
    format!("{:.1}", shown(a) - shown(b))
}

/// Names for people, or their number where they would fill the line.
fn shortened(names: &[&str]) -> String {
    if names.len() > 4 { format!("{} modalities", names.len()) } else { list(names) }
}
