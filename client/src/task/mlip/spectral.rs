//! Learned filters in the spectrum of a grid of tokens (the frequency branch; the form of the filter is that of GFNet,
//! Rao et al., "Global Filter Networks for Image Classification", 2021).
//!
//! The discrete Fourier transform of real input of any length is a pair of real matrix products, so its gradient needs no
//! code of its own. Over a grid of R x C tokens, orthonormal, for u = 0..R and v = 0..C/2+1:
//! ```text
//! X[u, v] = 1/sqrt(RC) sum_{r, c} x[r, c] exp(-2 pi i (u r / R + v c / C))
//! x[r, c] = 1/sqrt(RC) sum_{u, v} m_v Re(X[u, v] exp(2 pi i (u r / R + v c / C)))
//! ```
//! with m_v = 1 for v = 0 and, if C is even, for v = C/2, else 2: these are `rfft2` and `irfft2`.

#[cfg(test)]
mod tests;

use crate::nn::Init;
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use std::f64::consts::TAU;

/// Standard deviation of a filter's initial weights.
const DEVIATION: f64 = 0.02;

/// Grids of at most so many tokens are transformed by one matrix over all their tokens, larger ones axis by axis: the one
/// matrix has more products and fewer operations, and was measured 2.9 times faster at 6 x 6 (48 channels, 96 pictures),
/// equal at 8 x 8 (256 channels) and 2 times slower at 14 x 14 (768 channels, 16 pictures), forward and backward.
const MOST_DENSE: usize = 64;

/// A spectrum: real and imaginary parts, `[B, R (C/2+1), D]` each, u the slower index.
#[derive(Debug, Clone)]
pub(super) struct Spectrum {
    /// Real parts.
    pub(super) re: Tensor<3>,
    /// Imaginary parts.
    pub(super) im: Tensor<3>,
}

/// The transforms over one size of grid: constants, never parameters.
#[derive(Debug, Clone)]
pub(super) struct Transform {
    rows: usize,
    columns: usize,
    /// Over all tokens at once, or over the columns of each row.
    inner: Matrices,
    /// Over rows, `exp(-2 pi i u r / R) / sqrt(R)`; none if `inner` has all tokens.
    outer: Option<Matrices>,
}

/// Matrices of a transform's real and imaginary part, `[1, outputs, inputs]`.
#[derive(Debug, Clone)]
struct Matrices {
    forward: [Tensor<3>; 2],
    inverse: [Tensor<3>; 2],
}

/// cos and sin of `2 pi k / n` for k = 0..n. Indices are taken modulo n in whole numbers, so that no angle is large.
fn circle(n: usize) -> Vec<(f64, f64)> {
    (0..n).map(|k| TAU * k as f64 / n as f64).map(|angle| (angle.cos(), angle.sin())).collect()
}

/// How often a bin of the half spectrum of `n` counts: once where it is its own mirror image, else twice.
fn mirrored(bin: usize, n: usize) -> f64 {
    if bin == 0 || 2 * bin == n { 1.0 } else { 2.0 }
}

impl Matrices {
    /// The transform of all tokens of a grid to the half spectrum; one row gives that of a sequence.
    fn half(rows: usize, columns: usize, device: &Device) -> Self {
        let (half, tokens) = (columns / 2 + 1, rows * columns);
        let (circle, scale) = (circle(tokens), 1.0 / (tokens as f64).sqrt());
        let mut forward = [Vec::with_capacity(rows * half * tokens), Vec::with_capacity(rows * half * tokens)];
        let mut inverse = [vec![0.0; rows * half * tokens], vec![0.0; rows * half * tokens]];
        for bin in 0..rows * half {
            let (u, v) = (bin / half, bin % half);
            for token in 0..tokens {
                let turn = (u * (token / columns) % rows) * columns + (v * (token % columns) % columns) * rows;
                let (cos, sin) = circle[turn % tokens];
                let back = token * rows * half + bin;
                forward[0].push((cos * scale) as f32);
                forward[1].push((-sin * scale) as f32);
                inverse[0][back] = (mirrored(v, columns) * cos * scale) as f32;
                inverse[1][back] = (-mirrored(v, columns) * sin * scale) as f32;
            }
        }
        let make = |values, shape| Tensor::from_data(TensorData::new(values, shape), device);
        Self {
            forward: forward.map(|values| make(values, [1, rows * half, tokens])), // [1, bins, RC]
            inverse: inverse.map(|values| make(values, [1, tokens, rows * half])), // [1, RC, bins]
        }
    }

    /// The complex transform of a sequence of n.
    fn whole(n: usize, device: &Device) -> Self {
        let (circle, scale) = (circle(n), 1.0 / (n as f64).sqrt());
        let make = |part: &dyn Fn((f64, f64)) -> f64| {
            let values: Vec<f32> = (0..n * n).map(|at| (part(circle[(at / n) * (at % n) % n]) * scale) as f32).collect();
            Tensor::from_data(TensorData::new(values, [1, n, n]), device) // [1, n, n]
        };
        let (cos, sin) = (make(&|(cos, _)| cos), make(&|(_, sin)| sin));
        Self { forward: [cos.clone(), sin.clone().neg()], inverse: [cos, sin] }
    }
}

