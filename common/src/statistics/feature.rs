//! Counts, sums and within-class scatter of one modality's features.

use crate::param::{ParamSet, Tensor};
use crate::prototype::{Library, ProtoSums, modalities_of, read, read_shaped};
use std::collections::BTreeMap;

/// Statistics of one modality's features, additive over members.
///
/// The scatter is about each member's *own* class means: it costs nothing in accuracy against pooled means and a member
/// that lies about its means cannot bend it. Features are representations of a frozen model, or inputs as they are.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureStatistics {
    classes: usize,
    width: usize,
    count: Vec<f64>,
    sum: Vec<f64>,
    scatter: Vec<f64>,
    groups: f64,
}

impl FeatureStatistics {
    /// No samples of `classes` classes and `width` features.
    pub fn empty(classes: usize, width: usize) -> Self {
        let (count, sum, scatter) = (vec![0.0; classes], vec![0.0; classes * width], vec![0.0; width * width]);
        Self { classes, width, count, sum, scatter, groups: 0.0 }
    }

    /// One member's statistics: `N[c]`, `S[c]`, `T = sum_c sum_i (r_i - S_c/N_c)(r_i - S_c/N_c)'`, `g`.
    ///
    /// `values` is `[n, D]` row-major, `labels` is `[n]`, each below `classes`. Classes of fewer than `min_count` samples
    /// are left out of everything, so that they are not sent.
    pub fn of<T: Copy + Into<f64>>(classes: usize, width: usize, values: &[T], labels: &[u32], min_count: u32) -> Self {
        let mut new = Self::empty(classes, width);
        let rows = || values.chunks_exact(width.max(1)).zip(labels.iter().map(|&label| label as usize));
        for (row, class) in rows() {
            new.count[class] += 1.0;
            let sum = &mut new.sum[class * width..(class + 1) * width];
            sum.iter_mut().zip(row).for_each(|(s, &x)| *s += x.into());
        }
        for class in 0..classes {
            if new.count[class] < f64::from(min_count) {
                new.count[class] = 0.0;
                new.sum[class * width..(class + 1) * width].fill(0.0);
            }
        }
        let mut off = vec![0.0; width];
        for (row, class) in rows().filter(|&(_, class)| new.count[class] > 0.0) {
            let (n, sum) = (new.count[class], &new.sum[class * width..(class + 1) * width]);
            off.iter_mut().zip(row.iter().zip(sum)).for_each(|(o, (&x, s))| *o = x.into() - s / n);
            add_outer(&mut new.scatter, &off);
        }
        mirror(&mut new.scatter, width);
        new.groups = new.count.iter().filter(|&&n| n > 0.0).count() as f64;
        new
    }

    /// Number of classes C.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Number of features D.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Samples of each class, `[C]`.
    pub fn count(&self) -> &[f64] {
        &self.count
    }

    /// Sums of each class, `[C, D]` row-major.
    pub fn sum(&self) -> &[f64] {
        &self.sum
    }

    /// Scatter within classes and members, `[D, D]`, symmetric.
    pub fn scatter(&self) -> &[f64] {
        &self.scatter
    }

    /// Number of (member, class) groups whose means the scatter is about.
    pub fn groups(&self) -> f64 {
        self.groups
    }

    /// Mean of a class, `[D]`; None without samples.
    pub fn mean(&self, class: usize) -> Option<Vec<f64>> {
        let n = self.count[class];
        (n > 0.0).then(|| self.sum[class * self.width..(class + 1) * self.width].iter().map(|s| s / n).collect())
    }

    /// Adds another member's statistics.
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn merge(&mut self, other: &FeatureStatistics) -> Result<(), String> {
        if (self.classes, self.width) != (other.classes, other.width) {
            let shapes = ([self.classes, self.width], [other.classes, other.width]);
            return Err(format!("feature statistics of shape {:?} and {:?} cannot be added", shapes.0, shapes.1));
        }
        let pairs = [(&mut self.count, &other.count), (&mut self.sum, &other.sum), (&mut self.scatter, &other.scatter)];
        for (mine, theirs) in pairs {
            mine.iter_mut().zip(theirs).for_each(|(a, b)| *a += b);
        }
        self.groups += other.groups;
        Ok(())
    }

    /// Class means as a fresh prototype library; classes of fewer than `min_total` samples are absent.
    pub fn means(&self, min_total: u32) -> Library {
        match ProtoSums::new(self.classes, self.width, self.sum.clone(), self.count.clone()) {
            Ok(sums) => sums.means(0, min_total),
            // Statistics are checked when they are read; an empty modality has no class to answer with.
            Err(_) => Library::empty(self.classes, self.width),
        }
    }

    /// Writes `feature/MODALITY/{count,sum,scatter,groups}`.
    pub fn write(&self, modality: &str, set: &mut ParamSet) {
        let (classes, width) = (self.classes, self.width);
        let mut put =
            |leaf, shape: &[usize], values| set.insert(format!("feature/{modality}/{leaf}"), Tensor::f64(shape, values));
        put("count", &[classes], &self.count);
        put("sum", &[classes, width], &self.sum);
        put("scatter", &[width, width], &self.scatter);
        put("groups", &[1], &[self.groups]);
    }

    /// Reads `feature/MODALITY/{count,sum,scatter,groups}`; None if the set has no such section.
    ///
    /// # Errors
    /// If a tensor is missing or malformed, a count is negative, or a class without samples has a sum.
    pub fn read(modality: &str, set: &ParamSet) -> Result<Option<Self>, String> {
        let name = |leaf: &str| format!("feature/{modality}/{leaf}");
        if ["count", "sum", "scatter", "groups"].iter().all(|leaf| set.get(&name(leaf)).is_none()) {
            return Ok(None);
        }
        let (shape, sum) = read(set, &name("sum"), 2)?;
        let (classes, width) = (shape[0], shape[1]);
        let count = read_shaped(set, &name("count"), &[classes])?;
        let scatter = read_shaped(set, &name("scatter"), &[width, width])?;
        let groups = read_shaped(set, &name("groups"), &[1])?[0];
        if groups < 0.0 {
            return Err(format!("tensor {:?} is negative", name("groups")));
        }
        let sums = ProtoSums::new(classes, width, sum.clone(), count.clone());
        sums.map_err(|e| format!("feature/{modality}: {e}"))?;
        Ok(Some(Self { classes, width, count, sum, scatter, groups }))
    }

    /// Every modality's statistics in an answer or a sum of answers.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_all(set: &ParamSet) -> Result<BTreeMap<String, Self>, String> {
        let read = |m: String| Ok(Self::read(&m, set)?.map(|statistics| (m, statistics)));
        modalities_of(set, "feature", "sum").into_iter().filter_map(|m| read(m).transpose()).collect()
    }
}

/// Adds the upper triangle of `v v'` to `matrix` `[D, D]`.
fn add_outer(matrix: &mut [f64], v: &[f64]) {
    let width = v.len();
    for (i, &a) in v.iter().enumerate() {
        let row = &mut matrix[i * width + i..(i + 1) * width];
        row.iter_mut().zip(&v[i..]).for_each(|(m, &b)| *m += a * b);
    }
}

/// Copies the upper triangle of `matrix` to the lower one.
fn mirror(matrix: &mut [f64], width: usize) {
    for i in 0..width {
        for j in 0..i {
            matrix[i * width + j] = matrix[j * width + i];
        }
    }
}
