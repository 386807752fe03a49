//! Blobs: parameter sets named by the digest of their bytes, as files in one folder or in memory.
//!
//! A blob is written under a temporary name, fsynced, renamed to its digest, and the folder fsynced: a file under a
//! digest is complete. Each upload writes a file of its own, so two uploads of the same blob cannot mix; one that
//! breaks off leaves `DIGEST.part`, from whose end it can go on. Calls block; callers on the executor use
//! `spawn_blocking`.
//!
//! Bytes are checked against their digest once in a process; a file that holds others is put aside in `quarantine`.
//! [`Blobs::sweep`] clears away what nobody needs.

mod read;
mod sweep;
#[cfg(test)]
mod tests;
mod upload;
mod verify;
mod writer;

pub use read::{Blob, Raw};
pub use sweep::Swept;
pub use upload::Upload;
pub use writer::Writer;

use crate::disk::{is_trouble, sync_dir};
use crate::error::Error;
use crate::fault::point;
use crate::sync::lock;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tessera_common::id::Digest;
use tessera_common::param::Limits;
use tokio::time::Instant;
pub use verify::digest_of_file;
use verify::{Identity, Verified};

/// Why a blob cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// It is not here.
    #[error("blob {} is not here, or not complete", .0.short())]
    Missing(Digest),
    /// An upload does not go on where the stored part ends.
    #[error("blob {}: the upload must go on at offset {expected}, not at {found}", digest.short())]
    Offset {
        /// Which blob.
        digest: Digest,
        /// Length of the stored part.
        expected: u64,
        /// Offset that was announced.
        found: u64,
    },
    /// It is larger than this coordinator takes.
    #[error("blob {} has {bytes} bytes, this coordinator takes at most {limit}", digest.short())]
    TooLarge {
        /// Which blob.
        digest: Digest,
        /// Its length.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// More bytes came than were announced.
    #[error("blob {}: more bytes came than the {announced} that were announced", digest.short())]
    Overflow {
        /// Which blob.
        digest: Digest,
        /// Announced length.
        announced: u64,
    },
    /// Fewer bytes came than were announced; what came is kept.
    #[error("blob {}: only {found} of {announced} bytes came; go on from there", digest.short())]
    Short {
        /// Which blob.
        digest: Digest,
        /// Announced length.
        announced: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// The bytes have another digest.
    #[error("blob {}: the bytes that came have the digest {}; they are thrown away", digest.short(), found.short())]
    Mismatch {
        /// Announced digest.
        digest: Digest,
        /// Digest of what came.
        found: Digest,
    },
    /// The bytes are no parameter set.
    #[error("blob {}: {why}", digest.short())]
    Malformed {
        /// Which blob.
        digest: Digest,
        /// What is wrong.
        why: String,
    },
    /// The bytes on our disk are not those that the name says. The paths are for our own log and operators.
    #[error(
        "blob {digest}: its bytes on our disk have the digest {found}; the file is put aside as {}; put back an intact copy \
         under blobs/{digest} and resume the run",
        put_aside.display()
    )]
    Corrupt {
        /// Which blob.
        digest: Digest,
        /// Digest of the bytes that are there.
        found: Digest,
        /// Where the file is now.
        put_aside: PathBuf,
    },
    /// Our disk failed. The path is for our own log and operators, not for agents.
    #[error("{doing} {}: {error}", path.display())]
    Io {
        /// What was tried, such as "cannot write".
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
    /// A task of ours ended before its time.
    #[error("a task of the coordinator failed: {0}")]
    Lost(String),
}

impl BlobError {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io { doing, path: path.to_owned(), error }
    }

    /// True if the disk has no room, takes no writes or fails: the same may work once that is mended.
    pub fn is_trouble_of_the_disk(&self) -> bool {
        matches!(self, Self::Io { error, .. } if is_trouble(error))
    }
}

/// How much of a blob is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobStatus {
    /// Bytes that are here.
    pub offset: u64,
    /// Nothing is missing.
    pub complete: bool,
}

/// Something in memory, and when it was last written or asked for.
#[derive(Debug)]
struct Held<T> {
    bytes: T,
    at: Instant,
}

impl<T> Held<T> {
    fn now(bytes: T) -> Self {
        Self { bytes, at: Instant::now() }
    }
}

#[derive(Debug, Default)]
struct Memory {
    complete: BTreeMap<Digest, Held<Bytes>>,
    parts: BTreeMap<Digest, Held<Vec<u8>>>,
}

#[derive(Debug)]
enum Place {
    Dir(PathBuf),
    Memory(Mutex<Memory>),
}

#[derive(Debug)]
struct Inner {
    place: Place,
    max_bytes: u64,
    /// Numbers temporary files; those of an earlier process are gone when this one starts.
    next: AtomicU64,
    /// Files that readers hold open.
    open_files: AtomicUsize,
    /// Files whose bytes were checked. Locked while names change: by a file that is put in place, touched, put aside or
    /// removed, so that none of these acts on a file that another one has just replaced.
    verified: Mutex<Verified>,
}

/// All blobs of a coordinator. Clones are the same store.
#[derive(Debug, Clone)]
pub struct Blobs {
    inner: Arc<Inner>,
}

impl Blobs {
    /// Blobs in memory, of at most `max_bytes` each.
    pub fn in_memory(max_bytes: u64) -> Self {
        Self::at(Place::Memory(Mutex::default()), max_bytes)
    }

