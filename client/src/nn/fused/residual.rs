//! `x + (y + bias)`: the end of each half of a transformer block.

use super::kernel::{add_rows, vectorised};
use super::memory;
use super::run::Fused;
use burn_flex::FlexTensor;

/// `x + (y + bias)` with `bias` along the last axis; inputs x, y, bias.
#[derive(Debug, Clone, Copy)]
pub(in crate::nn) struct Residual;

vectorised! {
    /// `y = x + (y + bias)`, rows of the bias' length.
    add(x: &[f32], bias: &[f32], y: &mut [f32]) {
        for (y, x) in y.chunks_exact_mut(bias.len()).zip(x.chunks_exact(bias.len())) {
            for ((y, &x), &bias) in y.iter_mut().zip(x).zip(bias) {
                *y = x + (*y + bias);
            }
        }
    }
}

impl Fused<3> for Residual {
    type Saved = usize;

    fn forward(&self, [x, y, bias]: [FlexTensor; 3], keep: bool) -> (FlexTensor, Option<usize>) {
        let along = memory::values(&bias);
        let piece = memory::rows_of_piece(along.len()) * along.len();
        let mut y = memory::whole(y);
        let pieces = y.storage_mut::<f32>().chunks_mut(piece).zip(memory::values(&x).chunks(piece));
        memory::spread(pieces, |(y, x)| add(x, along, y));
        (y, keep.then_some(along.len()))
    }

    fn backward(self, width: usize, gradient: FlexTensor, wanted: [bool; 3]) -> [Option<FlexTensor>; 3] {
        let bias = wanted[2].then(|| {
            let piece = memory::rows_of_piece(width) * width;
            let sums = memory::gather(memory::values(&gradient).chunks(piece), |g| {
                let mut sums = vec![0.0; width];
                add_rows(g, &mut sums);
                sums
            });
            memory::tensor(memory::total(&sums, width), &[width])
        });
        [Some(gradient.clone()), Some(gradient), bias]
    }
}
