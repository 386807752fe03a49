//! JSON lines: an object per line, a value per key.

use super::object::Object;
use super::{Flaw, Index, Matrix, Opened, Pick, Scalar, Source, unknown};
use std::collections::BTreeSet;

/// Longest line, in bytes.
const MAX_LINE: usize = 1 << 20;

/// An opened file.
struct Lines {
    /// The number of each line, from 1, and its object.
    rows: Vec<(usize, Object)>,
    /// All keys, of the other files of a list too, in name order.
    keys: BTreeSet<String>,
}

/// Opens a file with an object per line; lines of spaces are left out.
pub(super) fn open(bytes: Vec<u8>) -> Opened {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let (mut rows, mut keys) = (Vec::new(), BTreeSet::new());
    for (at, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let flaw = |why: String| Flaw::new(format!("line {}", at + 1), why);
        if line.len() > MAX_LINE {
            return Err(flaw(format!("has {} bytes; at most {MAX_LINE} are read", line.len())));
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let object = Object::parse(line).map_err(flaw)?;
        for key in object.0.keys() {
            if !keys.contains(key) {
                keys.insert(key.clone());
            }
        }
        rows.push((at + 1, object));
    }
    Ok(Box::new(Lines { rows, keys }))
}

impl Lines {
    fn known(&self, key: &str) -> Result<(), Flaw> {
        if self.keys.contains(key) {
            return Ok(());
        }
        let names: Vec<&str> = self.keys.iter().map(String::as_str).collect();
        Err(Flaw::new("", unknown("key", key, &names)))
    }

    fn each<T>(&self, read: impl Fn(&Object) -> Result<T, Flaw>) -> Result<Vec<T>, Flaw> {
        let row = |(line, object): &(usize, Object)| {
            read(object).map_err(|flaw| Flaw::new(format!("line {line}, {}", flaw.place), flaw.why))
        };
        self.rows.iter().map(row).collect()
    }

    /// The keys that `pick` means.
    fn picked(&self, pick: &Pick) -> Result<Vec<String>, Flaw> {
        let flaw = |why: &str| Err(Flaw::new("", why));
        if pick.key.is_some() || pick.slice.is_some() || pick.size.is_some() {
            return flaw("`key`, `slice` and `size` are for arrays; the features of lines are named by `columns` or `prefix`");
        }
        match (&pick.columns, &pick.prefix) {
            (Some(columns), None) => {
                let names = columns.iter().map(Index::to_string).collect::<Vec<_>>();
                names.iter().try_for_each(|name| self.known(name))?;
                Ok(names)
            }
            (None, Some(prefix)) => {
                let names: Vec<String> = self.keys.iter().filter(|key| key.starts_with(prefix.as_str())).cloned().collect();
                if names.is_empty() { flaw(&format!("no key starts with {prefix:?}")) } else { Ok(names) }
            }
            _ => flaw("say which keys are features: `columns = [\"a\", \"b\"]` or `prefix = \"a\"`"),
        }
    }
}

impl Source for Lines {
    fn matrix(&self, pick: &Pick) -> Result<Matrix, Flaw> {
        let names = self.picked(pick)?;
        let rows = self.each(|object| names.iter().map(|name| object.feature(name)).collect::<Result<Vec<f32>, Flaw>>())?;
        Ok(Matrix { rows: rows.len(), dim: names.len(), values: rows.concat(), names: Some(names) })
    }

    fn column(&self, key: Option<&str>) -> Result<Vec<Scalar>, Flaw> {
        let Some(key) = key else { return Err(Flaw::new("", "name the value with `key`")) };
        self.known(key)?;
        self.each(|object| object.scalar(key))
    }

    fn texts(&self, key: &str) -> Result<Vec<Option<String>>, Flaw> {
        self.known(key)?;
        self.each(|object| object.text(key))
    }

    fn rows(&self, _key: Option<&str>) -> Result<usize, Flaw> {
        Ok(self.rows.len())
    }
    fn keys(&self) -> BTreeSet<String> {
        self.keys.clone()
    }

    fn learn(&mut self, keys: &BTreeSet<String>) {
        self.keys.clone_from(keys);
    }
}
