//! What can be wrong with data, said so that it can be mended.

use super::EVALUATOR;
use std::path::{Path, PathBuf};
use tessera_common::id::excerpt;
use tessera_common::spec::SpecError;

/// What is wrong with a data set, a partition or a manifest.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file cannot be read or written.
    #[error("cannot {verb} {path}: {source}")]
    Io {
        /// "read" or "write".
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A value of a file is not what it must be.
    #[error("{file}{place}: {why}")]
    Content {
        /// The file as named in `dataset.toml`, or the path of a manifest.
        file: String,
        /// ", key label, row 17", or empty.
        place: String,
        /// What is wrong and what would be right.
        why: String,
    },
    /// A `dataset.toml` or a `[data]` table is not valid.
    #[error("{file}{error}")]
    Spec {
        /// "PATH: ", or empty.
        file: String,
        /// What is wrong.
        error: SpecError,
    },
    /// There is no such member in the manifest.
    #[error("there is no member {name:?} in the partition; it has the members {members} and {EVALUATOR:?}")]
    UnknownMember {
        /// The name that was asked for.
        name: String,
        /// "client-00 to client-09".
        members: String,
    },
    /// A manifest and a data set that do not belong together.
    #[error("the partition does not fit the data set {dataset:?}: {why}")]
    Mismatch {
        /// Name of the data set.
        dataset: String,
        /// Where they differ.
        why: String,
    },
}

impl From<SpecError> for DataError {
    fn from(error: SpecError) -> Self {
        Self::Spec { file: String::new(), error }
    }
}

impl DataError {
    pub(super) fn read(path: &Path, source: std::io::Error) -> Self {
        Self::Io { verb: "read", path: path.to_owned(), source }
    }

    pub(super) fn write(path: &Path, source: std::io::Error) -> Self {
        Self::Io { verb: "write", path: path.to_owned(), source }
    }

    /// A flaw of `file`.
    pub(super) fn content(file: &str, flaw: Flaw) -> Self {
        let place = if flaw.place.is_empty() { String::new() } else { format!(", {}", flaw.place) };
        Self::Content { file: file.to_owned(), place, why: flaw.why }
    }
}

/// A flaw within a file whose name the caller knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flaw {
    /// "column zer3, line 18", or empty.
    pub(super) place: String,
    pub(super) why: String,
}

/// Longest text of a flaw and of its place, in bytes: both quote the file.
const SHOWN: usize = 2000;

impl Flaw {
    pub(super) fn new(place: impl Into<String>, why: impl Into<String>) -> Self {
        Self { place: excerpt(&place.into(), SHOWN), why: excerpt(&why.into(), SHOWN) }
    }
}
