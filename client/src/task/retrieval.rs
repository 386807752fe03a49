//! Finding the samples of one modality by those of another: recall among the candidates of one member's split.
//!
//! ```text
//! SPLIT/recall@K/A>B   queries whose own B is among the K best of the candidates; of all queries
//! SPLIT/chance@K/A>B   what guessing gives: 1 - C(N - m, K) / C(N, K) for m right ones among N candidates
//! ```
//! Samples whose second modality is the same to the last bit (one caption of several pictures) are one candidate, and each
//! of them is right for it. The ranks are those within one member's split: sums over members add queries, never candidates.

use super::evaluate::Frozen;
use super::fed_model::FedModel;
use super::view::View;
use crate::glue;
use tessera_common::metric::Metrics;

/// How many of the best are looked at.
pub(crate) const RECALLS: [usize; 3] = [1, 5, 10];

/// Most samples on one side of a comparison.
const CHUNK: usize = 128;

/// Most samples of a split that are compared, the first ones: the work grows with their square.
const MOST: usize = 2000;

/// Scores of every distinct first against every distinct second.
struct Scores {
    /// `[first, second]` row-major.
    values: Vec<f32>,
    /// Column of the second that belongs to each first, `[first]`.
    own: Vec<usize>,
    columns: usize,
}

/// Adds the recalls of one split both ways, if the model matches modalities and a sample has both.
pub(crate) fn evaluate<M: FedModel>(frozen: &Frozen<'_, M>, names: &[&str], split: &str, view: &View<'_>, metrics: &mut Metrics) {
    let Some([first, second]) = frozen.model.matched() else {
        return;
    };
    let mut rows = view.having_all(1 << first | 1 << second);
    rows.truncate(MOST);
    if rows.is_empty() {
        return;
    }
    let scores = scores(frozen, view, &rows, [first, second]);
    let (forth, back) = (format!("{}>{}", names[first], names[second]), format!("{}>{}", names[second], names[first]));
    report(split, &forth, &scores.forth(), scores.columns, metrics);
    report(split, &back, &scores.back(), scores.own.len(), metrics);
}

fn scores<M: FedModel>(frozen: &Frozen<'_, M>, view: &View<'_>, rows: &[usize], [first, second]: [usize; 2]) -> Scores {
    let mut candidates: Vec<usize> = Vec::new();
    let mut own = Vec::with_capacity(rows.len());
    let mut place = std::collections::BTreeMap::new();
    for &row in rows {
        let bits: Vec<u32> = view.features(row, second).iter().map(|v| v.to_bits()).collect();
        let next = candidates.len();
        let column = *place.entry(bits).or_insert(next);
        if column == next {
            candidates.push(row);
        }
        own.push(column);
    }
    let columns = candidates.len();
    let mut values = vec![0.0; rows.len() * columns];
    let inputs = |rows: &[usize], modality: usize| {
        let values = view.prepared(frozen.model, rows, modality);
        let dim = values.len() / rows.len();
        glue::tensor(values, [rows.len(), dim], frozen.device) // [k, d]
    };
    for (at, queries) in rows.chunks(CHUNK).enumerate() {
        let left = inputs(queries, first); // [n, d]
        for (from, chunk) in candidates.chunks(CHUNK).enumerate() {
            let block = glue::host(frozen.model.similarity(&frozen.module, left.clone(), inputs(chunk, second))); // [n, m]
            for (row, found) in block.chunks_exact(chunk.len()).enumerate() {
                let start = (at * CHUNK + row) * columns + from * CHUNK;
                values[start..start + chunk.len()].copy_from_slice(found);
            }
        }
    }
    Scores { values, own, columns }
}

impl Scores {
    /// Rank of its own second for each first, from 0, and how many are right: one.
    fn forth(&self) -> Vec<(usize, usize)> {
        let rank = |(row, &own): (&[f32], &usize)| (better(row.iter().copied().enumerate(), own, row[own]), 1);
        self.values.chunks_exact(self.columns).zip(&self.own).map(rank).collect()
    }

