//! Blobs that come from outside, in pieces.

use super::{BlobError, Blobs, Held, Place, file_len, part_path, remove};
use crate::fault::{hit, point};
use crate::sync::lock;
use bytes::Bytes;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;
use tessera_common::id::Digest;

/// Bytes hashed at a time when an upload goes on.
const REHASH: usize = 64 << 10;

#[derive(Debug)]
enum Body {
    File { file: File, path: PathBuf },
    Memory(Vec<u8>),
}

/// An upload in progress. Dropped before [`Self::finish`], it leaves what came as the blob's part.
#[derive(Debug)]
pub struct Upload {
    blobs: Blobs,
    digest: Digest,
    announced: u64,
    len: u64,
    hasher: blake3::Hasher,
    /// None once it is finished or thrown away.
    body: Option<Body>,
}

impl Blobs {
    /// Refuses a blob of so many bytes if that is more than is taken.
    ///
    /// # Errors
    /// If it is.
    pub fn admits(&self, digest: Digest, bytes: u64) -> Result<(), BlobError> {
        let limit = self.inner.max_bytes;
        if bytes > limit { Err(BlobError::TooLarge { digest, bytes, limit }) } else { Ok(()) }
    }

    /// Starts an upload of `announced` bytes at `offset`, or goes on with one that broke off.
    ///
    /// # Errors
    /// If the blob is too large, or `offset` is not the length of the stored part.
    pub fn begin(&self, digest: Digest, announced: u64, offset: u64) -> Result<Upload, BlobError> {
        self.admits(digest, announced)?;
        let mut stored = self.part_len(&digest)?;
        if stored > announced {
            self.drop_part(&digest);
            stored = 0;
        }
        if offset != stored {
            return Err(BlobError::Offset { digest, expected: stored, found: offset });
        }
        let body = if stored == 0 { Some(self.fresh_body(&digest)?) } else { self.take_part(&digest)? };
        let Some(mut body) = body else {
            // another upload took the part first
            return Err(BlobError::Offset { digest, expected: 0, found: offset });
        };
        let mut hasher = blake3::Hasher::new();
        let len = body.hash(&mut hasher)?;
        let upload = Upload { blobs: self.clone(), digest, announced, len, hasher, body: Some(body) };
        // the part may have grown between looking at it and taking it
        if len == offset { Ok(upload) } else { Err(BlobError::Offset { digest, expected: len, found: offset }) }
    }

    fn fresh_body(&self, digest: &Digest) -> Result<Body, BlobError> {
        match &self.inner.place {
            Place::Memory(_) => Ok(Body::Memory(Vec::new())),
            Place::Dir(dir) => {
                let path = dir.join(format!("{digest}.{}.up", self.number()));
                let file = File::options().read(true).write(true).create_new(true).open(&path);
                Ok(Body::File { file: file.map_err(BlobError::io("cannot create", &path))?, path })
            }
        }
    }

    /// Takes the stored part, for one upload alone; None if there is none.
    fn take_part(&self, digest: &Digest) -> Result<Option<Body>, BlobError> {
        match &self.inner.place {
            Place::Memory(memory) => Ok(lock(memory).parts.remove(digest).map(|held| Body::Memory(held.bytes))),
            Place::Dir(dir) => {
                let path = dir.join(format!("{digest}.{}.up", self.number()));
                let _names = lock(&self.inner.verified);
                match fs::rename(part_path(dir, digest), &path) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(BlobError::io("cannot go on with", &path)(error)),
                }
                let file = File::options().read(true).write(true).open(&path);
                Ok(Some(Body::File { file: file.map_err(BlobError::io("cannot open", &path))?, path }))
            }
        }
    }
}

impl Body {
    /// Hashes what is there and stands at its end; its length.
    fn hash(&mut self, hasher: &mut blake3::Hasher) -> Result<u64, BlobError> {
        match self {
            Body::Memory(bytes) => {
                hasher.update(bytes);
                Ok(bytes.len() as u64)
            }
            Body::File { file, path } => {
                let mut buffer = vec![0; REHASH];
                let mut len = 0;
                file.rewind().map_err(BlobError::io("cannot read", path))?;
                loop {
                    let n = file.read(&mut buffer).map_err(BlobError::io("cannot read", path))?;
                    if n == 0 {
                        return Ok(len);
                    }
                    hasher.update(&buffer[..n]);
                    len += n as u64;
                }
            }
        }
    }
}

impl Upload {
    /// Bytes that are there.
    #[allow(clippy::len_without_is_empty)] // an upload without bytes is a fresh one, nobody asks
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// If they are more than announced, which ends the upload, or cannot be written.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        if bytes.len() as u64 > self.announced - self.len {
            self.discard();
            return Err(BlobError::Overflow { digest: self.digest, announced: self.announced });
        }
        match &mut self.body {
            Some(Body::File { path, .. }) if hit("coordinator/blob-no-space") => {
                return Err(BlobError::io("cannot write", path)(io::ErrorKind::StorageFull.into()));
            }
            Some(Body::File { file, path }) => file.write_all(bytes).map_err(BlobError::io("cannot write", path))?,
            Some(Body::Memory(body)) => body.extend_from_slice(bytes),
            None => return Err(BlobError::Missing(self.digest)),
        }
        point("coordinator/blob-part-written");
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Checks the digest and makes the blob durable.
    ///
    /// # Errors
    /// If bytes are missing (what came is kept), if the digest is another one (it is thrown away), or if making it durable
    /// fails (it is thrown away too: after a failed fsync nobody knows what the disk has).
    pub fn finish(mut self) -> Result<(), BlobError> {
        if self.len < self.announced {
            return Err(BlobError::Short { digest: self.digest, announced: self.announced, found: self.len });
        }
        let found = Digest::from_hash(self.hasher.finalize());
        if found != self.digest {
            self.discard();
            return Err(BlobError::Mismatch { digest: self.digest, found });
        }
        match (&self.blobs.inner.place, self.body.take()) {
            (Place::Dir(dir), Some(Body::File { file, path })) => {
                self.blobs.settle(&file, &path, dir, &self.digest).inspect_err(|_| remove(&path))?;
            }
            (Place::Memory(memory), Some(Body::Memory(bytes))) => {
                lock(memory).complete.insert(self.digest, Held::now(Bytes::from(bytes)));
            }
            _ => return Err(BlobError::Missing(self.digest)),
        }
        self.blobs.drop_part(&self.digest);
        Ok(())
    }

    fn discard(&mut self) {
        if let Some(Body::File { path, .. }) = self.body.take() {
            remove(&path);
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(body) = self.body.take() else { return };
        match (body, &self.blobs.inner.place) {
            (Body::File { path, .. }, Place::Dir(dir)) => {
                let part = part_path(dir, &self.digest);
                let _names = lock(&self.blobs.inner.verified);
                // the longer of two broken uploads is the more useful
                let keep = file_len(&part).is_ok_and(|stored| stored.unwrap_or(0) < self.len);
                if !keep {
                    remove(&path);
                } else if let Err(error) = fs::rename(&path, &part) {
                    tracing::warn!(path = %path.display(), %error, "cannot keep the part of a broken upload");
                }
            }
            (Body::Memory(bytes), Place::Memory(memory)) => {
                let mut memory = lock(memory);
                let stored = memory.parts.get(&self.digest).map_or(0, |held| held.bytes.len());
                if bytes.len() > stored {
                    memory.parts.insert(self.digest, Held::now(bytes));
                }
            }
            (Body::File { .. }, Place::Memory(_)) | (Body::Memory(_), Place::Dir(_)) => {}
        }
    }
}
