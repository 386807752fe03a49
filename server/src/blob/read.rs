//! Reading blobs.

use super::{BlobError, Blobs, Inner, Place, blob_path};
use crate::disk::read_at;
use crate::sync::lock;
use bytes::Bytes;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use tessera_common::id::Digest;
use tessera_common::param::{Layout, Source};

/// Files that readers keep open at once; beyond that a file is opened for each read, so that a fold over any number of
/// members stays below the usual limit of 1024 open files.
const KEPT_OPEN: usize = 256;

#[derive(Debug)]
enum Data {
    Memory(Bytes),
    Open(File, Arc<Inner>),
    Closed(PathBuf),
}

/// The bytes of a complete blob.
#[derive(Debug)]
pub struct Raw {
    digest: Digest,
    len: u64,
    data: Data,
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Data::Open(_, inner) = &self.data {
            inner.open_files.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Raw {
    /// Number of bytes.
    #[allow(clippy::len_without_is_empty)] // no blob is empty: a parameter set has a header
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Fills `out` with the bytes from `offset` on.
    ///
    /// # Errors
    /// If they are not there or cannot be read.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), BlobError> {
        let fault = |error: std::io::Error| BlobError::io("cannot read", Path::new(&self.digest.to_string()))(error);
        match &self.data {
            Data::Memory(bytes) => {
                let end = (offset as usize).checked_add(out.len());
                let found = end.and_then(|end| bytes.get(offset as usize..end));
                out.copy_from_slice(found.ok_or_else(|| fault(std::io::ErrorKind::UnexpectedEof.into()))?);
                Ok(())
            }
            Data::Open(file, _) => read_at(file, offset, out).map_err(fault),
            Data::Closed(path) => File::open(path).and_then(|file| read_at(&file, offset, out)).map_err(fault),
        }
    }

    /// At most `len` bytes from `offset` on; fewer at the end.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn chunk(&self, offset: u64, len: usize) -> Result<Bytes, BlobError> {
        let len = len.min(usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX));
        if let Data::Memory(bytes) = &self.data {
            let from = bytes.len().min(offset as usize);
            return Ok(bytes.slice(from..from + len));
        }
        let mut out = vec![0; len];
        self.read(offset, &mut out)?;
        Ok(out.into())
    }
}

/// A blob as a parameter set.
#[derive(Debug)]
pub struct Blob {
    raw: Raw,
    layout: Arc<Layout>,
    fault: OnceLock<String>,
}

impl Blob {
    /// What went wrong while reading, if anything: then the coordinator is at fault, not the content.
    pub fn fault(&self) -> Option<&str> {
        self.fault.get().map(String::as_str)
    }

    /// Shares the layout with an earlier blob of the same one: a cohort's updates are alike.
    pub fn share_layout(&mut self, known: &mut Vec<Arc<Layout>>) {
        match known.iter().find(|l| l.header() == self.layout.header()) {
            Some(same) => self.layout = same.clone(),
            None => known.push(self.layout.clone()),
        }
    }
}

impl Source for Blob {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn read(&self, name: &str, from: usize, out: &mut [u8]) -> Result<(), String> {
        let entry = self.layout.entries().get(name).ok_or_else(|| format!("there is no tensor {name:?}"))?;
        let end = from.checked_add(out.len()).filter(|&end| end <= entry.spec.bytes());
        end.ok_or_else(|| format!("tensor {name:?} ends before byte {from} + {}", out.len()))?;
        self.raw.read(entry.offset + from as u64, out).map_err(|error| {
            let text = error.to_string();
            // The first fault is kept; a later one changes nothing.
            let _ = self.fault.set(text.clone());
            text
        })
    }
}

impl Blobs {
    /// The bytes of a complete blob.
    ///
    /// # Errors
    /// If it is not here or cannot be opened.
    pub fn raw(&self, digest: &Digest) -> Result<Raw, BlobError> {
        let len = self.len(digest)?;
        let data = match &self.inner.place {
            Place::Memory(memory) => {
                let bytes = lock(memory).complete.get(digest).map(|held| held.bytes.clone());
                Data::Memory(bytes.ok_or(BlobError::Missing(*digest))?)
            }
            Place::Dir(dir) => {
                let path = blob_path(dir, digest);
                if self.inner.open_files.fetch_add(1, Ordering::Relaxed) < KEPT_OPEN {
                    match File::open(&path) {
                        Ok(file) => Data::Open(file, self.inner.clone()),
                        Err(error) => {
                            self.inner.open_files.fetch_sub(1, Ordering::Relaxed);
                            return Err(BlobError::io("cannot open", &path)(error));
                        }
                    }
                } else {
                    self.inner.open_files.fetch_sub(1, Ordering::Relaxed);
                    Data::Closed(path)
                }
            }
        };
        Ok(Raw { digest: *digest, len, data })
    }

    /// A complete blob as a parameter set; its header is parsed within [`Blobs::limits`].
    ///
    /// # Errors
    /// If it is not here, cannot be read, or is no parameter set in canonical form.
    pub fn open(&self, digest: &Digest) -> Result<Blob, BlobError> {
        let raw = self.raw(digest)?;
        let malformed = |why: String| BlobError::Malformed { digest: *digest, why };
        let limits = self.limits();
        let mut first = [0; 8];
        if raw.len() < 8 {
            return Err(malformed(format!("{} bytes are no parameter set", raw.len())));
        }
        raw.read(0, &mut first)?;
        let header_len = Layout::header_len(first, &limits).map_err(|e| malformed(e.to_string()))?;
        if raw.len() < header_len as u64 {
            return Err(malformed(format!("the header asks for {header_len} bytes, there are {}", raw.len())));
        }
        let mut header = vec![0; header_len];
        raw.read(0, &mut header)?;
        let layout = Layout::parse(&header, raw.len(), &limits).map_err(|e| malformed(e.to_string()))?;
        Ok(Blob { raw, layout: Arc::new(layout), fault: OnceLock::new() })
    }
}
