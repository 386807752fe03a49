//! Clearing away blobs that nobody needs.

use super::verify::Identity;
use super::{BlobError, Blobs, Memory, Place, blob_path};
use crate::fault::point;
use crate::sync::lock;
use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};
use tessera_common::id::Digest;
use tokio::time::Instant;

/// What a sweep did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    /// Files that were removed: blobs, and parts of uploads that nobody went on with.
    pub removed: u64,
    /// Bytes that they had.
    pub bytes: u64,
    /// Complete blobs that nobody needs and that are too young to go.
    pub kept: u64,
}

/// What a file is by its name.
enum Named {
    Blob(Digest),
    /// Left by an upload or a fold that ended early.
    Leftover,
    NotOurs,
}

fn named(name: &str) -> Named {
    if let Ok(digest) = name.parse() {
        return Named::Blob(digest);
    }
    let part = name.strip_suffix(".part").is_some_and(|stem| stem.parse::<Digest>().is_ok());
    let temporary = name.strip_prefix("new.").is_some_and(|rest| rest.ends_with(".tmp"));
    if part || temporary { Named::Leftover } else { Named::NotOurs }
}

impl Blobs {
    /// Makes a blob as young as one that just came: it is not swept away for the time of a grace. One that is not here is
    /// no error.
    ///
    /// # Errors
    /// If its file cannot be touched.
    pub fn touch(&self, digest: &Digest) -> Result<(), BlobError> {
        match &self.inner.place {
            Place::Memory(memory) => {
                if let Some(held) = lock(memory).complete.get_mut(digest) {
                    held.at = Instant::now();
                }
                Ok(())
            }
            Place::Dir(dir) => {
                let path = blob_path(dir, digest);
                let mut verified = lock(&self.inner.verified);
                let file = match File::options().write(true).open(&path) {
                    Ok(file) => file,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                    Err(error) => return Err(BlobError::io("cannot touch", &path)(error)),
                };
                let touched = Identity::of(&file).and_then(|before| {
                    file.set_modified(SystemTime::now())?;
                    Ok((before, Identity::of(&file)?))
                });
                let (before, after) = touched.map_err(BlobError::io("cannot touch", &path))?;
                if verified.holds(digest, before) {
                    verified.remember(*digest, after);
                }
                Ok(())
            }
        }
    }

    /// Removes complete blobs that are not among `live` and were neither written nor touched for `grace`, and what uploads
    /// and folds left unfinished `part_grace` ago. Each file goes by itself: a kill at any moment leaves a valid folder.
    /// Files whose names are not ours stay.
    ///
    /// # Errors
    /// If the folder cannot be read or a file not be removed; what was removed before stays so.
    pub fn sweep(&self, live: &BTreeSet<Digest>, grace: Duration, part_grace: Duration) -> io::Result<Swept> {
        let mut swept = Swept::default();
        match &self.inner.place {
            Place::Memory(memory) => sweep_memory(&mut lock(memory), live, grace, part_grace, &mut swept),
            Place::Dir(dir) => {
                for entry in fs::read_dir(dir)? {
                    let path = entry?.path();
                    match named(path.file_name().and_then(|n| n.to_str()).unwrap_or_default()) {
                        Named::Blob(digest) if live.contains(&digest) => {}
                        Named::Blob(digest) => {
                            if self.remove_old(&path, Some(&digest), grace, &mut swept)? == Some(false) {
                                swept.kept += 1;
                            }
                        }
                        Named::Leftover => drop(self.remove_old(&path, None, part_grace, &mut swept)?),
                        Named::NotOurs => {}
                    }
                }
            }
        }
        Ok(swept)
    }

    /// Removes a file if it is old enough; whether it was, or None if there is no such file any more.
    fn remove_old(&self, path: &Path, digest: Option<&Digest>, grace: Duration, swept: &mut Swept) -> io::Result<Option<bool>> {
        // Nobody puts another file under this name, or touches it, between the look and the removal.
        let mut verified = lock(&self.inner.verified);
        let metadata = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(named_error("cannot look at", path, error)),
        };
        if !metadata.is_file() {
            return Ok(None);
        }
        if age(&metadata)? < grace {
            return Ok(Some(false));
        }
        point("coordinator/gc-before-remove");
        fs::remove_file(path).map_err(|error| named_error("cannot remove", path, error))?;
        if let Some(digest) = digest {
            verified.forget(digest);
        }
        point("coordinator/gc-after-remove");
        swept.removed += 1;
        swept.bytes += metadata.len();
        Ok(Some(true))
    }
}

/// Age of a file. One from the future, by a clock that was set back, is young.
fn age(metadata: &Metadata) -> io::Result<Duration> {
    Ok(SystemTime::now().duration_since(metadata.modified()?).unwrap_or_default())
}

fn named_error(doing: &str, path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{doing} {}: {error}", path.display()))
}

fn sweep_memory(memory: &mut Memory, live: &BTreeSet<Digest>, grace: Duration, part_grace: Duration, swept: &mut Swept) {
    memory.complete.retain(|digest, held| {
        if live.contains(digest) {
            return true;
        }
        let young = held.at.elapsed() < grace;
        if young {
            swept.kept += 1;
        } else {
            swept.removed += 1;
            swept.bytes += held.bytes.len() as u64;
        }
        young
    });
    memory.parts.retain(|_, held| {
        let young = held.at.elapsed() < part_grace;
        if !young {
            swept.removed += 1;
            swept.bytes += held.bytes.len() as u64;
        }
        young
    });
}
