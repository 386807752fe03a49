//! JSON objects with one value per key, as lines of a file or members of a shard.

use super::{Flaw, Scalar};
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;

/// A value by key.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Object(pub(super) BTreeMap<String, Cell>);

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    Null,
    /// A boolean is 0 or 1.
    Int(i128),
    Float(f64),
    Text(String),
    /// A list or an object, which is not kept.
    Nested,
}

impl Object {
    /// Parses the text of one object.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(text).map_err(|e| format!("is not a JSON object: {e}"))
    }

    /// The value of `key` as one of a column.
    pub(super) fn scalar(&self, key: &str) -> Result<Scalar, Flaw> {
        Ok(match self.0.get(key) {
            None | Some(Cell::Null) => Scalar::Empty,
            Some(Cell::Int(value)) => Scalar::Int(*value),
            Some(Cell::Float(value)) => Scalar::Float(*value),
            Some(Cell::Text(text)) => Scalar::of(text),
            Some(Cell::Nested) => return Err(nested(key)),
        })
    }

    /// The value of `key` as a text; `None` where it is empty.
    pub(super) fn text(&self, key: &str) -> Result<Option<String>, Flaw> {
        Ok(match self.0.get(key) {
            None | Some(Cell::Null) => None,
            Some(Cell::Int(value)) => Some(value.to_string()),
            Some(Cell::Float(value)) => Some(value.to_string()),
            Some(Cell::Text(text)) => Some(text.clone()).filter(|text| !text.trim().is_empty()),
            Some(Cell::Nested) => return Err(nested(key)),
        })
    }

    /// The value of `key` as a feature; NaN where there is none.
    pub(super) fn feature(&self, key: &str) -> Result<f32, Flaw> {
        match self.0.get(key) {
            None | Some(Cell::Null) => Ok(f32::NAN),
            Some(Cell::Int(value)) => Ok(*value as f32),
            Some(Cell::Float(value)) => Ok(*value as f32),
            Some(Cell::Text(text)) => Err(Flaw::new(format!("key {key}"), format!("{text:?} is not a number"))),
            Some(Cell::Nested) => Err(nested(key)),
        }
    }
}

fn nested(key: &str) -> Flaw {
    Flaw::new(format!("key {key}"), "is a list or an object; a number, a text, true, false or null is expected here")
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
        let mut fields = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            // which of two values is meant cannot be known
            if fields.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key {key:?} is there twice")));
            }
            fields.insert(key, map.next_value()?);
        }
        Ok(Object(fields))
    }
}

impl<'de> Deserialize<'de> for Cell {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Value)
    }
}

struct Value;

impl<'de> Visitor<'de> for Value {
    type Value = Cell;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Cell, E> {
        Ok(Cell::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Cell, E> {
        Ok(Cell::Int(i128::from(value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Cell, E> {
        Ok(Cell::Int(i128::from(value)))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Cell, E> {
        Ok(Cell::Int(i128::from(value)))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Cell, E> {
        Ok(Cell::Float(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Cell, E> {
        Ok(Cell::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Cell, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Cell::Nested)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Cell, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Cell::Nested)
    }
}
