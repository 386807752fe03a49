//! Operations with a fused kernel on the processor.
//!
//! Each function takes the kernel if all its tensors are f32 in this process' memory, in a graph or not, and otherwise
//! the plain graph of [`plain`].

use super::fused::{self, Operand, run};
use burn::tensor::{Tensor, module};

mod late;
pub mod plain;

pub use late::late_interaction;

/// `x * Phi(x)` with the exact normal distribution function, PyTorch's `gelu`.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match Operand::of(&x) {
        Some(input) => run(fused::Gelu, [input]), // shape of x
        None => plain::gelu(x),                   // shape of x
    }
}

/// `gelu(x + bias)`, `[.., width]` and `[width]`.
pub fn gelu_biased<const D: usize>(x: Tensor<D>, bias: Tensor<1>) -> Tensor<D> {
    match (Operand::of(&x), Operand::of(&bias)) {
        (Some(input), Some(along)) => run(fused::Gelu, [input, along]), // [.., width]
        _ => plain::gelu(x + bias.unsqueeze()),                         // [.., width]
    }
}

/// `x + (y + bias)`, `[.., width]`, `[.., width]` and `[width]`.
pub fn residual<const D: usize>(x: Tensor<D>, y: Tensor<D>, bias: Tensor<1>) -> Tensor<D> {
    assert_eq!(x.dims(), y.dims(), "both branches have one shape");
    match [Operand::of(&x), Operand::of(&y), Operand::of(&bias)] {
        [Some(first), Some(second), Some(along)] => {
            drop((x, y)); // So that `y` can be written over.
            run(fused::Residual, [first, second, along]) // [.., width]
        }
        _ => x + (y + bias.unsqueeze()), // [.., width]
    }
}

/// `(x - mean) / sqrt(var + eps) * weight + bias` over the last axis; `weight` and `bias` are `[width]`.
pub fn layer_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, bias: Tensor<1>, eps: f32) -> Tensor<D> {
    match [Operand::of(&x), Operand::of(&weight), Operand::of(&bias)] {
        [Some(input), Some(scale), Some(shift)] => run(fused::LayerNorm { eps }, [input, scale, shift]), // [.., width]
        _ => plain::layer_norm(x, weight, bias, eps),                                                    // [.., width]
    }
}

/// `softmax(scale * x)` over the last axis.
pub fn softmax<const D: usize>(x: Tensor<D>, scale: f32) -> Tensor<D> {
    match Operand::of(&x) {
        Some(input) => {
            drop(x); // So that it can be written over.
            run(fused::Softmax { scale, rows: None }, [input]) // shape of x
        }
        None => plain::softmax(x, scale), // shape of x
    }
}

/// `softmax(scale * x)` over the last axis, where row i of the two last axes `[n, n]` sees columns 0 to i only.
pub fn causal_softmax<const D: usize>(x: Tensor<D>, scale: f32) -> Tensor<D> {
    let rows = Some(x.dims()[D - 2]);
    match Operand::of(&x) {
        Some(input) => {
            drop(x); // So that it can be written over.
            run(fused::Softmax { scale, rows }, [input]) // shape of x
        }
        None => plain::causal_softmax(x, scale), // shape of x
    }
}

/// Mean over rows of `-log softmax(logits)[target]`, `[1]`, for logits `[n, C]` and targets `[n]` below C; n is at least 1.
pub fn cross_entropy(logits: Tensor<2>, targets: &[usize]) -> Tensor<1> {
    let [rows, classes] = logits.dims();
    assert!(
        rows == targets.len() && targets.iter().all(|&class| class < classes),
        "a class of {classes} for each of {rows} rows"
    );
    match Operand::of(&logits) {
        Some(input) => run(fused::CrossEntropy { targets: targets.to_vec() }, [input]), // [1]
        None => plain::cross_entropy(logits, targets),                                  // [1]
    }
}

/// Self-attention of `heads` heads over projections `x` `[B, t, 3 width]` (queries, keys and values, each with its heads
/// one behind the other) plus their `bias` `[3 width]`: `softmax(q k^T / sqrt(width / heads) + keys) v`, `[B, t, width]`.
///
/// `keys` is added to the logits of each key, `[B, 1, 1, t]`; `causal` hides later positions.
pub fn attention(x: Tensor<3>, bias: Tensor<1>, heads: usize, keys: Option<Tensor<4>>, causal: bool) -> Tensor<3> {
    let [batch, tokens, width] = x.dims();
    assert!(width % (3 * heads) == 0, "{heads} heads divide a third of {width}");
    let keyed = keys.as_ref().map(|keys| (Operand::of(keys), keys.dims()));
    let added = match keyed {
        None => Some(None),
        Some((Some(keys), [b, 1, 1, t])) if (b, t) == (batch, tokens) && !keys.is_tracked() => Some(Some(keys.into_memory())),
        Some(_) => None,
    };
    match (Operand::of(&x), Operand::of(&bias), added) {
        (Some(input), Some(along), Some(keys)) => run(fused::Heads { heads, keys, causal }, [input, along]), // [B, t, width]
        _ => plain::attention(x + bias.unsqueeze(), heads, keys, causal),                                    // [B, t, width]
    }
}

/// `x weight`, `[.., in]` and `[in, out]`, without a bias: that of a layer goes into the operation behind it.
pub fn project<const D: usize>(x: Tensor<D>, weight: Tensor<2>) -> Tensor<D> {
    module::linear(x, weight, None) // [.., out]
}
