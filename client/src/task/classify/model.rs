//! The model: `r_m = LayerNorm(W2 relu(W1 x_m))`, fused `tanh(W [r_1 .. r_M])`, linear head.

use crate::glue::Named;
use crate::nn::Init;
use crate::task::{Block, FedModel, TrainedBy};
use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor, activation};
use serde::Deserialize;
use tessera_common::rng::Stream;
use tessera_common::spec::{Fill, RunSpec, SpecError, parse_table};

/// Added to variances in the layer normalisation.
const LAYER_NORM_EPS: f32 = 1e-5;

/// Most units of a layer. The statistics of a representation hold a square matrix of its width.
const MOST_UNITS: usize = 4096;

/// Most parameters of a model, 1 GiB: a spec comes from outside, and an agent must not run out of memory over it.
const MOST_PARAMETERS: usize = 1 << 28;

/// Keys of `[model]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// Units of each encoder's hidden layer.
    hidden: usize,
    /// Features of a modality's representation.
    width: usize,
    /// Features of the fused representation.
    fused: usize,
    /// Names of blocks that stay at the member.
    private: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self { hidden: 128, width: 64, fused: 64, private: Vec::new() }
    }
}

/// A classifier of feature vectors, 33,866 parameters for two modalities of 32 features and 10 classes.
///
/// The layer normalisation has no learned scale: all representations have the same length, sqrt(width), which the
/// fusion and the whitened prototypes profit from (13 points of the head on the digit halves).
#[derive(Debug, Clone)]
pub struct Classifier {
    config: Config,
    classes: usize,
    modalities: Vec<(String, usize)>,
    tokens: bool,
    blocks: Vec<Block>,
}

/// Parameters of [`Classifier`].
#[derive(Module, Debug)]
pub struct Network {
    encoder: Named<Encoder>,
    fusion: Linear,
    head: Linear,
    token: Option<Named<Token>>,
}

/// One modality's encoder.
#[derive(Module, Debug)]
struct Encoder {
    l1: Linear,
    l2: Linear,
}

/// Stands in for one modality's representation.
#[derive(Module, Debug)]
struct Token {
    value: Param<Tensor<1>>,
}

impl Classifier {
    /// Number of parameters.
    pub fn parameters(&self) -> usize {
        let Config { hidden, width, fused, .. } = self.config;
        let encoder = |(_, dim): &(String, usize)| (dim + 1) * hidden + (hidden + 1) * width;
        let tokens = if self.tokens { self.modalities.len() * width } else { 0 };
        let fusion = (self.modalities.len() * width + 1) * fused;
        self.modalities.iter().map(encoder).sum::<usize>() + fusion + (fused + 1) * self.classes + tokens
    }
}

impl FedModel for Classifier {
    type Module = Network;

    fn new(spec: &RunSpec) -> Result<Self, SpecError> {
        let config: Config = parse_table("model", &spec.model)?;
        for (key, value) in [("model.hidden", config.hidden), ("model.width", config.width), ("model.fused", config.fused)] {
            if !(1..=MOST_UNITS).contains(&value) {
                return Err(SpecError::invalid(key, format!("must be 1 to {MOST_UNITS}")));
            }
        }
        let modalities = spec.task.modalities.iter().map(|(name, &dim)| (name.clone(), dim)).collect();
        let tokens = spec.missing.fill == Fill::Token;
        let blocks = Block::make_private(blocks(&spec.modalities(), tokens), "model.private", &config.private)?;
        let new = Self { config, classes: spec.task.classes, modalities, tokens, blocks };
        let (parameters, prototypes) = (new.parameters(), new.classes * new.config.width.max(new.config.fused));
        if parameters > MOST_PARAMETERS || prototypes > MOST_PARAMETERS {
            let size = format!("{parameters} parameters and {prototypes} numbers per prototype table");
            return Err(SpecError::invalid("model", format!("{size}, at most {MOST_PARAMETERS} of each are taken")));
        }
        Ok(new)
    }

    fn blocks(&self) -> Vec<Block> {
        self.blocks.clone()
    }

    fn init(&self, draws: &dyn Fn(&str) -> Stream, device: &Device) -> Network {
        let Config { hidden, width, fused, .. } = self.config;
        let init = Init { draws, device };
        let encoder = |(name, dim): &(String, usize)| {
            let path = |layer: &str| format!("encoder.{name}.{layer}");
            let (l1, l2) = (path("l1"), path("l2"));
            let encoder = Encoder { l1: init.linear(&l1, *dim, hidden), l2: init.linear(&l2, hidden, width) };
            (name.clone(), encoder)
        };
        let token = |(name, _): &(String, usize)| {
            (name.clone(), Token { value: Param::from_tensor(Tensor::zeros([width], device)) }) // [width]
        };
        Network {
            encoder: Named::new(self.modalities.iter().map(encoder).collect()),
            fusion: init.linear("fusion", width * self.modalities.len(), fused),
            head: init.linear("head", fused, self.classes),
            token: self.tokens.then(|| Named::new(self.modalities.iter().map(token).collect())),
        }
    }

