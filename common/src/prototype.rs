//! Prototypes: per modality and class, the mean of what samples look like after the encoder.
//!
//! Members send sums and counts ([`ProtoSums`]), never means: merging is addition, the weights are right for every mix
//! of modalities, and a count of 0 says that a row is absent. The coordinator renews its [`Library`] from the totals
//! ([`Library::renew`]). A member that lacks a modality or a class adds zeros to it, so it neither shifts nor erases its row.
//! The fused representation has prototypes of its own, under the pseudo-modality [`crate::spec::FUSED`].

use crate::id::Round;
use crate::param::{Dtype, ParamSet, Tensor};
use std::collections::BTreeMap;

#[cfg(test)]
mod tests;

/// The f64 tensor `name`, which must be finite and have this number of dimensions.
///
/// # Errors
/// Names the tensor and what is wrong with it.
pub(crate) fn read<'a>(set: &'a ParamSet, name: &str, rank: usize) -> Result<(&'a [usize], Vec<f64>), String> {
    let tensor = set.get(name).ok_or_else(|| format!("tensor {name:?} is missing"))?;
    if tensor.spec().dtype != Dtype::F64 {
        return Err(format!("tensor {name:?} is {:?}, not F64", tensor.spec().dtype));
    }
    if tensor.shape().len() != rank {
        return Err(format!("tensor {name:?} has shape {:?}, {rank} dimensions are expected", tensor.shape()));
    }
    let values = tensor.to_f64();
    match values.iter().position(|v| !v.is_finite()) {
        Some(at) => Err(format!("tensor {name:?} is not finite at element {at}")),
        None => Ok((tensor.shape(), values)),
    }
}

/// As [`read`], with this very shape.
pub(crate) fn read_shaped(set: &ParamSet, name: &str, shape: &[usize]) -> Result<Vec<f64>, String> {
    let (found, values) = read(set, name, shape.len())?;
    if found != shape {
        return Err(format!("tensor {name:?} has shape {found:?}, {shape:?} is expected"));
    }
    Ok(values)
}

/// Modalities that have a tensor `SECTION/MODALITY/LEAF`, in name order.
pub(crate) fn modalities_of(set: &ParamSet, section: &str, leaf: &str) -> Vec<String> {
    let prefix = format!("{section}/");
    let names = set.section(&prefix).filter_map(|(name, _)| {
        let (modality, found) = name.strip_prefix(&prefix)?.split_once('/')?;
        (found == leaf).then(|| modality.to_owned())
    });
    names.collect()
}

/// Sums and counts of one modality's representations per class; additive over members.
#[derive(Debug, Clone, PartialEq)]
pub struct ProtoSums {
    classes: usize,
    width: usize,
    sum: Vec<f64>,
    count: Vec<f64>,
}

impl ProtoSums {
    /// From sums `[C, D]` row-major and counts `[C]`.
    ///
    /// # Errors
    /// If they do not fill the shapes, a count is negative, or a class that counts no sample has a sum.
    pub fn new(classes: usize, width: usize, sum: Vec<f64>, count: Vec<f64>) -> Result<Self, String> {
        if classes == 0 || width == 0 || sum.len() != classes * width || count.len() != classes {
            let found = (sum.len(), count.len());
            return Err(format!("{} sums and {} counts do not fill {classes} classes of width {width}", found.0, found.1));
        }
        if let Some(class) = count.iter().position(|&n| n < 0.0) {
            return Err(format!("the count of class {class} is negative"));
        }
        let sums = Self { classes, width, sum, count };
        let phantom = |&class: &usize| sums.count[class] == 0.0 && sums.row(class).iter().any(|&s| s != 0.0);
        match (0..classes).find(phantom) {
            Some(class) => Err(format!("there is a sum for class {class}, which counts no sample")),
            None => Ok(sums),
        }
    }

    /// No samples.
    pub fn empty(classes: usize, width: usize) -> Self {
        Self { classes, width, sum: vec![0.0; classes * width], count: vec![0.0; classes] }
    }

