//! From a `dataset.toml` and its files to samples.

use super::super::error::{DataError, Flaw};
use super::super::reader::{self, Chain, Scalar, Source};
use super::super::samples::Samples;
use super::Dataset;
use super::builtin::Folder;
use super::layout::{ColumnField, FileList, LabelField, Layout, Listing};
use super::modality::modality;
use std::collections::BTreeMap;

/// Reads the data set that `file` of `folder` describes.
pub(super) fn build(folder: &Folder<'_>, file: &str) -> Result<Dataset, DataError> {
    let bytes = folder.read(file)?;
    let shown = folder.shown(file);
    let text = String::from_utf8(bytes).map_err(|_| DataError::content(&shown, Flaw::new("", "is not text")))?;
    let layout = Layout::parse(&text).map_err(|error| DataError::Spec { file: format!("{shown}: "), error })?;
    let mut files = Files { folder, id: layout.id.as_deref(), open: BTreeMap::new(), notes: Vec::new() };
    let (labels, rows) = match &layout.listing {
        Listing::Label(field) => labels(&mut files, field, &layout.classes)?,
        Listing::Samples(field) => unlabelled(&mut files, field)?,
    };
    let fold = layout.fold.as_ref().map(|field| folds(&mut files, field, &rows)).transpose()?;
    let client = layout.client.as_ref().map(|field| clients(&mut files, field, &rows)).transpose()?;
    let mut samples = Samples { modalities: Vec::new(), present: vec![0; labels.len()], labels };
    for (bit, (name, field)) in layout.modalities.iter().enumerate() {
        let (modality, has) = modality(&mut files, name, field, &rows)?;
        // more than 32 are refused below, by their number
        let mask = 1u32.checked_shl(bit as u32).unwrap_or(0);
        samples.present.iter_mut().zip(has).filter(|(_, has)| *has).for_each(|(present, _)| *present |= mask);
        samples.modalities.push(modality);
    }
    let Files { notes, .. } = files;
    notes.iter().for_each(|note| tracing::warn!(data = shown, "{note}"));
    let mut dataset = Dataset::new(&layout.name, layout.classes, samples, fold, client, layout.card)?;
    dataset.notes = notes;
    Ok(dataset)
}

/// The files of a data set, each opened once.
pub(super) struct Files<'a> {
    pub(super) folder: &'a Folder<'a>,
    id: Option<&'a str>,
    open: BTreeMap<FileList, Opened>,
    /// What is worth a warning.
    pub(super) notes: Vec<String>,
}

pub(super) struct Opened {
    pub(super) source: Box<dyn Source>,
    /// Row of each id, where files are joined by id.
    pub(super) ids: Option<BTreeMap<String, usize>>,
}

/// The samples that are kept, as rows of the file that holds the labels.
pub(super) struct Rows {
    /// Rows of that file.
    total: usize,
    /// Those that are kept, in order.
    kept: Vec<usize>,
    /// Id of each row of the file, where files are joined by id.
    ids: Option<Vec<String>>,
    /// The file.
    file: String,
}

impl Opened {
    /// Id of each of so many rows, where files are joined by id.
    fn ids(&self, rows: usize) -> Option<Vec<String>> {
        self.ids.as_ref().map(|ids| {
            let mut by_row = vec![String::new(); rows];
            ids.iter().filter(|(_, row)| **row < rows).for_each(|(id, &row)| by_row[row].clone_from(id));
            by_row
        })
    }
}

impl Files<'_> {
    pub(super) fn get(&mut self, file: &FileList) -> Result<&Opened, DataError> {
        if !self.open.contains_key(file) {
            let source = self.open(file)?;
            let ids = match self.id {
                Some(id) => Some(index(&file.shown(), id, source.as_ref())?),
                None => None,
            };
            self.open.insert(file.clone(), Opened { source, ids });
        }
        Ok(&self.open[file])
    }

    fn open(&self, files: &FileList) -> Result<Box<dyn Source>, DataError> {
        let open = |file: &String| reader::open(file, self.folder.read(file)?);
        if let [only] = files.0.as_slice() {
            return open(only);
        }
        let kind = reader::extension(&files.0[0]);
        if let Some(other) = files.0.iter().find(|file| reader::extension(file) != kind) {
            let why = format!("is not of the kind of {}; the files of a list must be alike", files.0[0]);
            return Err(DataError::content(other, Flaw::new("", why)));
        }
        let sources = files.0.iter().map(|file| Ok((file.clone(), open(file)?))).collect::<Result<_, DataError>>()?;
        Ok(Box::new(Chain::new(sources)))
    }
}

/// Row of each id of a file.
fn index(file: &str, id: &str, source: &dyn Source) -> Result<BTreeMap<String, usize>, DataError> {
    let column = source.column(Some(id)).map_err(|flaw| {
        let why = format!("{}. The data set joins its files by `id = {id:?}`, so each needs it", flaw.why);
        DataError::content(file, Flaw::new(flaw.place, why))
    })?;
    let mut rows = BTreeMap::new();
    for (row, value) in column.iter().enumerate() {
        let text = value.to_string();
        let why = match rows.insert(text.clone(), row) {
            _ if text.is_empty() => "the id is empty".to_owned(),
            Some(first) => format!("the id {text:?} is there already in row {first}"),
            None => continue,
        };
        return Err(DataError::content(file, Flaw::new(format!("column {id}, row {row}"), why)));
    }
    Ok(rows)
}

