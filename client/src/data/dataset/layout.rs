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
    classes: Classes,
    #[serde(default)]
    id: Option<String>,
    modalities: BTreeMap<String, toml::Table>,
    label: toml::Table,
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
    pub(super) label: LabelField,
    pub(super) fold: Option<ColumnField>,
    pub(super) client: Option<ColumnField>,
}

/// Where a modality's features lie.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ModalityField {
    pub(super) file: String,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    columns: Option<Vec<Index>>,
    #[serde(default)]
    prefix: Option<String>,
    #[serde(default)]
    slice: Option<Vec<Index>>,
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
        Pick { key: self.key.clone(), columns: self.columns.clone(), prefix: self.prefix.clone(), slice: self.slice.clone() }
    }
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
    pub(super) file: Option<String>,
    pub(super) key: String,
}

/// Where the labels lie.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LabelField {
    pub(super) file: String,
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
    pub(super) file: String,
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
        let classes = match document.classes {
            Classes::Names(names) => names,
            // checked before the names are made: a number can be any
            Classes::Number(n) if n > tessera_common::spec::MAX_CLASSES => {
                return Err(SpecError::invalid("classes", "there can be at most 100000"));
            }
            Classes::Number(n) => (0..n).map(|class| class.to_string()).collect(),
        };
        // checked before any file is read: each modality takes its features from one
        if document.modalities.len() > MAX_MODALITIES {
            let why = format!("there are {}; name 1 to {MAX_MODALITIES}", document.modalities.len());
            return Err(SpecError::invalid("modalities", why));
        }
        let modalities = document.modalities.iter().map(|(name, table)| {
            let field: ModalityField = parse_table(&format!("modalities.{name}"), table)?;
            if field.has.is_some() && field.missing != Missing::Refuse {
                return Err(SpecError::invalid(format!("modalities.{name}.missing"), "give `missing` or `has`, not both"));
            }
            Ok((name.clone(), field))
        });
        Ok(Self {
            card: super::Card { licence: document.licence, citation: document.citation, source: document.source },
            classes,
            id: document.id,
            modalities: modalities.collect::<Result<_, _>>()?,
            label: parse_table("label", &document.label)?,
            fold: optional("fold", document.fold.as_ref())?,
            client: optional("client", document.client.as_ref())?,
            name: document.name,
        })
    }
}

fn optional<T: DeserializeOwned>(section: &str, table: Option<&toml::Table>) -> Result<Option<T>, SpecError> {
    table.map(|table| parse_table(section, table)).transpose()
}
