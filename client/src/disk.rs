//! What the standard library leaves to us about files that must outlive a crash.

use std::fs::{self, File};
use std::io::{self, Write};
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

/// Puts `bytes` at `dir/name`, durably: whoever looks finds the old file or the new one as a whole.
///
/// Two writers of one `name` at once are not allowed for.
///
/// # Errors
/// If it cannot be written, made durable, or renamed; the old file is then still there.
pub(crate) fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.tmp"));
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(name))?;
    sync_dir(dir)
}