    /// Number of classes C.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Features of the representation D.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Samples of each class, `[C]`; 0 where the class is absent.
    pub fn count(&self) -> &[f64] {
        &self.count
    }

    /// Sum of a class, `[D]`.
    pub fn row(&self, class: usize) -> &[f64] {
        &self.sum[class * self.width..(class + 1) * self.width]
    }

    /// Adds one sample's representation `[D]`. Panics on a class or width that is out of range: callers have checked.
    pub fn add(&mut self, class: usize, representation: &[f32]) {
        self.count[class] += 1.0;
        let row = &mut self.sum[class * self.width..(class + 1) * self.width];
        row.iter_mut().zip(representation).for_each(|(s, &r)| *s += f64::from(r));
    }

    /// Adds samples: `values` is `[n, D]` row-major, `labels` is `[n]`.
    pub fn add_all(&mut self, values: &[f32], labels: &[u32]) {
        for (row, &label) in values.chunks_exact(self.width).zip(labels) {
            self.add(label as usize, row);
        }
    }

    /// Erases classes of fewer than `min_count` samples, which a member does not send.
    pub fn drop_rare(&mut self, min_count: u32) {
        for class in 0..self.classes {
            if self.count[class] < f64::from(min_count) {
                self.count[class] = 0.0;
                self.sum[class * self.width..(class + 1) * self.width].fill(0.0);
            }
        }
    }

    /// Adds another member's sums.
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn merge(&mut self, other: &ProtoSums) -> Result<(), String> {
        if (self.classes, self.width) != (other.classes, other.width) {
            let shapes = ([self.classes, self.width], [other.classes, other.width]);
            return Err(format!("prototype sums of shape {:?} and {:?} cannot be added", shapes.0, shapes.1));
        }
        self.sum.iter_mut().zip(&other.sum).for_each(|(a, b)| *a += b);
        self.count.iter_mut().zip(&other.count).for_each(|(a, b)| *a += b);
        Ok(())
    }

    /// Writes `proto/MODALITY/{sum,count}`.
    pub fn write(&self, modality: &str, set: &mut ParamSet) {
        set.insert(format!("proto/{modality}/sum"), Tensor::f64(&[self.classes, self.width], &self.sum));
        set.insert(format!("proto/{modality}/count"), Tensor::f64(&[self.classes], &self.count));
    }

    /// Reads `proto/MODALITY/{sum,count}`; None if the set has no such section.
    ///
    /// # Errors
    /// If a tensor is missing or malformed, or as [`Self::new`].
    pub fn read(modality: &str, set: &ParamSet) -> Result<Option<Self>, String> {
        let (sum_name, count_name) = (format!("proto/{modality}/sum"), format!("proto/{modality}/count"));
        if set.get(&sum_name).is_none() && set.get(&count_name).is_none() {
            return Ok(None);
        }
        let (shape, sum) = read(set, &sum_name, 2)?;
        let count = read_shaped(set, &count_name, &[shape[0]])?;
        Self::new(shape[0], shape[1], sum, count).map(Some).map_err(|e| format!("proto/{modality}: {e}"))
    }

    /// The plain means as a library renewed in `round`; classes of fewer than `min_total` samples are absent.
    ///
    /// The number of contributors is not known from sums and stays 0.
    pub fn means(&self, round: Round, min_total: u32) -> Library {
        let mut library = Library::empty(self.classes, self.width);
        for class in 0..self.classes {
            let n = self.count[class];
            if n >= f64::from(min_total.max(1)) {
                library.row_mut(class).iter_mut().zip(self.row(class)).for_each(|(mean, s)| *mean = s / n);
                library.count[class] = n;
                library.round[class] = f64::from(round);
            }
        }
        library
    }
}

/// The prototypes of one modality.
#[derive(Debug, Clone, PartialEq)]
pub struct Library {
    classes: usize,
    width: usize,
    mean: Vec<f64>,
    count: Vec<f64>,
    contributors: Vec<f64>,
    round: Vec<f64>,
}

