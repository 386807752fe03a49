//! Readers: one file format each, all giving the same two things, features and columns.
//!
//! To add a format, write a file that makes a [`Source`] out of bytes and add a line to [`READERS`].

use super::error::{DataError, Flaw};
pub(super) use chain::Chain;
pub(super) use picture::decode;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fmt;
use tessera_common::spec::nearest;

mod array;
mod chain;
mod csv;
mod jsonl;
mod npy;
mod object;
mod picture;
mod resample;
mod safetensors;
mod shard;
#[cfg(test)]
mod tests;

/// What opening bytes gives.
type Opened = Result<Box<dyn Source>, Flaw>;

/// A format: the ending of its files, and what opens their bytes.
struct Reader {
    extension: &'static str,
    open: fn(Vec<u8>) -> Opened,
}

const READERS: &[Reader] = &[
    Reader { extension: "csv", open: csv::open_csv },
    Reader { extension: "jsonl", open: jsonl::open },
    Reader { extension: "npy", open: npy::open },
    Reader { extension: "safetensors", open: safetensors::open },
    Reader { extension: "tar", open: shard::open },
    Reader { extension: "tsv", open: csv::open_tsv },
];

/// Endings of the files that can be read.
pub fn extensions() -> Vec<&'static str> {
    READERS.iter().map(|reader| reader.extension).collect()
}

/// Which features of a file are meant.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Pick {
    /// Name of an array; not needed where there is one only.
    pub(super) key: Option<String>,
    /// Names of CSV columns; or indices and ranges ("0..32") into the flattened features of an array.
    pub(super) columns: Option<Vec<Index>>,
    /// All CSV columns whose name starts so, in the file's order.
    pub(super) prefix: Option<String>,
    /// A range for each axis of an array after the first: `["..", "0..4"]`.
    pub(super) slice: Option<Vec<Index>>,
    /// An array of pictures, and the side of the squares that they become.
    pub(super) size: Option<usize>,
}

/// A number, a range or a name.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged, expecting = "expected a number, a range such as \"0..32\" or the name of a column")]
pub(super) enum Index {
    /// One index, from 0.
    At(usize),
    /// "a..b" (b excluded), "a..", "..b", ".." or a name.
    Text(String),
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(index) => write!(f, "{index}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// Features, `[rows, dim]` row-major; NaN where a CSV field is empty.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Matrix {
    pub(super) rows: usize,
    pub(super) dim: usize,
    pub(super) values: Vec<f32>,
    /// Names of the features, where the file has some.
    pub(super) names: Option<Vec<String>>,
}

impl Matrix {
    /// Feature `column`, for people.
    pub(super) fn name(&self, column: usize) -> String {
        match self.names.as_ref().and_then(|names| names.get(column)) {
            Some(name) => format!("column {name}"),
            None => format!("feature {column}"),
        }
    }
}

/// One value of a column.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scalar {
    Int(i128),
    Float(f64),
    Text(String),
    /// An empty CSV field.
    Empty,
}

/// Where a picture is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Encoded<'a> {
    /// In a file of its own in the data set's folder.
    File(String),
    /// In the file that was opened.
    Bytes {
        /// What it is called there.
        name: String,
        bytes: &'a [u8],
    },
}

impl Encoded<'_> {
    /// Its name, for people.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::File(name) | Self::Bytes { name, .. } => name,
        }
    }
}

impl Scalar {
    /// What a text stands for.
    fn of(text: &str) -> Self {
        match text.trim() {
            "" => Self::Empty,
            text => text.parse().map(Self::Int).unwrap_or_else(|_| Self::Text(text.to_owned())),
        }
    }

    /// As a whole number, if it is one.
    pub(super) fn integer(&self) -> Option<i128> {
        // beyond 2^53 a float does not name one number
        let whole = |value: f64| (value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0).then_some(value as i128);
        match self {
            Self::Int(value) => Some(*value),
            Self::Float(value) => whole(*value),
            // tables write whole numbers as "3.0" where a column has empty fields
            Self::Text(text) => text.parse().ok().and_then(whole),
            Self::Empty => None,
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value}"),
            Self::Text(text) => f.write_str(text),
            Self::Empty => Ok(()),
        }
    }
}

/// An opened file.
pub(super) trait Source {
    /// The features that `pick` means.
    ///
    /// # Errors
    /// Names the key or column, the row, and what there is instead.
    fn matrix(&self, pick: &Pick) -> Result<Matrix, Flaw>;

    /// One value per row.
    ///
    /// # Errors
    /// As [`Self::matrix`].
    fn column(&self, key: Option<&str>) -> Result<Vec<Scalar>, Flaw>;

    /// One text per row, as it stands in the file; `None` where it is empty.
    ///
    /// # Errors
    /// As [`Self::matrix`].
    fn texts(&self, key: &str) -> Result<Vec<Option<String>>, Flaw> {
        Err(Flaw::new(format!("key {key}"), "texts and paths are read from tables, lines and shards; an array holds numbers"))
    }

    /// Where the picture of each row is; `None` where there is none. By default `key` names a column of paths.
    ///
    /// # Errors
    /// As [`Self::matrix`].
    fn pictures(&self, key: &str) -> Result<Vec<Option<Encoded<'_>>>, Flaw> {
        Ok(self.texts(key)?.into_iter().map(|path| path.map(Encoded::File)).collect())
    }

    /// Number of rows; of the array `key`, where there are several.
    ///
    /// # Errors
    /// As [`Self::matrix`].
    fn rows(&self, key: Option<&str>) -> Result<usize, Flaw>;

    /// Keys of which any row may lack some; none where all rows have the same.
    fn keys(&self) -> BTreeSet<String> {
        BTreeSet::new()
    }

    /// Tells a file of a list which keys the others have, so that it may lack them in all its rows.
    fn learn(&mut self, _keys: &BTreeSet<String>) {}
}

/// The ending of a file's name, which says what reads it.
pub(super) fn extension(file: &str) -> String {
    file.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase()).unwrap_or_default()
}

/// Opens the bytes of `file` with the reader of its ending.
///
/// # Errors
/// If no reader knows the ending or the bytes are not of the format.
pub(super) fn open(file: &str, bytes: Vec<u8>) -> Result<Box<dyn Source>, DataError> {
    let extension = extension(file);
    let Some(reader) = READERS.iter().find(|reader| reader.extension == extension) else {
        let why = format!("no reader for files that end so; there are readers for .{}", extensions().join(", ."));
        return Err(DataError::content(file, Flaw::new("", why)));
    };
    (reader.open)(bytes).map_err(|flaw| DataError::content(file, flaw))
}

/// `there is no array "imag"; did you mean "image"? It has fold, image, label`, or without the guess.
fn unknown(kind: &str, name: &str, names: &[&str]) -> String {
    let has = match nearest(name, names.iter().copied()) {
        Some(near) => format!("did you mean {near:?}? It has"),
        None => "it has".to_owned(),
    };
    let more = if names.len() > 20 { ", ..." } else { "" };
    let shown = names.iter().take(20).copied().collect::<Vec<_>>().join(", ");
    format!("there is no {kind} {name:?}; {has} {shown}{more}")
}
