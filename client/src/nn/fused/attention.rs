//! Attention of several heads in one pass for each sample.

use super::kernel::{add_rows, vectorised};
use super::matrix::{Left, multiply, pack, padded};
use super::memory;
use super::run::Fused;
use super::softmax::{normalise, softmax_row_back};
use burn_flex::FlexTensor;
use std::sync::Arc;

/// `softmax(q k^T / sqrt(e) + bias) v` of each head; inputs are projections `[B, t, 3 width]` and their bias `[3 width]`,
/// queries, keys and values in this order, each with its heads one behind the other. The value is `[B, t, width]`.
#[derive(Debug, Clone)]
pub(in crate::nn) struct Heads {
    /// How many; divides the width.
    pub(in crate::nn) heads: usize,
    /// Added to the logits of each key, `[B, t]`, without a gradient.
    pub(in crate::nn) keys: Option<FlexTensor>,
    /// Hide later positions.
    pub(in crate::nn) causal: bool,
}

/// Lengths of one sample.
#[derive(Debug, Clone, Copy)]
struct Size {
    tokens: usize,
    /// Of all heads.
    width: usize,
    heads: usize,
}

impl Size {
    /// Width of a head.
    fn each(self) -> usize {
        self.width / self.heads
    }

    /// Logits of one token, padded.
    fn row(self) -> usize {
        padded(self.tokens)
    }

    /// Logits of one head.
    fn logits(self) -> usize {
        self.tokens * self.row()
    }

    fn scale(self) -> f32 {
        1.0 / (self.each() as f32).sqrt()
    }
}

/// Memory of a thread for one head at a time.
#[derive(Debug)]
struct Scratch {
    /// Queries, keys and values of the head with their bias, `[t, e]` each.
    head: [Vec<f32>; 3],
    packed: Vec<f32>,
    logits: Vec<f32>,
    /// What is added to the logits of a row, with minus infinity at columns that pad it.
    bias: Vec<f32>,
    /// Gradient of the head's value.
    gradient: Vec<f32>,
}

impl Scratch {
    fn new(size: Size) -> Self {
        let (t, e) = (size.tokens, size.each());
        Self {
            head: std::array::from_fn(|_| vec![0.0; t * e]),
            packed: vec![0.0; (e * size.row()).max(t * padded(e))],
            logits: vec![0.0; size.logits()],
            bias: vec![f32::NEG_INFINITY; size.row()],
            gradient: vec![0.0; t * e],
        }
    }

    /// Takes over a head's projections of one sample.
    fn load(&mut self, projected: &[f32], bias: &[f32], size: Size, head: usize) {
        let e = size.each();
        for (part, dense) in self.head.iter_mut().enumerate() {
            let start = part * size.width + head * e;
            let bias = &bias[start..start + e];
            for (dense, row) in dense.chunks_exact_mut(e).zip(projected.chunks_exact(3 * size.width)) {
                for ((value, &found), &bias) in dense.iter_mut().zip(&row[start..start + e]).zip(bias) {
                    *value = found + bias;
                }
            }
        }
    }
}

vectorised! {
    /// Rows of logits become rows of weights: `softmax(scale logits + bias)`.
    weigh(logits: &mut [f32], bias: &[f32], scale: f32, causal: bool) {
        for (at, row) in logits.chunks_exact_mut(bias.len()).enumerate() {
            for (value, &bias) in row.iter_mut().zip(bias) {
                *value = *value * scale + bias;
            }
            if causal {
                row[at + 1..].fill(f32::NEG_INFINITY);
            }
            normalise(row);
        }
    }
}

vectorised! {
    /// `g`, the gradient of the weights, becomes that of the products of queries and keys.
    weigh_back(weights: &[f32], g: &mut [f32], row: usize, scale: f32) {
        for (weights, g) in weights.chunks_exact(row).zip(g.chunks_exact_mut(row)) {
            softmax_row_back(weights, g, scale);
        }
    }
}

/// A dense matrix `[t, e]` as a left factor.
fn dense(values: &[f32], stride: usize) -> Left<'_> {
    Left { values, stride, turned: false }
}

impl Heads {
    fn size(&self, projected: &FlexTensor) -> Size {
        let shape = memory::shape(projected);
        Size { tokens: shape[1], width: shape[2] / 3, heads: self.heads }
    }

