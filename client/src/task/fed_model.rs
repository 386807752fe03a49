//! What a model author writes.

use super::Batch;
use super::group::Grouping;
use super::objective::{self, Contrast};
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use tessera_common::rng::Stream;
use tessera_common::spec::{RunSpec, SpecError};

/// Which samples train a block of parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainedBy {
    /// All.
    All,
    /// Those that have the modality at this position.
    Having(usize),
    /// Those that lack the modality at this position.
    Lacking(usize),
}

/// Whose a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// The federation's: sent, averaged, and part of every global.
    #[default]
    Shared,
    /// Each member's own: starts like everybody's, is trained with the rest, never leaves the member, and is kept there
    /// from round to round.
    Private,
}

/// A named group of parameters that is sent and averaged together, or stays at the member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Start of the paths of its parameters in the module, such as `encoder.left`.
    pub name: String,
    /// Which samples train it.
    pub trained_by: TrainedBy,
    /// Whose it is.
    pub scope: Scope,
}

impl Block {
    /// A shared block of this name.
    pub fn new(name: impl Into<String>, trained_by: TrainedBy) -> Self {
        Self { name: name.into(), trained_by, scope: Scope::Shared }
    }

    /// The block as a private one.
    #[must_use]
    pub fn private(self) -> Self {
        Self { scope: Scope::Private, ..self }
    }

    /// `blocks` with those that `names` lists made private; `key` is where the list stands in the run spec.
    ///
    /// # Errors
    /// If a name is not one of a block (the text names the nearest), or is there twice.
    pub fn make_private(blocks: Vec<Self>, key: &str, names: &[String]) -> Result<Vec<Self>, SpecError> {
        for (i, name) in names.iter().enumerate() {
            if !blocks.iter().any(|b| b.name == *name) {
                let valid: Vec<&str> = blocks.iter().map(|b| b.name.as_str()).collect();
                return Err(SpecError::unknown_name(key, name, &valid));
            }
            if names[..i].contains(name) {
                return Err(SpecError::invalid(key, format!("{name:?} is there twice")));
            }
        }
        Ok(blocks.into_iter().map(|b| if names.contains(&b.name) { b.private() } else { b }).collect())
    }
}

/// A model for samples of several modalities: an encoder per modality, a fusion and a head.
///
/// Modalities are counted in name order. All draws come from streams that are passed in; the device's own generator is
/// global to the process and must not be used.
pub trait FedModel: Sized + Send + 'static {
    /// The network.
    type Module: Module + 'static;

    /// Reads the model's own keys from `spec.model` with [`tessera_common::spec::parse_table`].
    ///
    /// # Errors
    /// If a key is unknown or a value cannot be right.
    fn new(spec: &RunSpec) -> Result<Self, SpecError>;

    /// The blocks that make up the module. At least one must be shared.
    fn blocks(&self) -> Vec<Block>;

    /// The module at the start of a run, on `device`. `draws` gives a stream of its own for each name, such as a path.
    fn init(&self, draws: &dyn Fn(&str) -> Stream, device: &Device) -> Self::Module;

    /// Features of the representation of the modality at this position.
    fn width(&self, modality: usize) -> usize;

    /// Features of the fused representation.
    fn fused_width(&self) -> usize;

    /// Representations `[k, width]` of inputs `[k, d]` that are all present; k is at least 1.
    fn encode(&self, module: &Self::Module, modality: usize, inputs: Tensor<2>) -> Tensor<2>;

    /// Fused representations `[n, fused_width]` of one `[n, width]` per modality, each present or filled in.
    fn fuse(&self, module: &Self::Module, representations: Vec<Tensor<2>>) -> Tensor<2>;

    /// Logits `[n, C]` of fused representations `[n, fused_width]`.
    fn logits(&self, module: &Self::Module, fused: Tensor<2>) -> Tensor<2>;

    /// The learned stand-in `[width]` for a missing modality, if the model has one.
    fn token(&self, _module: &Self::Module, _modality: usize) -> Option<Tensor<1>> {
        None
    }

    /// The model's input made of a sample's features `[d]`, appended to `out`; as many values for every sample.
    ///
    /// The features themselves unless the model reads them otherwise, such as the bytes of a text.
    fn prepare(&self, _modality: usize, features: &[f32], out: &mut Vec<f32>) {
        out.extend_from_slice(features);
    }

    /// Changes a prepared training input at random, such as a picture's place; nothing unless the model does.
    fn augment(&self, _modality: usize, _input: &mut [f32], _draws: &mut Stream) {}

    /// The objective of one batch, `[1]`: mean cross-entropy and prototype contrasts unless the model has its own.
    ///
    /// None if there is nothing to learn from the batch yet, such as from samples whose stand-ins are not there.
    fn loss(&self, module: &Self::Module, batch: &Batch, contrast: &Contrast) -> Option<Tensor<1>> {
        Some(objective::loss(self, module, batch, contrast))
    }

    /// False if [`Self::logits`] says nothing about classes: `head` and `near` are not answered then.
    fn answers(&self) -> bool {
        true
    }

    /// How samples are put into clusters that take the place of classes; None if the classes of the data are used.
    ///
    /// `task.classes` is the number of clusters then, and nothing is answered about classes.
    fn grouping(&self) -> Option<Grouping> {
        None
    }

    /// The part of a representation that can be compared with those of the other matched modality.
    fn comparable<'a>(&self, representation: &'a [f32]) -> &'a [f32] {
        representation
    }

    /// Two modalities whose samples describe each other, to be found by each other; see [`Self::similarity`]. Classes are
    /// also answered by one of them with the other one's prototypes, see [`Self::comparable`].
    fn matched(&self) -> Option<[usize; 2]> {
        None
    }

    /// How well each of n inputs of the first matched modality goes with each of m of the second, `[n, m]`.
    fn similarity(&self, _module: &Self::Module, first: Tensor<2>, second: Tensor<2>) -> Tensor<2> {
        Tensor::zeros([first.dims()[0], second.dims()[0]], &first.device()) // [n, m]
    }
}
