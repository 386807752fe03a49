//! A data set: a folder with a `dataset.toml` that says which file holds what.
//!
//! ```toml
//! version = 1                        # of this format
//! name = "wards"
//! licence = "CC BY 4.0"              # these three stay with the data; they may be left out
//! citation = "..."
//! source = "..."
//! classes = ["alive", "dead"]        # or a number
//! id = "patient"                     # joins the files by this column; without it row i of each file is sample i
//!
//! [modalities.lab]                   # a table: .csv or .tsv with a header line
//! file = "lab.csv"
//! columns = ["sodium", "urea"]       # or prefix = "lab_"
//! missing = "nan"                    # rows without any value, and ids not in the file, lack it ("any-nan": without one)
//!
//! [modalities.scan]                  # an array whose first axis is the samples: .safetensors or .npy
//! file = "scan.safetensors"
//! key = "image"                      # not needed where there is one array only
//! slice = ["..", "0..32", "0..32"]   # a range per axis; or columns = ["0..64", 99] of the flattened features
//! has = { key = "has.scan" }         # 1: has it, 0: lacks it
//!
//! [label]
//! file = "lab.csv"
//! key = "outcome"                    # the number of a class from 0, or the name of one
//! unknown = 255                      # samples with this label are left out
//!
//! [fold]                             # optional: for a test split that others can repeat
//! file = "lab.csv"
//! key = "fold"
//!
//! [client]                           # optional: whom a sample belongs to by nature
//! file = "lab.csv"
//! key = "ward"
//! ```
//!
//! Values may be whole numbers, floats or booleans of any size up to 64 bits; features become 32-bit floats. A value
//! that is not finite is an error unless `missing` says what it means. Files lie in the folder or below it.
//!
//! A modality may also be texts (`text` and `bytes`: the features are the bytes in UTF-8, zeros after them) or pictures
//! (`size`, and `image` where each is a file of its own: the features are planes `[3, size, size]` of 0 to 255). A `file`
//! may be a list, whose rows follow each other. Without `[label]` and `classes`, `[samples]` names a file that has a row
//! for each sample. `docs/data.md` has an example of each.

mod build;
mod builtin;
mod layout;
mod modality;
mod pictures;
#[cfg(test)]
mod tests;

use super::error::{DataError, Flaw};
use super::samples::Samples;
use builtin::Folder;
use std::collections::BTreeMap;
use std::path::Path;
use tessera_common::id::{Digest, is_valid_name};
use tessera_common::spec::{FUSED, MAX_CLASSES, MAX_MODALITIES, nearest};

pub use builtin::BUILTIN;

/// Classes of a data set without labels; every sample is of the first.
const UNLABELLED: [&str; 2] = ["unlabelled", "unused"];

/// Samples with their classes, and what is known about where they came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// Its name.
    pub name: String,
    /// Names of the classes; class c is the c-th.
    pub classes: Vec<String>,
    /// Features, labels, and which sample has which modality.
    pub samples: Samples,
    /// Fold of each sample, `[n]`, for a test split that others can repeat.
    pub fold: Option<Vec<u32>>,
    /// Whom each sample belongs to by nature, such as a patient or a subject, `[n]`.
    pub client: Option<Vec<String>>,
    /// Hash of the contents: classes, samples, folds and clients, not the file they came from.
    pub digest: Digest,
    /// What must stay with the data.
    pub card: Card,
    /// What was worth a warning when it was read, such as texts that were cut.
    pub notes: Vec<String>,
}

/// Licence and origin of a data set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Card {
    /// Under which terms it may be used.
    pub licence: String,
    /// Whom to cite.
    pub citation: String,
    /// Where it was taken from.
    pub source: String,
}

