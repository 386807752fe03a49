//! The image encoder: a vision transformer with a frequency branch in front and token merging inside.

#[cfg(test)]
mod tests;

use super::config::{ImageConfig, ImageKind};
use super::merge;
use super::spectral::{GlobalFilter, Transform};
use crate::nn::{Init, LayerNorm, Mlp, TransformerBlock};
use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::Tensor;

/// Standard deviation of the initial positions and class token.
const DEVIATION: f64 = 0.02;

/// What the encoder makes of k pictures.
#[derive(Debug, Clone)]
pub(super) struct ImageFeatures {
    /// Projected class token, `[k, E]`.
    pub(super) global: Tensor<2>,
    /// Projected mean of the frequency features, `[k, E]`, if the tower has that head.
    pub(super) frequency: Option<Tensor<2>>,
    /// Projected tokens behind the class token, `[k, N', E]`, N' patches less those merged away; only if asked for.
    pub(super) tokens: Option<Tensor<3>>,
}

/// A block of the frequency branch, `x + mlp(norm2(filter(norm1 x)))`; `2 g (g/2+1) D + 8 D^2 + 9 D` parameters.
#[derive(Module, Debug)]
struct FrequencyBlock {
    norm1: LayerNorm,
    filter: GlobalFilter,
    norm2: LayerNorm,
    mlp: Mlp,
}

impl FrequencyBlock {
    fn new(init: &Init<'_>, path: &str, grid: usize, width: usize) -> Self {
        Self {
            norm1: init.layer_norm(width),
            filter: GlobalFilter::new(init, &format!("{path}.filter"), [grid, grid], width),
            norm2: init.layer_norm(width),
            mlp: Mlp::new(init, &format!("{path}.mlp"), width, 4 * width),
        }
    }

    /// `[k, N, D]` to the same shape.
    fn forward(&self, transform: &Transform, x: Tensor<3>) -> Tensor<3> {
        let filtered = self.filter.forward(transform, self.norm1.forward(x.clone())); // [k, N, D]
        x + self.mlp.forward(self.norm2.forward(filtered)) // [k, N, D]
    }
}

/// The encoder. Of kind `embedding` it has `head` alone; fields that are not there are the other kind's, or switched off.
///
/// Ingredients: patches of P x P pixels, projected and told their position; the frequency branch, whose normalised output
/// is the frequency features f; a class token and transformer blocks, in which tokens are merged; projections of the class
/// token, of the mean of f and of the other tokens to the E features that both modalities share.
#[derive(Module, Debug)]
pub(super) struct ImageTower {
    patch: Option<Linear>,
    position: Option<Param<Tensor<2>>>,
    class: Option<Param<Tensor<1>>>,
    frequency: Vec<FrequencyBlock>,
    frequency_norm: Option<LayerNorm>,
    frequency_head: Option<Linear>,
    block: Vec<TransformerBlock>,
    norm: Option<LayerNorm>,
    head: Linear,
    token_head: Option<Linear>,
    #[module(skip)]
    config: ImageConfig,
}

impl ImageTower {
    /// The encoder at the start of a run. `input` features come in per sample and `embed` go out; `frequency_head` and
    /// `token_head` say whether the loss wants those features. Layers have PyTorch's initial values, positions, class
    /// token and filters are normal with deviation 0.02.
    pub(super) fn new(
        init: &Init<'_>,
        config: &ImageConfig,
        input: usize,
        embed: usize,
        frequency_head: bool,
        token_head: bool,
    ) -> Self {
        let vit = config.kind == ImageKind::Vit;
        let (width, frequency) = (config.width, if vit { config.frequency } else { 0 });
        let layers = if vit { config.layers } else { 0 };
        let head = |on: bool, path: &str| (vit && on).then(|| init.projection(path, width, embed));
        Self {
            patch: vit.then(|| init.linear("image.patch", 3 * config.patch * config.patch, width)),
            position: vit.then(|| init.normal("image.position", [config.patches(), width], DEVIATION)),
            class: vit.then(|| init.normal("image.class", [width], DEVIATION)),
            frequency: (0..frequency)
                .map(|i| FrequencyBlock::new(init, &format!("image.frequency.{i}"), config.grid(), width))
                .collect(),
            frequency_norm: (frequency > 0).then(|| init.layer_norm(width)),
            frequency_head: head(frequency_head && frequency > 0, "image.frequency_head"),
            block: (0..layers).map(|i| TransformerBlock::new(init, &format!("image.block.{i}"), width, config.heads)).collect(),
            norm: vit.then(|| init.layer_norm(width)),
            head: init.projection("image.head", if vit { width } else { input }, embed),
            token_head: head(token_head, "image.token_head"),
            config: config.clone(),
        }
    }

