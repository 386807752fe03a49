//! Files of one kind whose rows follow each other.

use super::{Encoded, Flaw, Matrix, Pick, Scalar, Source};

/// Opened files in the order of their rows.
pub(in super::super) struct Chain(Vec<(String, Box<dyn Source>)>);

impl Chain {
    /// Of opened files of one kind, by name.
    pub(in super::super) fn new(mut files: Vec<(String, Box<dyn Source>)>) -> Self {
        let keys = files.iter().flat_map(|(_, source)| source.keys()).collect();
        files.iter_mut().for_each(|(_, source)| source.learn(&keys));
        Self(files)
    }

    /// What `read` gives for each file; its flaws name the file.
    fn each<'a, T>(&'a self, read: impl Fn(&'a dyn Source) -> Result<T, Flaw>) -> Result<Vec<T>, Flaw> {
        let named = |(file, source): &'a (String, Box<dyn Source>)| {
            read(source.as_ref()).map_err(|flaw| {
                let place = if flaw.place.is_empty() { format!("in {file}") } else { format!("in {file}, {}", flaw.place) };
                Flaw::new(place, flaw.why)
            })
        };
        self.0.iter().map(named).collect()
    }
}

impl Source for Chain {
    fn matrix(&self, pick: &Pick) -> Result<Matrix, Flaw> {
        let mut parts = self.each(|source| source.matrix(pick))?.into_iter().zip(&self.0);
        let Some((mut all, (first, _))) = parts.next() else {
            return Err(Flaw::new("", "names no file"));
        };
        for (part, (file, _)) in parts {
            if part.dim != all.dim || part.names != all.names {
                let why = format!("has {} features, {first} has {}; the files of a list must be alike", part.dim, all.dim);
                return Err(Flaw::new(format!("in {file}"), why));
            }
            all.rows += part.rows;
            all.values.extend(part.values);
        }
        Ok(all)
    }

    fn column(&self, key: Option<&str>) -> Result<Vec<Scalar>, Flaw> {
        Ok(self.each(|source| source.column(key))?.concat())
    }

    fn texts(&self, key: &str) -> Result<Vec<Option<String>>, Flaw> {
        Ok(self.each(|source| source.texts(key))?.concat())
    }

    fn pictures(&self, key: &str) -> Result<Vec<Option<Encoded<'_>>>, Flaw> {
        Ok(self.each(|source| source.pictures(key))?.concat())
    }

    fn rows(&self, key: Option<&str>) -> Result<usize, Flaw> {
        Ok(self.each(|source| source.rows(key))?.iter().sum())
    }
}
