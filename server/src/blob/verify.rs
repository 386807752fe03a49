//! Checking that files still hold the bytes that their names say.

use super::{Blob, BlobError, Blobs, Place, blob_path};
use crate::disk::sync_dir;
use crate::fault::point;
use crate::sync::lock;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tessera_common::id::Digest;

/// Bytes hashed at a time.
const AT_ONCE: usize = 64 << 10;
/// Files that are remembered as checked, some 100 bytes each; one that is forgotten is only read once more.
const REMEMBERED: usize = 1 << 12;
/// Where files go whose bytes are wrong.
const QUARANTINE: &str = "quarantine";

/// What tells a file from one that took its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    modified: SystemTime,
    len: u64,
}

impl Identity {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { modified: metadata.modified()?, len: metadata.len() })
    }
}

/// Files whose bytes this process has hashed.
#[derive(Debug, Default)]
pub(super) struct Verified(BTreeMap<Digest, Identity>);

impl Verified {
    pub(super) fn remember(&mut self, digest: Digest, identity: Identity) {
        if self.0.len() >= REMEMBERED && !self.0.contains_key(&digest) {
            self.0.pop_first();
        }
        self.0.insert(digest, identity);
    }

    pub(super) fn forget(&mut self, digest: &Digest) {
        self.0.remove(digest);
    }

    pub(super) fn holds(&self, digest: &Digest, identity: Identity) -> bool {
        self.0.get(digest) == Some(&identity)
    }
}

impl Blobs {
    /// Makes sure that a blob's bytes have its digest, by reading all of them unless this process has hashed this very
    /// file before. A file with other bytes is put aside in `quarantine`, never removed.
    ///
    /// # Errors
    /// [`BlobError::Corrupt`] if they have not; also if it is not here or cannot be read.
    pub fn verify(&self, digest: &Digest) -> Result<(), BlobError> {
        let Place::Dir(dir) = &self.inner.place else { return self.len(digest).map(drop) };
        let path = blob_path(dir, digest);
        loop {
            let mut file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(gone(dir, digest)),
                Err(error) => return Err(BlobError::io("cannot open", &path)(error)),
            };
            let identity = Identity::of(&file).map_err(BlobError::io("cannot look at", &path))?;
            if lock(&self.inner.verified).holds(digest, identity) {
                return Ok(());
            }
            let found = digest_of_file(&mut file).map_err(BlobError::io("cannot read", &path))?;
            let mut verified = lock(&self.inner.verified);
            if found == *digest {
                verified.remember(*digest, identity);
                return Ok(());
            }
            // an intact file may have taken its place meanwhile
            let now = File::open(&path).and_then(|file| Identity::of(&file));
            if now.is_ok_and(|now| now == identity) {
                verified.forget(digest);
                return Err(put_aside(dir, digest, found));
            }
        }
    }

    /// As [`Self::verify`] and then [`Self::open`].
    ///
    /// # Errors
    /// Those of both.
    pub fn open_verified(&self, digest: &Digest) -> Result<Blob, BlobError> {
        self.verify(digest)?;
        self.open(digest)
    }

    /// The digest that a blob's bytes have. Nothing is put aside or remembered.
    ///
    /// # Errors
    /// If it is not here or cannot be read.
    pub(crate) fn digest_of_bytes(&self, digest: &Digest) -> Result<Digest, BlobError> {
        let Place::Dir(dir) = &self.inner.place else { return self.len(digest).map(|_| *digest) };
        let path = blob_path(dir, digest);
        match File::open(&path) {
            Ok(mut file) => digest_of_file(&mut file).map_err(BlobError::io("cannot read", &path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(BlobError::Missing(*digest)),
            Err(error) => Err(BlobError::io("cannot open", &path)(error)),
        }
    }

    /// Names of files that were put aside because their bytes are wrong, in order of name.
    pub fn quarantined(&self) -> Vec<String> {
        let Place::Dir(dir) = &self.inner.place else { return Vec::new() };
        let entries = match fs::read_dir(dir.join(QUARANTINE)) {
            Ok(entries) => entries,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(%error, "cannot list what was put aside");
                }
                return Vec::new();
            }
        };
        let mut names: Vec<String> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort();
        names
    }
}

/// Digest of everything that is in a file from where it stands.
///
/// # Errors
/// If it cannot be read.
pub fn digest_of_file(file: &mut File) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; AT_ONCE];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(Digest::from_hash(hasher.finalize())),
            Ok(n) => drop(hasher.update(&buffer[..n])),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Names that a blob may have in quarantine: it may be put aside more than once.
fn names_aside(dir: &Path, digest: &Digest) -> impl Iterator<Item = PathBuf> {
    let dir = dir.join(QUARANTINE);
    let first = dir.join(digest.to_string());
    let digest = *digest;
    std::iter::once(first).chain((2u32..).map(move |n| dir.join(format!("{digest}.{n}"))))
}

/// Puts a file aside; the error that says so.
fn put_aside(dir: &Path, digest: &Digest, found: Digest) -> BlobError {
    let (from, quarantine) = (blob_path(dir, digest), dir.join(QUARANTINE));
    let Some(to) = names_aside(dir, digest).find(|path| !path.exists()) else {
        return BlobError::Lost(format!("no free name in {}", quarantine.display()));
    };
    point("coordinator/quarantine-before-rename");
    let moved = fs::create_dir_all(&quarantine).and_then(|()| fs::rename(&from, &to));
    let moved = moved.and_then(|()| sync_dir(&quarantine)).and_then(|()| sync_dir(dir));
    if let Err(error) = moved {
        tracing::error!(blob = %digest, %found, %error, "a blob has other bytes than its name says and cannot be put aside");
        return BlobError::io("cannot put aside", &from)(error);
    }
    tracing::error!(
        blob = %digest, %found, aside = %to.display(),
        "a blob has other bytes than its name says; it is put aside, put back an intact copy and resume the run"
    );
    BlobError::Corrupt { digest: *digest, found, put_aside: to }
}

/// Why a blob is not here: if it was put aside, that is said again.
fn gone(dir: &Path, digest: &Digest) -> BlobError {
    let latest = names_aside(dir, digest).take_while(|path| path.exists()).last();
    let Some(put_aside) = latest else { return BlobError::Missing(*digest) };
    match File::open(&put_aside).and_then(|mut file| digest_of_file(&mut file)) {
        Ok(found) => BlobError::Corrupt { digest: *digest, found, put_aside },
        Err(error) => BlobError::io("cannot read", &put_aside)(error),
    }
}
