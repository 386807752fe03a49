//! What the standard library leaves to us about files that must outlive a crash.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

/// Makes a folder, if it is not there, that only its owner may look into.
///
/// # Errors
/// If it cannot be made, or something else has its name.
pub(crate) fn create_private_dir(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

/// Makes renames and new files in `dir` durable.
///
/// # Errors
/// If the folder cannot be opened or synced.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

/// Puts `bytes` at `dir/name`: whoever looks finds the old file or the new one as a whole. Its name is durable only after
/// [`sync_dir`].
///
/// Two writers of one `name` at once are not allowed for.
///
/// # Errors
/// If it cannot be written, made durable, or renamed; the old file is then still there.
pub(crate) fn place(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.tmp"));
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, dir.join(name))
    };
    // half a file would only take room
    write().inspect_err(|_| drop(fs::remove_file(&temporary)))
}

/// As [`place`], and durable on return.
///
/// # Errors
/// As [`place`], and if the folder cannot be synced.
pub(crate) fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    place(dir, name, bytes)?;
    sync_dir(dir)
}

/// Removes a file that need not be there.
///
/// # Errors
/// If it is there and cannot be removed.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// True for what is wrong with a disk rather than with what was asked of it: no room, a used-up quota, or a file system
/// that takes no writes.
pub(crate) fn is_trouble(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem)
}
