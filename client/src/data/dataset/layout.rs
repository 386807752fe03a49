//! The keys of a `dataset.toml`.

use super::super::reader::{Index, Pick};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use tessera_common::spec::{MAX_MODALITIES, SpecError, parse_document, parse_table};

/// A whole `dataset.toml`. The tables are parsed one by one, so that an error names its table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default = "one")]
    version: u32,
    name: String,
    #[serde(default)]
    licence: String,
    #[serde(default)]
    citation: String,
    #[serde(default)]
    source: String,
    #[serde(default)]
    classes: Option<Classes>,
    #[serde(default)]
    id: Option<String>,
    modalities: BTreeMap<String, toml::Table>,
    #[serde(default)]
    label: Option<toml::Table>,
    #[serde(default)]
    samples: Option<toml::Table>,
    #[serde(default)]
    fold: Option<toml::Table>,
    #[serde(default)]
    client: Option<toml::Table>,
}

fn one() -> u32 {
    1
}

/// A number of classes, or their names.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "`classes` is a number, or a list of names")]
enum Classes {
    Number(usize),
    Names(Vec<String>),
}

/// A `dataset.toml`, parsed.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) name: String,
    pub(super) card: super::Card,
    pub(super) classes: Vec<String>,
    /// Name of the column by which the files are joined; they have the same order if there is none.
    pub(super) id: Option<String>,
    pub(super) modalities: BTreeMap<String, ModalityField>,
    pub(super) listing: Listing,
    pub(super) fold: Option<ColumnField>,
    pub(super) client: Option<ColumnField>,
}

/// Where a modality's features lie.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ModalityField {
    pub(super) file: FileList,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    columns: Option<Vec<Index>>,
    #[serde(default)]
    prefix: Option<String>,
    #[serde(default)]
    slice: Option<Vec<Index>>,
    /// A column of texts; its bytes are the features.
    #[serde(default)]
    pub(super) text: Option<String>,
    /// Features of a text: longer ones are cut, shorter ones are followed by zeros.
    #[serde(default)]
    pub(super) bytes: Option<usize>,
    /// A column of paths, or the ending of the members of a shard: pictures.
    #[serde(default)]
    pub(super) image: Option<String>,
    /// Side of the squares that pictures become.
    #[serde(default)]
    pub(super) size: Option<usize>,
    /// So many pictures that cannot be read are left out; one more is an error.
    #[serde(default)]
    pub(super) skip: usize,
    /// What says that a sample lacks the modality; nothing does by default.
    #[serde(default)]
    pub(super) missing: Missing,
    /// A column of 1 (has it) and 0 (lacks it).
    #[serde(default)]
    pub(super) has: Option<HasField>,
}

impl ModalityField {
    /// Which features are meant.
    pub(super) fn pick(&self) -> Pick {
        Pick {
            key: self.key.clone(),
            columns: self.columns.clone(),
            prefix: self.prefix.clone(),
            slice: self.slice.clone(),
            size: self.size,
        }
    }

    /// Checks which keys stand together.
    fn validate(&self, name: &str) -> Result<(), SpecError> {
        let check = |ok: bool, key: &str, why: String| {
            if ok { Ok(()) } else { Err(SpecError::invalid(format!("modalities.{name}.{key}"), why)) }
        };
        let chosen = [self.key.is_some(), self.columns.is_some(), self.prefix.is_some(), self.slice.is_some()];
        let plain = !chosen.contains(&true);
        check(self.has.is_none() || self.missing == Missing::Refuse, "missing", "give `missing` or `has`, not both".into())?;
        let kinds = usize::from(self.text.is_some()) + usize::from(self.image.is_some());
        check(kinds < 2, "text", "give `text` or `image`, not both".into())?;
        check(kinds == 0 || plain, "file", "`text` and `image` take no `key`, `columns`, `prefix` or `slice`".into())?;
        let side = "`image` needs the `size` of the squares that its pictures become, such as 224";
        check(self.image.is_none() || self.size.is_some(), "size", side.into())?;
        check(self.image.is_some() || self.skip == 0, "skip", "is for pictures that are named by `image`".into())?;
        check(self.text.is_none() || self.size.is_none(), "size", "is for pictures; a text has `bytes`".into())?;
        let bytes = self.bytes.is_none_or(|bytes| (1..=MAX_BYTES).contains(&bytes));
        check(bytes, "bytes", format!("must be 1 to {MAX_BYTES}"))?;
        let both = "`text` and `bytes` go together: `text` names a column, `bytes` says how many features its texts become";
        check(self.text.is_some() == self.bytes.is_some(), "bytes", both.into())?;
        check(self.size.is_none_or(|size| (1..=MAX_SIDE).contains(&size)), "size", format!("must be 1 to {MAX_SIDE}"))
    }
}

/// Most features of a text.
const MAX_BYTES: usize = 65_536;
/// Largest side of pictures.
const MAX_SIDE: usize = 512;
/// Longest name of a file with a range, in bytes.
const MAX_NAME: usize = 1024;
/// Most files of a list.
const MAX_FILES: usize = 10_000;

/// Names of files whose rows follow each other: one name, a list of names, or a range such as `part-{00..11}.tar`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "OneOrMany")]
pub(super) struct FileList(pub(super) Vec<String>);

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected the name of a file, or a list of names")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl TryFrom<OneOrMany> for FileList {
    type Error = String;

    fn try_from(names: OneOrMany) -> Result<Self, String> {
        let names = match names {
            OneOrMany::One(name) => vec![name],
            OneOrMany::Many(names) => names,
        };
        let mut all = Vec::new();
        for name in names {
            all.extend(expand(&name)?);
            if all.len() > MAX_FILES {
                return Err(format!("`file` names more than {MAX_FILES} files"));
            }
        }
        if all.is_empty() { Err("`file` names no file".into()) } else { Ok(Self(all)) }
    }
}

