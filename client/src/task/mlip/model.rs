//! The model: an image encoder with a frequency branch, a text encoder, and one space for both.
//!
//! ```text
//! r_image = [ e_s / |e_s| ; e_f / |e_f| ]   spatial and, if it is contrasted, frequency features, E each
//! r_text  = e_t / |e_t|
//! fused   = e_s + e_f + e_t                 what a sample has of them, each of unit length
//! logits  = exp(scale) * fused . e_t(prompt of class c)
//! ```
//! Representations have unit length, so prototypes are sums of unit vectors. A class is answered without a trained head:
//! by the prompts, by the nearest prototype, or by whitened prototypes.

use super::config::{Config, ImageKind, TextKind};
use super::image::{self, ImageFeatures, ImageTower};
use super::loss;
use super::objective;
use super::text::{TextFeatures, TextTower};
use super::words::{Lookup, text_of};
use crate::glue;
use crate::nn::Init;
use crate::task::objective::Contrast;
use crate::task::{Batch, Block, FedModel, Grouping, TrainedBy};
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use tessera_common::rng::Stream;
use tessera_common::spec::{Fill, RunSpec, SpecError};

/// Start of the learned scale of the logits, CLIP's 1 / 0.07.
const START: f32 = 1.0 / 0.07;

/// Language-image pretraining for samples of which some lack the picture or the text.
#[derive(Debug, Clone)]
pub struct Mlip {
    pub(super) config: Config,
    lookup: Lookup,
    /// Position of the pictures among the modalities, and of the texts.
    pub(super) image: usize,
    pub(super) text: usize,
    /// Features of a picture and of a text in the data.
    dims: [usize; 2],
    blocks: Vec<Block>,
    prompts: Vec<f32>,
}

/// Parameters of [`Mlip`].
#[derive(Module, Debug)]
pub struct Network {
    pub(super) image: ImageTower,
    pub(super) text: TextTower,
    pub(super) scale: Scales,
}

/// Logarithms of the learned scales of the logits, `[1]` each.
#[derive(Module, Debug)]
pub(super) struct Scales {
    pub(super) global: Param<Tensor<1>>,
    pub(super) frequency: Option<Param<Tensor<1>>>,
    pub(super) token: Option<Param<Tensor<1>>>,
}

impl Mlip {
    /// True if frequency features are contrasted with the text.
    pub(super) fn contrasts_frequency(&self) -> bool {
        self.config.image.frequency > 0 && self.config.loss.frequency > 0.0
    }

    /// True if tokens are contrasted with tokens.
    pub(super) fn contrasts_tokens(&self) -> bool {
        self.config.loss.token > 0.0
    }

    /// Features of prepared pictures `[k, d]`.
    pub(super) fn see(&self, network: &Network, inputs: Tensor<2>) -> ImageFeatures {
        network.image.forward(inputs, self.contrasts_tokens())
    }

    /// Features of prepared texts `[k, M]`.
    pub(super) fn read(&self, network: &Network, inputs: Tensor<2>) -> TextFeatures {
        network.text.forward(inputs, self.contrasts_tokens())
    }

    /// `[k, E]` or `[k, 2 E]`.
    fn represent(features: ImageFeatures) -> Tensor<2> {
        let spatial = loss::unit(features.global); // [k, E]
        match features.frequency {
            Some(frequency) => Tensor::cat(vec![spatial, loss::unit(frequency)], 1), // [k, 2 E]
            None => spatial,
        }
    }

    /// The sum of the unit vectors in a representation of pictures, `[k, E]`.
    fn joined(&self, representation: Tensor<2>) -> Tensor<2> {
        let [k, width] = representation.dims();
        let embed = self.config.embed;
        if width == embed {
            return representation;
        }
        representation.reshape([k, width / embed, embed]).sum_dim(1).reshape([k, embed]) // [k, E]
    }
}

impl FedModel for Mlip {
    type Module = Network;

    fn new(spec: &RunSpec) -> Result<Self, SpecError> {
        let config = Config::read(spec)?;
        if spec.missing.fill == Fill::Token {
            return Err(SpecError::invalid("missing.fill", "this task has no learned token; prototypes stand in: use \"zero\""));
        }
        let place = |name: &str| spec.modalities().iter().position(|m| *m == name).unwrap_or(0);
        let (image, text) = (place(&config.image.modality), place(&config.text.modality));
        let blocks = vec![
            Block::new("image", TrainedBy::Having(image)),
            Block::new("text", TrainedBy::Having(text)),
            Block::new("scale", TrainedBy::All),
        ];
        let blocks = Block::make_private(blocks, "model.private", &config.private)?;
        let dim = |name: &str| spec.task.modalities.get(name).copied().unwrap_or(0);
        let dims = [dim(&config.image.modality), dim(&config.text.modality)];
        let lookup = config.text.words.lookup();
        let prompts = config.prompts.iter().flat_map(|prompt| lookup.tokens(prompt, config.text.context)).collect();
        Ok(Self { lookup, image, text, dims, blocks, prompts, config })
    }