/// `(a + i b) (re + i im)` of matrices and columns.
fn complex(a: &Tensor<3>, b: &Tensor<3>, re: Tensor<3>, im: Tensor<3>) -> [Tensor<3>; 2] {
    let real = a.clone().matmul(re.clone()) - b.clone().matmul(im.clone()); // [B, outputs, n]
    [real, a.clone().matmul(im) + b.clone().matmul(re)] // [B, outputs, n]
}

impl Transform {
    /// For grids of `rows` x `columns`.
    pub(super) fn new(rows: usize, columns: usize, device: &Device) -> Self {
        if rows * columns <= MOST_DENSE {
            return Self { rows, columns, inner: Matrices::half(rows, columns, device), outer: None };
        }
        Self::separable(rows, columns, device)
    }

    fn separable(rows: usize, columns: usize, device: &Device) -> Self {
        let outer = Some(Matrices::whole(rows, device));
        Self { rows, columns, inner: Matrices::half(1, columns, device), outer }
    }

    /// `rfft2` of `[B, R C, D]`.
    pub(super) fn forward(&self, x: Tensor<3>) -> Spectrum {
        let [cos, sin] = &self.inner.forward;
        let Some(outer) = &self.outer else {
            return Spectrum { re: cos.clone().matmul(x.clone()), im: sin.clone().matmul(x) }; // [B, bins, D] each
        };
        let ([batch, _, width], half) = (x.dims(), self.columns / 2 + 1);
        let lines = x.reshape([batch * self.rows, self.columns, width]); // [B R, C, D]
        let part = |matrix: &Tensor<3>| {
            matrix.clone().matmul(lines.clone()).reshape([batch, self.rows, half * width]) // [B, R, half D]
        };
        let [a, b] = &outer.forward;
        let [re, im] = complex(a, b, part(cos), part(sin)); // [B, R, half D] each
        let bins = [batch, self.rows * half, width];
        Spectrum { re: re.reshape(bins), im: im.reshape(bins) } // [B, bins, D] each
    }

    /// `irfft2`, `[B, R C, D]`: as there, imaginary parts that no real input could have are ignored.
    pub(super) fn inverse(&self, spectrum: Spectrum) -> Tensor<3> {
        let Spectrum { re, im } = spectrum;
        let [cos, sin] = &self.inner.inverse;
        let Some(outer) = &self.outer else {
            return cos.clone().matmul(re) + sin.clone().matmul(im); // [B, RC, D]
        };
        let ([batch, _, width], half) = (re.dims(), self.columns / 2 + 1);
        let lines = [batch, self.rows, half * width];
        let [a, b] = &outer.inverse;
        let [re, im] = complex(a, b, re.reshape(lines), im.reshape(lines)); // [B, R, half D] each
        let bins = [batch * self.rows, half, width];
        let lines = cos.clone().matmul(re.reshape(bins)) + sin.clone().matmul(im.reshape(bins)); // [B R, C, D]
        lines.reshape([batch, self.rows * self.columns, width]) // [B, RC, D]
    }
}

/// `irfft2(W rfft2(x))`: each channel is convolved around the whole grid with a kernel of its own.
#[derive(Module, Debug)]
pub(super) struct GlobalFilter {
    /// Complex weights of each bin and channel, `[R, C/2+1, D, 2]`, last real and imaginary part.
    pub(super) weight: Param<Tensor<4>>,
}

impl GlobalFilter {
    /// A filter of `width` channels over a grid; `2 R (C/2+1) D` parameters.
    pub(super) fn new(init: &Init<'_>, path: &str, [rows, columns]: [usize; 2], width: usize) -> Self {
        Self { weight: init.normal(&format!("{path}.weight"), [rows, columns / 2 + 1, width, 2], DEVIATION) }
    }

    /// `[B, R C, D]` to the same shape.
    pub(super) fn forward(&self, transform: &Transform, x: Tensor<3>) -> Tensor<3> {
        let weight = self.weight.val(); // [R, C/2+1, D, 2]
        let [rows, half, width, _] = weight.dims();
        let part = |at: usize| weight.clone().narrow(3, at, 1).reshape([1, rows * half, width]); // [1, bins, D]
        let (a, b) = (part(0), part(1)); // [1, bins, D] each
        let Spectrum { re, im } = transform.forward(x); // [B, bins, D] each
        let real = re.clone() * a.clone() - im.clone() * b.clone(); // [B, bins, D]
        transform.inverse(Spectrum { re: real, im: re * b + im * a }) // [B, RC, D]
    }
}
