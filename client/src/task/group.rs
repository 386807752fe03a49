//! Classes for samples that have none: clusters, found by all members together.
//!
//! Each round is a step of spherical k-means over the federation: a sample goes to the cluster whose prototype is nearest to
//! its representation under the round's global, the members send sums per cluster like those of classes, and the library of
//! the next global has the new means. Before there is a library the centres are random directions of the run's seed, the
//! same at every member. Samples without the modality that decides are placed by another one, in which the model can
//! compare them, once that means something; until then they are in no cluster.

use super::evaluate::Frozen;
use super::fed_model::FedModel;
use super::view::View;
use crate::prototype::Prototypes;
use tessera_common::id::Round;
use tessera_common::rng;
use tessera_common::spec::RunSpec;

/// How a model wants its samples grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grouping {
    /// The modality whose representations are clustered.
    pub by: usize,
    /// The modality that places samples without it.
    pub otherwise: usize,
    /// Rounds before samples are placed by the other modality.
    pub after: Round,
}

/// The cluster of each sample of `view`; None where there is none yet.
pub(crate) fn assign<M: FedModel>(
    frozen: &Frozen<'_, M>,
    spec: &RunSpec,
    grouping: Grouping,
    view: &View<'_>,
    prototypes: &Prototypes,
    round: Round,
) -> Vec<Option<u32>> {
    let mut found = vec![None; view.len()];
    let width = frozen.model.width(grouping.by);
    let centres = prototypes.is_empty().then(|| directions(spec, width));
    let own = view.having(grouping.by);
    let values = frozen.representations(view, &own, grouping.by);
    for (&i, row) in own.iter().zip(values.chunks_exact(width)) {
        found[i] = match &centres {
            Some(centres) => Some(nearest(centres, row)),
            None => prototypes.nearest(&[(grouping.by, row)]).map(|class| class as u32),
        };
    }
    if centres.is_some() || round <= grouping.after {
        return found;
    }
    let others: Vec<usize> = view.having(grouping.otherwise).into_iter().filter(|&i| !view.has(i, grouping.by)).collect();
    let values = frozen.representations(view, &others, grouping.otherwise);
    for (&i, row) in others.iter().zip(values.chunks_exact(frozen.model.width(grouping.otherwise))) {
        let comparable = frozen.model.comparable(row);
        found[i] = prototypes.nearest(&[(grouping.by, comparable)]).map(|class| class as u32);
    }
    found
}

/// One direction per cluster, `[C, width]`.
fn directions(spec: &RunSpec, width: usize) -> Vec<Vec<f32>> {
    let mut draws = rng::stream(spec.seed, "cluster directions", "", 0);
    (0..spec.task.classes).map(|_| (0..width).map(|_| draws.normal() as f32).collect()).collect()
}

/// The centre with the largest cosine; the first of equal ones.
fn nearest(centres: &[Vec<f32>], row: &[f32]) -> u32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let cosine = |centre: &Vec<f32>| dot(centre, row) / dot(centre, centre).sqrt().max(f64::MIN_POSITIVE);
    let best = (0..centres.len()).fold((0, f64::NEG_INFINITY), |best, at| {
        let value = cosine(&centres[at]);
        if value > best.1 { (at, value) } else { best }
    });
    best.0 as u32
}