    fn width(&self, _modality: usize) -> usize {
        self.config.width
    }

    fn fused_width(&self) -> usize {
        self.config.fused
    }

    fn encode(&self, network: &Network, modality: usize, inputs: Tensor<2>) -> Tensor<2> {
        let encoder = network.encoder.at(modality);
        let hidden = activation::relu(encoder.l1.forward(inputs)); // [k, hidden]
        layer_norm(encoder.l2.forward(hidden)) // [k, width]
    }

    fn fuse(&self, network: &Network, representations: Vec<Tensor<2>>) -> Tensor<2> {
        let joined = Tensor::cat(representations, 1); // [n, M width]
        activation::tanh(network.fusion.forward(joined)) // [n, fused]
    }

    fn logits(&self, network: &Network, fused: Tensor<2>) -> Tensor<2> {
        network.head.forward(fused) // [n, C]
    }

    fn token(&self, network: &Network, modality: usize) -> Option<Tensor<1>> {
        network.token.as_ref().map(|tokens| tokens.at(modality).value.val()) // [width]
    }
}

/// An encoder per modality, fusion, head, and a token per modality if the run has them.
fn blocks(modalities: &[&str], tokens: bool) -> Vec<Block> {
    let each = |kind: &str, by: fn(usize) -> TrainedBy| -> Vec<Block> {
        modalities.iter().enumerate().map(|(m, name)| Block::new(format!("{kind}.{name}"), by(m))).collect()
    };
    let mut blocks = each("encoder", TrainedBy::Having);
    blocks.push(Block::new("fusion", TrainedBy::All));
    blocks.push(Block::new("head", TrainedBy::All));
    if tokens {
        blocks.extend(each("token", TrainedBy::Lacking));
    }
    blocks
}

/// Centres and scales each row: (x - mean) / sqrt(var + eps), population variance, nothing learned.
fn layer_norm(x: Tensor<2>) -> Tensor<2> {
    let centred = x.clone() - x.mean_dim(1); // [k, width]
    let variance = centred.clone().square().mean_dim(1); // [k, 1]
    centred / variance.add_scalar(LAYER_NORM_EPS).sqrt() // [k, width]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::glue;
    use tessera_common::rng;

    fn spec(more: &str) -> RunSpec {
        let text = format!(
            "version = 1\nname = \"t\"\nrounds = 1\ncohort = {{ members = 1, size = 1 }}\n{more}\n\
             [task]\nkind = \"classify\"\nclasses = 10\nmodalities = {{ left = 32, right = 32 }}"
        );
        RunSpec::from_toml(&text).unwrap()
    }

    fn made(more: &str) -> (Classifier, Network) {
        let model = Classifier::new(&spec(more)).unwrap();
        let network = model.init(&|path| rng::stream(1, path, "", 0), &Device::flex());
        (model, network)
    }

    #[test]
    fn the_default_has_the_size_that_was_measured() {
        let (model, network) = made("");
        assert_eq!((model.parameters(), network.num_params()), (33_866, 33_866));
        let (model, network) = made("missing = { fill = \"token\" }");
        assert_eq!((model.parameters(), network.num_params()), (33_994, 33_994));
    }

    #[test]
    fn all_representations_have_one_length() {
        let (model, network) = made("");
        let inputs = glue::tensor((0..96).map(|i| (i % 7) as f32 - 3.0).collect(), [3, 32], &Device::flex()); // [3, 32]
        for row in glue::host(model.encode(&network, 1, inputs)).chunks_exact(64) {
            let square: f32 = row.iter().map(|v| v * v).sum();
            assert!((square.sqrt() - 8.0).abs() < 0.05 && row.iter().sum::<f32>().abs() < 1e-3, "{square}");
        }
    }

    #[test]
    fn initial_weights_are_uniform_in_their_bound() {
        let (_, network) = made("");
        let weight = glue::host(network.head.weight.val());
        let bound = 1.0 / 8.0;
        assert!(weight.iter().all(|w| w.abs() <= bound));
        let square = weight.iter().map(|w| w * w).sum::<f32>() / weight.len() as f32;
        assert!((square / (bound * bound / 3.0) - 1.0).abs() < 0.15, "variance {square}");
    }

    #[test]
    fn a_model_that_cannot_be_held_is_refused() {
        let fault = |more: &str| Classifier::new(&spec(more)).unwrap_err().to_string();
        assert!(fault("model = { hiden = 3 }").contains("did you mean `hidden`?"));
        assert!(fault("model = { width = 0 }").contains("`model.width` is not valid: must be 1 to 4096"));
        let mut wide = spec("model = { hidden = 4096 }");
        wide.task.modalities.insert("left".into(), 10_000_000);
        assert!(Classifier::new(&wide).unwrap_err().to_string().contains("at most 268435456"));
    }
}
