//! Errors of specs, with the nearest valid name.

use crate::id::excerpt;

/// Longest text of an error about a document, and longest name in it, in bytes: the document may be anybody's.
const SHOWN: usize = 2000;
const SHOWN_NAME: usize = 100;

/// What is wrong with a spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// The text is not TOML, a value has a wrong type, or a key is missing.
    #[error("{0}")]
    Syntax(String),
    /// A key that does not exist.
    #[error("unknown key `{key}`{section}{position}: {hint}")]
    UnknownKey {
        /// The key as written.
        key: String,
        /// " in \[section\]", or empty.
        section: String,
        /// " at line N", or empty.
        position: String,
        /// "did you mean ...?" and the valid keys.
        hint: String,
    },
    /// A value that cannot be right.
    #[error("`{key}` is not valid: {why}")]
    Invalid {
        /// The key with its section.
        key: String,
        /// What is wrong and what would be right.
        why: String,
    },
}

/// The candidate that `name` most likely means, if any is near. Nothing is near a name of more than 100 bytes, and no
/// candidate of that length is: comparing takes the product of both lengths.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .filter(|c| name.len().max(c.len()) <= SHOWN_NAME)
        .map(|c| (strsim::jaro_winkler(name, c), c))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, c)| c)
}

/// "did you mean `x`? valid: a, b, x".
pub(crate) fn hint(name: &str, valid: &[&str]) -> String {
    let near = nearest(name, valid.iter().copied()).map(|n| format!("did you mean `{n}`? ")).unwrap_or_default();
    format!("{near}valid: {}", valid.join(", "))
}

impl SpecError {
    /// `key` has a value that cannot be right.
    pub fn invalid(key: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid { key: excerpt(&key.into(), SHOWN), why: excerpt(&why.into(), SHOWN) }
    }

    /// The text is not what TOML or a table wants; `why` as the parser says it.
    pub fn syntax(why: &str) -> Self {
        Self::Syntax(excerpt(why.trim_end(), SHOWN))
    }

    /// `value` is not one of the names in a table, such as the strategies.
    pub fn unknown_name(key: &str, value: &str, valid: &[&str]) -> Self {
        let value = excerpt(value, SHOWN_NAME);
        Self::invalid(key, format!("there is no {value:?}; {}", hint(&value, valid)))
    }

    /// Leaves out lines of a text that the user has never seen.
    #[must_use]
    pub fn without_position(self) -> Self {
        match self {
            Self::UnknownKey { key, section, hint, .. } => Self::UnknownKey { key, section, position: String::new(), hint },
            // the excerpt of the text stays: it shows the key; its line number goes
            Self::Syntax(text) if text.starts_with("TOML parse error") => {
                let kept = text.lines().filter(|l| !l.starts_with("TOML parse error")).filter_map(|l| {
                    let l = l.split_once('|').map_or(l, |(_, rest)| rest).trim();
                    (!l.is_empty() && !l.starts_with('^')).then_some(l)
                });
                Self::Syntax(kept.collect::<Vec<_>>().join(": "))
            }
            other => other,
        }
    }

    /// Says which table the error is about.
    #[must_use]
    pub fn within(self, name: &str) -> Self {
        match self {
            // the line is one of the table's own text, not of the user's file
            Self::UnknownKey { key, hint, .. } => {
                Self::UnknownKey { key, section: format!(" in [{name}]"), position: String::new(), hint }
            }
            Self::Syntax(text) => Self::Syntax(format!("in [{name}]: {}", text.lines().last().unwrap_or_default())),
            invalid @ Self::Invalid { .. } => invalid,
        }
    }

    /// serde names the unknown field and the known ones; the nearest one and the line are added here.
    pub(crate) fn from_toml(error: toml::de::Error) -> Self {
        let message = error.message();
        let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        let kind = ["unknown field", "unknown variant"].into_iter().find(|k| message.starts_with(k));
        let (Some(kind), Some((name, valid))) = (kind, quoted.split_first()) else {
            return Self::syntax(&error.to_string());
        };
        let shown = error.to_string();
        let position = shown.split("line ").nth(1).and_then(|t| t.split(',').next()).map(|n| format!(" at line {n}"));
        let position = position.unwrap_or_default();
        if kind == "unknown field" {
            let (key, hint) = (excerpt(name, SHOWN_NAME), excerpt(&hint(name, valid), SHOWN));
            Self::UnknownKey { key, section: String::new(), position, hint }
        } else {
            Self::invalid(excerpt(name, SHOWN_NAME), format!("no such value{position}; {}", hint(name, valid)))
        }
    }
}
