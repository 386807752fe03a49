//! `gelu(x + bias)`, PyTorch's exact form.

use super::kernel::{add_rows, exp, vectorised};
use super::memory;
use super::run::Fused;
use burn_flex::FlexTensor;

/// `x Phi(x)`, or with two inputs `(x + b) Phi(x + b)` with `b` along the last axis.
#[derive(Debug, Clone, Copy)]
pub(in crate::nn) struct Gelu;

/// The normal distribution function, and `e^(-x^2/2)`.
///
/// Abramowitz and Stegun 7.1.26, off by at most 1e-7.
#[inline(always)]
fn distribution(x: f32) -> (f32, f32) {
    let u = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let e = exp(-u * u);
    let t = 1.0 / (1.0 + 0.327_591_1 * u);
    let p = ((1.061_405_4 * t - 1.453_152) * t + 1.421_413_7) * t;
    let tail = ((p - 0.284_496_74) * t + 0.254_829_6) * t * e * 0.5;
    (if x >= 0.0 { 1.0 - tail } else { tail }, e)
}

#[inline(always)]
fn slope(x: f32) -> f32 {
    const ROOT: f32 = 0.398_942_3; // 1 / sqrt(2 pi)
    let (below, e) = distribution(x);
    below + x * e * ROOT
}

vectorised! {
    /// `y = gelu(x)`.
    forward(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * distribution(x).0;
        }
    }
}

vectorised! {
    /// `y = gelu(x + bias)`, rows of the bias' length.
    forward_biased(x: &[f32], bias: &[f32], y: &mut [f32]) {
        for (y, x) in y.chunks_exact_mut(bias.len()).zip(x.chunks_exact(bias.len())) {
            for ((y, &x), &bias) in y.iter_mut().zip(x).zip(bias) {
                let x = x + bias;
                *y = x * distribution(x).0;
            }
        }
    }
}

vectorised! {
    /// Multiplies `g` by the slope at `x`.
    backward(x: &[f32], g: &mut [f32]) {
        for (g, &x) in g.iter_mut().zip(x) {
            *g *= slope(x);
        }
    }
}

vectorised! {
    /// As [`backward`], at `x + bias`.
    backward_biased(x: &[f32], bias: &[f32], g: &mut [f32]) {
        for (g, x) in g.chunks_exact_mut(bias.len()).zip(x.chunks_exact(bias.len())) {
            for ((g, &x), &bias) in g.iter_mut().zip(x).zip(bias) {
                *g *= slope(x + bias);
            }
        }
    }
}

impl Fused<1> for Gelu {
    type Saved = FlexTensor;

    fn forward(&self, [x]: [FlexTensor; 1], keep: bool) -> (FlexTensor, Option<FlexTensor>) {
        let from = memory::values(&x);
        let mut y = vec![0.0; from.len()];
        memory::spread(y.chunks_mut(memory::PIECE).zip(from.chunks(memory::PIECE)), |(y, x)| forward(x, y));
        (memory::tensor(y, &memory::shape(&x)), keep.then_some(x))
    }

    fn backward(self, x: FlexTensor, gradient: FlexTensor, _: [bool; 1]) -> [Option<FlexTensor>; 1] {
        let mut gradient = memory::whole(gradient);
        let pieces = gradient.storage_mut::<f32>().chunks_mut(memory::PIECE);
        memory::spread(pieces.zip(memory::values(&x).chunks(memory::PIECE)), |(g, x)| backward(x, g));
        [Some(gradient)]
    }
}

impl Fused<2> for Gelu {
    type Saved = [FlexTensor; 2];

    fn forward(&self, [x, bias]: [FlexTensor; 2], keep: bool) -> (FlexTensor, Option<[FlexTensor; 2]>) {
        let (from, along) = (memory::values(&x), memory::values(&bias));
        let piece = memory::rows_of_piece(along.len()) * along.len();
        let mut y = vec![0.0; from.len()];
        memory::spread(y.chunks_mut(piece).zip(from.chunks(piece)), |(y, x)| forward_biased(x, along, y));
        (memory::tensor(y, &memory::shape(&x)), keep.then_some([x, bias]))
    }

    fn backward(self, [x, bias]: [FlexTensor; 2], gradient: FlexTensor, _: [bool; 2]) -> [Option<FlexTensor>; 2] {
        let along = memory::values(&bias);
        let piece = memory::rows_of_piece(along.len()) * along.len();
        let mut gradient = memory::whole(gradient);
        let pieces = gradient.storage_mut::<f32>().chunks_mut(piece).zip(memory::values(&x).chunks(piece));
        let sums = memory::gather(pieces, |(g, x)| {
            backward_biased(x, along, g);
            let mut sums = vec![0.0; along.len()];
            add_rows(g, &mut sums);
            sums
        });
        [Some(gradient), Some(memory::tensor(memory::total(&sums, along.len()), &[along.len()]))]
    }
}