impl FileList {
    /// The files, for people.
    pub(super) fn shown(&self) -> String {
        match self.0.as_slice() {
            [first, .., last] if self.0.len() > 4 => format!("{first} to {last} ({} files)", self.0.len()),
            names => names.join(", "),
        }
    }
}

/// `a-{08..10}.tar` as `a-08.tar`, `a-09.tar`, `a-10.tar`; a name without such a range as itself.
fn expand(name: &str) -> Result<Vec<String>, String> {
    let range = name.split_once('{').and_then(|(before, rest)| {
        let (range, after) = rest.split_once('}')?;
        let (first, last) = range.split_once("..")?;
        Some((before, first, last, after))
    });
    let Some((before, first, last, after)) = range else { return Ok(vec![name.to_owned()]) };
    let number = |text: &str| text.parse::<usize>().map_err(|_| format!("{text:?} in the file {name:?} is not a number"));
    if name.len() > MAX_NAME {
        return Err(format!("a name of {} bytes with a range is too long; at most {MAX_NAME} are taken", name.len()));
    }
    let (from, to) = (number(first)?, number(last)?);
    if from > to || to - from >= MAX_FILES {
        return Err(format!("the range in the file {name:?} must go up, over at most {MAX_FILES} files"));
    }
    let width = first.len();
    Ok((from..=to).map(|n| format!("{before}{n:0width$}{after}")).collect())
}

/// What says that a sample lacks a modality. With `nan` and `any-nan` a sample whose id is not in the file lacks it too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Missing {
    /// Nothing: a value that is not there is an error.
    #[default]
    Refuse,
    /// All its features are NaN or empty; some of them is an error.
    Nan,
    /// Any of its features is NaN or empty.
    AnyNan,
}

/// A column of presence bits, in the modality's own file if no other is named.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HasField {
    #[serde(default)]
    pub(super) file: Option<FileList>,
    pub(super) key: String,
}

/// What says which samples there are.
#[derive(Debug)]
pub(super) enum Listing {
    /// The file that holds their labels.
    Label(LabelField),
    /// Any file that has a row for each; they have no labels.
    Samples(ColumnField),
}

/// Where the labels lie.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LabelField {
    pub(super) file: FileList,
    #[serde(default)]
    pub(super) key: Option<String>,
    /// A label that stands for "not known"; such samples are left out.
    #[serde(default)]
    pub(super) unknown: Option<i64>,
}

/// Where one value per sample lies.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ColumnField {
    pub(super) file: FileList,
    #[serde(default)]
    pub(super) key: Option<String>,
}

impl Layout {
    /// Parses the text of a `dataset.toml`.
    ///
    /// # Errors
    /// Names the table and the key, and for an unknown key the nearest valid one.
    pub(super) fn parse(text: &str) -> Result<Self, SpecError> {
        let table = parse_document(text)?;
        let document: Document = parse_table("dataset", &table)?;
        if document.version != 1 {
            return Err(SpecError::invalid("version", "this build reads version 1"));
        }
        let (listing, classes) = listing(&document)?;
        // checked before any file is read: each modality takes its features from one
        if document.modalities.len() > MAX_MODALITIES {
            let why = format!("there are {}; name 1 to {MAX_MODALITIES}", document.modalities.len());
            return Err(SpecError::invalid("modalities", why));
        }
        let modalities = document.modalities.iter().map(|(name, table)| {
            let field: ModalityField = parse_table(&format!("modalities.{name}"), table)?;
            field.validate(name)?;
            Ok((name.clone(), field))
        });
        Ok(Self {
            card: super::Card { licence: document.licence, citation: document.citation, source: document.source },
            classes,
            id: document.id,
            modalities: modalities.collect::<Result<_, _>>()?,
            listing,
            fold: optional("fold", document.fold.as_ref())?,
            client: optional("client", document.client.as_ref())?,
            name: document.name,
        })
    }
}

/// What says which samples there are, and the names of their classes.
fn listing(document: &Document) -> Result<(Listing, Vec<String>), SpecError> {
    let (label, classes) = match (&document.label, &document.samples, &document.classes) {
        (Some(label), None, Some(classes)) => (label, classes),
        (None, Some(samples), None) => {
            let samples = Listing::Samples(parse_table("samples", samples)?);
            return Ok((samples, super::UNLABELLED.map(str::to_owned).to_vec()));
        }
        (Some(_), None, None) => return Err(SpecError::invalid("classes", "give their number or their names")),
        (None, Some(_), Some(_)) => return Err(SpecError::invalid("classes", "samples without labels have none; leave it out")),
        (Some(_), Some(_), _) => {
            return Err(SpecError::invalid("samples", "[label] says which samples there are; give one of the two"));
        }
        (None, None, _) => {
            let why = "say where the labels are; for samples without labels leave out `classes` and give [samples], with a \
                       `file` that has a row for each";
            return Err(SpecError::invalid("label", why));
        }
    };
    let names = match classes {
        Classes::Names(names) => names.clone(),
        // checked before the names are made: a number can be any
        Classes::Number(n) if *n > tessera_common::spec::MAX_CLASSES => {
            return Err(SpecError::invalid("classes", "there can be at most 100000"));
        }
        Classes::Number(n) => (0..*n).map(|class| class.to_string()).collect(),
    };
    Ok((Listing::Label(parse_table("label", label)?), names))
}

fn optional<T: DeserializeOwned>(section: &str, table: Option<&toml::Table>) -> Result<Option<T>, SpecError> {
    table.map(|table| parse_table(section, table)).transpose()
}