    /// One sample. `weights` of all heads are kept if there is room, `[heads, t, padded t]`.
    fn sample(
        &self,
        size: Size,
        input: (&[f32], &[f32]),
        keys: Option<&[f32]>,
        out: &mut [f32],
        mut weights: Option<&mut [f32]>,
    ) {
        let (t, e, row) = (size.tokens, size.each(), size.row());
        let mut scratch = Scratch::new(size);
        match keys {
            Some(keys) => scratch.bias[..t].copy_from_slice(keys),
            None => scratch.bias[..t].fill(0.0),
        }
        for head in 0..size.heads {
            scratch.load(input.0, input.1, size, head);
            let Scratch { head: [queries, keys, values], packed, logits, bias, .. } = &mut scratch;
            let logits = match &mut weights {
                Some(weights) => &mut weights[head * size.logits()..][..size.logits()],
                None => logits.as_mut_slice(),
            };
            pack(e, t, packed, |k, j| keys[j * e + k]);
            multiply(dense(queries, e), t, packed, e, row, logits, row);
            weigh(logits, bias, size.scale(), self.causal);
            pack(t, e, packed, |k, j| values[k * e + j]);
            multiply(dense(logits, row), t, packed, t, e, &mut out[head * e..], size.width);
        }
    }
}

/// Gradients of one sample: of its projections, `[t, 3 width]`, from that of the value, `[t, width]`.
fn sample_back(size: Size, input: (&[f32], &[f32]), weights: &[f32], gradient: &[f32], out: &mut [f32]) {
    let (t, e, row, width) = (size.tokens, size.each(), size.row(), size.width);
    let mut scratch = Scratch::new(size);
    for head in 0..size.heads {
        scratch.load(input.0, input.1, size, head);
        let Scratch { head: [queries, keys, values], packed, logits, gradient: ours, .. } = &mut scratch;
        for (ours, all) in ours.chunks_exact_mut(e).zip(gradient.chunks_exact(width)) {
            ours.copy_from_slice(&all[head * e..][..e]);
        }
        let weights = &weights[head * size.logits()..][..size.logits()];
        pack(e, t, packed, |k, j| values[j * e + k]);
        multiply(dense(ours, e), t, packed, e, row, logits, row);
        weigh_back(weights, logits, row, size.scale());
        let turned = |values| Left { values, stride: row, turned: true };
        pack(t, e, packed, |k, j| keys[k * e + j]);
        multiply(dense(logits, row), t, packed, t, e, &mut out[head * e..], 3 * width);
        pack(t, e, packed, |k, j| queries[k * e + j]);
        multiply(turned(logits), t, packed, t, e, &mut out[width + head * e..], 3 * width);
        pack(t, e, packed, |k, j| ours[k * e + j]);
        multiply(turned(weights), t, packed, t, e, &mut out[2 * width + head * e..], 3 * width);
    }
}

/// Projections, their bias and the weights of all heads, `[B, heads, t, padded t]`.
type Saved = (FlexTensor, FlexTensor, Arc<Vec<f32>>);

impl Fused<2> for Heads {
    type Saved = Saved;

    fn forward(&self, [projected, bias]: [FlexTensor; 2], keep: bool) -> (FlexTensor, Option<Saved>) {
        let size = self.size(&projected);
        let (from, along, batch) = (memory::values(&projected), memory::values(&bias), memory::shape(&projected)[0]);
        let keys = self.keys.clone().map(memory::contiguous);
        let keys = keys.as_ref().map(memory::values);
        let (t, of_sample) = (size.tokens, size.heads * size.logits());
        let mut out = vec![0.0; batch * t * size.width];
        let mut weights = vec![0.0; if keep { batch * of_sample } else { 0 }];
        let mut rooms = weights.chunks_mut(of_sample.max(1));
        let samples = out.chunks_mut((t * size.width).max(1)).zip(from.chunks((3 * t * size.width).max(1))).enumerate();
        memory::spread(samples.map(|(at, (out, from))| (at, out, from, rooms.next())), |(at, out, from, room)| {
            self.sample(size, (from, along), keys.map(|keys| &keys[at * t..][..t]), out, room);
        });
        let value = memory::tensor(out, &[batch, t, size.width]);
        (value, keep.then(|| (projected, bias, Arc::new(weights))))
    }

    fn backward(self, (projected, bias, weights): Saved, gradient: FlexTensor, _: [bool; 2]) -> [Option<FlexTensor>; 2] {
        let size = self.size(&projected);
        let (from, along) = (memory::values(&projected), memory::values(&bias));
        let whole = (3 * size.tokens * size.width).max(1);
        let mut out = vec![0.0; from.len()];
        let samples = out.chunks_mut(whole).zip(from.chunks(whole)).zip(memory::values(&gradient).chunks((whole / 3).max(1)));
        let samples = samples.zip(weights.chunks((size.heads * size.logits()).max(1)));
        let sums = memory::gather(samples, |(((out, from), gradient), weights)| {
            sample_back(size, (from, along), weights, gradient, out);
            let mut sums = vec![0.0; 3 * size.width];
            add_rows(out, &mut sums);
            sums
        });
        let bias = memory::tensor(memory::total(&sums, 3 * size.width), &[3 * size.width]);
        [Some(memory::tensor(out, &memory::shape(&projected))), Some(bias)]
    }
}
