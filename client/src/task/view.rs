//! A member's samples as the run sees them: modalities in the order of the spec, checked, standardised.

use super::{FedModel, TaskError};
use crate::data::{Modality, Samples};
use tessera_common::id::MemberName;
use tessera_common::param::ParamSet;
use tessera_common::spec::RunSpec;
use tessera_common::statistics::Standardisation;

/// Class of a sample that has none; no prototype and no anchor has it.
pub(crate) const NO_CLASS: u32 = u32::MAX;

/// Samples with the modalities of the run spec, counted in name order.
///
/// Modalities that the member has and the run does not name are not used.
pub(crate) struct View<'a> {
    samples: &'a Samples,
    columns: Vec<Option<&'a Modality>>,
    scales: Vec<Option<Standardisation>>,
    present: Vec<u32>,
    all: u32,
    /// Classes in place of those of the data; None where a sample has none.
    groups: Option<Vec<Option<u32>>>,
}

impl<'a> View<'a> {
    /// The samples as they are, after checking them.
    ///
    /// The classes are looked at if the run is `labelled`.
    pub(crate) fn raw(spec: &RunSpec, member: &MemberName, samples: &'a Samples, labelled: bool) -> Result<Self, TaskError> {
        let fault = |why: String| TaskError::Data { member: member.clone(), why };
        let n = samples.len();
        let known = |label: u32| !labelled || (label as usize) < spec.task.classes;
        if samples.present.len() != n {
            return Err(fault(format!("{n} labels, but presence bits of {} samples", samples.present.len())));
        }
        if let Some(i) = samples.labels.iter().position(|&label| !known(label)) {
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
        let groups = (!labelled).then(|| vec![None; n]);
        Ok(Self { samples, scales, present, all: (1 << columns.len()) - 1, columns, groups })
    }

    /// The samples, scaled by the standardisation that `global` carries if the run standardises.
    pub(crate) fn new(
        spec: &RunSpec,
        member: &MemberName,
        samples: &'a Samples,
        global: &ParamSet,
        labelled: bool,
    ) -> Result<Self, TaskError> {
        let mut view = Self::raw(spec, member, samples, labelled)?;
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

    /// Puts samples into these groups instead of their classes, `[n]`.
    pub(crate) fn group(&mut self, groups: Vec<Option<u32>>) {
        self.groups = Some(groups);
    }

    /// Class of sample `i`; [`NO_CLASS`] if it is in no group.
    pub(crate) fn label(&self, i: usize) -> u32 {
        match &self.groups {
            Some(groups) => groups[i].unwrap_or(NO_CLASS),
            None => self.samples.labels[i],
        }
    }

    /// Those of `rows` that have a class.
    pub(crate) fn classed(&self, rows: Vec<usize>) -> Vec<usize> {
        rows.into_iter().filter(|&i| self.label(i) != NO_CLASS).collect()
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

    /// Inputs of `rows` as `model` takes them, `[k, input]` row-major. The rows must have the modality.
    pub(crate) fn prepared<M: FedModel>(&self, model: &M, rows: &[usize], modality: usize) -> Vec<f32> {
        let scaled = self.gather(rows, modality);
        let dim = scaled.len() / rows.len().max(1);
        let mut out = Vec::with_capacity(scaled.len());
        scaled.chunks_exact(dim.max(1)).for_each(|features| model.prepare(modality, features, &mut out));
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
