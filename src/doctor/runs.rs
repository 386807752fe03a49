//! Journals and blobs of a coordinator, read and compared with their checksums.

use super::{Check, disk};
use crate::cli::{plural, size};
use std::fs::{self, File};
use std::io;
use std::path::Path;
use tessera_common::id::{Digest, RunId};
use tessera_common::spec::RunSpec;
use tessera_server::blob::digest_of_file;
use tessera_server::journal::{Journal, Scan};

/// Reads the spec and the journal of every run: one check for all that are sound, and one for each that is not.
pub(super) fn journals(runs: &Path, running: bool) -> Vec<Check> {
    let (mut sound, mut events, mut bad) = (0, 0, Vec::new());
    let entries = match fs::read_dir(runs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return vec![Check::ok("journals", "no runs yet")],
        Err(error) => {
            return vec![Check::fail("journals", format!("{}: {error}", runs.display()), "see that this user may read it")];
        }
    };
    let mut names: Vec<String> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    for name in names.iter().filter(|name| name.parse::<RunId>().is_ok()) {
        match journal(&runs.join(name)) {
            // what a running coordinator is just writing is no torn tail
            Ok(scan) if scan.torn_bytes == 0 || running => {
                sound += 1;
                events += scan.records;
            }
            Ok(scan) => {
                let finding = format!("{}, then {} of a torn one", plural(scan.records, "event"), size(scan.torn_bytes));
                let todo = "nothing, if this is from a crash: it was never acknowledged, and the next start cuts it off";
                bad.push(Check::warn(&format!("run {name}"), finding, todo));
            }
            Err(why) => {
                let todo = "restore the folder of the run from a backup, or move it away to go on without the run";
                bad.push(Check::fail(&format!("run {name}"), why, todo));
            }
        }
    }
    let finding = format!("{} sound, {}", plural(sound, "run"), plural(events, "event"));
    std::iter::once(Check::ok("journals", finding)).chain(bad).collect()
}

fn journal(run: &Path) -> Result<Scan, String> {
    let path = run.join("spec.toml");
    let spec = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    RunSpec::stored(&spec).map_err(|e| format!("{}: {e}", path.display()))?;
    Journal::scan(&run.join("journal"), &spec, &mut |_, _| Ok(())).map_err(|e| e.to_string())
}

/// Counts the blobs; if `deep`, reads them and compares them with their names.
pub(super) fn blobs(dir: &Path, deep: bool) -> Vec<Check> {
    let name = "blobs";
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return vec![Check::ok(name, "none yet")],
        Err(error) => return vec![Check::fail(name, format!("{}: {error}", dir.display()), "see that this user may read it")],
    };
    let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
    let mut digests: Vec<Digest> = names.filter_map(|name| name.parse().ok()).collect();
    digests.sort();
    let (mut count, mut bytes, mut bad) = (0, 0, Vec::new());
    for digest in digests {
        let path = dir.join(digest.to_string());
        let looked = if deep { hash(&path).map(Some) } else { Ok(None) };
        match looked.and_then(|found| Ok((found, disk::weigh(&path)?.1))) {
            // a running coordinator clears away what no run needs
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                bad.push(Check::fail(
                    name,
                    format!("{}: {error}", path.display()),
                    "look at the disk, and restore it from a backup",
                ));
            }
            Ok((Some(found), _)) if found != digest => {
                let finding = format!("{} has bytes with the digest {}", path.display(), found.short());
                let todo = "look at the disk, and restore the file from a backup: a run that needs it will pause";
                bad.push(Check::fail(name, finding, todo));
            }
            Ok((_, len)) => {
                count += 1;
                bytes += len;
            }
        }
    }
    let how = if deep { "as their names say" } else { "not read (--deep reads them)" };
    let summary = Check::ok(name, format!("{}, {}, {how}", plural(count, "blob"), size(bytes)));
    std::iter::once(summary).chain(bad).collect()
}

fn hash(path: &Path) -> io::Result<Digest> {
    digest_of_file(&mut File::open(path)?)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use std::io::Write;
    use tessera_common::round::Event;
    use tessera_server::journal::Entry;

    const SPEC: &str = r#"version = 1
name = "t"
rounds = 3
task = { kind = "classify", classes = 2, modalities = { left = 2 } }
cohort = { members = 3, size = 3 }
"#;

    fn run(runs: &Path, name: &str) -> std::path::PathBuf {
        let dir = runs.join(name);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("spec.toml"), SPEC).unwrap();
        let mut journal = Journal::create(&dir.join("journal"), SPEC).unwrap();
        let entries: Vec<Entry> = (0..3).map(|at| Entry { at, event: Event::Ticked }).collect();
        journal.append(&entries).unwrap();
        dir
    }

    #[test]
    fn sound_journals_are_one_line_and_each_bad_one_is_told() {
        let runs = tempfile::tempdir().unwrap();
        run(runs.path(), "a");
        let torn = run(runs.path(), "b");
        let altered = run(runs.path(), "c");
        fs::create_dir(runs.path().join(".new-d")).unwrap();
        assert_eq!(journals(runs.path(), false).remove(0).finding, "3 runs sound, 9 events");
        let before = fs::metadata(torn.join("journal")).unwrap().len();
        File::options().append(true).open(torn.join("journal")).unwrap().write_all(&[7; 20]).unwrap();
        fs::write(altered.join("spec.toml"), SPEC.replace("rounds = 3", "rounds = 4")).unwrap();
        let checks = journals(runs.path(), false);
        let verdicts: Vec<_> = checks.iter().map(|c| (c.name.as_str(), c.verdict)).collect();
        assert_eq!(verdicts, [("journals", Verdict::Ok), ("run b", Verdict::Warn), ("run c", Verdict::Fail)], "{checks:?}");
        assert_eq!(checks[1].finding, "3 events, then 20 B of a torn one");
        assert_eq!(journals(runs.path(), true).len(), 2, "a running coordinator may be writing");
        assert_eq!(fs::metadata(torn.join("journal")).unwrap().len(), before + 20, "nothing is cut off by looking");
    }

    #[test]
    fn blobs_are_read_only_if_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        for bytes in [&b"one"[..], b"two"] {
            fs::write(dir.path().join(Digest::of(bytes).to_string()), bytes).unwrap();
        }
        fs::write(dir.path().join("x.part"), b"x").unwrap();
        assert_eq!(blobs(dir.path(), true)[0].finding, "2 blobs, 6 B, as their names say");
        fs::write(dir.path().join(Digest::of(b"one").to_string()), b"1").unwrap();
        assert_eq!(blobs(dir.path(), false).len(), 1);
        let checks = blobs(dir.path(), true);
        assert_eq!((checks.len(), checks[1].verdict), (2, Verdict::Fail));
        assert!(checks[1].finding.contains(&Digest::of(b"1").short()), "{checks:?}");
        assert_eq!(checks[0].finding, "1 blob, 3 B, as their names say");
        assert_eq!(blobs(&dir.path().join("none"), true)[0].verdict, Verdict::Ok);
    }
}
