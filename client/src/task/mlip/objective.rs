//! The objective of one batch: what it has of pairs, of pictures alone and of texts alone.
//!
//! ```text
//! L = (n_p L_p + w_i n_i L_i + w_t n_t L_t) / n
//! L_p = CL(e_s, e_t; s) + lf CL(e_f, e_t; s_f) + lt TL(V, T; s_t)          of n_p pairs
//! L_i = CE(s cos(e_s, P_text), y) + lf CE(s_f cos(e_f, P_text), y)         of n_i pictures without a text
//! L_t = CE(s cos(e_t, P_spatial), y) + lf CE(s_f cos(e_t, P_frequency), y) of n_t texts without a picture
//! ```
//! CL and TL are the contrasts over the pairs of the batch, both ways; pairs with one text are not each other's negatives.
//! P are the prototypes of the federation's last renewal, `y` the sample's class or cluster: the prototype of its own class
//! is what a sample is drawn to and never a negative. A sample whose class has no prototype yet is left out.

use super::loss;
use super::model::{Mlip, Network};
use crate::glue;
use crate::prototype::Anchors;
use crate::task::Batch;
use crate::task::objective::Contrast;
use burn::module::Param;
use burn::tensor::{Int, Tensor, TensorData};
use std::collections::BTreeMap;

/// Where the samples of a batch are among those that have a modality: `(place among pictures, place among texts)`.
struct Piles {
    pairs: Vec<(usize, usize)>,
    images: Vec<usize>,
    texts: Vec<usize>,
}

impl Piles {
    fn of(images: &[usize], texts: &[usize]) -> Self {
        let place = |all: &[usize]| -> BTreeMap<usize, usize> { all.iter().enumerate().map(|(at, &i)| (i, at)).collect() };
        let (by_image, by_text) = (place(images), place(texts));
        let alone =
            |all: &[usize], other: &BTreeMap<usize, usize>| (0..all.len()).filter(|&at| !other.contains_key(&all[at])).collect();
        Self {
            pairs: images.iter().filter_map(|i| Some((by_image[i], *by_text.get(i)?))).collect(),
            images: alone(images, &by_text),
            texts: alone(texts, &by_image),
        }
    }
}

/// The objective `[1]`; None if nothing of the batch can be learned from.
pub(super) fn loss(model: &Mlip, network: &Network, batch: &Batch, contrast: &Contrast) -> Option<Tensor<1>> {
    let (images, texts) = (&batch.columns[model.image], &batch.columns[model.text]);
    let piles = Piles::of(&images.present, &texts.present);
    let weights = &model.config.loss;
    let labels = |present: &[usize], alone: &[usize]| alone.iter().map(|&at| batch.labels[present[at]]).collect::<Vec<u32>>();
    let by_text = known(contrast.modalities.get(model.text), &piles.images, &labels(&images.present, &piles.images));
    let by_image = known(contrast.modalities.get(model.image), &piles.texts, &labels(&texts.present, &piles.texts));
    let paired = piles.pairs.len() > 1;
    let image_only = weights.image_only > 0.0 && by_text.is_some();
    let text_only = weights.text_only > 0.0 && by_image.is_some();
    // an encoder runs only if something is learned from it
    let seen = images.inputs.clone().filter(|_| paired || image_only).map(|x| model.see(network, x));
    let read = texts.inputs.clone().filter(|_| paired || text_only).map(|x| model.read(network, x));
    let mut total: Option<Tensor<1>> = None;
    let mut add = |term: Tensor<1>, weight: f64| {
        let term = term.mul_scalar(weight / batch.len() as f64); // [1]
        total = Some(match total.take() {
            Some(total) => total + term, // [1]
            None => term,
        });
    };
    if let (true, Some(seen), Some(read), Some(inputs)) = (paired, &seen, &read, &texts.inputs) {
        add(pairs(model, network, &piles.pairs, seen, read, inputs), piles.pairs.len() as f64);
    }
    if let (true, Some((rows, columns, anchors)), Some(seen)) = (image_only, by_text, &seen) {
        let mut term = toward(&seen.global, &rows, &anchors.unit, &columns, &network.scale.global); // [1]
        if let (Some(frequency), Some(scale)) = (&seen.frequency, &network.scale.frequency) {
            let other = toward(frequency, &rows, &anchors.unit, &columns, scale); // [1]
            term = term + other.mul_scalar(weights.frequency); // [1]
        }
        add(term, weights.image_only * rows.len() as f64);
    }
    if let (true, Some((rows, columns, anchors)), Some(read)) = (text_only, by_image, &read) {
        let halves = halves(anchors, model.config.embed);
        let mut term = toward(&read.global, &rows, &halves[0], &columns, &network.scale.global); // [1]
        if let (Some(half), Some(scale)) = (halves.get(1), &network.scale.frequency) {
            term = term + toward(&read.global, &rows, half, &columns, scale).mul_scalar(weights.frequency); // [1]
        }
        add(term, weights.text_only * rows.len() as f64);
    }
    total
}

