//! Layer normalisation over the last axis.

use super::kernel::{sum, vectorised};
use super::memory;
use super::run::Fused;
use burn_flex::FlexTensor;

/// `(x - mean) / sqrt(var + eps) * weight + bias`, population variance; inputs x, weight, bias.
#[derive(Debug, Clone, Copy)]
pub(in crate::nn) struct LayerNorm {
    /// Added to the variance.
    pub(in crate::nn) eps: f32,
}

vectorised! {
    /// `spread` takes the mean and 1 / sqrt(var + eps) of each row.
    forward(x: &[f32], weight: &[f32], bias: &[f32], y: &mut [f32], spread: &mut [f32], eps: f32) {
        let n = weight.len();
        let bias = &bias[..n];
        for ((x, y), spread) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)).zip(spread.chunks_exact_mut(2)) {
            let mean = sum(n, |i| x[i]) / n as f32;
            let variance = sum(n, |i| (x[i] - mean) * (x[i] - mean)) / n as f32;
            let inverse = 1.0 / (variance + eps).sqrt();
            spread.copy_from_slice(&[mean, inverse]);
            for i in 0..n {
                y[i] = (x[i] - mean) * inverse * weight[i] + bias[i];
            }
        }
    }
}

vectorised! {
    /// `g` becomes the gradient of x; those of weight and bias are added to `weights` and `biases`.
    ///
    /// With `u = (x - mean) / sqrt(var + eps)` and `h = g weight`: `(h - mean(h) - u mean(h u)) / sqrt(var + eps)`.
    backward(x: &[f32], weight: &[f32], spread: &[f32], g: &mut [f32], weights: &mut [f32], biases: &mut [f32]) {
        let n = weight.len();
        let (weights, biases) = (&mut weights[..n], &mut biases[..n]);
        for ((x, g), spread) in x.chunks_exact(n).zip(g.chunks_exact_mut(n)).zip(spread.chunks_exact(2)) {
            let (mean, inverse) = (spread[0], spread[1]);
            let along = sum(n, |i| g[i] * weight[i]) / n as f32;
            let turned = sum(n, |i| g[i] * weight[i] * ((x[i] - mean) * inverse)) / n as f32;
            for i in 0..n {
                let unit = (x[i] - mean) * inverse;
                weights[i] += g[i] * unit;
                biases[i] += g[i];
                g[i] = (g[i] * weight[i] - along - unit * turned) * inverse;
            }
        }
    }
}

/// The input, the weight, and mean and inverse deviation of each row.
type Saved = (FlexTensor, FlexTensor, Vec<f32>);

impl Fused<3> for LayerNorm {
    type Saved = Saved;

    fn forward(&self, [x, weight, bias]: [FlexTensor; 3], keep: bool) -> (FlexTensor, Option<Saved>) {
        let (from, scale, shift) = (memory::values(&x), memory::values(&weight), memory::values(&bias));
        let width = scale.len();
        let rows = memory::rows_of_piece(width);
        let (mut y, mut spread) = (vec![0.0; from.len()], vec![0.0; 2 * (from.len() / width)]);
        let pieces = y.chunks_mut(rows * width).zip(from.chunks(rows * width)).zip(spread.chunks_mut(2 * rows));
        memory::spread(pieces, |((y, x), spread)| forward(x, scale, shift, y, spread, self.eps));
        (memory::tensor(y, &memory::shape(&x)), keep.then_some((x, weight, spread)))
    }

    fn backward(self, (x, weight, spread): Saved, gradient: FlexTensor, _: [bool; 3]) -> [Option<FlexTensor>; 3] {
        let scale = memory::values(&weight);
        let width = scale.len();
        let rows = memory::rows_of_piece(width);
        let mut gradient = memory::whole(gradient);
        let pieces = gradient.storage_mut::<f32>().chunks_mut(rows * width);
        let pieces = pieces.zip(memory::values(&x).chunks(rows * width)).zip(spread.chunks(2 * rows));
        let sums: (Vec<_>, Vec<_>) = memory::gather(pieces, |((g, x), spread)| {
            let (mut weights, mut biases) = (vec![0.0; width], vec![0.0; width]);
            backward(x, scale, spread, g, &mut weights, &mut biases);
            (weights, biases)
        })
        .into_iter()
        .unzip();
        let of = |parts: &[Vec<f32>]| Some(memory::tensor(memory::total(parts, width), &[width]));
        [Some(gradient), of(&sums.0), of(&sums.1)]
    }
}
