//! Folders that something is kept in: private, writable, with room.

use super::Check;
use crate::cli::size;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Checks that `dir`, which is there, may be looked into by its owner only.
pub(super) fn private(name: &str, dir: &Path) -> Check {
    let shown = dir.display();
    match fs::metadata(dir) {
        Err(error) => Check::fail(name, format!("{shown}: {error}"), "see that this user may look at it"),
        Ok(metadata) if !metadata.is_dir() => Check::fail(name, format!("{shown} is no folder"), "name another one"),
        Ok(metadata) => match others_may(&metadata) {
            None => Check::ok(name, format!("{shown} is there and private")),
            Some(mode) => {
                let finding = format!("{shown} is open to other users of this machine (mode {mode:03o})");
                Check::warn(name, finding, format!("chmod 700 {shown}: it holds what members sent or keep"))
            }
        },
    }
}

/// Checks that a key, which is there, may be read by its owner only.
#[cfg(feature = "server")]
pub(super) fn key(path: &Path) -> Check {
    let (name, shown) = ("key", path.display());
    match fs::metadata(path) {
        Err(error) => Check::fail(name, format!("{shown}: {error}"), "see that this user may look at it"),
        Ok(metadata) => match others_may(&metadata) {
            None => Check::ok(name, format!("{shown} is private")),
            Some(mode) => {
                let finding = format!("{shown} is open to other users of this machine (mode {mode:03o})");
                Check::fail(
                    name,
                    finding,
                    format!("chmod 600 {shown}, and make new ones: `tessera certificates rotate --authority`"),
                )
            }
        },
    }
}

/// The mode, if somebody else than the owner may do anything.
#[cfg(unix)]
fn others_may(metadata: &fs::Metadata) -> Option<u32> {
    let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
    (mode & 0o077 != 0).then_some(mode)
}

#[cfg(not(unix))]
fn others_may(_: &fs::Metadata) -> Option<u32> {
    None
}

/// Checks that a file can be written, made durable, renamed and read back in `dir`.
pub(super) fn writable(name: &str, dir: &Path) -> Check {
    match probe(dir) {
        Ok(()) => Check::ok(name, "takes files, makes them durable, renames them"),
        Err(error) => {
            let todo = "see that the disk is mounted for writing, has room, and that this user may write there";
            Check::fail(name, format!("{}: {error}", dir.display()), todo)
        }
    }
}

/// Writes a small file, fsyncs it, renames it, fsyncs the folder, reads the file and removes it.
fn probe(dir: &Path) -> io::Result<()> {
    const BYTES: &[u8] = &[0x5a; 4096];
    let [made, named] = ["tmp", "probe"].map(|end| dir.join(format!(".doctor-{}.{end}", std::process::id())));
    let outcome = (|| {
        let mut file = File::create(&made)?;
        file.write_all(BYTES)?;
        file.sync_all()?;
        fs::rename(&made, &named)?;
        if cfg!(unix) {
            File::open(dir)?.sync_all()?;
        }
        match fs::read(&named)? == BYTES {
            true => Ok(()),
            false => Err(io::Error::other("the bytes that were written do not come back")),
        }
    })();
    // one of them is not there
    let _ = (fs::remove_file(&made), fs::remove_file(&named));
    outcome
}

/// Checks that more than `reserve` bytes are free on the disk of `dir`.
pub(super) fn space(name: &str, dir: &Path, reserve: u64) -> Check {
    match free(dir) {
        Ok((free, total)) => judge_space(name, free, total, reserve),
        Err(error) => Check::warn(name, format!("{}: {error}", dir.display()), "look yourself how much is free"),
    }
}

fn judge_space(name: &str, free: u64, total: u64, reserve: u64) -> Check {
    let finding = format!("{} of {} free, {} are to stay free", size(free), size(total), size(reserve));
    if free < reserve {
        Check::fail(name, finding, "make room: nothing new is taken until then")
    } else if free < reserve.saturating_mul(2) {
        Check::warn(name, finding, "make room: soon nothing new will be taken")
    } else {
        Check::ok(name, finding)
    }
}

/// Bytes that are free for this process on the file system of `dir`, and all that it has.
#[cfg(unix)]
fn free(dir: &Path) -> io::Result<(u64, u64)> {
    let found = rustix::fs::statvfs(dir)?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok((bytes(found.f_bavail), bytes(found.f_blocks)))
}

#[cfg(not(unix))]
fn free(_: &Path) -> io::Result<(u64, u64)> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Number and bytes of the files in `path`, at any depth; of `path` itself if it is a file.
pub(super) fn weigh(path: &Path) -> io::Result<(usize, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_dir() {
        return Ok((1, metadata.len()));
    }
    let mut all = (0, 0);
    for entry in fs::read_dir(path)? {
        let (files, bytes) = weigh(&entry?.path())?;
        all = (all.0 + files, all.1 + bytes);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_folder_that_others_may_see_is_told() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let verdict = |mode| {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            private("folder", dir.path())
        };
        assert_eq!(verdict(0o700).verdict, Verdict::Ok);
        let open = verdict(0o755);
        assert_eq!(open.verdict, Verdict::Warn);
        assert!(open.finding.contains("mode 755") && open.todo.starts_with("chmod 700"), "{open:?}");
        assert_eq!(private("folder", &dir.path().join("none")).verdict, Verdict::Fail);
        fs::write(dir.path().join("file"), b"").unwrap();
        assert!(private("folder", &dir.path().join("file")).finding.contains("no folder"));
    }

    #[cfg(all(unix, feature = "server"))]
    #[test]
    fn a_key_that_others_may_read_fails() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server.key");
        assert_eq!(key(&path).verdict, Verdict::Fail, "it is not there");
        fs::write(&path, "k").unwrap();
        for (mode, verdict) in [(0o600, Verdict::Ok), (0o400, Verdict::Ok), (0o640, Verdict::Fail), (0o604, Verdict::Fail)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(key(&path).verdict, verdict, "{mode:o}");
        }
    }

    #[test]
    fn a_probe_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(writable("writable", dir.path()).verdict, Verdict::Ok);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let none = writable("writable", &dir.path().join("none"));
        assert_eq!(none.verdict, Verdict::Fail);
        assert!(none.finding.contains("none"), "{none:?}");
    }

    #[test]
    fn room_is_judged_against_the_reserve() {
        let verdict = |free| judge_space("space", free, 1000, 100).verdict;
        assert_eq!([99, 100, 199, 200].map(verdict), [Verdict::Fail, Verdict::Warn, Verdict::Warn, Verdict::Ok]);
        let dir = tempfile::tempdir().unwrap();
        if cfg!(unix) {
            assert_eq!(space("space", dir.path(), 0).verdict, Verdict::Ok);
            assert_eq!(space("space", dir.path(), u64::MAX).verdict, Verdict::Fail);
        }
    }

    #[test]
    fn files_are_weighed_at_any_depth() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/one"), [0; 10]).unwrap();
        fs::write(dir.path().join("two"), [0; 5]).unwrap();
        assert_eq!(weigh(dir.path()).unwrap(), (2, 15));
        assert_eq!(weigh(&dir.path().join("two")).unwrap(), (1, 5));
        assert!(weigh(&dir.path().join("none")).is_err());
    }
}
