//! Softmax over the last axis, with a scale and optionally causal.

use super::kernel::{exp, largest, sum, vectorised};
use super::memory;
use super::run::Fused;
use burn_flex::FlexTensor;

/// `softmax(scale * x)` over the last axis.
#[derive(Debug, Clone, Copy)]
pub(in crate::nn) struct Softmax {
    /// Multiplies the input.
    pub(in crate::nn) scale: f32,
    /// Row i of the two last axes `[rows, n]` sees columns 0 to i only.
    pub(in crate::nn) rows: Option<usize>,
}

/// One row in place: `softmax(row)`.
#[inline(always)]
pub(super) fn normalise(row: &mut [f32]) {
    let top = largest(row);
    for value in row.iter_mut() {
        *value = exp(*value - top);
    }
    let part = 1.0 / sum(row.len(), |i| row[i]);
    for value in row.iter_mut() {
        *value *= part;
    }
}

/// `g` becomes the gradient of the logits: `scale y (g - g.y)`.
#[inline(always)]
pub(super) fn softmax_row_back(y: &[f32], g: &mut [f32], scale: f32) {
    let g = &mut g[..y.len()];
    let along = sum(y.len(), |i| y[i] * g[i]);
    for (g, &y) in g.iter_mut().zip(y) {
        *g = (*g - along) * y * scale;
    }
}

vectorised! {
    /// Rows of `n` in place; the first is row `first` of a matrix of `rows` rows, if causal.
    forward(y: &mut [f32], n: usize, scale: f32, first: usize, rows: Option<usize>) {
        for (at, y) in y.chunks_exact_mut(n).enumerate() {
            let seen = rows.map_or(n, |rows| ((first + at) % rows + 1).min(n));
            let (seen, hidden) = y.split_at_mut(seen);
            for value in seen.iter_mut() {
                *value *= scale;
            }
            normalise(seen);
            hidden.fill(0.0);
        }
    }
}

vectorised! {
    /// Rows of `n`.
    backward(y: &[f32], g: &mut [f32], n: usize, scale: f32) {
        for (y, g) in y.chunks_exact(n).zip(g.chunks_exact_mut(n)) {
            softmax_row_back(y, g, scale);
        }
    }
}

impl Fused<1> for Softmax {
    type Saved = FlexTensor;

    fn forward(&self, [x]: [FlexTensor; 1], keep: bool) -> (FlexTensor, Option<FlexTensor>) {
        let n = memory::width(&x);
        let rows = memory::rows_of_piece(n);
        let mut y = memory::whole(x);
        let pieces = y.storage_mut::<f32>().chunks_mut((rows * n).max(1)).enumerate();
        memory::spread(pieces, |(piece, y)| forward(y, n, self.scale, piece * rows, self.rows));
        let saved = keep.then(|| y.clone());
        (y, saved)
    }

    fn backward(self, y: FlexTensor, gradient: FlexTensor, _: [bool; 1]) -> [Option<FlexTensor>; 1] {
        let n = memory::width(&y);
        let piece = (memory::rows_of_piece(n) * n).max(1);
        let mut gradient = memory::whole(gradient);
        let pieces = gradient.storage_mut::<f32>().chunks_mut(piece).zip(memory::values(&y).chunks(piece));
        memory::spread(pieces, |(g, y)| backward(y, g, n, self.scale));
        [Some(gradient)]
    }
}
