//! The folder of an agent: what it keeps over restarts, for itself alone.
//!
//! ```text
//! STATE/.lock        held by the agent that uses the folder
//! STATE/RUN/..       values of private blocks
//! STATE/outbox/..    finished answers
//! STATE/blobs/..     downloads
//! ```

use crate::disk;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Not a name that a run can have.
const LOCK: &str = ".lock";

/// A state folder that nobody else uses for as long as this value lives.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Makes the folder if it is not there, and keeps other agents out. None if its disk takes nothing at present: the agent
    /// then goes on from memory.
    ///
    /// # Errors
    /// If another agent uses it, or it cannot be used for another reason.
    pub(crate) fn take(dir: &Path) -> io::Result<Option<Arc<Self>>> {
        let path = dir.join(LOCK);
        let open = || {
            disk::create_private_dir(dir)?;
            File::options().create(true).truncate(false).write(true).open(&path)
        };
        let lock = match open() {
            Ok(file) => file,
            Err(error) if disk::is_trouble(&error) => {
                tracing::warn!(state_dir = %dir.display(), %error, "the state folder takes nothing: going on from memory");
                return Ok(None);
            }
            Err(error) => return Err(said(&error, format!("state_dir {} cannot be used: {error}", dir.display()))),
        };
        match lock.try_lock() {
            Ok(()) => Ok(Some(Arc::new(Self { path: dir.to_owned(), _lock: lock }))),
            Err(TryLockError::WouldBlock) => {
                let text = format!("state_dir {} is in use by another agent; give each agent a folder of its own", dir.display());
                Err(io::Error::new(io::ErrorKind::ResourceBusy, text))
            }
            Err(TryLockError::Error(error)) => Err(said(&error, format!("cannot lock {}: {error}", path.display()))),
        }
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn said(error: &io::Error, text: String) -> io::Error {
    io::Error::new(error.kind(), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_for_one_agent() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("north.state");
        let first = StateDir::take(&state).unwrap().unwrap();
        let error = StateDir::take(&state).unwrap_err().to_string();
        assert!(error.contains("north.state is in use by another agent"), "{error}");
        drop(first);
        assert_eq!(StateDir::take(&state).unwrap().unwrap().path(), state);
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_is_for_its_owner_and_a_file_is_no_folder() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("north.state");
        let _held = StateDir::take(&state).unwrap();
        assert_eq!(std::fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(StateDir::take(&file).unwrap_err().to_string().contains("file cannot be used"));
    }
}
