//! Whitened prototypes: a linear discriminant per modality, added over the modalities that are present.

use super::FeatureStatistics;
use crate::prototype::best;
use std::collections::BTreeMap;

/// The discriminants of one modality, `s_c(r) = w_c . r + b_c`.
///
/// With the class mean `mu_c = S_c / N_c` (valid from `min_total` samples on) and the pooled within-class covariance
/// `Sig = T / max(1, sum_c N_c - g) + rho tr/D I`: `w_c = Sig^-1 mu_c`, `b_c = -mu_c . w_c / 2`. Up to a term that all
/// classes share, this is the log-likelihood of a Gaussian per class with a common covariance.
///
/// A covariance that is all zero (every group has one sample) becomes the identity: nearest mean. One that is singular
/// (`rho = 0` and few samples) gets the least ridge that makes it definite, from 1e-9 of its mean diagonal on.
///
/// With statistics of one member, `rho` is the shrinkage `rho / (1 + rho)` of scikit-learn's
/// `LinearDiscriminantAnalysis(solver="lsqr")`: both covariances are then proportional to `T + rho tr(T)/D I`. A factor
/// on the covariance scales every score alike, so with equal priors the answers are the same.
#[derive(Debug, Clone, PartialEq)]
pub struct WhitenedModality {
    width: usize,
    weight: Vec<f64>,
    bias: Vec<f64>,
    valid: Vec<bool>,
}

impl WhitenedModality {
    /// From statistics summed over members.
    pub fn new(statistics: &FeatureStatistics, rho: f64, min_total: u32) -> Self {
        let (classes, width) = (statistics.classes(), statistics.width());
        let factor = factorise(statistics, rho);
        let mut new = Self { width, weight: vec![0.0; classes * width], bias: vec![0.0; classes], valid: vec![false; classes] };
        for class in 0..classes {
            let enough = statistics.count()[class] >= f64::from(min_total.max(1));
            if let (true, Some(mean)) = (enough, statistics.mean(class)) {
                let weight = solve(&factor, width, &mean);
                new.bias[class] = -0.5 * mean.iter().zip(&weight).map(|(m, w)| m * w).sum::<f64>();
                new.weight[class * width..(class + 1) * width].copy_from_slice(&weight);
                new.valid[class] = true;
            }
        }
        new
    }

    /// Number of features D.
    pub fn width(&self) -> usize {
        self.width
    }

    /// True if the class has a discriminant.
    pub fn is_valid(&self, class: usize) -> bool {
        self.valid.get(class).copied().unwrap_or(false)
    }

    /// Score of a class for the representation `[D]`; None if the class is not valid.
    pub fn score(&self, class: usize, representation: &[f32]) -> Option<f64> {
        self.is_valid(class).then(|| {
            let weight = &self.weight[class * self.width..(class + 1) * self.width];
            weight.iter().zip(representation).map(|(w, &r)| w * f64::from(r)).sum::<f64>() + self.bias[class]
        })
    }
}

/// The discriminants of all modalities.
#[derive(Debug, Clone, PartialEq)]
pub struct Whitened {
    modalities: BTreeMap<String, WhitenedModality>,
}

impl Whitened {
    /// From every modality's statistics, summed over members.
    pub fn new(statistics: &BTreeMap<String, FeatureStatistics>, rho: f64, min_total: u32) -> Self {
        let whiten = |(name, s): (&String, &FeatureStatistics)| (name.clone(), WhitenedModality::new(s, rho, min_total));
        Self { modalities: statistics.iter().map(whiten).collect() }
    }

    /// One modality's discriminants.
    pub fn modality(&self, name: &str) -> Option<&WhitenedModality> {
        self.modalities.get(name)
    }

