//! Operations of transformers on the processor, each with its own kernel and its own gradient.
//!
//! Burn's flex backend makes an operation such as a layer normalisation of a training step from a dozen elementary ones,
//! each with a pass over memory and a place in the graph. Here each is one node with one or two passes.
//!
//! Kernels are plain loops with eight sums in a fixed order and without fused multiply-add, over pieces of a fixed size:
//! results do not depend on the number of threads nor on the make of an x86 processor. A value that is not finite stays
//! so.

mod adam;
mod attention;
mod gelu;
mod kernel;
mod late;
mod loss;
mod matrix;
mod memory;
mod norm;
mod residual;
mod run;
mod softmax;
#[cfg(test)]
mod tests;

pub(super) use adam::{Adam, step as adam_step};
pub(super) use attention::Heads;
pub(super) use gelu::Gelu;
pub(super) use late::LateInteraction;
pub(super) use loss::CrossEntropy;
pub(super) use norm::LayerNorm;
pub(super) use residual::Residual;
pub(super) use run::{Operand, run};
pub(super) use softmax::Softmax;