impl Rows {
    /// For each kept sample its row in a file of `total` rows, `None` where the file does not know it.
    pub(super) fn find(
        &self,
        file: &str,
        total: usize,
        ids: Option<&BTreeMap<String, usize>>,
    ) -> Result<Vec<Option<usize>>, DataError> {
        let (Some(theirs), Some(ours)) = (ids, &self.ids) else {
            if total != self.total {
                let why = format!("has {total} rows, but {}, which holds the labels, has {}", self.file, self.total);
                return Err(DataError::content(file, Flaw::new("", why)));
            }
            return Ok(self.kept.iter().copied().map(Some).collect());
        };
        let known: std::collections::BTreeSet<&str> = ours.iter().map(String::as_str).collect();
        if let Some((id, row)) = theirs.iter().find(|(id, _)| !known.contains(id.as_str())) {
            let why = format!("the id {id:?} has no label in {}", self.file);
            return Err(DataError::content(file, Flaw::new(format!("row {row}"), why)));
        }
        Ok(self.kept.iter().map(|&row| theirs.get(&ours[row]).copied()).collect())
    }

    /// The id of a kept sample; empty where files are not joined by id.
    pub(super) fn id(&self, sample: usize) -> &str {
        self.ids.as_ref().map(|ids| ids[self.kept[sample]].as_str()).unwrap_or_default()
    }

    /// A column with one value per kept sample.
    fn column(&self, files: &mut Files<'_>, list: &FileList, key: Option<&str>) -> Result<Vec<Scalar>, DataError> {
        let opened = files.get(list)?;
        let file = &list.shown();
        let column = opened.source.column(key).map_err(|flaw| DataError::content(file, flaw))?;
        let found = self.find(file, column.len(), opened.ids.as_ref())?;
        let value = |(sample, row): (usize, Option<usize>)| match row {
            Some(row) => Ok(column[row].clone()),
            None => {
                let id = self.id(sample);
                Err(DataError::content(file, Flaw::new("", format!("has no row for the id {id:?}, which {} has", self.file))))
            }
        };
        found.into_iter().enumerate().map(value).collect()
    }
}

/// Samples without labels: all are of class 0.
fn unlabelled(files: &mut Files<'_>, field: &ColumnField) -> Result<(Vec<u32>, Rows), DataError> {
    let opened = files.get(&field.file)?;
    let file = field.file.shown();
    let total = opened.source.rows(field.key.as_deref()).map_err(|flaw| DataError::content(&file, flaw))?;
    Ok((vec![0; total], Rows { total, kept: (0..total).collect(), ids: opened.ids(total), file }))
}

/// The classes of the samples, and which samples are kept.
fn labels(files: &mut Files<'_>, field: &LabelField, classes: &[String]) -> Result<(Vec<u32>, Rows), DataError> {
    let opened = files.get(&field.file)?;
    let file = field.file.shown();
    let column = opened.source.column(field.key.as_deref()).map_err(|flaw| DataError::content(&file, flaw))?;
    let ids = opened.ids(column.len());
    let by_name: BTreeMap<&str, u32> = classes.iter().enumerate().map(|(class, name)| (name.as_str(), class as u32)).collect();
    let (mut labels, mut kept) = (Vec::new(), Vec::new());
    for (row, value) in column.iter().enumerate() {
        let number = value.integer();
        if number.is_some() && number == field.unknown.map(i128::from) {
            continue;
        }
        // a whole number is the number of a class, any other text the name of one
        let named = if let Scalar::Text(text) = value { by_name.get(text.as_str()).copied() } else { None };
        let numbered = number.filter(|&n| n >= 0 && n < classes.len() as i128).map(|n| n as u32);
        let Some(label) = named.or(numbered) else {
            let key = field.key.as_deref().map(|key| format!("key {key}, ")).unwrap_or_default();
            let why =
                format!("the label {:?} is neither one of 0 to {} nor the name of a class", value.to_string(), classes.len() - 1);
            let hint = if field.unknown.is_none() { "; `unknown` can name the label of samples to leave out" } else { "" };
            return Err(DataError::content(&file, Flaw::new(format!("{key}row {row}"), why + hint)));
        };
        labels.push(label);
        kept.push(row);
    }
    Ok((labels, Rows { total: column.len(), kept, ids, file }))
}

fn folds(files: &mut Files<'_>, field: &ColumnField, rows: &Rows) -> Result<Vec<u32>, DataError> {
    let column = rows.column(files, &field.file, field.key.as_deref())?;
    let fold = |(at, value): (usize, &Scalar)| {
        value.integer().and_then(|fold| u32::try_from(fold).ok()).ok_or_else(|| {
            let place = format!("fold, row {}", rows.kept[at]);
            DataError::content(
                &field.file.shown(),
                Flaw::new(place, format!("{:?} is not the number of a fold", value.to_string())),
            )
        })
    };
    column.iter().enumerate().map(fold).collect()
}

fn clients(files: &mut Files<'_>, field: &ColumnField, rows: &Rows) -> Result<Vec<String>, DataError> {
    let column = rows.column(files, &field.file, field.key.as_deref())?;
    let client = |(at, value): (usize, &Scalar)| match value.to_string() {
        empty if empty.is_empty() => {
            Err(DataError::content(&field.file.shown(), Flaw::new(format!("client, row {}", rows.kept[at]), "is empty")))
        }
        text => Ok(text),
    };
    column.iter().enumerate().map(client).collect()
}

pub(super) fn presence(files: &mut Files<'_>, file: &FileList, key: &str, rows: &Rows) -> Result<Vec<bool>, DataError> {
    let column = rows.column(files, file, Some(key))?;
    let has = |(at, value): (usize, &Scalar)| match value.integer() {
        Some(0) => Ok(false),
        Some(1) => Ok(true),
        _ => {
            let why = format!("{:?} is neither 1 (has the modality) nor 0 (lacks it)", value.to_string());
            Err(DataError::content(&file.shown(), Flaw::new(format!("key {key}, row {}", rows.kept[at]), why)))
        }
    };
    column.iter().enumerate().map(has).collect()
}
