//! How updates become the next global.
//!
//! A fold reads the same tensor of every update, a chunk at a time, and writes the result as it goes: memory grows
//! neither with the number of members nor with the size of the model. Sums are exact ([`exact`]), hence free of order.

pub mod check;
pub mod exact;
mod survey;

pub use survey::{fold_initial, sum_statistics};

use crate::id::{MemberName, Round};
use crate::param::{Dtype, Layout, ParamSet, Source, TensorSpec, block_of, decode_as_f64, decode_f32};
use crate::prototype::{Library, ProtoSums};
use crate::spec::RunSpec;
use crate::update::UpdateRef;
use exact::{ExactSum, Span};
use std::collections::BTreeMap;

/// Elements folded at a time.
const CHUNK: usize = 1 << 16;

/// One accepted update with its tensors.
#[derive(Clone, Copy)]
pub struct Contribution<'a> {
    /// What is known of it.
    pub update: &'a UpdateRef,
    /// Its tensors.
    pub source: &'a dyn Source,
    /// Rounds that it is late: it was trained from a global of so many rounds before the base.
    pub late: u32,
}

impl std::fmt::Debug for Contribution<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.update.fmt(f)
    }
}

/// What a fold of a round starts from.
#[derive(Clone, Copy)]
pub struct FoldInput<'a> {
    /// The run.
    pub spec: &'a RunSpec,
    /// The round that is folded.
    pub round: Round,
    /// The global that the cohort was given.
    pub base: &'a dyn Source,
    /// Accepted updates, in any order.
    pub updates: &'a [Contribution<'a>],
}

impl std::fmt::Debug for FoldInput<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FoldInput").field("round", &self.round).field("updates", &self.updates).finish_non_exhaustive()
    }
}

/// Takes the bytes of the result in file order.
pub trait Sink {
    /// Appends bytes.
    ///
    /// # Errors
    /// If they cannot be kept; the text says why.
    fn write(&mut self, bytes: &[u8]) -> Result<(), String>;
}

impl Sink for Vec<u8> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

/// Why a fold could not be finished. The global stays as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    /// An update is at fault.
    #[error("the update of {member} cannot be used: {why}")]
    Update {
        /// Whose.
        member: MemberName,
        /// What is wrong.
        why: String,
    },
    /// Reading or writing failed, or the base is not what it should be.
    #[error("{0}")]
    Io(String),
}

/// The weight of an update that is `late` by so many rounds: `weight * (1 + late)^-staleness`, the polynomial of FedAsync
/// (Xie et al. 2019, arXiv 1903.03934), rounded down to a whole number so that sums stay exact, and at least 1. A block
/// that was not trained has weight 0 either way.
///
/// ```
/// use tessera_common::aggregate::late_weight;
/// assert_eq!([0, 1, 3].map(|late| late_weight(100, late, 0.5)), [100, 70, 50]);
/// ```
pub fn late_weight(weight: u32, late: u32, staleness: f64) -> u32 {
    if weight == 0 || late == 0 {
        return weight;
    }
    let share = (1.0 + f64::from(late)).powf(-staleness);
    ((f64::from(weight) * share) as u32).max(1)
}

/// The weighted mean of every parameter, per block over the members that trained it.
///
/// `weight(update, block)` gives a member's weight for a block; 0 leaves the member out. A late update weighs less
/// ([`late_weight`]). A block that nobody has a weight for stays as it was. Prototype sums, if `prototypes`, renew the
/// library, but for those of late updates, which are of an older model; everything else is copied.
///
/// # Errors
/// If an update does not fit the base or holds a value that is not finite, or if reading or writing fails.
pub fn fold_mean(
    input: &FoldInput<'_>,
    weight: &dyn Fn(&UpdateRef, &str) -> u32,
    prototypes: bool,
    sink: &mut dyn Sink,
) -> Result<(), FoldError> {
    let staleness = input.spec.cohort.staleness;
    let library = if prototypes { renewed_library(input)? } else { ParamSet::new() };
    let mut specs: BTreeMap<String, TensorSpec> =
        input.base.layout().entries().iter().map(|(n, e)| (n.clone(), e.spec.clone())).collect();
    specs.extend(library.iter().map(|(n, t)| (n.to_owned(), t.spec().clone())));
    let layout = Layout::new(specs);
    sink.write(layout.header()).map_err(FoldError::Io)?;
    for (name, entry) in layout.entries() {
        if let Some(tensor) = library.get(name) {
            sink.write(tensor.data()).map_err(FoldError::Io)?;
            continue;
        }
        let trained: Vec<(&Contribution<'_>, u32)> = match block_of(name) {
            Some(block) => {
                let weigh = |c: &Contribution<'_>| late_weight(weight(c.update, block), c.late, staleness);
                input.updates.iter().map(|c| (c, weigh(c))).filter(|(_, w)| *w > 0).collect()
            }
            None => Vec::new(),
        };
        if trained.is_empty() {
            copy_tensor(input.base, name, &entry.spec, sink)?;
        } else {
            mean_tensor(name, &entry.spec, &trained, sink)?;
        }
    }
    Ok(())
}

fn copy_tensor(base: &dyn Source, name: &str, spec: &TensorSpec, sink: &mut dyn Sink) -> Result<(), FoldError> {
    let mut buffer = vec![0; spec.bytes().min(CHUNK * 8)];
    let mut from = 0;
    while from < spec.bytes() {
        let len = buffer.len().min(spec.bytes() - from);
        base.read(name, from, &mut buffer[..len]).map_err(FoldError::Io)?;
        sink.write(&buffer[..len]).map_err(FoldError::Io)?;
        from += len;
    }
    Ok(())
}

