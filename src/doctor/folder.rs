//! The folder of a coordinator: nothing in it is changed, but for a small file that is written and removed to see that
//! the disk works.

use super::{Check, Verdict, coordinator, disk, runs};
use crate::audit::Fault;
use crate::cli::{plural, size};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;
use tessera_server::{Config, format};

/// Everything that can be said of the folder `dir`, and of the coordinator that uses it. Its admin interface is `admin`,
/// or the socket in the folder.
pub(super) async fn examine(dir: &Path, admin: Option<String>, deep: bool) -> Vec<Check> {
    if !dir.exists() {
        let todo = "name the folder of a coordinator with --data-dir, or start one, which makes it";
        return vec![Check::fail("folder", format!("there is no {}", dir.display()), todo)];
    }
    let ours = ["FORMAT", "runs", "sled", "blobs", "lock"].iter().any(|name| dir.join(name).exists());
    let empty = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
    if dir.is_dir() && !ours && !empty {
        let finding = format!("{} holds other things, and nothing of a coordinator", dir.display());
        return vec![Check::fail("folder", finding, "name the folder of a coordinator with --data-dir")];
    }
    let private = disk::private("folder", dir);
    if private.verdict == Verdict::Fail {
        return vec![private];
    }
    let mut checks = vec![private, disk::writable("writes", dir)];
    let in_use = in_use(dir);
    let running = matches!(in_use, Ok(true));
    let mut reserve = Config::in_memory().reserve_bytes;
    match in_use {
        Ok(false) if admin.is_none() => checks.push(Check::ok("coordinator", "none uses the folder at present")),
        Ok(_) => {
            let admin = admin.unwrap_or_else(|| dir.join("admin.sock").display().to_string());
            let answer = coordinator::ask(&admin).await;
            if let Ok(answer) = &answer {
                reserve = answer.status.reserve_bytes;
            }
            checks.extend(coordinator::examine(&answer, &admin, Some(dir)));
        }
        Err(error) => checks.push(Check::fail("lock", error, "see that this user may use the folder")),
    }
    checks.push(disk::space("space", dir, reserve));
    checks.push(version(dir));
    checks.push(store(dir, running));
    checks.extend(runs::journals(&dir.join("runs"), running));
    checks.extend(runs::blobs(&dir.join("blobs"), deep));
    checks.extend(identity(&dir.join("identity")));
    checks.extend(audit(&dir.join("audit.log")));
    checks.extend(leftovers(dir));
    checks
}

/// The coordinator's own keys; there are none in plaintext, or with files of others.
fn identity(dir: &Path) -> Vec<Check> {
    if !dir.exists() {
        return Vec::new();
    }
    let keys = ["authority.key", "server.key"].map(|name| dir.join(name));
    let present = keys.iter().filter(|path| path.exists());
    let mut checks: Vec<Check> =
        std::iter::once(disk::private("identity", dir)).chain(present.map(|path| disk::key(path))).collect();
    let missing: Vec<&str> =
        ["authority.pem", "authority.key", "registry.json"].into_iter().filter(|name| !dir.join(name).exists()).collect();
    if !missing.is_empty() && missing.len() < 3 {
        let todo = "restore it from a backup: the coordinator does not start without it";
        checks.push(Check::fail("identity files", format!("{} lacks {}", dir.display(), missing.join(", ")), todo));
    }
    checks
}

/// The chain of the audit log.
fn audit(path: &Path) -> Option<Check> {
    let name = "audit log";
    Some(match crate::audit::verify(path, None) {
        Ok(whole) => Check::ok(name, format!("{}, the last with hash {}", plural(whole.head.lines, "line"), whole.head.hash)),
        Err(Fault::Io(error)) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(Fault::Io(error)) => Check::fail(name, format!("{}: {error}", path.display()), "see that this user may read it"),
        Err(Fault::Broken(broken)) => {
            let finding = format!("{} is not what was written: {broken}", path.display());
            Check::fail(name, finding, "somebody or the disk changed it: compare with a copy, and ask who may write there")
        }
    })
}

