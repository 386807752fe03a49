//! How much room a disk has, and whether it takes writes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Bytes that a probe writes: more than what some file systems keep beside the name of a file.
const PROBE: usize = 64 << 10;

/// The file system that a folder is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that are free for this process.
    pub free: u64,
    /// Bytes that it has altogether.
    pub total: u64,
}

/// Space of the file system that `dir` is on.
///
/// # Errors
/// If it cannot be asked.
#[cfg(unix)]
pub fn free(dir: &Path) -> io::Result<Space> {
    let found = rustix::fs::statvfs(dir)?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok(Space { free: bytes(found.f_bavail), total: bytes(found.f_blocks) })
}

/// Space of the file system that `dir` is on.
///
/// # Errors
/// Always: nobody can be asked here.
#[cfg(not(unix))]
pub fn free(_: &Path) -> io::Result<Space> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Writes, fsyncs and removes a small file in `dir`.
///
/// # Errors
/// If the disk refuses any of it.
pub fn probe(dir: &Path) -> io::Result<()> {
    let path = dir.join("probe.tmp");
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(&[0x55; PROBE])?;
        file.sync_all()
    });
    let removed = match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    };
    written.and(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    #[cfg(unix)]
    #[test]
    fn a_folder_has_space_and_what_is_no_folder_has_none() {
        let dir = TempDir::new().unwrap();
        let space = free(dir.path()).unwrap();
        assert!(space.free > 0 && space.free <= space.total, "{space:?}");
        assert!(space.total > 1 << 20, "bytes, not blocks: {space:?}");
        assert_eq!(free(&dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_probe_leaves_nothing_and_tells_what_fails() {
        let dir = TempDir::new().unwrap();
        // left by a process that was killed while it probed
        fs::write(dir.path().join("probe.tmp"), b"x").unwrap();
        probe(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(probe(&dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        #[cfg(target_os = "linux")]
        {
            // a device that is always full, under the name that the probe writes to
            std::os::unix::fs::symlink("/dev/full", dir.path().join("probe.tmp")).unwrap();
            assert_eq!(probe(dir.path()).unwrap_err().kind(), io::ErrorKind::StorageFull);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "the link is gone, not the device");
        }
    }
}
