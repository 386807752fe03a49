//! Adam with decoupled weight decay, in place.

use super::kernel::vectorised;
use super::memory;
use burn::tensor::{DType, Shape};
use burn_flex::FlexTensor;

/// The numbers of one step.
#[derive(Debug, Clone, Copy)]
pub(in crate::nn) struct Adam {
    /// `1 - beta1`.
    pub(in crate::nn) first: f32,
    /// `beta2`.
    pub(in crate::nn) kept: f32,
    /// `1 - beta2`.
    pub(in crate::nn) second: f32,
    /// `1 - lr * weight decay`.
    pub(in crate::nn) shrink: f32,
    /// `lr / (1 - beta1^t)`.
    pub(in crate::nn) rate: f32,
    /// `1 / sqrt(1 - beta2^t)`.
    pub(in crate::nn) correction: f32,
    /// Added to the root of the second moment.
    pub(in crate::nn) eps: f32,
}

vectorised! {
    /// One step of a piece.
    piece(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], s: Adam) {
        for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            *m += (g - *m) * s.first;
            *v = *v * s.kept + g * g * s.second;
            *p = *p * s.shrink - s.rate * (*m / (v.sqrt() * s.correction + s.eps));
        }
    }
}

/// Moves the parameter and its two moments, None at the first step, by the gradient `g` of the same shape.
pub(in crate::nn) fn step(s: Adam, p: FlexTensor, g: FlexTensor, moments: Option<[FlexTensor; 2]>) -> [FlexTensor; 3] {
    let zeros = || FlexTensor::zeros(Shape::from(memory::shape(&g)), DType::F32);
    let [m, v] = moments.unwrap_or_else(|| [zeros(), zeros()]);
    let g = memory::contiguous(g);
    let (mut p, mut m, mut v) = (memory::whole(p), memory::whole(m), memory::whole(v));
    let pieces = p.storage_mut::<f32>().chunks_mut(memory::PIECE).zip(memory::values(&g).chunks(memory::PIECE));
    let moments = m.storage_mut::<f32>().chunks_mut(memory::PIECE).zip(v.storage_mut::<f32>().chunks_mut(memory::PIECE));
    memory::spread(pieces.zip(moments), |((p, g), (m, v))| piece(p, g, m, v, s));
    [p, m, v]
}
