//! Shards: tar files whose members belong to a sample by their name before the first dot, as WebDataset writes them.

use super::object::Object;
use super::{Encoded, Flaw, Matrix, Opened, Pick, Scalar, Source, unknown};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use tar::{Archive, EntryType};

/// Size of the blocks of a tar file.
const BLOCK: usize = 512;
/// Column of the samples' names.
const NAME: &str = "__key__";

/// An opened file.
struct Shard {
    bytes: Vec<u8>,
    samples: Vec<Sample>,
    /// Endings of all members, of the other files of a list too.
    endings: BTreeSet<String>,
}

/// A sample: its name, and where the member of each ending lies in the file.
struct Sample {
    name: String,
    members: BTreeMap<String, Range<usize>>,
}

/// Opens a tar file.
pub(super) fn open(bytes: Vec<u8>) -> Opened {
    let (samples, end) = samples(&bytes)?;
    let closed = bytes.get(end..end.saturating_add(BLOCK)).is_some_and(|block| block.iter().all(|&byte| byte == 0));
    if !closed {
        return Err(Flaw::new("", "has no mark at its end, so something may be missing: is the file cut off?"));
    }
    let endings = samples.iter().flat_map(|sample| sample.members.keys().cloned()).collect();
    Ok(Box::new(Shard { bytes, samples, endings }))
}

/// The samples in the order of their first member, and where the last member ends.
fn samples(bytes: &[u8]) -> Result<(Vec<Sample>, usize), Flaw> {
    let broken = |e: std::io::Error| Flaw::new("", format!("is not a whole tar file: {e}"));
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let (mut samples, mut end): (Vec<Sample>, usize) = (Vec::new(), 0);
    let mut archive = Archive::new(bytes);
    for entry in archive.entries().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let flaw = |why: &str| Flaw::new(format!("member {path}"), why);
        let start = usize::try_from(entry.raw_file_position()).map_err(|_| flaw("is cut off"))?;
        let size = usize::try_from(entry.size()).map_err(|_| flaw("is cut off"))?;
        let range = start..start.checked_add(size).ok_or_else(|| flaw("is cut off"))?;
        end = range.end.div_ceil(BLOCK) * BLOCK;
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {}
            EntryType::Directory | EntryType::XGlobalHeader => continue,
            _ => return Err(flaw("is a link or another special file; a shard holds plain files")),
        }
        if bytes.get(range.clone()).is_none() {
            return Err(flaw("is cut off"));
        }
        let Some((name, ending)) = parts(&path) else { continue };
        let place = *places.entry(name.clone()).or_insert_with(|| {
            samples.push(Sample { name, members: BTreeMap::new() });
            samples.len() - 1
        });
        if samples[place].members.insert(ending, range).is_some() {
            return Err(flaw("is there twice"));
        }
    }
    Ok((samples, end))
}

/// The name of the sample that a member belongs to, with its folder, and the ending; `None` for hidden files.
fn parts(path: &str) -> Option<(String, String)> {
    let path = path.strip_prefix("./").unwrap_or(path);
    let start = path.rfind('/').map_or(0, |slash| slash + 1);
    match path[start..].split_once('.') {
        Some(("", _)) => None,
        Some((name, ending)) => Some((format!("{}{name}", &path[..start]), ending.to_ascii_lowercase())),
        None => Some((path.to_owned(), String::new())),
    }
}

impl Shard {
    fn known(&self, ending: &str) -> Result<(), Flaw> {
        if self.endings.contains(ending) {
            return Ok(());
        }
        let names: Vec<&str> = self.endings.iter().map(String::as_str).collect();
        Err(Flaw::new("", unknown("member that ends in", ending, &names)))
    }

    /// What `read` gives for the member of each sample; `None` where there is none.
    fn each<T>(&self, ending: &str, read: impl Fn(&[u8]) -> Result<T, Flaw>) -> Result<Vec<Option<T>>, Flaw> {
        self.known(ending)?;
        let member = |sample: &Sample| {
            let Some(range) = sample.members.get(ending) else { return Ok(None) };
            read(&self.bytes[range.clone()]).map(Some).map_err(|flaw| {
                let place = if flaw.place.is_empty() { String::new() } else { format!(", {}", flaw.place) };
                Flaw::new(format!("member {}.{ending}{place}", sample.name), flaw.why)
            })
        };
        self.samples.iter().map(member).collect()
    }
}

fn text(bytes: &[u8]) -> Result<&str, Flaw> {
    std::str::from_utf8(bytes).map(str::trim).map_err(|_| Flaw::new("", "is not text in UTF-8"))
}

fn object(bytes: &[u8]) -> Result<Object, Flaw> {
    Object::parse(bytes).map_err(|why| Flaw::new("", why))
}

impl Source for Shard {
    fn matrix(&self, _pick: &Pick) -> Result<Matrix, Flaw> {
        Err(Flaw::new("", "a shard gives pictures (`image = \"jpg\"`) and texts (`text = \"txt\"`), no other features"))
    }

    fn column(&self, key: Option<&str>) -> Result<Vec<Scalar>, Flaw> {
        match key {
            None => Err(Flaw::new("", "name the member with `key`, such as \"cls\", \"json:label\" or \"__key__\"")),
            Some(NAME) => Ok(self.samples.iter().map(|sample| Scalar::of(&sample.name)).collect()),
            Some(key) => {
                let values = match key.split_once(':') {
                    Some((ending, key)) => self.each(ending, |bytes| object(bytes)?.scalar(key))?,
                    None => self.each(key, |bytes| Ok(Scalar::of(text(bytes)?)))?,
                };
                Ok(values.into_iter().map(|value| value.unwrap_or(Scalar::Empty)).collect())
            }
        }
    }

    fn texts(&self, key: &str) -> Result<Vec<Option<String>>, Flaw> {
        let values = match key.split_once(':') {
            Some((ending, key)) => self.each(ending, |bytes| object(bytes)?.text(key))?,
            None => self.each(key, |bytes| Ok(Some(text(bytes)?.to_owned()).filter(|text| !text.is_empty())))?,
        };
        Ok(values.into_iter().map(Option::flatten).collect())
    }

    fn pictures(&self, key: &str) -> Result<Vec<Option<Encoded<'_>>>, Flaw> {
        self.known(key)?;
        let member = |sample: &Sample| {
            let range = sample.members.get(key)?.clone();
            Some(Encoded::Bytes { name: format!("{}.{key}", sample.name), bytes: &self.bytes[range] })
        };
        Ok(self.samples.iter().map(member).collect())
    }

    fn rows(&self, _key: Option<&str>) -> Result<usize, Flaw> {
        Ok(self.samples.len())
    }
    fn keys(&self) -> BTreeSet<String> {
        self.endings.clone()
    }

    fn learn(&mut self, keys: &BTreeSet<String>) {
        self.endings.clone_from(keys);
    }
}