    /// Features of prepared pictures `[k, 3 S S]`, or of feature vectors `[k, input]`. `tokens` asks for those of tokens.
    pub(super) fn forward(&self, pixels: Tensor<2>, tokens: bool) -> ImageFeatures {
        let (Some(patch), Some(position), Some(class), Some(norm)) = (&self.patch, &self.position, &self.class, &self.norm)
        else {
            return ImageFeatures { global: self.head.forward(pixels), frequency: None, tokens: None };
        };
        let x = patch.forward(self.patches(pixels)) + position.val().unsqueeze(); // [k, N, D]
        let [batch, _, width] = x.dims();
        let (x, spectral) = self.branch(x);
        let mean = spectral.as_ref().map(|f| f.clone().mean_dim(1)); // [k, 1, D]
        let frequency = self.frequency_head.as_ref().zip(mean.clone());
        let frequency = frequency.map(|(head, mean)| head.forward(mean.squeeze_dim::<2>(1))); // [k, E]
        // the class token has no place on the grid, the mean stands for it
        let guide = spectral.zip(mean).filter(|_| self.config.guide > 0.0); // [k, N, D], [k, 1, D]
        let guide = guide.map(|(f, mean)| Tensor::cat(vec![mean.detach(), f.detach()], 1)); // [k, N + 1, D]
        let class = class.val().reshape([1, 1, width]).expand([batch, 1, width]); // [k, 1, D]
        let x = norm.forward(self.blocks(Tensor::cat(vec![class, x], 1), guide)); // [k, N' + 1, D]
        let global = self.head.forward(x.clone().narrow(1, 0, 1).squeeze_dim::<2>(1)); // [k, E]
        let rest = x.dims()[1] - 1;
        let head = self.token_head.as_ref().filter(|_| tokens);
        ImageFeatures { global, frequency, tokens: head.map(|head| head.forward(x.narrow(1, 1, rest))) }
    }

    /// Patches `[k, N, 3 P P]` of pictures `[k, 3 S S]`, each flattened as channel, row, column.
    fn patches(&self, pixels: Tensor<2>) -> Tensor<3> {
        let (batch, grid, side) = (pixels.dims()[0], self.config.grid(), self.config.patch);
        let cut = pixels.reshape([batch, 3, grid, side, grid, side]); // [k, 3, g, P, g, P]
        cut.permute([0, 2, 4, 1, 3, 5]).reshape([batch, grid * grid, 3 * side * side]) // [k, N, 3 P P]
    }

    /// The frequency branch: tokens `[k, N, D]` behind it and, normalised, the frequency features f, if it is on.
    fn branch(&self, mut x: Tensor<3>) -> (Tensor<3>, Option<Tensor<3>>) {
        let Some(norm) = &self.frequency_norm else {
            return (x, None);
        };
        let transform = Transform::new(self.config.grid(), self.config.grid(), &x.device());
        for block in &self.frequency {
            x = block.forward(&transform, x); // [k, N, D]
        }
        let features = norm.forward(x.clone()); // [k, N, D]
        (x, Some(features))
    }

    /// The transformer blocks, `[k, N + 1, D]` to `[k, N' + 1, D]`. Tokens are merged behind a block's attention; from then
    /// on attention to a token is weighted by its size, the number of tokens it stands for.
    fn blocks(&self, mut x: Tensor<3>, mut guide: Option<Tensor<3>>) -> Tensor<3> {
        let mut sizes: Option<Tensor<2>> = None;
        for (i, block) in self.block.iter().enumerate() {
            let [batch, tokens, width] = x.dims();
            let bias = sizes.clone().map(|size| size.log().reshape([batch, 1, 1, tokens])); // [k, 1, 1, t]
            let gone = self.config.merged(i);
            if gone == 0 {
                x = block.forward(x, bias, false); // [k, t, D]
                continue;
            }
            let attended = block.attention.forward(block.norm1.forward(x.clone()), bias, false);
            x = x + attended.values; // [k, t, D]
            let by = merge::metric(attended.keys, guide.clone().map(|f| (f, self.config.guide))); // [k, t, m]
            let size = sizes.unwrap_or_else(|| Tensor::ones([batch, tokens], &x.device())); // [k, t]
            let average = merge::plan(by, gone).average(size, width);
            x = average.of(x); // [k, t - gone, D]
            guide = guide.map(|guide| average.of(guide)); // [k, t - gone, D]
            sizes = Some(average.size); // [k, t - gone]
            x = block.finish(x); // [k, t - gone, D]
        }
        x
    }
}

/// Appends the encoder's input made of a sample: `(x / 255 - mean) / std` of each of the three planes of a picture, or the
/// features themselves.
pub(super) fn prepare(config: &ImageConfig, features: &[f32], out: &mut Vec<f32>) {
    if config.kind == ImageKind::Embedding {
        out.extend_from_slice(features);
        return;
    }
    let area = (config.size * config.size).max(1);
    for (plane, (mean, deviation)) in features.chunks(area).zip(config.mean.iter().zip(&config.std)) {
        out.extend(plane.iter().map(|value| (value / 255.0 - mean) / deviation));
    }
}

/// Moves a picture `[3 S S]` by `dx` pixels to the right and `dy` down; what comes in at a border repeats the border.
pub(super) fn shift(config: &ImageConfig, input: &mut [f32], dx: isize, dy: isize) {
    let side = config.size;
    if config.kind == ImageKind::Embedding || side == 0 || (dx == 0 && dy == 0) {
        return;
    }
    let from = |to: usize, by: isize| to.saturating_add_signed(by.saturating_neg()).min(side - 1);
    for plane in input.chunks_exact_mut(side * side) {
        let old = plane.to_vec();
        for (at, value) in plane.iter_mut().enumerate() {
            *value = old[from(at / side, dy) * side + from(at % side, dx)];
        }
    }
}
