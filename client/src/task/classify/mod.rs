//! Classification of samples that have several modalities, each a vector of features.

mod model;

pub use model::Classifier;

use super::TaskDef;
use super::adapter::Adapter;

/// Line of the table of tasks.
pub(super) const DEF: TaskDef = TaskDef {
    name: "classify",
    help: "one of C classes from vectors of features: an MLP per modality, a fusion layer and a linear head",
    create: |spec, state, device| Ok(Box::new(Adapter::<Classifier>::new(spec, state, device)?)),
};
