//! Tasks: what a member learns and how it answers.
//!
//! The worker knows a [`Task`] only. A model author writes a [`FedModel`], which says how inputs become
//! representations, a fused representation and logits; one adapter supplies everything else: the training loop, the
//! exchange of parameters, prototypes, what stands in for missing modalities, evaluation and cancelling. A new model is
//! one folder and one line in [`TASKS`]; the conformance suite walks that table.

mod adapter;
mod batch;
pub mod classify;

mod evaluate;
mod fed_model;
mod fill;
mod group;
pub mod mlip;
pub mod objective;
mod private;
pub mod raw;
mod retrieval;
mod subset;
#[cfg(test)]
mod tests;
mod view;

pub use batch::{Batch, Column};
pub use fed_model::{Block, FedModel, Scope, TrainedBy};
pub use group::Grouping;
pub use private::State;
pub use subset::{Subset, subsets};

use crate::data::Samples;
use crate::glue::GlueError;
use burn::tensor::Device;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use tessera_common::id::{MemberName, Round};
use tessera_common::metric::Metrics;
use tessera_common::param::ParamSet;
use tessera_common::spec::{RunSpec, SpecError};

/// A member's samples.
#[derive(Debug, Clone, PartialEq)]
pub struct MemberData {
    /// Whose.
    pub name: MemberName,
    /// Trained on.
    pub train: Samples,
    /// Never trained on; tells how well the model does at this member. May be empty.
    pub held_out: Samples,
    /// A test set that the experiment shares; usually only one member has one. May be empty.
    pub test: Samples,
}

/// What a local run starts from.
#[derive(Debug, Clone, Copy)]
pub struct FitContext<'a> {
    /// The member's samples.
    pub data: &'a MemberData,
    /// The published global: `param/*`, `input/M/{mean,std}` if the run standardises, `proto/M/*` from the first
    /// renewal on.
    pub global: &'a ParamSet,
    /// Number of the round, from 1.
    pub round: Round,
    /// When set, the run ends before its next batch.
    pub cancel: &'a AtomicBool,
}

/// What a local run ends with.
#[derive(Debug, Clone, PartialEq)]
pub struct FitOutcome {
    /// `param/*` of the blocks that are sent and, if the strategy wants them, `proto/M/{sum,count}`.
    pub update: ParamSet,
    /// Samples trained on.
    pub examples: u32,
    /// Per block that is sent, how many of them trained it.
    pub weights: BTreeMap<String, u32>,
    /// `fit/loss`, the objective over all steps.
    pub metrics: Metrics,
}

/// Why a task could not do what it was asked.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TaskError {
    /// The cancel flag was set.
    #[error("cancelled")]
    Cancelled,
    /// The run spec asks for what the task cannot do.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The member's data do not fit the run.
    #[error("data of member {member}: {why}")]
    Data {
        /// Whose.
        member: MemberName,
        /// What is wrong and what would be right.
        why: String,
    },
    /// The member has nothing to train on.
    #[error("member {member} has no sample to train on: {why}")]
    NoSamples {
        /// Whose.
        member: MemberName,
        /// Why none of its samples can be used.
        why: String,
    },
    /// The global does not fit the model.
    #[error("the global does not fit this task: {0}")]
    Global(String),
    /// Training diverged.
    #[error("the loss is {loss} at step {step} of {steps}: lower train.lr or set train.clip")]
    Diverged {
        /// The loss, not finite.
        loss: f64,
        /// Step within the local run, from 1.
        step: usize,
        /// Steps of the local run.
        steps: usize,
    },
    /// The values of private blocks that a member keeps for itself cannot be read or written.
    #[error("private values at {}: {why}", file.display())]
    Private {
        /// File or folder.
        file: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// A trained parameter or a sum is not finite.
    #[error("{0} after training: lower train.lr or set train.clip")]
    NotFinite(String),
}

impl From<GlueError> for TaskError {
    fn from(error: GlueError) -> Self {
        Self::Global(error.to_string())
    }
}

