//! Layers and operations that models are made of, with PyTorch's names and initial values.
//!
//! Operations on the processor have fused kernels with gradients of their own; other devices get the plain graph. Both
//! give the same values up to rounding, so a model is written once.

mod adamw;
mod attention;
mod fused;
mod init;
mod layer;
pub mod op;

pub use adamw::AdamW;
pub use attention::{Attended, Attention, Mlp, TransformerBlock};
pub use init::Init;
pub use layer::LayerNorm;
