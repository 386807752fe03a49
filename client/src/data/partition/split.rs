//! Which rows are for testing only, and which each member sets aside.

use super::super::dataset::Dataset;
use super::spec::Split;
use std::collections::BTreeSet;
use tessera_common::rng;
use tessera_common::spec::SpecError;

/// Rows by what they are for, each list ascending.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// Rows that members train on.
    pub(super) train: Vec<usize>,
    /// Rows that the evaluator tests on.
    pub(super) test: Vec<usize>,
    /// Rows that the evaluator holds out: of the client and of the fold that nobody trains on.
    pub(super) held_out: Vec<usize>,
    /// Rows that their members hold out: of that fold, and of the other clients.
    pub(super) own: Vec<usize>,
}

/// Cuts `rows` (ascending) by what they are for.
///
/// # Errors
/// If the data set has no such fold or client, or a class is too small.
pub(super) fn split(dataset: &Dataset, spec: &Split, rows: Vec<usize>, seed: u64) -> Result<Parts, SpecError> {
    let in_fold = spec.fold.map(|fold| fold_rows(dataset, fold, &rows)).transpose()?;
    let of_client = spec.client.as_ref().map(|client| client_rows(dataset, client, &rows)).transpose()?;
    let is_test = match (spec.test_per_class, &of_client, &in_fold) {
        (Some(per_class), ..) => per_class_test(dataset, per_class, &rows, seed)?,
        (None, Some(of_client), Some(in_fold)) => return both(rows, of_client, in_fold),
        (None, Some(is_test), None) | (None, None, Some(is_test)) => is_test.clone(),
        (None, None, None) => return Ok(Parts { train: rows, ..Parts::default() }),
    };
    let (test, train) = rows.into_iter().partition(|&row| is_test[row]);
    Ok(Parts { train, test, ..Parts::default() })
}

/// Which rows of the data set are in `fold`.
fn fold_rows(dataset: &Dataset, fold: u32, rows: &[usize]) -> Result<Vec<bool>, SpecError> {
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
    Ok(is_test)
}

/// Which rows of the data set are of `client`.
fn client_rows(dataset: &Dataset, client: &str, rows: &[usize]) -> Result<Vec<bool>, SpecError> {
    let Some(clients) = &dataset.client else {
        return Err(SpecError::invalid("data.split.client", format!("the data set {:?} has no [client] column", dataset.name)));
    };
    if !rows.iter().any(|&row| clients[row] == client) {
        let known: BTreeSet<&str> = rows.iter().map(|&row| clients[row].as_str()).collect();
        return Err(SpecError::unknown_name("data.split.client", client, &known.into_iter().collect::<Vec<_>>()));
    }
    Ok(clients.iter().map(|of| of == client).collect())
}

/// Cuts by client and fold.
fn both(rows: Vec<usize>, of_client: &[bool], in_fold: &[bool]) -> Result<Parts, SpecError> {
    let mut parts = Parts::default();
    for row in rows {
        let part = match (of_client[row], in_fold[row]) {
            (false, false) => &mut parts.train,
            (false, true) => &mut parts.own,
            (true, false) => &mut parts.test,
            (true, true) => &mut parts.held_out,
        };
        part.push(row);
    }
    let why = "all rows of the client are in the fold, or none is: the evaluator needs both";
    if parts.test.is_empty() || parts.held_out.is_empty() { Err(SpecError::invalid("data.split", why)) } else { Ok(parts) }
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