/// What the worker calls. One value serves every member of an agent, one call after another.
///
/// Private blocks ([`Scope::Private`]) are each member's own. No answer holds them, and a global that does is refused.
pub trait Task: Send {
    /// The initial global from the run's seed: `param/BLOCK/LEAF` of the shared blocks, the same at every member, and
    /// `width/MODALITY`.
    ///
    /// # Errors
    /// If the model cannot be made.
    fn initialise(&mut self) -> Result<ParamSet, TaskError>;

    /// `input/M/{count,sum,square}` over the training samples, for the modalities that the member has.
    ///
    /// # Errors
    /// If the data do not fit the run.
    fn survey_inputs(&mut self, data: &MemberData) -> Result<ParamSet, TaskError>;

    /// `feature/M/*` of the training samples under the frozen `global`, for the modalities that the member has.
    ///
    /// Private blocks have the values of the last round that the member trained in, the initial ones if there is none.
    ///
    /// # Errors
    /// If the data or the global do not fit the run.
    fn survey_features(&mut self, data: &MemberData, global: &ParamSet) -> Result<ParamSet, TaskError>;

    /// Trains locally.
    ///
    /// Private blocks start from the values of the last round before `cx.round` that the member trained in, the initial
    /// ones if there is none; so a round that is given again gives the same bytes. The new values are kept, durably if
    /// there is a folder, when this returns.
    ///
    /// # Errors
    /// If cancelled, if the data or the global do not fit the run, if training diverges, or if private values are damaged
    /// or cannot be kept.
    fn fit(&mut self, cx: &FitContext<'_>) -> Result<FitOutcome, TaskError>;

    /// Counts right answers on `held-out` and `test`, per answer and subset of modalities.
    ///
    /// Metrics are named `SPLIT/ANSWER/SUBSET`, with sum = right answers and count = samples that have all of SUBSET.
    /// Answers are `head`, `near` and `ncm` (with the global's own library), and with `statistics`, the sums of
    /// [`Task::survey_features`] over members, also `near*`, `ncm*` and `whitened`. `SPLIT/loss` is the head's
    /// cross-entropy on samples that have everything. Models that match two modalities also have `cross` and `cross*` (a class
    /// by the other modality's prototypes) and `recall@K` and `chance@K` with the direction in the place of the subset.
    ///
    /// Private blocks have the values of the last round that the member trained in. A member that never trained, such as
    /// one that only evaluates, uses the initial ones, with which its `head` answers say little.
    ///
    /// # Errors
    /// If the data, the global or the statistics do not fit the run.
    fn evaluate(&mut self, data: &MemberData, global: &ParamSet, statistics: Option<&ParamSet>) -> Result<Metrics, TaskError>;
}

/// Makes a task for a run, with a place for its state, on a device.
pub type Create = fn(&RunSpec, &State, &Device) -> Result<Box<dyn Task>, TaskError>;

/// A line of the table of tasks.
#[derive(Debug, Clone, Copy)]
pub struct TaskDef {
    /// Name, as in `task.kind`.
    pub name: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// Makes it for a run.
    pub create: Create,
}

/// All tasks.
pub const TASKS: &[TaskDef] = &[classify::DEF, mlip::DEF];

/// The task that a spec names, on the processor, with its state in memory.
///
/// # Errors
/// If there is none of that name (the text names the nearest), or the spec asks for what it cannot do.
pub fn create(spec: &RunSpec) -> Result<Box<dyn Task>, TaskError> {
    create_on(spec, &State::default(), &Device::flex())
}

/// As [`create`], with its state in a folder, on a device that [`crate::device::open`] has opened.
///
/// # Errors
/// As [`create`], and if the folder holds the state of another run.
pub fn create_on(spec: &RunSpec, state: &State, device: &Device) -> Result<Box<dyn Task>, TaskError> {
    let names: Vec<&str> = TASKS.iter().map(|t| t.name).collect();
    match TASKS.iter().find(|t| t.name == spec.task.kind) {
        Some(def) => (def.create)(spec, state, device),
        None => Err(SpecError::unknown_name("task.kind", &spec.task.kind, &names).into()),
    }
}