/// The contrasts of the pairs, `[1]`.
fn pairs(
    model: &Mlip,
    network: &Network,
    pairs: &[(usize, usize)],
    seen: &super::image::ImageFeatures,
    read: &super::text::TextFeatures,
    inputs: &Tensor<2>,
) -> Tensor<1> {
    let (images, texts): (Vec<usize>, Vec<usize>) = pairs.iter().copied().unzip();
    let same = equal_texts(inputs, &texts);
    let same = same.as_deref();
    let (spatial, text) = (rows(&seen.global, &images), rows(&read.global, &texts)); // [p, E]
    let mut total = loss::contrast(spatial, text.clone(), network.scale.global.val(), same); // [1]
    let weights = &model.config.loss;
    if let (Some(frequency), Some(scale)) = (&seen.frequency, &network.scale.frequency) {
        let term = loss::contrast(rows(frequency, &images), text, scale.val(), same); // [1]
        total = total + term.mul_scalar(weights.frequency); // [1]
    }
    if let (Some(patches), Some(words), Some(scale)) = (&seen.tokens, &read.tokens, &network.scale.token) {
        let (patches, words) = (rows(patches, &images), rows(words, &texts)); // [p, N, E], [p, M, E]
        let mask = read.mask.select(&texts);
        let term = loss::token_loss(patches, words, &mask, scale.val(), same); // [1]
        total = total + term.mul_scalar(weights.token); // [1]
    }
    total
}

/// Of the samples `alone` those whose class has a prototype: their places, the columns of their classes, the prototypes.
fn known<'a>(
    anchors: Option<&'a Option<Anchors>>,
    alone: &[usize],
    labels: &[u32],
) -> Option<(Vec<usize>, Vec<usize>, &'a Anchors)> {
    let anchors = anchors?.as_ref()?;
    let column = |label: u32| anchors.column.get(label as usize).copied().flatten();
    let (rows, columns): (Vec<usize>, Vec<usize>) =
        alone.iter().zip(labels).filter_map(|(&at, &label)| Some((at, column(label)?))).unzip();
    (!rows.is_empty()).then_some((rows, columns, anchors))
}

fn toward(
    features: &Tensor<2>,
    chosen: &[usize],
    prototypes: &Tensor<2>,
    columns: &[usize],
    scale: &Param<Tensor<1>>,
) -> Tensor<1> {
    loss::toward(rows(features, chosen), prototypes.clone(), columns, scale.val()) // [1]
}

/// The prototypes of pictures `[W, V]` as those of their spatial and frequency features, `[E, V]` of unit columns each.
fn halves(anchors: &Anchors, embed: usize) -> Vec<Tensor<2>> {
    let width = anchors.unit.dims()[0];
    let half = |from: usize| {
        let part = anchors.unit.clone().narrow(0, from, embed); // [E, V]
        loss::unit(part.transpose()).transpose() // [E, V]
    };
    (0..width / embed).map(|i| half(i * embed)).collect()
}

/// Rows of `all`, `[k, ..]`; all of them if they are all wanted in order.
fn rows<const D: usize>(all: &Tensor<D>, wanted: &[usize]) -> Tensor<D> {
    if wanted.len() == all.dims()[0] && wanted.iter().enumerate().all(|(at, &row)| at == row) {
        return all.clone();
    }
    let indices: Vec<i64> = wanted.iter().map(|&row| row as i64).collect();
    let indices = Tensor::<1, Int>::from_data(TensorData::new(indices, [wanted.len()]), &all.device()); // [k]
    all.clone().select(0, indices) // [k, ..]
}

/// For texts of which some are equal, which pairs are: `[p, p]` row-major. None if all differ.
fn equal_texts(inputs: &Tensor<2>, wanted: &[usize]) -> Option<Vec<bool>> {
    let width = inputs.dims()[1].max(1);
    let values = glue::host(inputs.clone());
    let row = |at: usize| &values[at * width..(at + 1) * width];
    let mut groups: BTreeMap<Vec<u32>, usize> = BTreeMap::new();
    let group = |&at: &usize| {
        let next = groups.len();
        *groups.entry(row(at).iter().map(|v| v.to_bits()).collect()).or_insert(next)
    };
    let found: Vec<usize> = wanted.iter().map(group).collect();
    if groups.len() == wanted.len() {
        return None;
    }
    Some(found.iter().flat_map(|a| found.iter().map(move |b| a == b)).collect())
}