    fn blocks(&self) -> Vec<Block> {
        self.blocks.clone()
    }

    fn init(&self, draws: &dyn Fn(&str) -> Stream, device: &Device) -> Network {
        let (init, config) = (Init { draws, device }, &self.config);
        let (frequency, tokens) = (self.contrasts_frequency(), self.contrasts_tokens());
        let scale = || init.constant([1], START.ln()); // [1]
        Network {
            image: ImageTower::new(&init, &config.image, self.dims[0], config.embed, frequency, tokens),
            text: TextTower::new(&init, &config.text, self.dims[1], config.embed, tokens),
            scale: Scales { global: scale(), frequency: frequency.then(scale), token: tokens.then(scale) },
        }
    }

    fn width(&self, modality: usize) -> usize {
        let both = modality == self.image && self.contrasts_frequency();
        self.config.embed * (1 + usize::from(both))
    }

    fn fused_width(&self) -> usize {
        self.config.embed
    }

    fn encode(&self, network: &Network, modality: usize, inputs: Tensor<2>) -> Tensor<2> {
        if modality == self.image {
            return Self::represent(network.image.forward(inputs, false)); // [k, E] or [k, 2 E]
        }
        loss::unit(network.text.forward(inputs, false).global) // [k, E]
    }

    fn fuse(&self, _network: &Network, representations: Vec<Tensor<2>>) -> Tensor<2> {
        let joined = self.joined(representations[self.image].clone()); // [n, E]
        joined + representations[self.text].clone() // [n, E]
    }

    fn logits(&self, network: &Network, fused: Tensor<2>) -> Tensor<2> {
        let classes = self.config.prompts.len();
        if classes == 0 {
            return Tensor::zeros([fused.dims()[0], 1], &fused.device()); // [n, 1]: not an answer, see `answers`
        }
        let prompts = glue::tensor(self.prompts.clone(), [classes, self.config.text.context], &fused.device()); // [C, M]
        let described = loss::unit(network.text.forward(prompts, false).global); // [C, E]
        fused.matmul(described.transpose()) * loss::scale(network.scale.global.val()).reshape([1, 1]) // [n, C]
    }

    fn prepare(&self, modality: usize, features: &[f32], out: &mut Vec<f32>) {
        if modality == self.image && self.config.image.kind == ImageKind::Vit {
            image::prepare(&self.config.image, features, out);
        } else if modality == self.text && self.config.text.kind != TextKind::Embedding {
            out.extend(self.lookup.tokens(&text_of(features), self.config.text.context));
        } else {
            out.extend_from_slice(features);
        }
    }

    fn augment(&self, modality: usize, input: &mut [f32], draws: &mut Stream) {
        let most = self.config.shift;
        if modality != self.image || self.config.image.kind != ImageKind::Vit || most == 0 {
            return;
        }
        let mut by = || draws.below(2 * most + 1) as isize - most as isize;
        let (right, down) = (by(), by());
        image::shift(&self.config.image, input, right, down);
    }

    fn loss(&self, network: &Network, batch: &Batch, contrast: &Contrast) -> Option<Tensor<1>> {
        objective::loss(self, network, batch, contrast)
    }

    fn answers(&self) -> bool {
        !self.config.prompts.is_empty()
    }

    fn grouping(&self) -> Option<Grouping> {
        let after = self.config.clusters_after;
        self.config.clusters.then_some(Grouping { by: self.text, otherwise: self.image, after })
    }

    fn comparable<'a>(&self, representation: &'a [f32]) -> &'a [f32] {
        &representation[..self.config.embed]
    }

    fn matched(&self) -> Option<[usize; 2]> {
        Some([self.image, self.text])
    }

    /// `cos(e_s, e_t) + cos(e_f, e_t)`, and with a token loss the mean of the late interactions both ways.
    fn similarity(&self, network: &Network, first: Tensor<2>, second: Tensor<2>) -> Tensor<2> {
        let (seen, read) = (self.see(network, first), self.read(network, second));
        let late = match (seen.tokens.clone(), read.tokens.clone()) {
            (Some(patches), Some(words)) => {
                let (forth, back) = loss::late_interaction(patches, words, &read.mask); // [n, m] each
                Some((forth + back).mul_scalar(0.5)) // [n, m]
            }
            _ => None,
        };
        let global = self.joined(Self::represent(seen)).matmul(loss::unit(read.global).transpose()); // [n, m]
        match late {
            Some(late) => global + late, // [n, m]
            None => global,
        }
    }
}
