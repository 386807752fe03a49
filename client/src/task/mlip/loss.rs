//! The terms of the objective: contrasts of global features and of tokens, and the pull towards prototypes.
//!
//! ```text
//! a^ = a / sqrt(|a|^2 + 1e-12)                                              rows of unit length
//! CL(a, b) = 1/2 [CE(s a^ b^T, diag) + CE(s b^ a^T, diag)]                  CLIP's contrast
//! S_ij = V^_i T^_j^T                                                        late interaction, FILIP's
//! i2t_ij = mean_n max_{m in K_j} S_ij,  t2i_ij = sum_{m in K_j} max_n S_ij / |K_j|
//! TL(V, T) = 1/2 [CE(s i2t, diag) + CE(s t2i^T, diag)]
//! s = exp(min(log s, ln 100))
//! ```
//! Each direction of the late interaction has a maximum of its own: t2i is not i2t transposed. Unlike FILIP's published
//! code, padding counts neither in a maximum nor in a mean.

use super::text::Mask;
use crate::glue;
use crate::nn::op::{self, cross_entropy};
use burn::tensor::Tensor;

/// Added to squared lengths: keeps the gradient of a zero vector's direction finite.
const LEAST_SQUARE: f32 = 1e-12;

/// Added where a logit must not count. Finite: a row of nothing else must not divide zero by zero.
const OUT: f32 = -1e4;

/// The largest scale of logits is 100, CLIP's.
const MOST_LOG: f32 = 4.605_170_2;

/// Rows of unit length, `[.., E]`; a zero row stays zero.
pub(super) fn unit<const D: usize>(rows: Tensor<D>) -> Tensor<D> {
    let length = rows.clone().square().sum_dim(D - 1).add_scalar(LEAST_SQUARE).sqrt(); // [.., 1]
    rows / length // [.., E]
}

/// `exp(min(log, ln 100))`, `[1]`. Above the bound the gradient is 0, as that of PyTorch's `clamp`.
pub(super) fn scale(log: Tensor<1>) -> Tensor<1> {
    log.clamp_max(MOST_LOG).exp() // [1]
}

/// CL of n pairs `a` and `b`, `[n, E]` each, `[1]`; n is at least 1. `log` is the logarithm of the scale, `[1]`.
///
/// `same` `[n * n]` marks pairs (i of `a`, j of `b`) that are not each other's negatives; its diagonal is ignored.
pub(super) fn contrast(a: Tensor<2>, b: Tensor<2>, log: Tensor<1>, same: Option<&[bool]>) -> Tensor<1> {
    let cosines = unit(a).matmul(unit(b).transpose()); // [n, n]
    both_ways(cosines.clone(), cosines, log, same)
}

/// TL of n pairs of patches `v` `[n, N, E]` and tokens `t` `[n, M, E]`, `[1]`; n is at least 1. `log` and `same` as in
/// [`contrast`].
pub(super) fn token_loss(v: Tensor<3>, t: Tensor<3>, mask: &Mask, log: Tensor<1>, same: Option<&[bool]>) -> Tensor<1> {
    let (i2t, t2i) = late_interaction(v, t, mask); // [n, n] each
    both_ways(i2t, t2i, log, same)
}

/// `1/2 [CE(s forth, diag) + CE(s back^T, diag)]`, `[1]`, of `[n, n]` both.
fn both_ways(forth: Tensor<2>, back: Tensor<2>, log: Tensor<1>, same: Option<&[bool]>) -> Tensor<1> {
    let pairs = forth.dims()[0];
    let scale = scale(log).reshape([1, 1]); // [1, 1]
    let (mut forth, mut back) = (forth * scale.clone(), back * scale); // [n, n]
    if let Some(same) = same {
        let out = |at: usize| if same.get(at) == Some(&true) && at / pairs != at % pairs { OUT } else { 0.0 };
        let out = glue::tensor((0..pairs * pairs).map(out).collect(), [pairs, pairs], &forth.device()); // [n, n]
        (forth, back) = (forth + out.clone(), back + out); // [n, n]
    }
    let own: Vec<usize> = (0..pairs).collect();
    (cross_entropy(forth, &own) + cross_entropy(back.transpose(), &own)).mul_scalar(0.5) // [1]
}

/// i2t and t2i, `[n, m]` each, of the patches `v` `[n, N, E]` of n pictures and the tokens `t` `[m, M, E]` of m texts.
///
/// Both are 0 for a text without tokens.
pub(super) fn late_interaction(v: Tensor<3>, t: Tensor<3>, mask: &Mask) -> (Tensor<2>, Tensor<2>) {
    op::late_interaction(unit(v), unit(t), &mask.real) // [n, m] each
}

/// `mean_i CE(s e^_i P, columns_i)`, `[1]`: pulls n features `e` `[n, E]`, n at least 1, each towards a prototype of the
/// other modality.
///
/// `prototypes` `[E, V]` has unit columns, `columns` `[n]` says which is each sample's own. A class without a prototype
/// has no column, so it is in no sum. `log` is the logarithm of the scale, `[1]`.
pub(super) fn toward(e: Tensor<2>, prototypes: Tensor<2>, columns: &[usize], log: Tensor<1>) -> Tensor<1> {
    let logits = unit(e).matmul(prototypes) * scale(log).reshape([1, 1]); // [n, V]
    cross_entropy(logits, columns) // [1]
}

#[cfg(test)]
mod tests;
