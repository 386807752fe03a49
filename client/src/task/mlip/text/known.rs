//! The known answers that `tests/pytorch/mlip_text.py` has made.

use crate::glue;
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
pub(in super::super) struct Known {
    pub(in super::super) encoders: BTreeMap<String, Encoder>,
    #[serde(flatten)]
    pub(in super::super) terms: BTreeMap<String, Term>,
}

/// A text encoder, and features and gradients of four texts.
#[derive(Deserialize)]
pub(in super::super) struct Encoder {
    pub(in super::super) context: usize,
    pub(in super::super) width: usize,
    pub(in super::super) heads: usize,
    pub(in super::super) layers: usize,
    pub(in super::super) vocabulary: usize,
    pub(in super::super) embed: usize,
    pub(in super::super) ids: Values,
    pub(in super::super) parameters: BTreeMap<String, Values>,
    pub(in super::super) by_text: Values,
    pub(in super::super) by_token: Values,
    pub(in super::super) global: Values,
    pub(in super::super) tokens: Values,
    pub(in super::super) gradients: BTreeMap<String, Values>,
}

/// A term of the loss: its value for some inputs, and the gradients of those.
#[derive(Deserialize)]
pub(in super::super) struct Term {
    pub(in super::super) inputs: BTreeMap<String, Values>,
    pub(in super::super) fixed: BTreeMap<String, Values>,
    pub(in super::super) value: Values,
    pub(in super::super) gradients: BTreeMap<String, Values>,
    pub(in super::super) i2t: Option<Values>,
    pub(in super::super) t2i: Option<Values>,
}

/// A tensor.
#[derive(Deserialize)]
pub(in super::super) struct Values {
    pub(in super::super) shape: Vec<usize>,
    pub(in super::super) values: Vec<f64>,
}

pub(in super::super) fn known() -> Known {
    serde_json::from_str(include_str!("../../../../known_answers/mlip_text.json")).unwrap()
}

impl Values {
    pub(in super::super) fn f32(&self) -> Vec<f32> {
        self.values.iter().map(|&v| v as f32).collect()
    }

    pub(in super::super) fn tensor<const D: usize>(&self, device: &Device) -> Tensor<D> {
        glue::tensor(self.f32(), self.shape.clone().try_into().unwrap(), device)
    }

    /// Holds `found` to these, relative to the largest.
    pub(in super::super) fn check(&self, what: &str, found: &[f32], tolerance: f64) {
        assert_eq!(self.values.len(), found.len(), "{what}");
        let largest = self.values.iter().fold(1e-3f64, |largest, v| largest.max(v.abs()));
        for (at, (&known, &found)) in self.values.iter().zip(found).enumerate() {
            let off = (known - f64::from(found)).abs() / largest;
            assert!(off <= tolerance, "{what}[{at}] is {found}, not {known}: {off:e} of the largest");
        }
    }
}