    /// Rank of the best of its own firsts for each second, from 0, and how many its own are.
    fn back(&self) -> Vec<(usize, usize)> {
        let rank = |column: usize| {
            let score = |row: usize| self.values[row * self.columns + column];
            let firsts = || (0..self.own.len()).filter(|&row| self.own[row] == column);
            let best = firsts().fold(None, |best: Option<usize>, row| match best {
                Some(b) if score(b) >= score(row) || score(row).is_nan() => Some(b),
                _ => Some(row),
            });
            let of = |best: usize| better((0..self.own.len()).map(|row| (row, score(row))), best, score(best));
            (best.map_or(usize::MAX, of), firsts().count())
        };
        (0..self.columns).map(rank).collect()
    }
}

/// How many are ahead of `own`, whose score is `value`; of equal ones the earlier is ahead. All are ahead of no number.
fn better(scores: impl Iterator<Item = (usize, f32)>, own: usize, value: f32) -> usize {
    if value.is_nan() {
        return usize::MAX;
    }
    scores.filter(|&(at, score)| score > value || (score == value && at < own)).count()
}

/// Adds the recalls and chances of queries, each with its rank and the number of right candidates.
fn report(split: &str, way: &str, queries: &[(usize, usize)], candidates: usize, metrics: &mut Metrics) {
    let count = queries.len() as f64;
    for k in RECALLS {
        let found = queries.iter().filter(|(rank, _)| *rank < k).count();
        metrics.add(format!("{split}/recall@{k}/{way}"), found as f64, count);
        let chance: f64 = queries.iter().map(|(_, right)| guess(*right, candidates, k)).sum();
        metrics.add(format!("{split}/chance@{k}/{way}"), chance, count);
    }
}

/// How likely one of `right` is among `k` that are drawn of `candidates`.
fn guess(right: usize, candidates: usize, k: usize) -> f64 {
    let none = |i: usize| candidates.saturating_sub(right + i) as f64 / (candidates - i) as f64;
    1.0 - (0..k.min(candidates)).map(none).product::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_who_is_ahead_both_ways() {
        // three pictures of two captions: 0 and 2 share caption 0
        let scores = Scores { values: vec![0.9, 0.1, 0.2, 0.8, 0.3, 0.7], own: vec![0, 1, 0], columns: 2 };
        assert_eq!(scores.forth(), [(0, 1), (0, 1), (1, 1)]);
        assert_eq!(scores.back(), [(0, 2), (0, 1)], "caption 0 is found by its better picture");
        let tied = Scores { values: vec![0.5, 0.5, 0.5, 0.5], own: vec![0, 1], columns: 2 };
        let once = vec![(0, 1), (1, 1)];
        assert_eq!((tied.forth(), tied.back()), (once.clone(), once), "a constant score is right once, not always");
        let mut metrics = Metrics::default();
        report("test", "image>text", &[(0, 1), (3, 1), (12, 1)], 20, &mut metrics);
        let value = |name: &str| metrics.value(&format!("test/{name}/image>text")).unwrap();
        assert!((value("recall@1") - 1.0 / 3.0).abs() < 1e-12 && (value("recall@5") - 2.0 / 3.0).abs() < 1e-12);
        assert!((value("chance@5") - 0.25).abs() < 1e-12);
    }

    #[test]
    fn scores_that_are_no_numbers_find_nothing() {
        let broken = Scores { values: vec![f32::NAN; 4], own: vec![0, 1], columns: 2 };
        assert!(broken.forth().iter().chain(&broken.back()).all(|(rank, _)| *rank == usize::MAX));
    }

    #[test]
    fn chance_counts_all_right_candidates() {
        assert!((guess(1, 20, 5) - 0.25).abs() < 1e-12 && (guess(8, 24, 1) - 1.0 / 3.0).abs() < 1e-12);
        // 1 - C(22, 2) / C(24, 2)
        assert!((guess(2, 24, 2) - (1.0 - 231.0 / 276.0)).abs() < 1e-12);
        assert_eq!((guess(3, 4, 10), guess(1, 1, 1)), (1.0, 1.0));
    }
}
