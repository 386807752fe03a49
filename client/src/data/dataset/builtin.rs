//! Where a data set's files come from: a folder, or the binary itself.

use super::{DataError, Flaw};
use std::path::{Component, Path};

/// Data sets that come with Tessera.
pub const BUILTIN: &[&str] = &["digits", "mfeat"];

/// The folder of `mfeat`, which is not part of the binary.
pub(super) const MFEAT: &str = "deploy/data/mfeat";

/// The files of `digits`.
pub(super) const DIGITS: &[(&str, &[u8])] = &[
    ("dataset.toml", include_bytes!("../../../../deploy/data/digits/dataset.toml")),
    ("digits.safetensors", include_bytes!("../../../../deploy/data/digits/digits.safetensors")),
];

/// Files by name.
#[derive(Debug, Clone, Copy)]
pub(super) enum Folder<'a> {
    Path(&'a Path),
    Embedded(&'a [(&'a str, &'a [u8])]),
}

impl Folder<'_> {
    /// The bytes of `file`, which may lie in a folder below but not elsewhere.
    pub(super) fn read(&self, file: &str) -> Result<Vec<u8>, DataError> {
        self.read_up_to(file, u64::MAX)
    }

    /// Checks that `file` lies in the folder or below it.
    pub(super) fn check(file: &str) -> Result<(), DataError> {
        let inside = Path::new(file).components().all(|part| matches!(part, Component::Normal(_)));
        if file.is_empty() || !inside {
            let why = "a data set's files lie in its own folder: give a path without \"..\" that does not start with \"/\"";
            return Err(DataError::content(file, Flaw::new("", why)));
        }
        Ok(())
    }

    /// The bytes of `file`, of which there may be `most`.
    pub(super) fn read_up_to(&self, file: &str, most: u64) -> Result<Vec<u8>, DataError> {
        Self::check(file)?;
        match self {
            Self::Path(folder) => {
                let path = folder.join(file);
                let about = std::fs::metadata(&path).map_err(|error| DataError::read(&path, error))?;
                if !about.is_file() {
                    // a pipe or a device may never end
                    return Err(DataError::content(file, Flaw::new("", "is not a regular file")));
                }
                if about.len() > most {
                    let why = format!("has {} bytes; at most {most} are read", about.len());
                    return Err(DataError::content(file, Flaw::new("", why)));
                }
                std::fs::read(&path).map_err(|error| DataError::read(&path, error))
            }
            Self::Embedded(files) => match files.iter().find(|(name, _)| *name == file) {
                Some((_, bytes)) => Ok(bytes.to_vec()),
                None => Err(DataError::content(file, Flaw::new("", "is not part of the binary"))),
            },
        }
    }

    /// How `file` is called in messages.
    pub(super) fn shown(&self, file: &str) -> String {
        match self {
            Self::Path(folder) => folder.join(file).display().to_string(),
            Self::Embedded(_) => file.to_owned(),
        }
    }
}