impl Dataset {
    /// From parts that lie in memory. The digest is made here; rows of modalities that a sample lacks become zeros.
    ///
    /// # Errors
    /// If lengths differ, a name is not usable, modalities are not in name order, a label is not below the number of
    /// classes, or a value is not finite.
    pub fn new(
        name: &str,
        classes: Vec<String>,
        mut samples: Samples,
        fold: Option<Vec<u32>>,
        client: Option<Vec<String>>,
        card: Card,
    ) -> Result<Self, DataError> {
        let bad = |place: String, why: String| DataError::content(name, Flaw::new(place, why));
        check_classes(&classes).map_err(|why| bad("classes".into(), why))?;
        check_modalities(&samples).map_err(|(place, why)| bad(place, why))?;
        let n = samples.len();
        if n == 0 {
            return Err(bad(String::new(), "holds no samples".into()));
        }
        let lengths = [Some(samples.present.len()), fold.as_ref().map(Vec::len), client.as_ref().map(Vec::len)];
        if lengths.into_iter().flatten().any(|length| length != n) {
            return Err(bad(String::new(), format!("has {n} labels, but not as many presence bits, folds or clients")));
        }
        if let Some(row) = samples.labels.iter().position(|&label| label as usize >= classes.len()) {
            let why = format!("the label {} is not below the number of classes, {}", samples.labels[row], classes.len());
            return Err(bad(format!("row {row}"), why));
        }
        samples.clear_absent();
        check_values(&samples).map_err(|(place, why)| bad(place, why))?;
        let digest = digest(&classes, &samples, fold.as_deref(), client.as_deref());
        Ok(Self { name: name.to_owned(), classes, samples, fold, client, digest, card, notes: Vec::new() })
    }

    /// Reads a folder with a `dataset.toml`, or a file of that kind under another name.
    ///
    /// # Errors
    /// Names the file, the key or column, and the row.
    pub fn load(path: &Path) -> Result<Self, DataError> {
        let (folder, file) = if path.is_dir() {
            (path, "dataset.toml".to_owned())
        } else {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("dataset.toml");
            (path.parent().unwrap_or(Path::new("")), name.to_owned())
        };
        build::build(&Folder::Path(folder), &file)
    }

    /// A data set whose files, one of them `dataset.toml`, lie in memory: their names and bytes.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_files(files: &[(&str, &[u8])]) -> Result<Self, DataError> {
        build::build(&Folder::Embedded(files), "dataset.toml")
    }

    /// A data set that comes with Tessera: [`BUILTIN`].
    ///
    /// `digits` is part of the binary. `mfeat` is not (5 MB) and is read from `deploy/data/mfeat` below the current
    /// folder.
    ///
    /// # Errors
    /// If there is none of that name, or it cannot be read.
    pub fn builtin(name: &str) -> Result<Self, DataError> {
        match name {
            "digits" => build::build(&Folder::Embedded(builtin::DIGITS), "dataset.toml"),
            "mfeat" if Path::new(builtin::MFEAT).exists() => Self::load(Path::new(builtin::MFEAT)),
            "mfeat" => {
                let why = format!("is not part of the binary: run where {} is, or give the path of its folder", builtin::MFEAT);
                Err(DataError::content(name, Flaw::new("", why)))
            }
            _ => Err(unknown_source(name)),
        }
    }

    /// The data set that `source` names: one that comes with Tessera, or the path of one.
    ///
    /// # Errors
    /// As [`Self::load`]; if there is neither, names the nearest that comes with Tessera.
    pub fn open(source: &str) -> Result<Self, DataError> {
        if BUILTIN.contains(&source) {
            return Self::builtin(source);
        }
        let path = Path::new(source);
        if path.exists() { Self::load(path) } else { Err(unknown_source(source)) }
    }

    /// False if the data set has no labels: then all samples are of one class.
    pub fn is_labelled(&self) -> bool {
        self.classes != UNLABELLED
    }

    /// Modality names with their number of features, as a run's `task.modalities` wants them.
    pub fn dims(&self) -> BTreeMap<String, usize> {
        self.samples.dims()
    }
}

fn unknown_source(source: &str) -> DataError {
    let near = nearest(source, BUILTIN.iter().copied()).map(|near| format!("did you mean {near:?}? ")).unwrap_or_default();
    let why = format!("there is no such file or folder; {near}These come with Tessera: {}", BUILTIN.join(", "));
    DataError::content(source, Flaw::new("", why))
}

