//! The journal of a run: its accepted events, in order, and the truth about it.
//!
//! A record is `[u32 length][u32 crc32 of the payload][32 bytes of chain][payload]`, integers little-endian; chain =
//! blake3(previous chain, payload), and the first one goes on from blake3 of the run's spec, so that neither the spec
//! nor an event can be changed, dropped or put elsewhere unseen. The payload is the JSON of an [`Entry`]. Records are
//! fsynced before anything that depends on them happens. A tail that a crash tore off was never acknowledged and is
//! cut off; damage before intact records is an error.

mod scan;
#[cfg(test)]
mod tests;

pub use scan::Scan;

use crate::error::Error;
use crate::fault::{hit, point};
use scan::{End, walk};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tessera_common::id::{Digest, Millis};
use tessera_common::round::Event;

/// Length, checksum and chain.
const HEAD: usize = 40;
/// Longest payload. An event holds one answer's metrics and weights, which the wire limits to 4 MiB.
const MAX_PAYLOAD: usize = 64 << 20;

/// An accepted event and when it was accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Milliseconds since the Unix epoch.
    pub at: Millis,
    /// The event.
    pub event: Event,
}

/// A place in a journal: after how many records, and the chain there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Number of records before this place.
    pub records: u64,
    /// Chain of the last of them.
    pub chain: Digest,
}

impl Mark {
    /// The start of the journal of a run with this spec.
    pub fn start(spec_toml: &str) -> Self {
        Self { records: 0, chain: Digest::of(spec_toml.as_bytes()) }
    }

    fn after(self, payload: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.chain.as_bytes()).update(payload);
        Self { records: self.records + 1, chain: Digest::from_hash(hasher.finalize()) }
    }
}

/// Takes a record's mark and payload.
pub type Visit<'a> = dyn FnMut(Mark, &[u8]) -> Result<(), Error> + 'a;

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    /// None for a journal that is not kept.
    file: Option<(File, PathBuf)>,
    len: u64,
    mark: Mark,
    failed: bool,
}

impl Journal {
    /// A journal that only counts: nothing is kept.
    pub fn in_memory(spec_toml: &str) -> Self {
        Self { file: None, len: 0, mark: Mark::start(spec_toml), failed: false }
    }

    /// A new, empty journal file. Its folder is for the caller to fsync.
    ///
    /// # Errors
    /// If the file is there already or cannot be made.
    pub fn create(path: &Path, spec_toml: &str) -> Result<Self, Error> {
        let file = File::create_new(path).map_err(Error::io("cannot create", path))?;
        file.sync_all().map_err(Error::io("cannot fsync", path))?;
        Ok(Self { file: Some((file, path.to_owned())), ..Self::in_memory(spec_toml) })
    }

    /// Opens a journal file, cuts off a torn tail, and shows every record to `each`: its mark and its payload.
    ///
    /// # Errors
    /// If a record is damaged and intact ones follow it, if the chain is broken, or if `each` says so.
    pub fn open(path: &Path, spec_toml: &str, each: &mut Visit<'_>) -> Result<Self, Error> {
        let mut file = File::options().read(true).write(true).open(path).map_err(Error::io("cannot open", path))?;
        let copy = file.try_clone().map_err(Error::io("cannot open", path))?;
        let End { mark, at, torn } = walk(copy, path, spec_toml, each)?;
        if let Some((why, bytes)) = torn {
            tracing::warn!(
                journal = %path.display(), offset = at, bytes, why,
                "cutting off a torn record at the end; unless the file was shortened, it was never acknowledged"
            );
            file.set_len(at).and_then(|()| file.sync_all()).map_err(Error::io("cannot truncate", path))?;
        }
        file.seek(SeekFrom::Start(at)).map_err(Error::io("cannot go to the end of", path))?;
        Ok(Self { file: Some((file, path.to_owned())), len: at, mark, failed: false })
    }

    /// The end of the journal.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Bytes that are durable.
    pub(crate) fn durable_len(&self) -> u64 {
        self.len
    }

    /// True if appending waits for a disk.
    pub fn is_durable(&self) -> bool {
        self.file.is_some()
    }

    /// Appends entries and returns when they are durable. After a failure nothing more is taken: what is on the disk
    /// is then unknown, and the file must be opened anew.
    ///
    /// # Errors
    /// If writing or the fsync fails.
    pub fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("an earlier write failed"));
        }
        let mut mark = self.mark;
        let mut bytes = Vec::new();
        for entry in entries {
            let payload = serde_json::to_vec(entry).map_err(io::Error::other)?;
            if payload.len() > MAX_PAYLOAD {
                return Err(io::Error::other(format!("an event of {} bytes is too large", payload.len())));
            }
            mark = mark.after(&payload);
            bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
            bytes.extend_from_slice(mark.chain.as_bytes());
            bytes.extend_from_slice(&payload);
        }
        if let Some((file, _)) = &mut self.file
            && let Err(error) = write_through(file, &bytes)
        {
            self.failed = true;
            // best effort: a record that was not acknowledged should not come back at the next start
            let _ = file.set_len(self.len);
            return Err(error);
        }
        self.len += bytes.len() as u64;
        self.mark = mark;
        Ok(())
    }

    /// A journal whose disk refuses every write.
    #[cfg(test)]
    pub(crate) fn unwritable(path: &Path, spec_toml: &str) -> Self {
        Self { file: Some((File::open(path).unwrap(), path.to_owned())), ..Self::in_memory(spec_toml) }
    }
}

/// Cuts off what was never acknowledged, after an append that failed: the disk may or may not have it.
///
/// # Errors
/// If the file cannot be shortened or made durable; what is in it is then still unknown.
pub(crate) fn forget_behind(path: &Path, durable: u64) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    if file.metadata()?.len() > durable {
        file.set_len(durable)?;
    }
    file.sync_all()
}

fn write_through(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    point("coordinator/journal-before-write");
    if hit("coordinator/journal-no-space") {
        return Err(io::ErrorKind::StorageFull.into());
    }
    file.write_all(bytes)?;
    point("coordinator/journal-after-write");
    file.sync_data()?;
    point("coordinator/journal-after-fsync");
    Ok(())
}

/// Reads a record's payload, or says why there is none; the record's chain.
fn read_record(reader: &mut impl Read, payload: &mut Vec<u8>) -> io::Result<Result<Digest, &'static str>> {
    let mut head = [0; HEAD];
    if !fill(reader, &mut head)? {
        return Ok(Err("its head is cut off"));
    }
    let (len, crc, chain) = split_head(&head);
    if len > MAX_PAYLOAD {
        return Ok(Err("its length cannot be right"));
    }
    payload.resize(len, 0);
    if !fill(reader, payload)? {
        return Ok(Err("its payload is cut off"));
    }
    Ok(if crc32fast::hash(payload) == crc { Ok(chain) } else { Err("its checksum is wrong") })
}

fn split_head(head: &[u8; HEAD]) -> (usize, u32, Digest) {
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let mut chain = [0; 32];
    chain.copy_from_slice(&head[8..]);
    (word(0) as usize, word(4), chain.into())
}

/// False if the input ends first.
fn fill(reader: &mut impl Read, out: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(out) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn starts_intact(bytes: &[u8]) -> bool {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else { return false };
    let (len, crc, _) = split_head(head);
    // The length and how an entry begins are looked at first: a checksum at each byte would take the square of the size.
    // An empty payload would be found in any run of zeros.
    len <= MAX_PAYLOAD && rest.starts_with(b"{\"") && rest.get(..len).is_some_and(|payload| crc32fast::hash(payload) == crc)
}
