//! Which row is whose.

use super::super::dataset::Dataset;
use super::spec::{MAX_DRAWS, Scheme};
use super::split::by_class;
use std::collections::BTreeMap;
use tessera_common::rng::{self, Stream};
use tessera_common::spec::SpecError;

/// Rows of each member, and how they came about.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Assignment {
    /// Ascending rows of each member, `[members]`.
    pub(super) rows: Vec<Vec<usize>>,
    /// Draws of the shares.
    pub(super) draws: u32,
    /// Rows that were moved to reach the minimum.
    pub(super) moved: usize,
    /// Ids of the data set's client column that each member stands for, `[members]`; empty for other schemes.
    pub(super) ids: Vec<Vec<String>>,
}

/// Assigns each of `rows` to one of `clients` members.
///
/// # Errors
/// If there are too few rows or ids, or no client column.
pub(super) fn assign(
    dataset: &Dataset,
    scheme: &Scheme,
    rows: &[usize],
    clients: usize,
    seed: u64,
) -> Result<Assignment, SpecError> {
    if scheme.min().checked_mul(clients).is_none_or(|needed| needed > rows.len()) {
        let why = format!("{clients} members of at least {} rows need more than the {} rows to train", scheme.min(), rows.len());
        return Err(SpecError::invalid("data.clients", why));
    }
    let mut stream = rng::stream(seed, "partition", "", 0);
    let mut assignment = match scheme {
        Scheme::Iid {} => cut(vec![rows.to_vec()], clients, 1, &mut stream, |_| vec![1.0 / clients as f64; clients]),
        Scheme::Dirichlet { alpha, min } => {
            let classes = by_class(dataset, rows).into_iter().filter(|of_class| !of_class.is_empty()).collect();
            cut(classes, clients, *min, &mut stream, |stream| stream.dirichlet(*alpha, clients))
        }
        Scheme::Column {} => column(dataset, rows, clients)?,
        Scheme::Quantity { alpha: Some(alpha), min, .. } => {
            cut(vec![rows.to_vec()], clients, *min, &mut stream, |stream| stream.dirichlet(*alpha, clients))
        }
        Scheme::Quantity { power, min, .. } => {
            let power = power.unwrap_or(0.0);
            cut(vec![rows.to_vec()], clients, *min, &mut stream, |stream| ranks(clients, power, stream))
        }
    };
    assignment.rows.iter_mut().for_each(|rows| rows.sort_unstable());
    Ok(assignment)
}

/// Deals rows that do not train to the members that have their ids; `[members]`, each ascending.
pub(super) fn deal_out(dataset: &Dataset, ids: &[Vec<String>], rows: &[usize]) -> Vec<Vec<usize>> {
    let mut dealt = vec![Vec::new(); ids.len()];
    let member: BTreeMap<&String, usize> =
        ids.iter().enumerate().flat_map(|(member, ids)| ids.iter().map(move |id| (id, member))).collect();
    for &row in rows {
        // an id without rows to train has no member
        if let Some(&member) = dataset.client.as_ref().and_then(|column| member.get(&column[row])) {
            dealt[member].push(row);
        }
    }
    dealt
}

/// Cuts each group by a draw of `shares`, drawn again until each member has `min` rows, then repaired.
fn cut(
    mut groups: Vec<Vec<usize>>,
    clients: usize,
    min: usize,
    stream: &mut Stream,
    mut shares: impl FnMut(&mut Stream) -> Vec<f64>,
) -> Assignment {
    let (mut bounds, mut draws) = (Vec::new(), 0);
    while draws < MAX_DRAWS {
        draws += 1;
        bounds = groups.iter().map(|group| bounds_of(&shares(stream), group.len())).collect::<Vec<_>>();
        let mut sizes = vec![0; clients];
        for group in &bounds {
            (0..clients).for_each(|member| sizes[member] += group[member + 1] - group[member]);
        }
        if sizes.iter().all(|&size| size >= min) {
            break;
        }
    }
    let mut rows = vec![Vec::new(); clients];
    for (group, bounds) in groups.iter_mut().zip(&bounds) {
        stream.shuffle(group);
        rows.iter_mut().zip(bounds.windows(2)).for_each(|(rows, range)| rows.extend_from_slice(&group[range[0]..range[1]]));
    }
    let moved = repair(&mut rows, min, stream);
    Assignment { rows, draws, moved, ids: Vec::new() }
}