    /// Scores of the classes that are valid in every present modality: sums over those modalities.
    ///
    /// `present` pairs names with representations `[D]`. Empty if nothing is present or a modality has no statistics.
    pub fn scores(&self, present: &[(&str, &[f32])]) -> Vec<(usize, f64)> {
        let found: Option<Vec<(&WhitenedModality, &[f32])>> =
            present.iter().map(|(name, r)| Some((self.modalities.get(*name)?, *r))).collect();
        let Some(found) = found else { return Vec::new() };
        let classes = found.iter().map(|(m, _)| m.valid.len()).min().unwrap_or(0);
        let total = |class: usize| found.iter().map(|(m, r)| m.score(class, r)).sum::<Option<f64>>();
        (0..classes).filter_map(|class| Some((class, total(class)?))).collect()
    }

    /// The class of the highest score, the lowest class on a tie; None if no class is valid.
    pub fn answer(&self, present: &[(&str, &[f32])]) -> Option<usize> {
        best(self.scores(present).into_iter())
    }

    /// Softmax of the scores: the posterior under equal priors, not calibrated. Empty if no class is valid.
    pub fn posterior(&self, present: &[(&str, &[f32])]) -> Vec<(usize, f64)> {
        let mut scores = self.scores(present);
        let top = scores.iter().map(|(_, s)| *s).fold(f64::NEG_INFINITY, f64::max);
        scores.iter_mut().for_each(|(_, s)| *s = (*s - top).exp());
        let total: f64 = scores.iter().map(|(_, s)| s).sum();
        scores.iter_mut().for_each(|(_, s)| *s /= total);
        scores
    }
}

/// Cholesky factor of the shrunk covariance, lower triangle `[D, D]`.
fn factorise(statistics: &FeatureStatistics, rho: f64) -> Vec<f64> {
    let width = statistics.width();
    let freedom = (statistics.count().iter().sum::<f64>() - statistics.groups()).max(1.0);
    let covariance: Vec<f64> = statistics.scatter().iter().map(|t| t / freedom).collect();
    let diagonal = (0..width).map(|i| covariance[i * width + i]).sum::<f64>() / width.max(1) as f64;
    let (scale, mut ridge) = if diagonal > 0.0 { (diagonal, rho * diagonal) } else { (1.0, 1.0) };
    let mut more = 1e-9 * scale;
    // A forged scatter need not be positive at all: the ridge grows until it outweighs any finite matrix.
    while more.is_finite() {
        let mut matrix = covariance.clone();
        (0..width).for_each(|i| matrix[i * width + i] += ridge);
        if cholesky(&mut matrix, width, 1e-14 * scale) {
            return matrix;
        }
        (ridge, more) = (ridge + more, more * 10.0);
    }
    let mut identity = vec![0.0; width * width];
    (0..width).for_each(|i| identity[i * width + i] = 1.0);
    identity
}

/// Replaces the lower triangle of a symmetric matrix by its Cholesky factor; false if a pivot is not above `least`.
fn cholesky(matrix: &mut [f64], width: usize, least: f64) -> bool {
    for j in 0..width {
        let (above, below) = matrix.split_at_mut(j * width);
        let row_j = &mut below[..width];
        for k in 0..j {
            let row_k = &above[k * width..k * width + k];
            let dot: f64 = row_j[..k].iter().zip(row_k).map(|(a, b)| a * b).sum();
            row_j[k] = (row_j[k] - dot) / above[k * width + k];
        }
        let pivot = row_j[j] - row_j[..j].iter().map(|a| a * a).sum::<f64>();
        // Not `pivot <= least`, which NaN would pass.
        if !(pivot > least && pivot.is_finite()) {
            return false;
        }
        row_j[j] = pivot.sqrt();
    }
    true
}

/// Solves `L L' x = v`.
fn solve(factor: &[f64], width: usize, v: &[f64]) -> Vec<f64> {
    let mut x = v.to_vec();
    for i in 0..width {
        let dot: f64 = factor[i * width..i * width + i].iter().zip(&x).map(|(l, y)| l * y).sum();
        x[i] = (x[i] - dot) / factor[i * width + i];
    }
    for i in (0..width).rev() {
        let dot: f64 = (i + 1..width).map(|j| factor[j * width + i] * x[j]).sum();
        x[i] = (x[i] - dot) / factor[i * width + i];
    }
    x
}
