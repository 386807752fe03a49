//! The operations as plain graphs, for every device.

use burn::tensor::{Int, Tensor, TensorData, activation};

/// As [`super::gelu`].
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation::gelu(x) // shape of x
}

/// As [`super::layer_norm`].
pub fn layer_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, bias: Tensor<1>, eps: f32) -> Tensor<D> {
    let centred = x.clone() - x.mean_dim(D - 1); // [.., width]
    let variance = centred.clone().square().mean_dim(D - 1); // [.., 1]
    let unit = centred / variance.add_scalar(eps).sqrt(); // [.., width]
    unit * weight.unsqueeze() + bias.unsqueeze() // [.., width]
}

/// As [`super::softmax`].
pub fn softmax<const D: usize>(x: Tensor<D>, scale: f32) -> Tensor<D> {
    activation::softmax(x.mul_scalar(scale), D - 1) // shape of x
}

/// As [`super::causal_softmax`].
pub fn causal_softmax<const D: usize>(x: Tensor<D>, scale: f32) -> Tensor<D> {
    let [rows, columns] = [x.dims()[D - 2], x.dims()[D - 1]];
    let above: Vec<f32> = (0..rows * columns).map(|at| if at % columns > at / columns { -1e30 } else { 0.0 }).collect();
    let mask = Tensor::<2>::from_data(TensorData::new(above, [rows, columns]), &x.device()); // [n, n]
    activation::softmax(x.mul_scalar(scale) + mask.unsqueeze(), D - 1) // shape of x
}

/// As [`super::cross_entropy`].
pub fn cross_entropy(logits: Tensor<2>, targets: &[usize]) -> Tensor<1> {
    let chosen: Vec<i64> = targets.iter().map(|&c| c as i64).collect();
    let picked = Tensor::<2, Int>::from_data(TensorData::new(chosen, [targets.len(), 1]), &logits.device()); // [n, 1]
    activation::log_softmax(logits, 1).gather(1, picked).mean().neg() // [1]
}

/// As [`super::attention`], with the bias already in `x`.
pub fn attention(x: Tensor<3>, heads: usize, keys: Option<Tensor<4>>, causal: bool) -> Tensor<3> {
    let [batch, tokens, width] = x.dims();
    let (width, each) = (width / 3, width / 3 / heads);
    let part = |part: usize| self::heads(x.clone().narrow(2, part * width, width), heads); // [B, heads, t, each]
    let scale = 1.0 / (each as f32).sqrt();
    let scores = part(0).matmul(part(1).swap_dims(2, 3)).mul_scalar(scale); // [B, heads, t, t]
    let scores = match keys {
        Some(keys) => scores + keys,
        None => scores,
    }; // [B, heads, t, t]
    let weights = if causal { causal_softmax(scores, 1.0) } else { softmax(scores, 1.0) }; // [B, heads, t, t]
    weights.matmul(part(2)).swap_dims(1, 2).reshape([batch, tokens, width]) // [B, t, width]
}

/// `[B, t, width]` as `[B, heads, t, width / heads]`.
pub fn heads(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, tokens, width] = x.dims();
    x.reshape([batch, tokens, heads, width / heads]).swap_dims(1, 2) // [B, heads, t, width / heads]
}
