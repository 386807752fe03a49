//! The control without a network: whitened prototypes of the standardised inputs themselves.
//!
//! On data that linear discriminants solve, a federated network must be shown against this.

use super::TaskError;
use super::subset::subsets;
use super::view::View;
use crate::data::Samples;
use std::collections::BTreeMap;
use tessera_common::id::MemberName;
use tessera_common::metric::Metrics;
use tessera_common::param::ParamSet;
use tessera_common::spec::{RunSpec, SpecError};
use tessera_common::statistics::{FeatureStatistics, InputStatistics, Standardisation, Whitened};

/// Most features of a modality: their covariance is a square matrix.
pub const MOST_FEATURES: usize = 4096;

/// Right answers on `test` per subset of modalities, named `raw-whitened/SUBSET`.
///
/// `members` are the members' training samples. Statistics are per member and added, exactly as in a federation: inputs
/// are standardised by the federation's mean and deviation, then counted, summed and scattered about each member's own
/// class means. `min_count`, `min_total` and `rho` are those of the spec. A sample without an answer counts as wrong.
///
/// # Errors
/// If samples do not fit the spec, or a modality has more than [`MOST_FEATURES`] features.
pub fn whitened(spec: &RunSpec, members: &[(MemberName, &Samples)], test: &Samples) -> Result<Metrics, TaskError> {
    let mut global = ParamSet::new();
    let names = spec.modalities();
    if let Some((name, dim)) = spec.task.modalities.iter().find(|(_, dim)| **dim > MOST_FEATURES) {
        let why = format!("{dim} features are too many for a covariance, at most {MOST_FEATURES} are taken");
        return Err(SpecError::invalid(format!("task.modalities.{name}"), why).into());
    }
    for (m, (name, &dim)) in spec.task.modalities.iter().enumerate() {
        let mut sums = InputStatistics::empty(dim);
        for (member, samples) in members {
            let view = View::raw(spec, member, samples, true)?;
            view.having(m).iter().for_each(|&i| sums.add(view.features(i, m)));
        }
        Standardisation::from(&sums).write(name, &mut global);
    }
    let mut total = BTreeMap::new();
    for (m, (name, &dim)) in spec.task.modalities.iter().enumerate() {
        let mut sums = FeatureStatistics::empty(spec.task.classes, dim);
        for (member, samples) in members {
            let view = View::new(spec, member, samples, &global, true)?;
            let rows = view.having(m);
            let one = FeatureStatistics::of(
                spec.task.classes,
                dim,
                &view.gather(&rows, m),
                &view.labels(&rows),
                spec.prototypes.min_count,
            );
            sums.merge(&one).map_err(TaskError::Global)?;
        }
        total.insert(name.clone(), sums);
    }
    let whitened = Whitened::new(&total, spec.prototypes.rho, spec.prototypes.min_total);
    let tester: MemberName = "test".parse().expect("a constant that is a valid name");
    let view = View::new(spec, &tester, test, &global, true)?;
    let mut metrics = Metrics::default();
    for subset in subsets(&names) {
        let rows = view.having_all(subset.bits);
        let right = rows.iter().filter(|&&i| {
            let inputs: Vec<(&str, Vec<f32>)> =
                (0..names.len()).filter(|m| subset.bits >> m & 1 == 1).map(|m| (names[m], view.gather(&[i], m))).collect();
            let present: Vec<(&str, &[f32])> = inputs.iter().map(|(name, x)| (*name, x.as_slice())).collect();
            whitened.answer(&present) == Some(view.label(i) as usize)
        });
        metrics.add(format!("raw-whitened/{}", subset.name), right.count() as f64, rows.len() as f64);
    }
    Ok(metrics)
}
