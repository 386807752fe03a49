//! Merging of similar tokens inside a transformer block (the token merging of ToMe, Bolya et al., "Token Merging: Your ViT
//! But Faster", 2023, with frequency features as a second guide).
//!
//! Tokens at even positions (A) may go into tokens at odd positions (B). Each of A looks for the most similar of B; the
//! `gone` most similar of A are averaged into what they found. Token 0, the class token, always stays. What is left are
//! the other tokens of A in their order, then all of B: nothing behind a merge may rely on a grid.
//!
//! Shapes do not depend on the values, and everything is made of tensor operations without a read-back, so a device that
//! runs ahead of the host is not held up. Ties go to the lower index.

#[cfg(test)]
mod tests;

use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor, TensorData, s};

/// Added to the best similarity of the class token, which makes it the last to go.
const PROTECTED: f32 = -1e9;

/// Least length that a vector is divided by, as in PyTorch's `normalize`.
const SHORTEST: f32 = 1e-12;

/// `x / |x|` over the last axis, `[B, t, m]`.
fn unit(x: Tensor<3>) -> Tensor<3> {
    let length = x.clone().square().sum_dim(2).sqrt().clamp_min(SHORTEST); // [B, t, 1]
    x / length // [B, t, m]
}

/// What tokens are compared by: unit mean over heads of the keys, and `weight` times the unit guide if there is one.
///
/// Keys are `[B, heads, t, e]`, the guide `[B, t, D]`. No gradient goes through either.
pub(super) fn metric(keys: Tensor<4>, guide: Option<(Tensor<3>, f64)>) -> Tensor<3> {
    let keys = unit(keys.detach().mean_dim(1).squeeze_dim(1)); // [B, t, e]
    match guide {
        Some((guide, weight)) => Tensor::cat(vec![keys, unit(guide.detach()).mul_scalar(weight)], 2), // [B, t, e + D]
        None => keys,
    }
}

/// Which token goes where.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// New position of each token, whole numbers, `[B, t]`.
    to: Tensor<2>,
    kept: usize,
}

/// Whole numbers from 0 as `shape`.
fn count<const D: usize>(n: usize, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new((0..n).map(|i| i as f32).collect(), shape), device) // shape
}

/// Finds `gone` tokens to merge away by the cosines of `metric` `[B, t, m]`; at most (t - 1) / 2.
pub(super) fn plan(metric: Tensor<3>, gone: usize) -> Plan {
    let device = metric.device();
    let metric = unit(metric.detach()); // [B, t, m]
    let [batch, tokens, _] = metric.dims();
    let (odd, even) = (tokens / 2, tokens - tokens / 2);
    let stay = even - gone;
    let scores = metric.clone().slice(s![.., 0..;2, ..]).matmul(metric.slice(s![.., 1..;2, ..]).transpose()); // [B, even, odd]
    let best = scores.clone().max_dim(2); // [B, even, 1]
    let others = scores.lower(best.clone()).float().mul_scalar(odd as f32); // [B, even, odd]
    // a score that is not a number is lower than none, so indices stay in range; the loss tells of it
    let found = (others + count(odd, [1, 1, odd], &device)).min_dim(2); // [B, even, 1]

    let position = count(even, [1, even, 1], &device); // [1, even, 1]
    let best = best + position.clone().equal_elem(0.0).float().mul_scalar(PROTECTED); // [B, even, 1]
    let across = best.clone().transpose(); // [B, 1, even]
    let earlier = position.clone().transpose().lower(position); // [1, even, even]
    let tied = across.clone().equal(best.clone()).bool_and(earlier.expand([batch, even, even])); // [B, even, even]
    let rank = (across.greater(best).float() + tied.float()).sum_dim(2); // [B, even, 1]
    let goes = rank.lower_elem(gone as f32).float(); // [B, even, 1]
    let place = goes.clone().neg().add_scalar(1.0).cumsum(1).sub_scalar(1.0); // [B, even, 1]
    let first = place.clone() + goes * (found.add_scalar(stay as f32) - place); // [B, even, 1]

    let second = count(even, [1, even, 1], &device).add_scalar(stay as f32).expand([batch, even, 1]); // [B, even, 1]
    let to = Tensor::cat(vec![first, second], 2).reshape([batch, 2 * even]).narrow(1, 0, tokens); // [B, t]
    Plan { to, kept: tokens - gone }
}

impl Plan {
    /// 1 where a token (column) goes to a place (row), else 0, `[B, t - gone, t]`.
    pub(super) fn matrix(&self) -> Tensor<3> {
        let places = count(self.kept, [1, self.kept, 1], &self.to.device()); // [1, t - gone, 1]
        let to = self.to.clone().unsqueeze_dim::<3>(1); // [B, 1, t]
        let [batch, _, tokens] = to.dims();
        let shape = [batch, self.kept, tokens];
        to.expand(shape).equal(places.expand(shape)).float() // [B, t - gone, t]
    }

    /// How tokens of these sizes `[B, t]` are averaged: by one matrix, or by moving them, which is less work for tokens
    /// that are more than their features. The values are the same up to rounding.
    pub(super) fn average(&self, size: Tensor<2>, width: usize) -> Average {
        if size.dims()[1] > width { self.by_moving(size) } else { self.by_matrix(size) }
    }

    fn by_matrix(&self, size: Tensor<2>) -> Average {
        let weights = self.matrix() * size.unsqueeze_dim::<3>(1); // [B, t - gone, t]
        let size = weights.clone().sum_dim(2); // [B, t - gone, 1]
        Average { size: size.clone().squeeze_dim(2), shares: weights / size, to: None }
    }

    fn by_moving(&self, size: Tensor<2>) -> Average {
        let [batch, _] = size.dims();
        let to = self.to.clone().int(); // [B, t]
        let none = Tensor::<2>::zeros([batch, self.kept], &size.device()); // [B, t - gone]
        let sizes = none.scatter(1, to.clone(), size.clone(), IndexingUpdateOp::Add); // [B, t - gone]
        let share = size / sizes.clone().gather(1, to.clone()); // [B, t]
        Average { size: sizes, shares: share.unsqueeze_dim(2), to: Some(to) }
    }
}

/// Averages of merged tokens, weighted by how many tokens each stands for.
#[derive(Debug, Clone)]
pub(super) struct Average {
    /// How many tokens each of the merged ones stands for, `[B, t - gone]`.
    pub(super) size: Tensor<2>,
    /// Shares of each token (column) in each place (row), `[B, t - gone, t]`, or those in their only places, `[B, t, 1]`.
    shares: Tensor<3>,
    /// The places, `[B, t]`, if tokens are moved.
    to: Option<Tensor<2, Int>>,
}

impl Average {
    /// `[B, t, D]` to `[B, t - gone, D]`.
    pub(super) fn of(&self, x: Tensor<3>) -> Tensor<3> {
        let Some(to) = &self.to else {
            return self.shares.clone().matmul(x); // [B, t - gone, D]
        };
        let ([batch, tokens, width], kept) = (x.dims(), self.size.dims()[1]);
        let none = Tensor::<3>::zeros([batch, kept, width], &x.device()); // [B, t - gone, D]
        let to = to.clone().unsqueeze_dim::<3>(2).expand([batch, tokens, width]); // [B, t, D]
        none.scatter(1, to, x * self.shares.clone(), IndexingUpdateOp::Add) // [B, t - gone, D]
    }
}
