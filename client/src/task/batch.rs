//! One batch of samples, as a model's loss sees it.

use super::FedModel;
use super::fill::Filler;
use super::view::View;
use crate::glue;
use burn::tensor::{Device, Tensor};
use tessera_common::rng::Stream;

/// Samples of one step. Everything random about them has been drawn.
#[derive(Debug)]
pub struct Batch {
    /// Class of each sample, `[n]`.
    pub labels: Vec<u32>,
    /// One per modality of the run, in name order.
    pub columns: Vec<Column>,
    /// Device of the tensors.
    pub device: Device,
}

/// One modality of a batch.
#[derive(Debug)]
pub struct Column {
    /// Samples that have it, as positions in the batch, ascending, `[k]`.
    pub present: Vec<usize>,
    /// Prepared inputs of those samples, `[k, d]`; None if no sample has the modality.
    pub inputs: Option<Tensor<2>>,
    /// Samples that lack it, as positions in the batch, ascending, `[n - k]`.
    pub absent: Vec<usize>,
    /// What stands in for their representations, `[n - k, width]` row-major.
    pub stand_in: Vec<f32>,
    /// Where the model's learned token stands in instead, `[n - k]`; its row of `stand_in` is zeros.
    pub token: Vec<bool>,
}

impl Batch {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// True if there are no samples.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The samples `rows` of `view` on `device`, with `filler` for what they lack.
    ///
    /// `nearest` gives, per sample of the batch, the class nearest to what it has, where the filler asks for it. `draws`
    /// is what the model's changes to its inputs are drawn from.
    pub(crate) fn new<M: FedModel>(
        model: &M,
        draws: &mut Stream,
        view: &View<'_>,
        rows: &[usize],
        filler: &mut Filler<'_>,
        nearest: &[Option<usize>],
        device: &Device,
    ) -> Self {
        let columns = (0..view.modalities()).map(|m| {
            let (present, absent): (Vec<usize>, Vec<usize>) = (0..rows.len()).partition(|&at| view.has(rows[at], m));
            let having: Vec<usize> = present.iter().map(|&at| rows[at]).collect();
            let inputs = (!having.is_empty()).then(|| {
                let mut values = view.prepared(model, &having, m);
                let dim = values.len() / having.len();
                values.chunks_exact_mut(dim.max(1)).for_each(|input| model.augment(m, input, draws));
                glue::tensor(values, [having.len(), dim], device) // [k, d]
            });
            let (mut stand_in, mut token) = (Vec::new(), Vec::new());
            for &at in &absent {
                let nearest = nearest.get(at).copied().flatten();
                token.push(filler.stand_in(m, Some(view.label(rows[at])), nearest, &mut stand_in));
            }
            Column { present, inputs, absent, stand_in, token }
        });
        Self { columns: columns.collect(), labels: view.labels(rows), device: device.clone() }
    }
}
