//! The version of a data folder: a number in its file `FORMAT`.
//!
//! | version | what is different |
//! |---|---|
//! | 1 | no file `FORMAT`; its store has no schema |
//! | 2 | the file `FORMAT`; snapshots say what a run keeps |

use crate::disk::sync_dir;
use crate::error::Error;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What this release reads and writes.
pub const CURRENT: u32 = 2;
const FILE: &str = "FORMAT";

/// Makes sure that the folder is in the current format: writes the number into an empty one, brings an older one up to
/// date. A kill at any moment leaves a folder that the next call finishes.
///
/// # Errors
/// If the folder is of a newer release or says something else, or if it cannot be read or written.
pub fn check(dir: &Path) -> Result<(), Error> {
    let path = dir.join(FILE);
    let found = match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().ok().filter(|n| *n > 0).ok_or_else(|| garbage(&path))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if dir.join("runs").exists() || dir.join("sled").exists() {
                1
            } else {
                return write(dir, &path);
            }
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(garbage(&path)),
        Err(error) => return Err(Error::io("cannot read", &path)(error)),
    };
    match found {
        CURRENT => Ok(()),
        newer if newer > CURRENT => Err(Error::Config(format!(
            "the data folder {} has format {newer}, this release reads up to {CURRENT}; use the release that wrote it or a \
             newer one, or give this one another folder with --data-dir",
            dir.display()
        ))),
        older => {
            let aside = put_store_aside(dir)?;
            tracing::info!(
                folder = %dir.display(), from = older, to = CURRENT, store = aside.map(|p| p.display().to_string()),
                "the data folder is of an earlier release; bringing it up to date, journals and blobs stay as they are"
            );
            write(dir, &path)
        }
    }
}

fn garbage(path: &Path) -> Error {
    Error::Config(format!(
        "{} does not hold the number of a format; restore it from a backup, or write {CURRENT} into it if this release \
         wrote the folder",
        path.display()
    ))
}

/// Moves the store of an earlier release away: it is made anew from the journals.
fn put_store_aside(dir: &Path) -> Result<Option<PathBuf>, Error> {
    let store = dir.join("sled");
    if !store.exists() {
        return Ok(None);
    }
    let aside = (1u32..).map(|n| dir.join(format!("sled.old-{n}"))).find(|p| !p.exists());
    let aside = aside.ok_or_else(|| Error::Store("no free name for the store of an earlier release".into()))?;
    fs::rename(&store, &aside).map_err(Error::io("cannot put aside", &store))?;
    sync_dir(dir).map_err(Error::io("cannot fsync", dir))?;
    Ok(Some(aside))
}

fn write(dir: &Path, path: &Path) -> Result<(), Error> {
    let making = dir.join("FORMAT.tmp");
    let written = File::create(&making).and_then(|mut file| {
        file.write_all(format!("{CURRENT}\n").as_bytes())?;
        file.sync_all()
    });
    written.map_err(Error::io("cannot write", &making))?;
    fs::rename(&making, path).map_err(Error::io("cannot put in place", path))?;
    sync_dir(dir).map_err(Error::io("cannot fsync", dir))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn format(dir: &TempDir) -> String {
        fs::read_to_string(dir.path().join(FILE)).unwrap()
    }

    fn refusal(text: &[u8]) -> String {
        let dir = TempDir::new().unwrap();
        fs::create_dir_all(dir.path().join("sled")).unwrap();
        fs::write(dir.path().join(FILE), text).unwrap();
        let error = check(dir.path()).unwrap_err();
        assert!(matches!(error, Error::Config(_)), "{error:?}");
        assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
        assert_eq!(fs::read(dir.path().join(FILE)).unwrap(), text, "nothing is changed");
        assert!(dir.path().join("sled").exists(), "nothing is changed");
        error.to_string()
    }

    #[test]
    fn a_new_folder_gets_the_current_number_and_keeps_it() {
        let dir = TempDir::new().unwrap();
        // a write that a kill broke off
        fs::write(dir.path().join("FORMAT.tmp"), b"").unwrap();
        check(dir.path()).unwrap();
        assert_eq!(format(&dir), "2\n");
        fs::create_dir_all(dir.path().join("runs/a")).unwrap();
        fs::create_dir_all(dir.path().join("sled")).unwrap();
        check(dir.path()).unwrap();
        assert!(dir.path().join("sled").exists(), "the store is of this format");
    }

    #[test]
    fn a_folder_of_the_first_format_is_brought_up_to_date() {
        for (store, earlier) in [(true, false), (true, true), (false, false)] {
            let dir = TempDir::new().unwrap();
            fs::create_dir_all(dir.path().join("runs/a")).unwrap();
            fs::write(dir.path().join("runs/a/journal"), b"j").unwrap();
            if store {
                fs::create_dir_all(dir.path().join("sled")).unwrap();
                fs::write(dir.path().join("sled/db"), b"s").unwrap();
            }
            if earlier {
                fs::create_dir_all(dir.path().join("sled.old-1")).unwrap();
            }
            check(dir.path()).unwrap();
            assert_eq!(format(&dir), "2\n");
            assert!(!dir.path().join("sled").exists());
            assert_eq!(fs::read(dir.path().join("runs/a/journal")).unwrap(), b"j");
            let aside = dir.path().join(if earlier { "sled.old-2" } else { "sled.old-1" });
            assert_eq!(fs::read(aside.join("db")).ok(), store.then(|| b"s".to_vec()), "kept, not thrown away");
        }
    }

    #[test]
    fn a_newer_folder_is_refused_with_what_to_do() {
        let text = refusal(b"3\n");
        assert!(text.contains("has format 3") && text.contains("reads up to 2") && text.contains("--data-dir"), "{text}");
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in [&b""[..], b"two", b"0", b"-1", b"\xff\xfe", b"99999999999999999999"] {
            assert!(refusal(text).contains("does not hold the number of a format"));
        }
    }
}
