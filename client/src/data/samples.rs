//! Samples of several modalities, of which any sample may lack some.

use super::error::{DataError, Flaw};
use std::collections::BTreeMap;

/// Samples of one member or split, with presence bits.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Samples {
    /// Modalities in name order.
    pub modalities: Vec<Modality>,
    /// Class of each sample.
    pub labels: Vec<u32>,
    /// Bit m of entry i: sample i has modality m (index into `modalities`).
    pub present: Vec<u32>,
}

/// One modality's features: `values` is `[n, dim]` row-major; rows of samples that lack it are zeros.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Modality {
    /// Name, as in the run spec.
    pub name: String,
    /// Number of features.
    pub dim: usize,
    /// Features, `[n, dim]` row-major.
    pub values: Vec<f32>,
}

impl Modality {
    /// Features of sample `row`, `[dim]`. Panics on a row that is out of range, as slices do.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.dim..(row + 1) * self.dim]
    }
}

impl Samples {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// True if there are no samples.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The samples of these indices, in this order. Panics on an index that is out of range, as slices do.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> Samples {
        let modalities = self.modalities.iter().map(|m| Modality {
            name: m.name.clone(),
            dim: m.dim,
            values: rows.iter().flat_map(|&i| &m.values[i * m.dim..(i + 1) * m.dim]).copied().collect(),
        });
        Samples {
            modalities: modalities.collect(),
            labels: rows.iter().map(|&i| self.labels[i]).collect(),
            present: rows.iter().map(|&i| self.present[i]).collect(),
        }
    }

    /// True if sample `row` has the modality `modality` (an index into `modalities`).
    pub fn has(&self, row: usize, modality: usize) -> bool {
        self.present[row] >> modality & 1 == 1
    }

    /// Modality names with their number of features.
    pub fn dims(&self) -> BTreeMap<String, usize> {
        self.modalities.iter().map(|modality| (modality.name.clone(), modality.dim)).collect()
    }

    /// The mask of a sample that has every modality.
    pub fn complete(&self) -> u32 {
        complete_mask(self.modalities.len())
    }

    /// The same samples with exactly the modalities `dims`, as a run names them: others are left out, and one that is
    /// not there at all is lacked by every sample.
    ///
    /// # Errors
    /// Names a modality whose number of features differs, or says that there are more than 32.
    pub fn with_modalities(&self, dims: &BTreeMap<String, usize>) -> Result<Samples, DataError> {
        if dims.len() > 32 {
            return Err(DataError::content("modalities", Flaw::new("", format!("there are {}; at most 32 fit", dims.len()))));
        }
        let mut samples = Samples { modalities: Vec::new(), labels: self.labels.clone(), present: vec![0; self.len()] };
        for (bit, (name, &dim)) in dims.iter().enumerate() {
            let place = self.modalities.iter().position(|modality| modality.name == *name);
            let values = match place.map(|place| (place, &self.modalities[place])) {
                Some((_, own)) if own.dim != dim => {
                    let why = format!("has {} features here, but {dim} are expected", own.dim);
                    return Err(DataError::content(&format!("modality {name}"), Flaw::new("", why)));
                }
                Some((place, own)) => {
                    (0..self.len()).filter(|&row| self.has(row, place)).for_each(|row| samples.present[row] |= 1 << bit);
                    own.values.clone()
                }
                None => vec![0.0; self.len() * dim],
            };
            samples.modalities.push(Modality { name: name.clone(), dim, values });
        }
        Ok(samples)
    }

    /// Sets the features of modalities that a sample lacks to zero.
    pub(super) fn clear_absent(&mut self) {
        for (bit, modality) in self.modalities.iter_mut().enumerate() {
            for (row, &present) in self.present.iter().enumerate() {
                if present >> bit & 1 == 0 {
                    modality.values[row * modality.dim..(row + 1) * modality.dim].fill(0.0);
                }
            }
        }
    }
}

/// The mask with a bit for each of so many modalities, at most 32.
pub(super) fn complete_mask(modalities: usize) -> u32 {
    // through u64: a shift by 32 would overflow
    ((1u64 << modalities.min(32)) - 1) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selecting_takes_rows_in_the_order_asked() {
        let m = |name: &str, dim, values: &[f32]| Modality { name: name.into(), dim, values: values.to_vec() };
        let all = Samples {
            modalities: vec![m("a", 2, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), m("b", 1, &[7.0, 8.0, 0.0])],
            labels: vec![4, 5, 6],
            present: vec![3, 3, 1],
        };
        let two = all.select(&[2, 0]);
        assert_eq!((two.len(), two.labels.as_slice(), two.present.as_slice()), (2, &[6, 4][..], &[1, 3][..]));
        assert_eq!(two.modalities[0].values, [4.0, 5.0, 0.0, 1.0]);
        assert_eq!(two.modalities[1].values, [0.0, 7.0]);
        assert!(all.select(&[]).is_empty());
    }

    #[test]
    fn a_run_may_name_other_modalities() {
        let m = |name: &str, dim, values: &[f32]| Modality { name: name.into(), dim, values: values.to_vec() };
        let own =
            Samples { modalities: vec![m("a", 1, &[1.0, 2.0]), m("c", 1, &[0.0, 4.0])], labels: vec![0, 1], present: vec![1, 3] };
        let dims = |list: &[(&str, usize)]| list.iter().map(|(name, dim)| (name.to_string(), *dim)).collect();
        let run = own.with_modalities(&dims(&[("b", 2), ("c", 1)])).unwrap();
        assert_eq!(run.modalities, [m("b", 2, &[0.0; 4]), m("c", 1, &[0.0, 4.0])]);
        assert_eq!(run.present, [0, 2]);
        let error = own.with_modalities(&dims(&[("c", 3)])).unwrap_err().to_string();
        assert_eq!(error, "modality c: has 1 features here, but 3 are expected");
        assert_eq!([complete_mask(0), complete_mask(2), complete_mask(32)], [0, 3, u32::MAX]);
    }
}
