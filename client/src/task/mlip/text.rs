//! The text encoder: a sum of word vectors, a transformer over tokens, or a projection of features that are there already.
//!
//! ```text
//! bag:          h_m = embed[id_m]                               sentence state  sum_m K_m h_m
//! transformer:  h = LN(blocks(embed[id_m] + position_m))        sentence state  sum_m K_m h_m / max(1, sum_m K_m)
//! embedding:    the features themselves are the sentence state
//! e_t = head(sentence state),  T_m = token_head(h_m)            both without a bias
//! ```
//! K is 1 at tokens and 0 at padding. Attention sees no padding, so a text has the same features however long the context
//! is. A text without any token has the sentence state 0.

use super::config::{TextConfig, TextKind};
use crate::nn::{Init, LayerNorm, TransformerBlock};
use burn::module::{Module, Param};
use burn::nn::{Embedding, Linear};
use burn::tensor::{Int, Tensor, TensorData};

/// Added to the logits of attention at padding. Finite: a text of padding alone must not divide zero by zero.
const HIDDEN: f32 = -1e4;

/// Standard deviation of word vectors and positions at the start, of a transformer: GPT's.
const WORD: f64 = 0.02;
const POSITION: f64 = 0.01;

/// Which tokens are real, and which only fill a text up to the context.
#[derive(Debug, Clone)]
pub(super) struct Mask {
    /// 1 at tokens, 0 at padding, `[k, M]`.
    pub(super) real: Tensor<2>,
}

impl Mask {
    /// The tokens of these texts.
    pub(super) fn select(&self, rows: &[usize]) -> Self {
        let indices: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        let indices = Tensor::<1, Int>::from_data(TensorData::new(indices, [rows.len()]), &self.real.device()); // [k]
        Self { real: self.real.clone().select(0, indices) } // [k, M]
    }
}

/// What the text encoder makes of k texts.
#[derive(Debug, Clone)]
pub(super) struct TextFeatures {
    /// Of each text, `[k, E]`.
    pub(super) global: Tensor<2>,
    /// Of each token, `[k, M, E]`; those of padding mean nothing. Only if asked for, and if the encoder has them.
    pub(super) tokens: Option<Tensor<3>>,
    /// Which tokens are real; one for each text if the encoder has no tokens.
    pub(super) mask: Mask,
}

/// The text encoder; what a kind does not need is not there.
#[derive(Module, Debug)]
pub(super) struct TextTower {
    /// Word vectors, `[V, W]`; that of padding is never used.
    embed: Option<Embedding>,
    /// `[M, W]`.
    position: Option<Param<Tensor<2>>>,
    block: Vec<TransformerBlock>,
    norm: Option<LayerNorm>,
    /// `W -> E`.
    head: Linear,
    /// `W -> E`.
    token_head: Option<Linear>,
}

impl TextTower {
    /// An encoder into `embed` features. `input` is the number of features of a text, for the kind that takes them as
    /// they are; `token_head` says whether tokens are to have features too.
    pub(super) fn new(init: &Init<'_>, config: &TextConfig, input: usize, embed: usize, token_head: bool) -> Self {
        let TextConfig { kind, context, width, heads, layers, words, .. } = config;
        let (transformer, embedding) = (*kind == TextKind::Transformer, *kind == TextKind::Embedding);
        let width = if embedding { input } else { *width };
        let deviation = if transformer { WORD } else { 1.0 };
        let layers = if transformer { *layers } else { 0 };
        let table = || Embedding { weight: init.normal("text.embed", [words.size(), width], deviation) };
        Self {
            embed: (!embedding).then(table),
            position: transformer.then(|| init.normal("text.position", [*context, width], POSITION)),
            block: (0..layers).map(|i| TransformerBlock::new(init, &format!("text.block.{i}"), width, *heads)).collect(),
            norm: transformer.then(|| init.layer_norm(width)),
            head: init.projection("text.head", width, embed),
            token_head: (token_head && !embedding).then(|| init.projection("text.token_head", width, embed)),
        }
    }

    /// Features of texts: their token ids `[k, M]`, or `[k, d]` features for the kind that takes them as they are.
    ///
    /// An id that is not in the table counts as padding. `tokens` asks for the features of tokens.
    pub(super) fn forward(&self, input: Tensor<2>, tokens: bool) -> TextFeatures {
        let Some(embed) = &self.embed else {
            let mask = Mask { real: Tensor::ones([input.dims()[0], 1], &input.device()) }; // [k, 1]
            return TextFeatures { global: self.head.forward(input), tokens: None, mask };
        };
        let [texts, context] = input.dims();
        let table = embed.weight.val(); // [V, W]
        let [size, width] = table.dims();
        // neither comparison holds for what is no number
        let known = input.clone().greater_equal_elem(1.0).bool_and(input.clone().lower_elem(size as f32)); // [k, M]
        let ids = input.mask_fill(known.clone().bool_not(), 0.0).int().reshape([texts * context]); // [k M]
        let real = known.float(); // [k, M]
        let vectors = table.select(0, ids).reshape([texts, context, width]); // [k, M, W]
        let states = self.contextual(vectors, &real); // [k, M, W]
        let weights = self.weights(&real); // [k, M]
        let sentence = (states.clone() * weights.unsqueeze_dim(2)).sum_dim(1).reshape([texts, width]); // [k, W]
        let token_head = self.token_head.as_ref().filter(|_| tokens);
        TextFeatures {
            global: self.head.forward(sentence),                 // [k, E]
            tokens: token_head.map(|head| head.forward(states)), // [k, M, E]
            mask: Mask { real },
        }
    }

    /// Token states of word vectors, `[k, M, W]` both.
    fn contextual(&self, vectors: Tensor<3>, real: &Tensor<2>) -> Tensor<3> {
        let (Some(position), Some(norm)) = (&self.position, &self.norm) else {
            return vectors;
        };
        let [texts, context] = real.dims();
        let hidden = real.clone().neg().add_scalar(1.0).mul_scalar(HIDDEN).reshape([texts, 1, 1, context]); // [k, 1, 1, M]
        let start = vectors + position.val().unsqueeze(); // [k, M, W]
        let last = self.block.iter().fold(start, |x, block| block.forward(x, Some(hidden.clone()), false)); // [k, M, W]
        norm.forward(last)
    }

    /// How much each token state counts in that of the sentence, `[k, M]`.
    fn weights(&self, real: &Tensor<2>) -> Tensor<2> {
        match self.norm {
            None => real.clone(),
            Some(_) => real.clone() / real.clone().sum_dim(1).clamp_min(1.0), // [k, M]
        }
    }
}

#[cfg(test)]
pub(super) mod known;
#[cfg(test)]
mod tests;
