//! Blobs that the coordinator makes itself.

use super::{BlobError, Blobs, Held, Place, remove};
use crate::fault::hit;
use crate::sync::lock;
use bytes::Bytes;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use tessera_common::aggregate::Sink;
use tessera_common::id::Digest;

/// Bytes gathered before they are written.
const BUFFER: usize = 64 << 10;

#[derive(Debug)]
enum Body {
    File { file: BufWriter<File>, path: PathBuf },
    Memory(Vec<u8>),
}

/// Takes the bytes of a blob, hashing them on the way. Dropped before [`Self::finish`], it leaves nothing.
#[derive(Debug)]
pub struct Writer {
    blobs: Blobs,
    hasher: blake3::Hasher,
    body: Option<Body>,
}

impl Blobs {
    /// A writer of a new blob.
    ///
    /// # Errors
    /// If the temporary file cannot be made.
    pub fn writer(&self) -> Result<Writer, BlobError> {
        let body = match &self.inner.place {
            Place::Memory(_) => Body::Memory(Vec::new()),
            Place::Dir(dir) => {
                let path = dir.join(format!("new.{}.tmp", self.number()));
                let file = File::create_new(&path).map_err(BlobError::io("cannot create", &path))?;
                Body::File { file: BufWriter::with_capacity(BUFFER, file), path }
            }
        };
        Ok(Writer { blobs: self.clone(), hasher: blake3::Hasher::new(), body: Some(body) })
    }
}

impl Writer {
    /// Makes the blob durable under its digest.
    ///
    /// # Errors
    /// If writing fails.
    pub fn finish(mut self) -> Result<Digest, BlobError> {
        let digest = Digest::from_hash(self.hasher.finalize());
        if let Some(Body::File { file, path }) = &mut self.body {
            file.flush().map_err(BlobError::io("cannot write", path))?;
            if let Place::Dir(dir) = &self.blobs.inner.place {
                self.blobs.settle(file.get_ref(), path, dir, &digest)?;
            }
        }
        if let (Some(Body::Memory(bytes)), Place::Memory(memory)) = (self.body.take(), &self.blobs.inner.place) {
            lock(memory).complete.insert(digest, Held::now(Bytes::from(bytes)));
        }
        Ok(digest)
    }
}

impl Sink for Writer {
    fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.hasher.update(bytes);
        match &mut self.body {
            Some(Body::File { path, .. }) if hit("coordinator/blob-no-space") => {
                Err(BlobError::io("cannot write", path)(io::ErrorKind::StorageFull.into()).to_string())
            }
            Some(Body::File { file, path }) => {
                file.write_all(bytes).map_err(|e| BlobError::io("cannot write", path)(e).to_string())
            }
            Some(Body::Memory(body)) => {
                body.extend_from_slice(bytes);
                Ok(())
            }
            None => Err("the blob is finished".into()),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(Body::File { path, .. }) = &self.body {
            remove(path);
        }
    }
}
