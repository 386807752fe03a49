//! Folds of surveys and of the initial model.

use super::{Contribution, FoldError, Sink, sum_over};
use crate::param::{Dtype, Layout, ParamSet, Source, Tensor, TensorSpec};
use crate::statistics::{InputStatistics, Standardisation};
use std::collections::BTreeMap;

/// Adds the statistics of all answers, tensor by tensor; a tensor that a member did not send counts as zero.
///
/// # Errors
/// If two answers have a tensor in different shapes, or a value is not finite, or reading or writing fails.
pub fn sum_statistics(answers: &[Contribution<'_>], sink: &mut dyn Sink) -> Result<(), FoldError> {
    let mut specs: BTreeMap<String, TensorSpec> = BTreeMap::new();
    for answer in answers {
        for (name, entry) in answer.source.layout().entries() {
            let known = specs.entry(name.clone()).or_insert_with(|| entry.spec.clone());
            if *known != entry.spec || entry.spec.dtype != Dtype::F64 {
                let why = format!("{name:?} is {:?}, others have {known:?}", entry.spec);
                return Err(FoldError::Update { member: answer.update.member.clone(), why });
            }
        }
    }
    let layout = Layout::new(specs);
    sink.write(layout.header()).map_err(FoldError::Io)?;
    for (name, entry) in layout.entries() {
        let sums = sum_over(answers, name, entry.spec.elements())?;
        let bytes: Vec<u8> = sums.iter().flat_map(|s| s.to_le_bytes()).collect();
        sink.write(&bytes).map_err(FoldError::Io)?;
    }
    Ok(())
}

/// The initial global: the parameters that a member initialised, with the standardisation from the survey of inputs.
///
/// # Errors
/// If the survey is not what [`sum_statistics`] wrote, or if reading or writing fails.
pub fn fold_initial(initial: &dyn Source, inputs: Option<&dyn Source>, sink: &mut dyn Sink) -> Result<(), FoldError> {
    let mut global = ParamSet::new();
    copy_all(initial, &mut global)?;
    if let Some(inputs) = inputs {
        let mut sums = ParamSet::new();
        copy_all(inputs, &mut sums)?;
        for (modality, statistics) in InputStatistics::read_all(&sums).map_err(FoldError::Io)? {
            Standardisation::from(&statistics).write(&modality, &mut global);
        }
    }
    sink.write(&global.to_bytes()).map_err(FoldError::Io)
}

fn copy_all(source: &dyn Source, into: &mut ParamSet) -> Result<(), FoldError> {
    for (name, entry) in source.layout().entries() {
        let mut bytes = vec![0; entry.spec.bytes()];
        source.read(name, 0, &mut bytes).map_err(FoldError::Io)?;
        into.insert(name.clone(), Tensor::from_bytes(entry.spec.clone(), bytes).map_err(FoldError::Io)?);
    }
    Ok(())
}