impl Library {
    /// Without any class.
    pub fn empty(classes: usize, width: usize) -> Self {
        let zeros = || vec![0.0; classes];
        Self { classes, width, mean: vec![0.0; classes * width], count: zeros(), contributors: zeros(), round: zeros() }
    }

    /// Number of classes C.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Features of the representation D.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Samples of each class's last renewal, `[C]`; 0 where the class is absent.
    pub fn count(&self) -> &[f64] {
        &self.count
    }

    /// Members that contributed to each class's last renewal, `[C]`.
    pub fn contributors(&self) -> &[f64] {
        &self.contributors
    }

    /// Round of each class's last renewal, `[C]`.
    pub fn round(&self) -> &[f64] {
        &self.round
    }

    /// True if there is a prototype of this class.
    pub fn is_valid(&self, class: usize) -> bool {
        self.count.get(class).is_some_and(|&n| n > 0.0)
    }

    /// Classes that have a prototype, in order.
    pub fn valid_classes(&self) -> Vec<usize> {
        (0..self.classes).filter(|&c| self.is_valid(c)).collect()
    }

    /// Prototype of a class, `[D]`; zeros if it is absent.
    pub fn row(&self, class: usize) -> &[f64] {
        &self.mean[class * self.width..(class + 1) * self.width]
    }

    fn row_mut(&mut self, class: usize) -> &mut [f64] {
        &mut self.mean[class * self.width..(class + 1) * self.width]
    }

    fn erase(&mut self, class: usize) {
        self.row_mut(class).fill(0.0);
        (self.count[class], self.contributors[class], self.round[class]) = (0.0, 0.0, 0.0);
    }

    /// The next library: PmcmFL with explicit presence, renewal by count and optional momentum.
    ///
    /// A class with `den` samples in this round's totals, `den >= min_total`, becomes `ema old + (1 - ema) num/den` (plain
    /// `num/den` where there was none) and is stamped with `round` and its number of contributors. Any other class stays
    /// as it was, and is dropped once `max_age > 0` rounds have passed without a renewal.
    ///
    /// `contributors` is `[C]`: members whose count of the class is above 0.
    ///
    /// # Errors
    /// If the shapes of `old`, `sums` and `contributors` differ.
    pub fn renew(
        old: Option<&Library>,
        sums: &ProtoSums,
        contributors: &[f64],
        round: Round,
        min_total: f64,
        ema: f64,
        max_age: u32,
    ) -> Result<Library, String> {
        let mut next = old.cloned().unwrap_or_else(|| Library::empty(sums.classes, sums.width));
        if (next.classes, next.width) != (sums.classes, sums.width) || contributors.len() != sums.classes {
            let shapes = ([next.classes, next.width], [sums.classes, sums.width]);
            let n = contributors.len();
            return Err(format!("the library has shape {:?}, the sums {:?}, the contributors [{n}]", shapes.0, shapes.1));
        }
        for (class, &contributing) in contributors.iter().enumerate() {
            let den = sums.count[class];
            if den > 0.0 && den >= min_total {
                let keep = if next.is_valid(class) { ema } else { 0.0 };
                let row = next.row_mut(class).iter_mut().zip(sums.row(class));
                row.for_each(|(mean, num)| *mean = keep * *mean + (1.0 - keep) * (num / den));
                next.count[class] = den;
                next.contributors[class] = contributing;
                next.round[class] = f64::from(round);
            } else if max_age > 0 && f64::from(round) - next.round[class] > f64::from(max_age) {
                next.erase(class);
            }
        }
        Ok(next)
    }

    /// Writes `proto/MODALITY/{mean,count,contributors,round}`.
    pub fn write(&self, modality: &str, set: &mut ParamSet) {
        set.insert(format!("proto/{modality}/mean"), Tensor::f64(&[self.classes, self.width], &self.mean));
        for (leaf, values) in [("count", &self.count), ("contributors", &self.contributors), ("round", &self.round)] {
            set.insert(format!("proto/{modality}/{leaf}"), Tensor::f64(&[self.classes], values));
        }
    }

