//! Metrics as additive sums: merging is addition, so that any split over members gives the same value.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A sum and what to divide it by: a loss with its sample count, correct answers with their total.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Default)]
pub struct Metric {
    /// Sum over samples, or number of correct answers.
    pub sum: f64,
    /// Number of samples.
    pub count: f64,
}

impl Metric {
    /// Mean, or None when nothing was counted.
    pub fn value(&self) -> Option<f64> {
        (self.count > 0.0).then(|| self.sum / self.count)
    }
}

/// Named metrics, such as `loss` or `test/head/left+right`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Metrics(pub BTreeMap<String, Metric>);

/// Longest name of a metric and largest number of metrics in one report.
pub const MAX_METRIC_NAME: usize = 200;
/// Largest number of metrics that one member may report at once.
pub const MAX_METRICS: usize = 16_384;

impl Metrics {
    /// Adds `sum` over `count` samples to the metric `name`.
    pub fn add(&mut self, name: impl Into<String>, sum: f64, count: f64) {
        let metric = self.0.entry(name.into()).or_default();
        metric.sum += sum;
        metric.count += count;
    }

    /// Adds every metric of `other`. Call in a fixed order of members: f64 addition rounds.
    pub fn merge(&mut self, other: &Metrics) {
        for (name, m) in &other.0 {
            self.add(name.clone(), m.sum, m.count);
        }
    }

    /// Mean of a metric, if there is one.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.0.get(name)?.value()
    }

    /// What is wrong with metrics that came from outside, if anything.
    pub fn fault(&self) -> Option<String> {
        if self.0.len() > MAX_METRICS {
            return Some(format!("{} metrics, at most {MAX_METRICS} are taken", self.0.len()));
        }
        self.0.iter().find_map(|(name, m)| {
            if name.len() > MAX_METRIC_NAME {
                Some(format!("a metric name of {} bytes, at most {MAX_METRIC_NAME} are taken", name.len()))
            } else if !m.sum.is_finite() || !m.count.is_finite() || m.count < 0.0 {
                Some(format!("metric {name:?} is not finite"))
            } else {
                None
            }
        })
    }
}