/// Cuts at rounded cumulative shares: ascending, from 0 to `n`, one more than there are shares.
fn bounds_of(shares: &[f64], n: usize) -> Vec<usize> {
    let mut cumulative = 0.0;
    let mut bounds: Vec<usize> = std::iter::once(0)
        .chain(shares.iter().map(|share| {
            cumulative += share;
            ((cumulative * n as f64).round() as usize).min(n)
        }))
        .collect();
    // the shares add up to 1 but for rounding
    if let Some(last) = bounds.last_mut() {
        *last = n;
    }
    bounds
}

/// Shares by rank^-`power`, in an order that is drawn.
fn ranks(clients: usize, power: f64, stream: &mut Stream) -> Vec<f64> {
    let mut shares: Vec<f64> = (1..=clients).map(|rank| (rank as f64).powf(-power)).collect();
    let total: f64 = shares.iter().sum();
    shares.iter_mut().for_each(|share| *share /= total);
    stream.shuffle(&mut shares);
    shares
}

/// Moves rows, each drawn, from the largest member (the first of equals) to the first below `min`; the number moved.
fn repair(rows: &mut [Vec<usize>], min: usize, stream: &mut Stream) -> usize {
    let mut moved = 0;
    while let Some(poor) = rows.iter().position(|rows| rows.len() < min) {
        let largest = rows.iter().map(Vec::len).max().unwrap_or(0);
        // there are enough rows for all, so while one is below the minimum another is above
        let Some(rich) = rows.iter().position(|rows| rows.len() == largest && largest > min) else { break };
        let at = stream.below(largest);
        let row = rows[rich].swap_remove(at);
        rows[poor].push(row);
        moved += 1;
    }
    moved
}

/// By the client column: ids that have rows, in order, dealt out in turn.
fn column(dataset: &Dataset, rows: &[usize], clients: usize) -> Result<Assignment, SpecError> {
    let Some(column) = &dataset.client else {
        let why = format!("the data set {:?} has no [client] column", dataset.name);
        return Err(SpecError::invalid("data.partition.kind", why));
    };
    let mut ids: Vec<&String> = rows.iter().map(|&row| &column[row]).collect();
    ids.sort_unstable();
    ids.dedup();
    let number = |id: &str| id.parse::<u64>().ok();
    if ids.iter().all(|id| number(id).is_some()) {
        ids.sort_by_key(|id| number(id));
    }
    if clients > ids.len() {
        let why = format!("the client column has {} ids with rows to train; ask for 1 to {} members", ids.len(), ids.len());
        return Err(SpecError::invalid("data.clients", why));
    }
    let member: BTreeMap<&String, usize> = ids.iter().enumerate().map(|(at, id)| (*id, at % clients)).collect();
    let mut assignment = Assignment { rows: vec![Vec::new(); clients], draws: 0, moved: 0, ids: vec![Vec::new(); clients] };
    rows.iter().for_each(|&row| assignment.rows[member[&column[row]]].push(row));
    ids.iter().enumerate().for_each(|(at, id)| assignment.ids[at % clients].push((*id).clone()));
    Ok(assignment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_are_at_rounded_cumulative_shares() {
        assert_eq!(bounds_of(&[0.26, 0.0, 0.5, 0.24], 10), [0, 3, 3, 8, 10]);
        // shares that do not quite add up leave no row behind, nor go beyond the last
        assert_eq!(bounds_of(&[0.3, 0.3, 0.3], 10), [0, 3, 6, 10]);
        assert_eq!(bounds_of(&[0.6, 0.6], 10), [0, 6, 10]);
        assert_eq!(bounds_of(&[0.5, 0.5], 0), [0, 0, 0]);
    }

    #[test]
    fn rows_move_from_the_largest_to_the_first_below() {
        let mut stream = rng::stream(0, "test", "", 0);
        let mut rows = vec![vec![], (0..5).collect(), vec![9], (5..8).collect()];
        assert_eq!(repair(&mut rows, 2, &mut stream), 3);
        assert_eq!(rows.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 2, 3]);
        let mut all: Vec<usize> = rows.concat();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4, 5, 6, 7, 9]);
    }
}