    /// Blobs in the folder `dir`, of at most `max_bytes` each. Clears what a stopped process left unfinished.
    ///
    /// # Errors
    /// If the folder cannot be made or read.
    pub fn in_dir(dir: &Path, max_bytes: u64) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(Error::io("cannot create", dir))?;
        for entry in fs::read_dir(dir).map_err(Error::io("cannot read", dir))? {
            let path = entry.map_err(Error::io("cannot read", dir))?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let outcome = if name.ends_with(".tmp") {
                fs::remove_file(&path)
            } else if let Some(digest) = name.strip_suffix(".up").and_then(|n| n.split_once('.')).map(|(d, _)| d) {
                // an upload that the end of the process broke off: it can go on
                let part = dir.join(format!("{digest}.part"));
                let longer = |a: &Path, b: &Path| Ok(file_len(a)? > file_len(b)?);
                match longer(&path, &part) {
                    Ok(true) => fs::rename(&path, part),
                    Ok(false) => fs::remove_file(&path),
                    Err::<_, BlobError>(error) => Err(io::Error::other(error.to_string())),
                }
            } else {
                Ok(())
            };
            outcome.map_err(Error::io("cannot clear", &path))?;
        }
        Ok(Self::at(Place::Dir(dir.to_owned()), max_bytes))
    }

    /// Blobs in the folder `dir`, to read only: nothing is made or cleared, also while a coordinator uses the folder.
    pub(crate) fn to_read(dir: &Path) -> Self {
        Self::at(Place::Dir(dir.to_owned()), u64::MAX)
    }

    fn at(place: Place, max_bytes: u64) -> Self {
        let (next, open_files, verified) = (AtomicU64::new(1), AtomicUsize::new(0), Mutex::default());
        Self { inner: Arc::new(Inner { place, max_bytes, next, open_files, verified }) }
    }

    /// Limits for reading what is stored. Not that of an upload: a global may be larger than every update, by its library.
    pub fn limits(&self) -> Limits {
        let usual = Limits::default();
        Limits { bytes: usual.bytes.max(self.inner.max_bytes), ..usual }
    }

    /// How much of a blob is here.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn status(&self, digest: &Digest) -> Result<BlobStatus, BlobError> {
        match self.len(digest) {
            Ok(offset) => Ok(BlobStatus { offset, complete: true }),
            Err(BlobError::Missing(_)) => Ok(BlobStatus { offset: self.part_len(digest)?, complete: false }),
            Err(error) => Err(error),
        }
    }

    /// Length of a complete blob.
    ///
    /// # Errors
    /// If it is not here.
    pub fn len(&self, digest: &Digest) -> Result<u64, BlobError> {
        match &self.inner.place {
            Place::Memory(memory) => {
                lock(memory).complete.get(digest).map(|held| held.bytes.len() as u64).ok_or(BlobError::Missing(*digest))
            }
            Place::Dir(dir) => file_len(&blob_path(dir, digest))?.ok_or(BlobError::Missing(*digest)),
        }
    }

    /// All bytes of a blob.
    ///
    /// # Errors
    /// If it is not here or cannot be read.
    pub fn read(&self, digest: &Digest) -> Result<Bytes, BlobError> {
        let raw = self.raw(digest)?;
        raw.chunk(0, raw.len() as usize)
    }

    fn part_len(&self, digest: &Digest) -> Result<u64, BlobError> {
        match &self.inner.place {
            Place::Memory(memory) => Ok(lock(memory).parts.get(digest).map_or(0, |held| held.bytes.len() as u64)),
            Place::Dir(dir) => Ok(file_len(&part_path(dir, digest))?.unwrap_or(0)),
        }
    }

    fn drop_part(&self, digest: &Digest) {
        match &self.inner.place {
            Place::Memory(memory) => drop(lock(memory).parts.remove(digest)),
            Place::Dir(dir) => remove(&part_path(dir, digest)),
        }
    }

    /// Makes `from` durable under the digest's name. Its bytes were hashed while they were written.
    fn settle(&self, file: &File, from: &Path, dir: &Path, digest: &Digest) -> Result<(), BlobError> {
        point("coordinator/blob-before-fsync");
        file.sync_all().map_err(BlobError::io("cannot fsync", from))?;
        point("coordinator/blob-after-fsync");
        let to = blob_path(dir, digest);
        let identity = Identity::of(file).map_err(BlobError::io("cannot look at", from))?;
        {
            let mut verified = lock(&self.inner.verified);
            fs::rename(from, &to).map_err(BlobError::io("cannot put in place", &to))?;
            verified.remember(*digest, identity);
        }
        point("coordinator/blob-after-rename");
        sync_dir(dir).map_err(BlobError::io("cannot fsync", dir))?;
        point("coordinator/blob-after-dir-fsync");
        Ok(())
    }

    fn number(&self) -> u64 {
        self.inner.next.fetch_add(1, Ordering::Relaxed)
    }
}

fn blob_path(dir: &Path, digest: &Digest) -> PathBuf {
    dir.join(digest.to_string())
}

fn part_path(dir: &Path, digest: &Digest) -> PathBuf {
    dir.join(format!("{digest}.part"))
}

fn file_len(path: &Path) -> Result<Option<u64>, BlobError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(BlobError::io("cannot look at", path)(error)),
    }
}

/// Removes a file that need not be there.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove an unneeded file");
    }
}
