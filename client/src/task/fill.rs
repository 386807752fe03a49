//! What stands in for the representation of a modality that a sample lacks.
//!
//! While training, a mask (a prototype, as in PmcmFL) is tried first where the policy, the coin and the library allow
//! it; then comes the fill. Both are drawn on the host and handed to the model as data.

use crate::prototype::Prototypes;
use tessera_common::id::Round;
use tessera_common::rng::{self, Stream};
use tessera_common::spec::{Fill, Mask, RunSpec};

/// Makes stand-ins, one after another.
pub(crate) struct Filler<'a> {
    fill: Fill,
    mask: Mask,
    probability: f64,
    prototypes: &'a Prototypes,
    widths: &'a [usize],
    noise: Stream,
    coin: Stream,
    training: bool,
}

impl<'a> Filler<'a> {
    /// For one local run. The first mask comes after `missing.warmup` rounds.
    pub(crate) fn training(spec: &RunSpec, prototypes: &'a Prototypes, widths: &'a [usize], member: &str, round: Round) -> Self {
        let missing = &spec.missing;
        let mask = if round > missing.warmup { missing.mask } else { Mask::None };
        let stream = |purpose| rng::stream(spec.seed, purpose, member, round);
        let (noise, coin) = (stream("fill-noise"), stream("mask-coin"));
        let (fill, probability) = (missing.fill, missing.mask_probability);
        Self { fill, mask, probability, prototypes, widths, noise, coin, training: true }
    }

    /// For answers: no mask, and labels are not known.
    pub(crate) fn inference(spec: &RunSpec, prototypes: &'a Prototypes, widths: &'a [usize], member: &str) -> Self {
        let stream = |purpose| rng::stream(spec.seed, purpose, member, 0);
        let (noise, coin) = (stream("answer-noise"), stream("answer-coin"));
        let (fill, mask) = (spec.missing.fill, Mask::None);
        Self { fill, mask, probability: 0.0, prototypes, widths, noise, coin, training: false }
    }

    /// True if [`Self::stand_in`] wants the class nearest to what a sample has.
    pub(crate) fn retrieves(&self) -> bool {
        let by_fill = self.fill == Fill::Retrieved || (self.fill == Fill::LabelPrototype && !self.training);
        (by_fill || self.mask == Mask::Retrieved) && !self.prototypes.is_empty()
    }

    /// Where prototypes are taken from.
    pub(crate) fn library(&self) -> &'a Prototypes {
        self.prototypes
    }

    /// Appends a stand-in `[width]` to `out`. True if the model's token takes its place: zeros are appended then.
    pub(crate) fn stand_in(&mut self, modality: usize, label: Option<u32>, nearest: Option<usize>, out: &mut Vec<f32>) -> bool {
        let label = label.filter(|_| self.training).map(|l| l as usize);
        let masking = match self.mask {
            Mask::None => None,
            Mask::Label => label,
            Mask::Retrieved => nearest,
        };
        // The coin falls for every stand-in of a run with masks, so that its stream does not depend on the library.
        let used = self.mask != Mask::None && self.coin.uniform() < self.probability;
        if used && self.prototype(modality, masking, out) {
            return false;
        }
        match self.fill {
            Fill::Drop | Fill::Zero => self.zeros(modality, out),
            Fill::Noise => out.extend((0..self.widths[modality]).map(|_| self.noise.normal() as f32)),
            Fill::Token => {
                self.zeros(modality, out);
                return true;
            }
            Fill::LabelPrototype | Fill::Retrieved => {
                let class = if self.fill == Fill::LabelPrototype { label.or(nearest) } else { nearest };
                if !self.prototype(modality, class, out) {
                    self.zeros(modality, out);
                }
            }
        }
        false
    }

    /// Appends the prototype of a class; false if there is none.
    pub(crate) fn prototype(&self, modality: usize, class: Option<usize>, out: &mut Vec<f32>) -> bool {
        match class.and_then(|c| self.prototypes.row(modality, c)) {
            Some(row) => {
                out.extend(row.iter().map(|&v| v as f32));
                true
            }
            None => false,
        }
    }

    fn zeros(&self, modality: usize, out: &mut Vec<f32>) {
        out.resize(out.len() + self.widths[modality], 0.0);
    }
}