/// True if a coordinator holds the folder's lock.
fn in_use(dir: &Path) -> Result<bool, String> {
    let path = dir.join("lock");
    let fault = |error: io::Error| format!("{}: {error}", path.display());
    let file = match File::options().read(true).write(true).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(fault(error)),
    };
    // given back when the file is closed
    match file.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(fault(error)),
    }
}

/// Compares the folder's format with ours.
fn version(dir: &Path) -> Check {
    let (name, ours) = ("format", format::CURRENT);
    let path = dir.join("FORMAT");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let used = dir.join("runs").exists() || dir.join("sled").exists();
            return if used {
                let todo = "the next start of this release's coordinator brings it up to date; make a backup before";
                Check::warn(name, format!("1, of an earlier release; this one has {ours}"), todo)
            } else {
                Check::ok(name, "none yet: the folder is new")
            };
        }
        Err(error) => return Check::fail(name, format!("{}: {error}", path.display()), "see that this user may read it"),
    };
    match text.trim().parse::<u32>() {
        Ok(found) if found == ours => Check::ok(name, found),
        Ok(found) if found > ours => {
            let finding = format!("{found}, of a newer release; this one reads up to {ours}");
            Check::fail(name, finding, "use the release that wrote the folder, or a newer one")
        }
        Ok(found) if found > 0 => {
            let todo = "the next start of this release's coordinator brings it up to date; make a backup before";
            Check::warn(name, format!("{found}, of an earlier release; this one has {ours}"), todo)
        }
        _ => Check::fail(name, format!("{} holds no number of a format", path.display()), "restore it from a backup"),
    }
}

/// Opens a copy of the index: opening it in place would write.
fn store(dir: &Path, running: bool) -> Check {
    let (name, sled) = ("index", dir.join("sled"));
    if running {
        return Check::ok(name, "in use, not opened");
    }
    if !sled.exists() {
        return Check::ok(name, "there is none; the next start makes it from the journals");
    }
    let index = match open_copy(&sled) {
        Ok(Copied::Opened(runs)) => runs,
        Ok(Copied::Broken) => {
            let finding = format!("{} cannot be opened or read to its end", sled.display());
            return Check::warn(name, finding, "nothing: the next start puts it aside and makes a new one from the journals");
        }
        Ok(Copied::OfAnotherRelease) => {
            return Check::ok(name, "of another release; the next start puts it aside and makes a new one from the journals");
        }
        Err(error) => return Check::warn(name, format!("not opened: {error}"), "see that there is room for a copy in TMPDIR"),
    };
    let gone: Vec<&str> = index.iter().filter(|run| !dir.join("runs").join(run).is_dir()).map(String::as_str).collect();
    if gone.is_empty() {
        Check::ok(name, format!("opens, {}", plural(index.len() as u64, "run")))
    } else {
        let finding = format!("it knows runs whose folders are gone: {}", gone.join(", "));
        Check::fail(name, finding, "put the folders back into runs/; such a run is listed as broken")
    }
}

/// What a copy of the index is.
enum Copied {
    /// Runs that it knows.
    Opened(Vec<String>),
    Broken,
    OfAnotherRelease,
}

fn open_copy(sled: &Path) -> io::Result<Copied> {
    let copy = tempfile::tempdir()?;
    copy_all(sled, &copy.path().join("sled"))?;
    // it would speak of putting aside what is only a copy
    let silent = tracing::subscriber::NoSubscriber::default();
    let store = tracing::subscriber::with_default(silent, || tessera_server::store::Store::open(copy.path()));
    let runs = store.map_err(io::Error::other)?.runs();
    Ok(match ["sled.broken-1", "sled.old-1"].map(|aside| copy.path().join(aside).exists()) {
        [true, _] => Copied::Broken,
        [_, true] => Copied::OfAnotherRelease,
        _ => Copied::Opened(runs.keys().map(ToString::to_string).collect()),
    })
}

fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        return fs::copy(from, to).map(drop);
    }
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy_all(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

/// What earlier processes left behind.
fn leftovers(dir: &Path) -> Vec<Check> {
    let (mut parts, mut aside, mut damaged) = (Vec::new(), Vec::new(), Vec::new());
    for (folder, into) in [("", 0), ("blobs", 1), ("runs", 2), ("blobs/quarantine", 3)] {
        // one that is not there holds nothing; one that cannot be read was told above
        for entry in fs::read_dir(dir.join(folder)).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            match into {
                0 if name.starts_with("sled.broken-") || name.starts_with("sled.old-") => aside.push(path),
                1 if [".part", ".up", ".tmp"].iter().any(|end| name.ends_with(end)) => parts.push(path),
                2 if name.starts_with(".new-") => parts.push(path),
                3 => damaged.push(path),
                _ => {}
            }
        }
    }
    let weigh = |paths: &[std::path::PathBuf]| {
        let bytes = paths.iter().filter_map(|path| disk::weigh(path).ok()).map(|(_, bytes)| bytes).sum();
        (paths.len() as u64, size(bytes))
    };
    let mut checks = Vec::new();
    let (count, bytes) = weigh(&parts);
    checks.push(Check::ok(
        "unfinished",
        match count {
            0 => "nothing".to_owned(),
            _ => format!("{} that broke off or are under way, {bytes}; cleared away by and by", plural(count, "upload")),
        },
    ));
    if !aside.is_empty() {
        let (count, bytes) = weigh(&aside);
        let names: Vec<_> = aside.iter().filter_map(|p| p.file_name()).map(|n| n.to_string_lossy()).collect();
        let finding = format!("{} put aside, {bytes}: {}", plural(count, "index"), names.join(", "));
        checks.push(Check::warn("put aside", finding, "remove it, unless somebody wants to look at it: journals have all of it"));
    }
    if !damaged.is_empty() {
        let (count, bytes) = weigh(&damaged);
        let finding =
            format!("{} with wrong bytes, {bytes}, in {}", plural(count, "blob"), dir.join("blobs/quarantine").display());
        let todo = "look at the disk, put an intact copy into blobs/ and resume the run, or fork it; then remove them";
        checks.push(Check::warn("quarantine", finding, todo));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<'a>(checks: &'a [Check], name: &str) -> &'a Check {
        checks.iter().find(|c| c.name == name).unwrap_or_else(|| panic!("no check {name}: {checks:?}"))
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_fails() {
        let dir = tempfile::tempdir().unwrap();
        let checks = examine(&dir.path().join("none"), None, false).await;
        assert_eq!((checks.len(), checks[0].verdict), (1, Verdict::Fail));
    }

    #[tokio::test]
    async fn a_coordinator_that_runs_is_asked_and_one_that_does_not_is_not() {
        let temporary = tempfile::tempdir().unwrap();
        // made by the coordinator, hence private
        let dir = temporary.path().join("data");
        let server = tessera_server::Server::bind(Config::in_dir(&dir)).await.unwrap();
        assert_eq!(in_use(&dir), Ok(true));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = tokio::spawn(server.run(async { drop(stopped.await) }));
        let checks = examine(&dir, None, true).await;
        let mut rest = checks.iter().filter(|c| c.name != "its certificate");
        assert!(rest.all(|c| c.verdict == Verdict::Ok), "{checks:?}");
        assert_eq!(of(&checks, "its certificate").verdict, Verdict::Warn, "it serves plaintext");
        assert!(of(&checks, "coordinator").finding.contains("answers at"), "{checks:?}");
        assert_eq!(of(&checks, "index").finding, "in use, not opened");
        stop.send(()).unwrap();
        serving.await.unwrap().unwrap();
        let checks = examine(&dir, None, true).await;
        assert!(checks.iter().all(|c| c.verdict == Verdict::Ok), "{checks:?}");
        assert_eq!(of(&checks, "coordinator").finding, "none uses the folder at present");
        assert_eq!(of(&checks, "index").finding, "opens, 0 runs");
        assert_eq!(of(&checks, "format").finding, format::CURRENT.to_string());
        let asked = examine(&dir, Some(dir.join("none.sock").display().to_string()), false).await;
        assert_eq!(of(&asked, "coordinator").verdict, Verdict::Fail);
    }

    #[test]
    fn an_audit_log_that_was_changed_fails() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        assert_eq!(audit(&path), None);
        let entry = tessera_common::audit::Entry { who: "north".into(), ..Default::default() };
        let (line, _) = tessera_common::audit::Head::default().append(entry);
        fs::write(&path, format!("{line}\n")).unwrap();
        assert_eq!(audit(&path).unwrap().verdict, Verdict::Ok);
        fs::write(&path, format!("{}\n", line.replace("north", "sorth"))).unwrap();
        let check = audit(&path).unwrap();
        assert!(check.verdict == Verdict::Fail && check.finding.contains("line 1: "), "{check:?}");
    }

    #[test]
    fn formats_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(version(dir.path()).verdict, Verdict::Ok);
        fs::create_dir(dir.path().join("runs")).unwrap();
        assert_eq!(version(dir.path()).verdict, Verdict::Warn);
        let with = |text: &str| {
            fs::write(dir.path().join("FORMAT"), text).unwrap();
            version(dir.path()).verdict
        };
        let (newer, older) = (format::CURRENT + 1, format::CURRENT - 1);
        assert_eq!(with(&format!("{}\n", format::CURRENT)), Verdict::Ok);
        assert_eq!(with(&format!("{newer}\n")), Verdict::Fail);
        assert_eq!(with(&format!("{older}\n")), Verdict::Warn);
        assert_eq!([with("0"), with("two"), with("")], [Verdict::Fail; 3]);
    }

    #[test]
    fn a_broken_index_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        drop(tessera_server::store::Store::open(dir.path()).unwrap());
        assert_eq!(store(dir.path(), false).verdict, Verdict::Ok);
        fs::remove_dir_all(dir.path().join("sled")).unwrap();
        fs::write(dir.path().join("sled"), b"no folder").unwrap();
        let found = store(dir.path(), false);
        assert!(found.verdict == Verdict::Warn && found.finding.contains("cannot be opened"), "{found:?}");
        assert_eq!(fs::read(dir.path().join("sled")).unwrap(), b"no folder");
        assert!(!dir.path().join("sled.broken-1").exists());
    }

    #[test]
    fn an_index_whose_runs_are_gone_fails() {
        let dir = tempfile::tempdir().unwrap();
        let index = tessera_server::store::Store::open(dir.path()).unwrap();
        let record = tessera_server::store::RunRecord { spec_toml: "x".into(), created: 0 };
        index.put_run(&"first".parse().unwrap(), &record);
        index.flush().unwrap();
        drop(index);
        let found = store(dir.path(), false);
        assert!(found.verdict == Verdict::Fail && found.finding.contains("first"), "{found:?}");
        fs::create_dir_all(dir.path().join("runs/first")).unwrap();
        assert_eq!(store(dir.path(), false).finding, "opens, 1 run");
    }

    #[test]
    fn what_was_left_behind_is_weighed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(leftovers(dir.path()).iter().all(|c| c.verdict == Verdict::Ok));
        fs::create_dir_all(dir.path().join("blobs/quarantine")).unwrap();
        fs::create_dir_all(dir.path().join("sled.broken-1")).unwrap();
        fs::write(dir.path().join("blobs/x.part"), [0; 10]).unwrap();
        fs::write(dir.path().join("blobs/quarantine/y"), [0; 2048]).unwrap();
        fs::write(dir.path().join("sled.broken-1/db"), [0; 5]).unwrap();
        let checks = leftovers(dir.path());
        assert!(of(&checks, "unfinished").finding.starts_with("1 upload that broke off"), "{checks:?}");
        assert!(of(&checks, "put aside").finding.contains("5 B: sled.broken-1"), "{checks:?}");
        assert!(of(&checks, "quarantine").finding.starts_with("1 blob with wrong bytes, 2.00 KiB"), "{checks:?}");
    }
}
