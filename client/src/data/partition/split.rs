//! Which rows are for testing only, and which each member sets aside.

use super::super::dataset::Dataset;
use super::spec::Split;
use tessera_common::rng;
use tessera_common::spec::SpecError;

/// Cuts `rows` (ascending) into rows to train and rows to test, both ascending.
///
/// # Errors
/// If the data set has no such fold, or a class is too small.
pub(super) fn split(dataset: &Dataset, spec: &Split, rows: Vec<usize>, seed: u64) -> Result<(Vec<usize>, Vec<usize>), SpecError> {
    let is_test: Vec<bool> = match (spec.test_per_class, spec.fold) {
        (None, None) => return Ok((rows, Vec::new())),
        (Some(per_class), _) => per_class_test(dataset, per_class, &rows, seed)?,
        (None, Some(fold)) => {
            let Some(folds) = &dataset.fold else {
                return Err(SpecError::invalid("data.split.fold", format!("the data set {:?} has no [fold]", dataset.name)));
            };
            let is_test: Vec<bool> = folds.iter().map(|&of| of == fold).collect();
            if !rows.iter().any(|&row| is_test[row]) {
                let mut known: Vec<u32> = folds.clone();
                known.sort_unstable();
                known.dedup();
                return Err(SpecError::invalid("data.split.fold", format!("there is no fold {fold}; there are {known:?}")));
            }
            is_test
        }
    };
    let (test, train) = rows.into_iter().partition(|&row| is_test[row]);
    Ok((train, test))
}

fn per_class_test(dataset: &Dataset, per_class: usize, rows: &[usize], seed: u64) -> Result<Vec<bool>, SpecError> {
    let mut stream = rng::stream(seed, "split", "", 0);
    let mut is_test = vec![false; dataset.samples.len()];
    for (class, of_class) in by_class(dataset, rows).into_iter().enumerate().filter(|(_, of_class)| !of_class.is_empty()) {
        if of_class.len() <= per_class {
            let why = format!("class {} has {} rows, so none would be left to train", dataset.classes[class], of_class.len());
            return Err(SpecError::invalid("data.split.test_per_class", why));
        }
        stream.choose(&of_class, per_class).into_iter().for_each(|row| is_test[row] = true);
    }
    Ok(is_test)
}

/// The rows of each class, `[classes]`, in the order of `rows`.
pub(super) fn by_class(dataset: &Dataset, rows: &[usize]) -> Vec<Vec<usize>> {
    let mut classes = vec![Vec::new(); dataset.classes.len()];
    rows.iter().for_each(|&row| classes[dataset.samples.labels[row] as usize].push(row));
    classes
}

/// Sets `share` of a member's rows aside: the rows that train and the others, both ascending. One row stays to train.
pub(super) fn hold_out(rows: &[usize], share: f64, member: &str, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let count = ((rows.len() as f64 * share).round() as usize).min(rows.len().saturating_sub(1));
    let mut order = rows.to_vec();
    rng::stream(seed, "held-out", member, 0).shuffle(&mut order);
    let mut train = order.split_off(count);
    order.sort_unstable();
    train.sort_unstable();
    (train, order)
}
