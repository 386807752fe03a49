//! A modality's features of the kept samples: numbers, texts or pictures.

use super::super::error::{DataError, Flaw};
use super::super::reader::{Encoded, Matrix, Source};
use super::super::samples::Modality;
use super::build::{Files, Rows, presence};
use super::builtin::Folder;
use super::layout::{Missing, ModalityField};
use super::pictures::{decode_all, threads};
use std::collections::BTreeMap;

/// A modality's features of the kept samples, and which of them have it.
pub(super) fn modality(
    files: &mut Files<'_>,
    name: &str,
    field: &ModalityField,
    rows: &Rows,
) -> Result<(Modality, Vec<bool>), DataError> {
    let file = field.file.shown();
    let stated = match &field.has {
        Some(column) => Some(presence(files, column.file.as_ref().unwrap_or(&field.file), &column.key, rows)?),
        None => None,
    };
    let folder = *files.folder;
    let opened = files.get(&field.file)?;
    let content = Content::read(opened.source.as_ref(), field).map_err(|flaw| DataError::content(&file, flaw))?;
    let found = rows.find(&file, content.rows(), opened.ids.as_ref())?;
    let has = stated.unwrap_or_else(|| vec![true; found.len()]);
    let flawed = |flaw: Flaw| {
        let comma = if flaw.place.is_empty() { "" } else { ", " };
        DataError::content(&file, Flaw::new(format!("modality {name}{comma}{}", flaw.place), flaw.why))
    };
    let mut filled = Filled { dim: content.dim(), values: Vec::new(), has, note: None };
    filled.reserve().map_err(flawed)?;
    for (sample, _) in found.iter().enumerate().filter(|(_, row)| row.is_none()) {
        if filled.has[sample] && field.missing == Missing::Refuse {
            let id = rows.id(sample);
            let why = format!("has no row for the id {id:?}; if such samples lack {name}, say `missing = \"nan\"`");
            return Err(flawed(Flaw::new("", why)));
        }
        filled.has[sample] = false;
    }
    match &content {
        Content::Matrix(matrix) => filled.numbers(matrix, &found, field.missing),
        Content::Texts(texts, _) => filled.texts(texts, &found, field.missing),
        Content::Pictures(pictures, size) => filled.pictures(&folder, pictures, &found, (*size, field.skip, field.missing)),
    }
    .map_err(flawed)?;
    let Filled { dim, values, has, note } = filled;
    files.notes.extend(note.map(|note| format!("{file}, modality {name}: {note}")));
    Ok((Modality { name: name.to_owned(), dim, values }, has))
}

/// What a file holds for a modality, all rows of it.
enum Content<'a> {
    Matrix(Matrix),
    /// Texts, and the number of bytes that each becomes.
    Texts(Vec<Option<String>>, usize),
    /// Pictures, and the side of the squares that they become.
    Pictures(Vec<Option<Encoded<'a>>>, usize),
}

impl<'a> Content<'a> {
    fn read(source: &'a dyn Source, field: &ModalityField) -> Result<Self, Flaw> {
        Ok(match (&field.text, field.bytes, &field.image, field.size) {
            (Some(column), Some(bytes), ..) => Self::Texts(source.texts(column)?, bytes),
            (_, _, Some(column), Some(size)) => Self::Pictures(source.pictures(column)?, size),
            _ => Self::Matrix(source.matrix(&field.pick())?),
        })
    }

    fn rows(&self) -> usize {
        match self {
            Self::Matrix(matrix) => matrix.rows,
            Self::Texts(texts, _) => texts.len(),
            Self::Pictures(pictures, _) => pictures.len(),
        }
    }

    fn dim(&self) -> usize {
        match self {
            Self::Matrix(matrix) => matrix.dim,
            Self::Texts(_, bytes) => *bytes,
            Self::Pictures(_, size) => 3 * size * size,
        }
    }
}

/// Features of the kept samples as they are filled in, `[n, dim]`.
struct Filled {
    dim: usize,
    values: Vec<f32>,
    /// Which samples have the modality, `[n]`.
    has: Vec<bool>,
    /// What is worth a warning.
    note: Option<String>,
}

impl Filled {
    fn reserve(&mut self) -> Result<(), Flaw> {
        let all = self.has.len().checked_mul(self.dim);
        let reserved = all.filter(|&all| self.values.try_reserve_exact(all).is_ok());
        let Some(all) = reserved else {
            let why = format!("{} samples of {} features do not fit into memory", self.has.len(), self.dim);
            return Err(Flaw::new("", why));
        };
        self.values.resize(all, 0.0);
        Ok(())
    }

    fn row(&mut self, sample: usize) -> &mut [f32] {
        &mut self.values[sample * self.dim..(sample + 1) * self.dim]
    }