    /// Reads `proto/MODALITY/{mean,count,contributors,round}`; None if the set has no such section.
    ///
    /// # Errors
    /// If a tensor is missing or malformed, or a count is negative.
    pub fn read(modality: &str, set: &ParamSet) -> Result<Option<Self>, String> {
        let name = |leaf: &str| format!("proto/{modality}/{leaf}");
        if ["mean", "contributors", "round"].iter().all(|leaf| set.get(&name(leaf)).is_none()) {
            return Ok(None);
        }
        let (shape, mean) = read(set, &name("mean"), 2)?;
        let (classes, width) = (shape[0], shape[1]);
        if classes == 0 || width == 0 {
            return Err(format!("tensor {:?} is empty", name("mean")));
        }
        let column = |leaf: &str| {
            let values = read_shaped(set, &name(leaf), &[classes])?;
            match values.iter().position(|&v| v < 0.0) {
                Some(class) => Err(format!("tensor {:?} is negative for class {class}", name(leaf))),
                None => Ok(values),
            }
        };
        let (count, contributors, round) = (column("count")?, column("contributors")?, column("round")?);
        Ok(Some(Self { classes, width, mean, count, contributors, round }))
    }

    /// Every modality's library in a global, `fused` among them.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_all(set: &ParamSet) -> Result<BTreeMap<String, Self>, String> {
        let read = |modality: String| Ok(Self::read(&modality, set)?.map(|library| (modality, library)));
        modalities_of(set, "proto", "mean").into_iter().filter_map(|m| read(m).transpose()).collect()
    }
}

/// Directions of a library's prototypes, ready for cosines.
#[derive(Debug, Clone, PartialEq)]
pub struct Directions {
    width: usize,
    unit: Vec<f64>,
    valid: Vec<bool>,
}

impl From<&Library> for Directions {
    fn from(library: &Library) -> Self {
        let mut unit = library.mean.clone();
        for row in unit.chunks_exact_mut(library.width.max(1)) {
            let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
            // A prototype of length 0 has no direction: its cosine is 0 with everything.
            if norm > 0.0 {
                row.iter_mut().for_each(|v| *v /= norm);
            }
        }
        Self { width: library.width, unit, valid: (0..library.classes).map(|c| library.is_valid(c)).collect() }
    }
}

impl Directions {
    fn cosine(&self, class: usize, query: &[f32], norm: f64) -> f64 {
        let row = &self.unit[class * self.width..(class + 1) * self.width];
        let dot: f64 = row.iter().zip(query).map(|(u, &q)| u * f64::from(q)).sum();
        if norm > 0.0 { dot / norm } else { 0.0 }
    }
}

/// The class nearest by cosine, summed over the present modalities, among the classes valid in all of them.
///
/// `present` pairs each present modality's directions with the sample's representation `[D]` of it. The lowest class
/// wins a tie. None if nothing is present or no class is valid in all.
pub fn nearest(present: &[(&Directions, &[f32])]) -> Option<usize> {
    let classes = present.iter().map(|(d, _)| d.valid.len()).min()?;
    let norm = |q: &[f32]| q.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
    let norms: Vec<f64> = present.iter().map(|(_, q)| norm(q)).collect();
    let score = |class: usize| present.iter().zip(&norms).map(|((d, q), &n)| d.cosine(class, q, n)).sum::<f64>();
    let valid = (0..classes).filter(|&c| present.iter().all(|(d, _)| d.valid[c]));
    best(valid.map(|c| (c, score(c))))
}

/// The candidate of the highest score; the first one wins a tie.
pub(crate) fn best(candidates: impl Iterator<Item = (usize, f64)>) -> Option<usize> {
    candidates.reduce(|held, next| if next.1 > held.1 { next } else { held }).map(|(class, _)| class)
}
