//! The prototype library of a global, as the agent uses it: cosines on the host, unit vectors on the device.

use crate::glue;
use burn::tensor::{Device, Tensor};
use std::collections::BTreeMap;
use tessera_common::prototype::{Directions, Library};
use tessera_common::spec::FUSED;

/// Classes of one modality that a contrast can be made with.
#[derive(Debug, Clone)]
pub struct Anchors {
    /// Unit prototypes of the valid classes, transposed: `[D, V]`.
    pub unit: Tensor<2>,
    /// Column of each class in `unit`; None if the class has no prototype.
    pub column: Vec<Option<usize>>,
}

/// Prototypes of all modalities, in the order of the run spec.
#[derive(Debug, Clone, Default)]
pub struct Prototypes {
    libraries: Vec<Option<Library>>,
    directions: Vec<Option<Directions>>,
    fused: Option<Library>,
}

impl Prototypes {
    /// From libraries by modality name.
    ///
    /// `modalities` gives each modality's name and the width of its representation, `fused` that of the fused one.
    ///
    /// # Errors
    /// If a library has another number of classes or another width than the model.
    pub fn new(
        mut libraries: BTreeMap<String, Library>,
        modalities: &[(String, usize)],
        fused: usize,
        classes: usize,
    ) -> Result<Self, String> {
        let mut take = |name: &str, width: usize| match libraries.remove(name) {
            Some(l) if (l.classes(), l.width()) != (classes, width) => {
                let found = [l.classes(), l.width()];
                Err(format!("prototypes of {name:?} have shape {found:?}, this model needs {:?}", [classes, width]))
            }
            // A library without a class is none.
            found => Ok(found.filter(|l| !l.valid_classes().is_empty())),
        };
        let libraries_found = modalities.iter().map(|(name, width)| take(name, *width)).collect::<Result<Vec<_>, _>>()?;
        let directions = libraries_found.iter().map(|l| l.as_ref().map(Directions::from)).collect();
        Ok(Self { libraries: libraries_found, directions, fused: take(FUSED, fused)? })
    }

    /// Prototype `[D]` of a class of the modality at this position, if there is one.
    pub fn row(&self, modality: usize, class: usize) -> Option<&[f64]> {
        let library = self.libraries.get(modality)?.as_ref()?;
        library.is_valid(class).then(|| library.row(class))
    }

    /// Number of classes; 0 if no modality has a prototype.
    pub fn classes(&self) -> usize {
        self.libraries.iter().flatten().map(Library::classes).max().unwrap_or(0)
    }

    /// True if no modality has a prototype.
    pub fn is_empty(&self) -> bool {
        self.libraries.iter().all(Option::is_none)
    }

    /// The class nearest to the representations of the present modalities, `(position, [D])`; see
    /// [`tessera_common::prototype::nearest`]. Modalities without any prototype leave no class valid.
    pub fn nearest(&self, present: &[(usize, &[f32])]) -> Option<usize> {
        let found: Option<Vec<(&Directions, &[f32])>> =
            present.iter().map(|(m, r)| Some((self.directions.get(*m)?.as_ref()?, *r))).collect();
        tessera_common::prototype::nearest(&found?)
    }

    /// Unit prototypes of the modality at this position, on `device`.
    pub fn anchors(&self, modality: usize, device: &Device) -> Option<Anchors> {
        self.libraries.get(modality)?.as_ref().map(|l| anchors(l, device))
    }

    /// Unit prototypes of the fused representation, on `device`.
    pub fn fused_anchors(&self, device: &Device) -> Option<Anchors> {
        self.fused.as_ref().map(|l| anchors(l, device))
    }
}

fn anchors(library: &Library, device: &Device) -> Anchors {
    let valid = library.valid_classes();
    let mut column = vec![None; library.classes()];
    valid.iter().enumerate().for_each(|(i, &class)| column[class] = Some(i));
    let mut unit = vec![0.0f32; library.width() * valid.len()];
    for (i, &class) in valid.iter().enumerate() {
        let row = library.row(class);
        let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
        row.iter().enumerate().for_each(|(d, v)| unit[d * valid.len() + i] = (v / norm) as f32);
    }
    Anchors { unit: glue::tensor(unit, [library.width(), valid.len()], device), column }
}
