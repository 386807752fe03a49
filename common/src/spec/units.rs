//! Durations with units.

use serde::de::{Deserializer, Error, Visitor};
use serde::ser::Serializer;
use std::fmt;
use std::time::Duration;

/// A duration with its unit, such as `500ms`, `1h 30m` or `2d`; a day has 24 hours.
///
/// # Errors
/// Why the text is none; whoever asked for it says what would be right.
pub fn duration(text: &str) -> Result<Duration, String> {
    let span: jiff::Span = text.parse().map_err(|e: jiff::Error| e.to_string())?;
    let length = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| "months and years differ in length")?;
    Duration::try_from(length).map_err(|_| "it is negative".to_owned())
}

pub(super) fn serialize<S: Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&format!("{}ms", d.as_millis()))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    d.deserialize_str(WithUnit)
}

struct WithUnit;

impl Visitor<'_> for WithUnit {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration with its unit, such as \"90s\" or \"1h 30m\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
        duration(text).map_err(|why| E::custom(format!("{text:?} is not a duration such as \"90s\" or \"1h 30m\": {why}")))
    }
}

/// For keys that may be left out, together with `skip_serializing_if`.
pub(super) mod optional {
    use super::{Deserializer, Duration, Serializer};

    pub(in crate::spec) fn serialize<S: Serializer>(d: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
        match d {
            Some(d) => super::serialize(d, s),
            None => s.serialize_none(),
        }
    }

    pub(in crate::spec) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
        super::deserialize(d).map(Some)
    }
}
