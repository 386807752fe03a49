//! Multi-head attention, the two-layer perceptron and the pre-norm transformer block, as in PyTorch's
//! `TransformerEncoderLayer(norm_first = true, activation = gelu)` without dropout.

use super::{Init, LayerNorm, op};
use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;

/// Self-attention of several heads: `out(softmax(q k^T / sqrt(width / heads) + bias) v)`.
#[derive(Module, Debug)]
pub struct Attention {
    /// Queries, keys and values in one, `width -> 3 width`.
    pub qkv: Linear,
    /// `width -> width`.
    pub out: Linear,
    heads: usize,
}

/// What attention gives.
#[derive(Debug, Clone)]
pub struct Attended {
    /// `[B, t, width]`.
    pub values: Tensor<3>,
    /// Keys, `[B, heads, t, width / heads]`.
    pub keys: Tensor<4>,
}

impl Attention {
    /// `12 width^2 + 13 width` parameters with its block. `heads` must divide `width`.
    pub fn new(init: &Init<'_>, path: &str, width: usize, heads: usize) -> Self {
        let (qkv, out) =
            (init.linear(&format!("{path}.qkv"), width, 3 * width), init.linear(&format!("{path}.out"), width, width));
        Self { qkv, out, heads }
    }

    /// Attends over `x` `[B, t, width]`. `bias` is added to the logits, `[B, 1, 1, t]`; one with a gradient
    /// takes the plain graph. `causal` hides later positions.
    ///
    /// Where nobody wants the keys, [`Self::attend`] does without them.
    pub fn forward(&self, x: Tensor<3>, bias: Option<Tensor<4>>, causal: bool) -> Attended {
        let width = x.dims()[2];
        let all = op::project(x, self.qkv.weight.val()); // [B, t, 3 width]
        let keys = all.clone().narrow(2, width, width); // [B, t, width]
        let keys = match &self.qkv.bias {
            Some(bias) => keys + bias.val().narrow(0, width, width).unsqueeze(),
            None => keys,
        }; // [B, t, width]
        let keys = op::plain::heads(keys, self.heads); // [B, heads, t, width / heads]
        Attended { values: self.out.forward(self.joined(all, bias, causal)), keys }
    }

    /// As [`Self::forward`], the values alone.
    pub fn attend(&self, x: Tensor<3>, bias: Option<Tensor<4>>, causal: bool) -> Tensor<3> {
        self.out.forward(self.heads_of(x, bias, causal)) // [B, t, width]
    }

    /// What goes into `out`, `[B, t, width]`.
    fn heads_of(&self, x: Tensor<3>, bias: Option<Tensor<4>>, causal: bool) -> Tensor<3> {
        self.joined(op::project(x, self.qkv.weight.val()), bias, causal) // [B, t, width]
    }

    /// Heads of the projections `[B, t, 3 width]` without their bias.
    fn joined(&self, all: Tensor<3>, bias: Option<Tensor<4>>, causal: bool) -> Tensor<3> {
        op::attention(all, bias_of(&self.qkv), self.heads, bias, causal) // [B, t, width]
    }
}

/// The bias of a layer, `[out]`; zeros if it has none.
fn bias_of(layer: &Linear) -> Tensor<1> {
    match &layer.bias {
        Some(bias) => bias.val(),
        None => Tensor::zeros([layer.weight.dims()[1]], &layer.weight.device()),
    }
}

/// `fc2(gelu(fc1(x)))`.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `width -> hidden`.
    pub fc1: Linear,
    /// `hidden -> width`.
    pub fc2: Linear,
}

impl Mlp {
    /// With `hidden` units.
    pub fn new(init: &Init<'_>, path: &str, width: usize, hidden: usize) -> Self {
        Self { fc1: init.linear(&format!("{path}.fc1"), width, hidden), fc2: init.linear(&format!("{path}.fc2"), hidden, width) }
    }

    /// `[.., width]` to `[.., width]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.fc2.forward(self.hidden(x)) // [.., width]
    }

    /// What goes into `fc2`, `[.., hidden]`.
    fn hidden<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        op::gelu_biased(op::project(x, self.fc1.weight.val()), bias_of(&self.fc1)) // [.., hidden]
    }
}

/// `x + attention(norm1 x)`, then `x + mlp(norm2 x)`; the perceptron has four times the width.
#[derive(Module, Debug)]
pub struct TransformerBlock {
    /// Before attention.
    pub norm1: LayerNorm,
    /// Self-attention.
    pub attention: Attention,
    /// Before the perceptron.
    pub norm2: LayerNorm,
    /// The perceptron.
    pub mlp: Mlp,
}

impl TransformerBlock {
    /// A block at `path`.
    pub fn new(init: &Init<'_>, path: &str, width: usize, heads: usize) -> Self {
        Self {
            norm1: init.layer_norm(width),
            attention: Attention::new(init, &format!("{path}.attention"), width, heads),
            norm2: init.layer_norm(width),
            mlp: Mlp::new(init, &format!("{path}.mlp"), width, 4 * width),
        }
    }

    /// `[B, t, width]` to `[B, t, width]`; `bias` and `causal` as in [`Attention::forward`].
    pub fn forward(&self, x: Tensor<3>, bias: Option<Tensor<4>>, causal: bool) -> Tensor<3> {
        let heads = self.attention.heads_of(self.norm1.forward(x.clone()), bias, causal); // [B, t, width]
        self.finish(add(x, &self.attention.out, heads)) // [B, t, width]
    }

    /// The half behind attention: `x + mlp(norm2 x)`.
    pub fn finish(&self, x: Tensor<3>) -> Tensor<3> {
        let hidden = self.mlp.hidden(self.norm2.forward(x.clone())); // [B, t, 4 width]
        add(x, &self.mlp.fc2, hidden) // [B, t, width]
    }
}

/// `x + layer(y)`.
fn add(x: Tensor<3>, layer: &Linear, y: Tensor<3>) -> Tensor<3> {
    op::residual(x, op::project(y, layer.weight.val()), bias_of(layer)) // [B, t, width]
}
