//! The usual objective: mean cross-entropy of the head, and a pull of representations towards their class's prototype.
//!
//! ```text
//! L = CE(head(fuse(r or stand-in)), y)
//!   + weight * sum_m mean_{samples having m, class valid in P_m} CE(cos(r_m, P_m[.]) / tau, y)
//!   + weight_fused * mean_{class valid in P_fused} CE(cos(r_fused, P_fused[.]) / tau, y)
//! ```
//! The contrast runs over all classes that have a prototype (PmcmFL contrasts with those of the batch, where two samples
//! of one class are each other's negatives), on vectors of unit length.

use super::{Batch, Column, FedModel};
use crate::glue;
use crate::prototype::{Anchors, Prototypes};
use burn::tensor::{Device, Int, Tensor, TensorData, activation::log_softmax};
use tessera_common::spec::PrototypeSpec;

/// Added to squared lengths: keeps the gradient of a zero vector's direction finite.
const LEAST_SQUARE: f32 = 1e-12;

/// Prototypes that representations are pulled towards, on the device.
#[derive(Debug, Clone)]
pub struct Contrast {
    /// Temperature.
    pub tau: f64,
    /// Weight of each modality's term.
    pub weight: f64,
    /// Weight of the fused term.
    pub weight_fused: f64,
    /// Prototypes per modality, in name order; None where there are none.
    pub modalities: Vec<Option<Anchors>>,
    /// Prototypes of the fused representation.
    pub fused: Option<Anchors>,
}

impl Contrast {
    /// The library of a global on `device`, for `modalities` modalities; terms of weight 0 are left out.
    pub fn new(spec: &PrototypeSpec, prototypes: &Prototypes, modalities: usize, device: &Device) -> Self {
        let each = (0..modalities).map(|m| if spec.contrast > 0.0 { prototypes.anchors(m, device) } else { None });
        let fused = if spec.contrast_fused > 0.0 { prototypes.fused_anchors(device) } else { None };
        Self { tau: spec.tau, weight: spec.contrast, weight_fused: spec.contrast_fused, modalities: each.collect(), fused }
    }
}

/// The objective of one batch, `[1]`.
pub fn loss<M: FedModel>(model: &M, module: &M::Module, batch: &Batch, contrast: &Contrast) -> Tensor<1> {
    let mut representations = Vec::with_capacity(batch.columns.len());
    let mut pull: Option<Tensor<1>> = None;
    for (m, column) in batch.columns.iter().enumerate() {
        let encoded = column.inputs.clone().map(|x| model.encode(module, m, x)); // [k, width]
        if let (Some(encoded), Some(Some(anchors))) = (&encoded, contrast.modalities.get(m)) {
            let labels: Vec<u32> = column.present.iter().map(|&at| batch.labels[at]).collect();
            let term = contrast_term(encoded.clone(), &labels, anchors, contrast.tau); // [1]
            pull = add(pull, term.map(|t| t.mul_scalar(contrast.weight)));
        }
        representations.push(assemble(encoded, column, model.width(m), model.token(module, m), &batch.device)); // [n, width]
    }
    let fused = model.fuse(module, representations); // [n, fused]
    if let Some(anchors) = &contrast.fused {
        let term = contrast_term(fused.clone(), &batch.labels, anchors, contrast.tau); // [1]
        pull = add(pull, term.map(|t| t.mul_scalar(contrast.weight_fused)));
    }
    let logits = model.logits(module, fused); // [n, C]
    let columns: Vec<usize> = batch.labels.iter().map(|&y| y as usize).collect();
    let task = cross_entropy(logits, &columns, &batch.device); // [1]
    match pull {
        Some(pull) => task + pull, // [1]
        None => task,
    }
}

fn add(total: Option<Tensor<1>>, term: Option<Tensor<1>>) -> Option<Tensor<1>> {
    match (total, term) {
        (Some(total), Some(term)) => Some(total + term), // [1]
        (total, term) => total.or(term),
    }
}

/// Representations of all samples of a batch, `[n, width]`: encoded where present, stand-ins elsewhere.
pub fn assemble(
    encoded: Option<Tensor<2>>,
    column: &Column,
    width: usize,
    token: Option<Tensor<1>>,
    device: &Device,
) -> Tensor<2> {
    let absent = column.absent.len();
    let stand_in = (absent > 0).then(|| {
        let fixed = glue::tensor(column.stand_in.clone(), [absent, width], device); // [n - k, width]
        match token {
            Some(token) if column.token.contains(&true) => {
                let flags: Vec<f32> = column.token.iter().map(|&t| f32::from(u8::from(t))).collect();
                let learned = glue::tensor(flags, [absent, 1], device).matmul(token.reshape([1, width])); // [n - k, width]
                fixed + learned // [n - k, width]
            }
            _ => fixed,
        }
    });
    match (encoded, stand_in) {
        (Some(encoded), None) => encoded,
        (None, Some(stand_in)) => stand_in,
        (Some(encoded), Some(stand_in)) => {
            let mut order = vec![0i64; column.present.len() + absent];
            column.present.iter().chain(&column.absent).enumerate().for_each(|(from, &at)| order[at] = from as i64);
            Tensor::cat(vec![encoded, stand_in], 0).select(0, indices(order, device)) // [n, width]
        }
        (None, None) => Tensor::zeros([0, width], device), // [0, width]
    }
}

/// Mean over the samples whose class has a prototype of CE(cos(r, P[.]) / tau, y); None if there is no such sample.
fn contrast_term(representations: Tensor<2>, labels: &[u32], anchors: &Anchors, tau: f64) -> Option<Tensor<1>> {
    let device = representations.device();
    let column = |&label: &u32| anchors.column.get(label as usize).copied().flatten();
    let (rows, columns): (Vec<i64>, Vec<usize>) =
        labels.iter().enumerate().filter_map(|(at, label)| Some((at as i64, column(label)?))).unzip();
    if rows.is_empty() {
        return None;
    }
    let chosen = if rows.len() == labels.len() {
        representations // [v, width]
    } else {
        representations.select(0, indices(rows, &device)) // [v, width]
    };
    let length = chosen.clone().square().sum_dim(1).add_scalar(LEAST_SQUARE).sqrt(); // [v, 1]
    let cosines = (chosen / length).matmul(anchors.unit.clone()); // [v, V]
    Some(cross_entropy(cosines.div_scalar(tau), &columns, &device)) // [1]
}

/// Mean over rows of `-log softmax(logits)[column]`, `[1]`.
fn cross_entropy(logits: Tensor<2>, columns: &[usize], device: &Device) -> Tensor<1> {
    let chosen: Vec<i64> = columns.iter().map(|&c| c as i64).collect();
    let picked = Tensor::<2, Int>::from_data(TensorData::new(chosen, [columns.len(), 1]), device); // [n, 1]
    log_softmax(logits, 1).gather(1, picked).mean().neg() // [1]
}

fn indices(values: Vec<i64>, device: &Device) -> Tensor<1, Int> {
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), device) // [n]
}