fn mean_tensor(
    name: &str,
    spec: &TensorSpec,
    trained: &[(&Contribution<'_>, u32)],
    sink: &mut dyn Sink,
) -> Result<(), FoldError> {
    if spec.dtype != Dtype::F32 {
        return Err(FoldError::Io(format!("parameter {name:?} of the global is not f32")));
    }
    let total: f64 = trained.iter().map(|(_, w)| f64::from(*w)).sum();
    let elements = spec.elements();
    let mut from = 0;
    while from < elements {
        let len = CHUNK.min(elements - from);
        let mut sum = ExactSum::new(Span::Weighted, len);
        let mut buffer = vec![0; len * 4];
        for (contribution, weight) in trained {
            let fault = |why: String| FoldError::Update { member: contribution.update.member.clone(), why };
            contribution.source.read(name, from * 4, &mut buffer).map_err(fault)?;
            sum.add_weighted(&decode_f32(&buffer), *weight).map_err(|e| fault(format!("{name:?}: {e}")))?;
        }
        let mean: Vec<u8> = sum.round().iter().flat_map(|s| ((s / total) as f32).to_le_bytes()).collect();
        sink.write(&mean).map_err(FoldError::Io)?;
        from += len;
    }
    Ok(())
}

/// Reads a whole tensor as f64.
fn read_f64(source: &dyn Source, name: &str) -> Result<Vec<f64>, String> {
    let spec = source.layout().spec(name).ok_or_else(|| format!("there is no tensor {name:?}"))?;
    let mut bytes = vec![0; spec.bytes()];
    source.read(name, 0, &mut bytes)?;
    Ok(decode_as_f64(spec.dtype, &bytes))
}

/// Exact sums over the updates of the f64 tensor `name`, `[len]`, a chunk at a time.
fn sum_over(updates: &[Contribution<'_>], name: &str, len: usize) -> Result<Vec<f64>, FoldError> {
    let mut sums = Vec::with_capacity(len);
    while sums.len() < len {
        let (from, size) = (sums.len(), CHUNK.min(len - sums.len()));
        let mut sum = ExactSum::new(Span::Full, size);
        let mut buffer = vec![0; size * 8];
        for contribution in updates {
            let Some(spec) = contribution.source.layout().spec(name) else { continue };
            let fault = |why: String| FoldError::Update { member: contribution.update.member.clone(), why };
            if spec.dtype != Dtype::F64 || spec.elements() != len {
                return Err(fault(format!("{name:?} is {:?} {:?}, not f64 with {len} elements", spec.dtype, spec.shape)));
            }
            contribution.source.read(name, from * 8, &mut buffer).map_err(fault)?;
            sum.add(&decode_as_f64(Dtype::F64, &buffer)).map_err(|e| fault(format!("{name:?}: {e}")))?;
        }
        sums.extend(sum.round());
    }
    Ok(sums)
}

/// The library after this round's prototype sums, as tensors of a global.
fn renewed_library(input: &FoldInput<'_>) -> Result<ParamSet, FoldError> {
    let fresh: Vec<Contribution<'_>> = input.updates.iter().filter(|c| c.late == 0).copied().collect();
    let mut modalities: Vec<&str> = fresh
        .iter()
        .flat_map(|c| c.source.layout().entries().keys())
        .filter_map(|n| n.strip_prefix("proto/")?.strip_suffix("/count"))
        .collect();
    modalities.extend(input.base.layout().entries().keys().filter_map(|n| n.strip_prefix("proto/")?.strip_suffix("/count")));
    modalities.sort_unstable();
    modalities.dedup();
    let mut out = ParamSet::new();
    for modality in modalities {
        let old = read_library(input.base, modality).map_err(FoldError::Io)?;
        let sums_name = format!("proto/{modality}/sum");
        let shape = fresh.iter().find_map(|c| c.source.layout().spec(&sums_name)).map(|s| s.shape.clone());
        let (classes, width) = match (&shape, &old) {
            (Some(shape), _) if shape.len() == 2 => (shape[0], shape[1]),
            (_, Some(old)) => (old.classes(), old.width()),
            _ => return Err(FoldError::Io(format!("{sums_name:?} is not a matrix"))),
        };
        let counts_name = format!("proto/{modality}/count");
        let sums = ProtoSums::new(
            classes,
            width,
            sum_over(&fresh, &sums_name, classes * width)?,
            sum_over(&fresh, &counts_name, classes)?,
        )
        .map_err(FoldError::Io)?;
        let mut contributors = vec![0.0; classes];
        for contribution in fresh.iter().filter(|c| c.source.layout().spec(&counts_name).is_some()) {
            let counts = read_f64(contribution.source, &counts_name).map_err(FoldError::Io)?;
            contributors.iter_mut().zip(&counts).filter(|(_, c)| **c > 0.0).for_each(|(n, _)| *n += 1.0);
        }
        let p = &input.spec.prototypes;
        let renewed = Library::renew(old.as_ref(), &sums, &contributors, input.round, f64::from(p.min_total), p.ema, p.max_age)
            .map_err(FoldError::Io)?;
        renewed.write(modality, &mut out);
    }
    Ok(out)
}

fn read_library(base: &dyn Source, modality: &str) -> Result<Option<Library>, String> {
    let mut set = ParamSet::new();
    for part in ["mean", "count", "contributors", "round"] {
        let name = format!("proto/{modality}/{part}");
        if let Some(spec) = base.layout().spec(&name) {
            set.insert(name.clone(), crate::param::Tensor::f64(&spec.shape, &read_f64(base, &name)?));
        }
    }
    Library::read(modality, &set)
}

#[cfg(test)]
mod tests;
