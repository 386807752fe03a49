//! Language-image pretraining with supervision from several perspectives, after MLIP (arXiv 2406.01460).
//!
//! Sites hold pairs of pictures and texts, pictures alone or texts alone; together they train a space in which both lie.
//! The body of the paper is not public, so what is here realises its named ingredients: a frequency stage, contrasts on
//! spatial and frequency features, contrasts of tokens, and token merging guided by both domains. docs/mlip.md says which
//! part is whose.

mod config;
mod image;
mod loss;
mod merge;
mod model;
mod objective;
mod spectral;
mod text;
mod words;

pub use config::{BASES, Config, ImageConfig, ImageKind, LossConfig, TextConfig, TextKind};
pub use model::Mlip;
pub use words::Words;

use super::TaskDef;
use super::adapter::Adapter;

/// Line of the table of tasks.
pub(super) const DEF: TaskDef = TaskDef {
    name: "mlip",
    help: "one space for pictures and texts: contrasts on spatial and frequency features, token merging, prototypes for what is missing",
    create: |spec, state, device| Ok(Box::new(Adapter::<Mlip>::new(spec, state, device)?)),
};
