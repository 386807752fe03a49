//! Initial values, drawn from the run's seed: a stream for each path, so that no layer depends on the order of others.

use super::LayerNorm;
use crate::glue;
use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use tessera_common::rng::Stream;

/// Makes parameters at the start of a run.
#[derive(Clone, Copy)]
pub struct Init<'a> {
    /// A stream of its own for each path.
    pub draws: &'a dyn Fn(&str) -> Stream,
    /// Where the parameters lie.
    pub device: &'a Device,
}

impl std::fmt::Debug for Init<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Init").finish_non_exhaustive()
    }
}

impl Init<'_> {
    /// A linear layer with weights and biases uniform in plus or minus 1/sqrt(inputs), PyTorch's default.
    ///
    /// Draws go through the weight in PyTorch's layout `[out, in]`, then the bias.
    pub fn linear(&self, path: &str, inputs: usize, outputs: usize) -> Linear {
        self.affine(path, inputs, outputs, true)
    }

    /// As [`Self::linear`], without a bias.
    pub fn projection(&self, path: &str, inputs: usize, outputs: usize) -> Linear {
        self.affine(path, inputs, outputs, false)
    }

    fn affine(&self, path: &str, inputs: usize, outputs: usize, bias: bool) -> Linear {
        let mut stream = (self.draws)(path);
        let bound = 1.0 / (inputs as f32).sqrt();
        let mut uniform = |n: usize| -> Vec<f32> { (0..n).map(|_| stream.uniform_f32(-bound, bound)).collect() };
        let weight = glue::tensor(uniform(outputs * inputs), [outputs, inputs], self.device).transpose(); // [in, out]
        let bias = bias.then(|| glue::tensor(uniform(outputs), [outputs], self.device)); // [out]
        Linear { weight: Param::from_tensor(weight), bias: bias.map(Param::from_tensor) }
    }

    /// Normal values of mean 0 and standard deviation `deviation`.
    pub fn normal<const D: usize>(&self, path: &str, shape: [usize; D], deviation: f64) -> Param<Tensor<D>> {
        let mut stream = (self.draws)(path);
        let values = (0..shape.iter().product()).map(|_| (stream.normal() * deviation) as f32).collect();
        Param::from_tensor(glue::tensor(values, shape, self.device)) // shape
    }

    /// One value everywhere.
    pub fn constant<const D: usize>(&self, shape: [usize; D], value: f32) -> Param<Tensor<D>> {
        Param::from_tensor(Tensor::full(shape, value, self.device)) // shape
    }

    /// A layer normalisation of `width` features: weights 1, biases 0.
    pub fn layer_norm(&self, width: usize) -> LayerNorm {
        LayerNorm { weight: self.constant([width], 1.0), bias: self.constant([width], 0.0) }
    }
}