fn check_classes(classes: &[String]) -> Result<(), String> {
    if !(2..=MAX_CLASSES).contains(&classes.len()) {
        return Err(format!("there are {}; name 2 to {MAX_CLASSES}", classes.len()));
    }
    let mut sorted: Vec<&String> = classes.iter().collect();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("{:?} is named twice", pair[0])),
        None => Ok(()),
    }
}

fn check_modalities(samples: &Samples) -> Result<(), (String, String)> {
    let modalities = &samples.modalities;
    if !(1..=MAX_MODALITIES).contains(&modalities.len()) {
        return Err(("modalities".into(), format!("there are {}; name 1 to {MAX_MODALITIES}", modalities.len())));
    }
    if modalities.windows(2).any(|pair| pair[0].name >= pair[1].name) {
        return Err(("modalities".into(), "the names are not in order, or one is there twice".into()));
    }
    for modality in modalities {
        let place = || format!("modality {}", modality.name);
        if !is_valid_name(&modality.name) || modality.name == FUSED {
            let why = format!("not a usable name: 1 to 64 of a-z, A-Z, 0-9, '.', '_', '-'; {FUSED:?} is reserved");
            return Err((place(), why));
        }
        if modality.dim == 0 || modality.dim.checked_mul(samples.len()) != Some(modality.values.len()) {
            let why = format!("{} values are not {} samples of {} features", modality.values.len(), samples.len(), modality.dim);
            return Err((place(), why));
        }
    }
    let beyond = !samples.complete();
    match samples.present.iter().position(|mask| mask & beyond != 0) {
        Some(row) => Err((format!("row {row}"), "a presence bit of a modality that does not exist".into())),
        None => Ok(()),
    }
}

fn check_values(samples: &Samples) -> Result<(), (String, String)> {
    for modality in &samples.modalities {
        if let Some(at) = modality.values.iter().position(|value| !value.is_finite()) {
            let place = format!("modality {}, row {}, feature {}", modality.name, at / modality.dim, at % modality.dim);
            return Err((place, format!("{} is not a finite number", modality.values[at])));
        }
    }
    Ok(())
}

/// Hash of the contents; every part is preceded by its length, so that no two contents are written alike.
fn digest(classes: &[String], samples: &Samples, fold: Option<&[u32]>, client: Option<&[String]>) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key("tessera data set v1");
    let count = |hasher: &mut blake3::Hasher, n: usize| {
        hasher.update(&(n as u64).to_le_bytes());
    };
    let texts = |hasher: &mut blake3::Hasher, texts: &[String]| {
        count(hasher, texts.len());
        for text in texts {
            count(hasher, text.len());
            hasher.update(text.as_bytes());
        }
    };
    let numbers = |hasher: &mut blake3::Hasher, numbers: &[u32]| {
        count(hasher, numbers.len());
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        hasher.update(&bytes);
    };
    let values = |hasher: &mut blake3::Hasher, values: &[f32]| {
        count(hasher, values.len());
        // piece by piece: pictures fill much of the memory as it is
        for piece in values.chunks(4096) {
            let bytes: Vec<u8> = piece.iter().flat_map(|value| value.to_bits().to_le_bytes()).collect();
            hasher.update(&bytes);
        }
    };
    texts(&mut hasher, classes);
    count(&mut hasher, samples.modalities.len());
    for modality in &samples.modalities {
        texts(&mut hasher, std::slice::from_ref(&modality.name));
        values(&mut hasher, &modality.values);
    }
    numbers(&mut hasher, &samples.labels);
    numbers(&mut hasher, &samples.present);
    // an absent column differs from an empty one, but no column of a data set is empty
    numbers(&mut hasher, fold.unwrap_or_default());
    texts(&mut hasher, client.unwrap_or_default());
    Digest::from_hash(hasher.finalize())
}
