//! A member's samples as the run sees them: modalities in the order of the spec, checked, standardised.

use super::TaskError;
use crate::data::{Modality, Samples};
use tessera_common::id::MemberName;
use tessera_common::param::ParamSet;
use tessera_common::spec::RunSpec;
use tessera_common::statistics::Standardisation;

/// Samples with the modalities of the run spec, counted in name order.
///
/// Modalities that the member has and the run does not name are not used.
pub(crate) struct View<'a> {
    samples: &'a Samples,
    columns: Vec<Option<&'a Modality>>,
    scales: Vec<Option<Standardisation>>,
    present: Vec<u32>,
    all: u32,
}

impl<'a> View<'a> {
    /// The samples as they are, after checking them.
    pub(crate) fn raw(spec: &RunSpec, member: &MemberName, samples: &'a Samples) -> Result<Self, TaskError> {
        let fault = |why: String| TaskError::Data { member: member.clone(), why };
        let n = samples.len();
        if samples.present.len() != n {
            return Err(fault(format!("{n} labels, but presence bits of {} samples", samples.present.len())));
        }
        if let Some(i) = samples.labels.iter().position(|&label| label as usize >= spec.task.classes) {
            let (label, classes) = (samples.labels[i], spec.task.classes);
            return Err(fault(format!("sample {i} has class {label}; task.classes = {classes} allows 0 to {}", classes - 1)));
        }
        let mut present = vec![0; n];
        let mut columns = Vec::new();
        for (bit, (name, &dim)) in spec.task.modalities.iter().enumerate() {
            let found = samples.modalities.iter().position(|m| m.name == *name);
            if let Some(index) = found {
                let modality = &samples.modalities[index];
                check(modality, dim, n).map_err(fault)?;
                for (i, bits) in present.iter_mut().enumerate() {
                    *bits |= (samples.present[i] >> index & 1) << bit;
                }
            }
            columns.push(found.map(|index| &samples.modalities[index]));
        }
        let scales = vec![None; columns.len()];
        Ok(Self { samples, scales, present, all: (1 << columns.len()) - 1, columns })
    }

    /// The samples, scaled by the standardisation that `global` carries if the run standardises.
    pub(crate) fn new(spec: &RunSpec, member: &MemberName, samples: &'a Samples, global: &ParamSet) -> Result<Self, TaskError> {
        let mut view = Self::raw(spec, member, samples)?;
        if !spec.task.standardise {
            return Ok(view);
        }
        for (m, (name, &dim)) in spec.task.modalities.iter().enumerate() {
            let scale = Standardisation::read(name, global).map_err(TaskError::Global)?;
            match scale {
                Some(scale) if scale.dim() != dim => {
                    let found = scale.dim();
                    return Err(TaskError::Global(format!("input/{name} standardises {found} features, the run has {dim}")));
                }
                None if !view.having(m).is_empty() => {
                    let why = format!("input/{name}/mean is missing, but task.standardise = true and {member} has {name:?}");
                    return Err(TaskError::Global(why));
                }
                scale => view.scales[m] = scale,
            }
        }
        Ok(view)
    }

    /// Number of samples, the unusable ones included.
    pub(crate) fn len(&self) -> usize {
        self.present.len()
    }

    /// Number of modalities of the run.
    pub(crate) fn modalities(&self) -> usize {
        self.columns.len()
    }

    /// True if sample `i` has the modality.
    pub(crate) fn has(&self, i: usize, modality: usize) -> bool {
        self.present[i] >> modality & 1 == 1
    }

    /// Samples that have any modality: the others are discarded, from counts too.
    pub(crate) fn usable(&self) -> Vec<usize> {
        self.rows(|bits| bits != 0)
    }

    /// Samples that have every modality.
    pub(crate) fn complete(&self) -> Vec<usize> {
        self.rows(|bits| bits == self.all)
    }

    /// Samples that have the modality.
    pub(crate) fn having(&self, modality: usize) -> Vec<usize> {
        self.rows(|bits| bits >> modality & 1 == 1)
    }

    /// Samples that have all modalities of `subset`, given as bits.
    pub(crate) fn having_all(&self, subset: u32) -> Vec<usize> {
        self.rows(|bits| bits & subset == subset)
    }

    fn rows(&self, keep: impl Fn(u32) -> bool) -> Vec<usize> {
        (0..self.len()).filter(|&i| keep(self.present[i])).collect()
    }

    /// Class of sample `i`.
    pub(crate) fn label(&self, i: usize) -> u32 {
        self.samples.labels[i]
    }

    /// Classes of `rows`, `[k]`.
    pub(crate) fn labels(&self, rows: &[usize]) -> Vec<u32> {
        rows.iter().map(|&i| self.label(i)).collect()
    }

    /// Features of sample `i` as they are, `[d]`; empty if the member does not have the modality at all.
    pub(crate) fn features(&self, i: usize, modality: usize) -> &[f32] {
        self.columns[modality].map_or(&[], |c| &c.values[i * c.dim..(i + 1) * c.dim])
    }

    /// Scaled features of `rows`, `[k, d]` row-major. The rows must have the modality.
    pub(crate) fn gather(&self, rows: &[usize], modality: usize) -> Vec<f32> {
        let mut out = Vec::with_capacity(rows.len() * self.columns[modality].map_or(0, |c| c.dim));
        for &i in rows {
            match &self.scales[modality] {
                Some(scale) => scale.apply(self.features(i, modality), &mut out),
                None => out.extend_from_slice(self.features(i, modality)),
            }
        }
        out
    }
}

fn check(modality: &Modality, dim: usize, n: usize) -> Result<(), String> {
    let (name, found) = (&modality.name, modality.dim);
    if found != dim {
        return Err(format!("modality {name:?} has {found} features, task.modalities says {dim}"));
    }
    if modality.values.len() != n * dim {
        return Err(format!("modality {name:?} has {} values, not {n} samples of {dim}", modality.values.len()));
    }
    match modality.values.iter().position(|v| !v.is_finite()) {
        Some(at) => Err(format!("feature {} of modality {name:?} is not finite in sample {}", at % dim, at / dim)),
        None => Ok(()),
    }
}
