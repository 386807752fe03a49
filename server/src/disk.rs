//! What the standard library leaves to us about files.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Makes a folder, if it is not there, that only its owner may look into: it holds what members sent.
pub(crate) fn create_private_dir(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

/// Makes renames and new files in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

/// Writes a new file and makes its content durable; its name is so only after [`sync_dir`].
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Fills `out` from `offset` on, without a shared position.
#[cfg(unix)]
pub(crate) fn read_at(file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

/// Fills `out` from `offset` on, without a shared position.
#[cfg(windows)]
pub(crate) fn read_at(file: &File, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
    while !out.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_read(file, out, offset)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        offset += n as u64;
        out = &mut out[n..];
    }
    Ok(())
}

/// Removes a folder that need not be there.
pub(crate) fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// True for what is wrong with a disk rather than with what was asked of it: no room, a used-up quota, a file system that
/// takes no writes, or a device that fails. All of these can be mended while we wait.
pub(crate) fn is_trouble(error: &io::Error) -> bool {
    #[cfg(unix)]
    if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) {
        return true;
    }
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::ReadOnlyFilesystem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn trouble_of_the_disk_is_told_from_other_errors() {
        use rustix::io::Errno;
        let is = |errno: Errno| is_trouble(&io::Error::from_raw_os_error(errno.raw_os_error()));
        assert!([Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::IO].map(is).iter().all(|trouble| *trouble));
        assert!([Errno::NOENT, Errno::ACCESS, Errno::MFILE, Errno::INTR].map(is).iter().all(|trouble| !trouble));
        assert!(is_trouble(&io::ErrorKind::StorageFull.into()), "without a number of the system, too");
        assert!(!is_trouble(&io::Error::other("x")));
    }
}
