//! AdamW (Loshchilov and Hutter 2019) as PyTorch computes it: in place on the processor.

use super::fused::{self, Operand};
use burn::backend::Flex;
use burn::optim::{AdamState, AdaptiveMomentumState, LearningRate, Optimizer};
use burn::tensor::{Device, Tensor};

/// `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`, then for step t
/// `p = (1 - lr decay) p - lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps)`.
///
/// A parameter without a gradient is left alone, its decay too.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Decay rate of the second moment.
    pub beta2: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Let decay pull at tensors of two axes and more only.
    pub decay_matrices_only: bool,
}

/// Decay rate of the first moment.
const BETA1: f64 = 0.9;
const EPS: f64 = 1e-8;

impl Optimizer for AdamW {
    type State<const D: usize> = AdamState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<AdamState<D>>,
    ) -> (Tensor<D>, Option<AdamState<D>>) {
        let time = state.as_ref().map_or(0, |state| state.momentum.time) + 1;
        let decay = if self.decay_matrices_only && D < 2 { 0.0 } else { self.weight_decay };
        let power = i32::try_from(time).unwrap_or(i32::MAX);
        let step = fused::Adam {
            // Differences before rounding: 1 - .999 of f32 would be off in the fifth digit.
            first: (1.0 - BETA1) as f32,
            kept: self.beta2 as f32,
            second: (1.0 - self.beta2) as f32,
            shrink: (1.0 - lr * decay) as f32,
            rate: (lr / (1.0 - BETA1.powi(power))) as f32,
            correction: (1.0 / (1.0 - self.beta2.powi(power)).sqrt()) as f32,
            eps: EPS as f32,
        };
        let moments = state.map(|state| [state.momentum.moment_1, state.momentum.moment_2]);
        let [tensor, first, second] = if [&tensor, &grad].iter().all(|tensor| Operand::of(tensor).is_some()) {
            in_place(step, tensor, grad, moments)
        } else {
            plain(step, tensor, grad, moments)
        };
        (tensor, Some(AdamState::new(AdaptiveMomentumState::new(time, first, second))))
    }

    fn to_device<const D: usize>(mut state: AdamState<D>, device: &Device) -> AdamState<D> {
        state.momentum = state.momentum.to_device(device);
        state
    }
}

fn in_place<const D: usize>(
    step: fused::Adam,
    tensor: Tensor<D>,
    grad: Tensor<D>,
    moments: Option<[Tensor<D>; 2]>,
) -> [Tensor<D>; 3] {
    // Only the operand holds the memory then, and nothing is copied.
    let memory = |tensor: Tensor<D>| {
        let operand = Operand::of(&tensor).expect("asked before; moments lie where parameters do");
        drop(tensor);
        operand.into_memory()
    };
    let moments = moments.map(|moments| moments.map(memory));
    fused::adam_step(step, memory(tensor), memory(grad), moments).map(Tensor::from_primitive::<Flex>)
}

fn plain<const D: usize>(
    step: fused::Adam,
    tensor: Tensor<D>,
    grad: Tensor<D>,
    moments: Option<[Tensor<D>; 2]>,
) -> [Tensor<D>; 3] {
    let [first, second] = moments.unwrap_or_else(|| [grad.zeros_like(), grad.zeros_like()]);
    let first = first.clone() + (grad.clone() - first).mul_scalar(step.first); // shape of the parameter
    let second = second.mul_scalar(step.kept) + grad.square().mul_scalar(step.second); // shape of the parameter
    let root = second.clone().sqrt().mul_scalar(step.correction).add_scalar(step.eps); // shape of the parameter
    let moved = tensor.mul_scalar(step.shrink) - (first.clone() / root).mul_scalar(step.rate); // shape of the parameter
    [moved, first, second]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::glue::{host, tensor};

    #[test]
    fn the_plain_step_of_other_devices_is_that_of_the_processor() {
        let device = Device::flex();
        let values = |factor: usize| tensor((0..35).map(|i| (i * factor % 19) as f32 - 9.0).collect(), [5, 7], &device);
        let step = fused::Adam { first: 0.1, kept: 0.98, second: 0.02, shrink: 0.97, rate: 0.3, correction: 1.5, eps: 1e-8 };
        let moments = |seen: bool| seen.then(|| [values(5), values(3).square()]);
        for seen in [false, true] {
            let found: [Tensor<2>; 3] = in_place(step, values(7), values(11), moments(seen));
            let right = plain(step, values(7), values(11), moments(seen));
            for (found, right) in found.into_iter().zip(right) {
                let (found, right) = (host(found), host(right));
                assert!(found.iter().zip(&right).all(|(a, b)| (a - b).abs() <= 2e-6 * b.abs().max(1.0)), "{found:?} {right:?}");
                assert!(right.iter().any(|x| x.abs() > 0.1));
            }
        }
    }
}