    /// The samples that have the modality, with their rows in the file.
    fn wanted(&self, found: &[Option<usize>]) -> Vec<(usize, usize)> {
        let row = |(sample, row): (usize, &Option<usize>)| row.filter(|_| self.has[sample]).map(|row| (sample, row));
        found.iter().enumerate().filter_map(row).collect()
    }

    fn numbers(&mut self, matrix: &Matrix, found: &[Option<usize>], missing: Missing) -> Result<(), Flaw> {
        for (sample, row) in self.wanted(found) {
            self.has[sample] = whole(matrix, row, missing)?;
            if self.has[sample] {
                let features = &matrix.values[row * matrix.dim..(row + 1) * matrix.dim];
                self.row(sample).copy_from_slice(features);
            }
        }
        Ok(())
    }

    /// Bytes of the texts; those that are too long are cut before the letter that does not fit.
    fn texts(&mut self, texts: &[Option<String>], found: &[Option<usize>], missing: Missing) -> Result<(), Flaw> {
        let mut cut = 0;
        for (sample, row) in self.wanted(found) {
            let Some(text) = &texts[row] else {
                absent(row, "text", missing)?;
                self.has[sample] = false;
                continue;
            };
            let end = text.floor_char_boundary(self.dim);
            cut += usize::from(end < text.len());
            self.row(sample).iter_mut().zip(&text.as_bytes()[..end]).for_each(|(value, &byte)| *value = f32::from(byte));
        }
        self.note = (cut > 0).then(|| format!("{cut} texts are longer than {} bytes and were cut", self.dim));
        Ok(())
    }

    /// Pictures that can be read; at most `skip` of the others are left out.
    fn pictures(
        &mut self,
        folder: &Folder<'_>,
        pictures: &[Option<Encoded<'_>>],
        found: &[Option<usize>],
        (size, skip, missing): (usize, usize, Missing),
    ) -> Result<(), Flaw> {
        let (mut samples, mut asked) = (Vec::new(), Vec::new());
        for (sample, row) in self.wanted(found) {
            let Some(picture) = &pictures[row] else {
                absent(row, "picture", missing)?;
                self.has[sample] = false;
                continue;
            };
            if let Encoded::File(path) = picture {
                Folder::check(path).map_err(|error| Flaw::new(format!("row {row}"), error.to_string()))?;
            }
            samples.push(sample);
            asked.push(picture.clone());
        }
        let mut broken = BTreeMap::new();
        decode_all(folder, &asked, size, threads(), |at, decoded| match decoded {
            Ok(planes) => self.row(samples[at]).copy_from_slice(&planes),
            Err(why) => drop(broken.insert(at, format!("{} ({why})", asked[at].name()))),
        });
        broken.keys().for_each(|&at| self.has[samples[at]] = false);
        let (count, of) = (broken.len(), asked.len());
        if count > skip {
            let all = broken.into_values().collect::<Vec<_>>().join(", ");
            let why = format!(
                "{count} of {of} pictures cannot be read, and `skip` allows {skip}: {all}. With \
                 `skip = {count}` their samples lack it"
            );
            return Err(Flaw::new("", why));
        }
        if count > 0 {
            let first = broken.into_values().take(NAMED).collect::<Vec<_>>().join(", ");
            let more = if count > NAMED { ", ..." } else { "" };
            self.note = Some(format!("{count} of {of} pictures cannot be read, and their samples lack it: {first}{more}"));
        }
        Ok(())
    }
}

/// So many broken pictures are named in a warning.
const NAMED: usize = 5;

fn absent(row: usize, what: &str, missing: Missing) -> Result<(), Flaw> {
    if missing != Missing::Refuse {
        return Ok(());
    }
    let why = format!("there is no {what}; `missing = \"nan\"` would count such rows as lacking the modality");
    Err(Flaw::new(format!("row {row}"), why))
}

/// True if row `row` has its features, false if it lacks them in the way that `missing` allows.
fn whole(matrix: &Matrix, row: usize, missing: Missing) -> Result<bool, Flaw> {
    let features = &matrix.values[row * matrix.dim..(row + 1) * matrix.dim];
    let at = |column: usize| format!("row {row}, {}", matrix.name(column));
    if let Some(column) = features.iter().position(|value| value.is_infinite()) {
        return Err(Flaw::new(at(column), "is infinite, or too large for 32 bits"));
    }
    let Some(column) = features.iter().position(|value| value.is_nan()) else {
        return Ok(true);
    };
    match missing {
        Missing::AnyNan => Ok(false),
        Missing::Nan if features.iter().all(|value| value.is_nan()) => Ok(false),
        Missing::Nan => Err(Flaw::new(
            at(column),
            "is missing while other features of the row are there; `missing = \"any-nan\"` would count the row as lacking all",
        )),
        Missing::Refuse => Err(Flaw::new(
            at(column),
            "is not a number or empty; `missing = \"nan\"` would count rows without any features as lacking the modality",
        )),
    }
}
