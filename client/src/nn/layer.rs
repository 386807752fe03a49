//! Layer normalisation with PyTorch's names.

use super::op;
use burn::module::{Module, Param};
use burn::tensor::Tensor;

/// Added to variances, PyTorch's default.
const LAYER_NORM_EPS: f32 = 1e-5;

/// `(x - mean) / sqrt(var + eps) * weight + bias` over the last axis, population variance.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// Scale, `[width]`.
    pub weight: Param<Tensor<1>>,
    /// Shift, `[width]`.
    pub bias: Param<Tensor<1>>,
}

impl LayerNorm {
    /// Normalises the last axis, `[.., width]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        op::layer_norm(x, self.weight.val(), self.bias.val(), LAYER_NORM_EPS) // [.., width]
    }
}
