//! The audit log as a file: `audit.log` in the data folder.
//!
//! The chain itself is [`tessera_common::audit`]'s. Entries are handed to the system as they come; a loss of power may
//! take the last ones, a crash of this process takes none.

use crate::clock::Clock;
use crate::error::Error;
use crate::sync::lock;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tessera_common::audit::{Entry, Head, MAX_LINE};

/// Longest text in an entry, in bytes: what remains is a line that [`Head::follow`] takes, however it is escaped.
const MAX_TEXT: usize = 400;

/// The log of who did what. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Audit(Option<Arc<Mutex<Log>>>);

#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    head: Head,
    /// Bytes of whole lines.
    length: u64,
    /// Entries that the disk did not take, since it last took one.
    lost: u64,
    clock: Clock,
}

impl Audit {
    /// Opens the log, or makes it; None keeps none. A last line that a crash tore is cut off and noted.
    ///
    /// # Errors
    /// If the file cannot be used, or was changed after it was written.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, Error> {
        let Some(path) = path else { return Ok(Self(None)) };
        let mut options = File::options();
        options.read(true).append(true).create(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path).map_err(Error::io("cannot open", path))?;
        let (head, length, torn) = check(path, &file)?;
        let log = Log { path: path.to_owned(), file, head, length, lost: 0, clock: Clock::new() };
        let audit = Self(Some(Arc::new(Mutex::new(log))));
        if torn > 0 {
            let entry = |log: &Log| log.ours(format!("a crash tore the last line: {torn} bytes of it are cut off"));
            if let Some(log) = &audit.0 {
                let mut log = lock(log);
                log.file.set_len(length).map_err(Error::io("cannot shorten", path))?;
                let entry = entry(&log);
                log.append(entry).map_err(Error::io("cannot write", path))?;
            }
        }
        Ok(audit)
    }

    /// Writes an entry down, with the time of now. Trouble with the disk is logged, and noted in the log once it takes
    /// entries again.
    pub(crate) fn note(&self, entry: Entry) {
        let Some(log) = &self.0 else { return };
        let mut log = lock(log);
        if log.lost > 0 {
            let lost = log.lost;
            let note = log.ours(format!("the disk took no entries: {lost} are missing here"));
            if log.repair().and_then(|()| log.append(note)).is_err() {
                log.lost += 1;
                return;
            }
            tracing::info!(path = %log.path.display(), lost, "the audit log can be written again");
            log.lost = 0;
        }
        if let Err(error) = log.append(entry) {
            tracing::error!(path = %log.path.display(), %error, "the audit log cannot be written; entries are lost until it can");
            log.lost = 1;
        }
    }

    /// Where the chain ends: noted elsewhere, it shows whether the end of the log was taken away.
    #[cfg(test)]
    fn head(&self) -> Head {
        self.0.as_ref().map(|log| lock(log).head).unwrap_or_default()
    }
}

impl Log {
    fn ours(&self, verdict: String) -> Entry {
        Entry { who: "coordinator".into(), what: "audit".into(), verdict, ..Entry::default() }
    }

    /// Takes away what a failed write left behind.
    fn repair(&mut self) -> std::io::Result<()> {
        self.file.set_len(self.length)
    }

    fn append(&mut self, mut entry: Entry) -> std::io::Result<()> {
        entry.time_ms = self.clock.now();
        for text in [&mut entry.who, &mut entry.what, &mut entry.verdict] {
            shorten(text);
        }
        [&mut entry.run, &mut entry.member].into_iter().flatten().for_each(shorten);
        let (mut line, head) = self.head.append(entry);
        line.push('\n');
        self.file.write_all(line.as_bytes())?;
        self.head = head;
        self.length += line.len() as u64;
        Ok(())
    }
}

fn shorten(text: &mut String) {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
    }
}

/// The end of the chain, the bytes up to there, and those of a torn line behind it.
fn check(path: &Path, file: &File) -> Result<(Head, u64, u64), Error> {
    let io = |error| Error::io("cannot read", path)(error);
    let whole = file.metadata().map_err(io)?.len();
    let (mut reader, mut head, mut length) = (BufReader::new(file), Head::default(), 0);
    let mut line = Vec::new();
    let broken = |why: String| {
        let path = path.display();
        Error::Config(format!("audit log {path}: {why}. Keep the file as evidence: move it away, and a new log begins"))
    };
    loop {
        line.clear();
        let read = reader.by_ref().take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line).map_err(io)? as u64;
        let Some((b'\n', text)) = line.split_last() else {
            let torn = read + if read > MAX_LINE as u64 { rest(&mut reader).map_err(io)?.unwrap_or(0) } else { 0 };
            let open = length + torn == whole;
            let why = || broken(format!("line {}: it is longer than {MAX_LINE} bytes", head.lines + 1));
            return if open { Ok((head, length, torn)) } else { Err(why()) };
        };
        let text = std::str::from_utf8(text).map_err(|_| broken(format!("line {}: it is no text", head.lines + 1)))?;
        head = head.follow(text).map_err(|error| broken(error.to_string()))?.1;
        length += read;
    }
}

/// Bytes to the end of the file, or None if there is an end of a line before.
fn rest(reader: &mut impl BufRead) -> std::io::Result<Option<u64>> {
    let mut bytes = 0;
    loop {
        let part = reader.fill_buf()?;
        if part.is_empty() {
            return Ok(Some(bytes));
        }
        if part.contains(&b'\n') {
            return Ok(None);
        }
        let n = part.len();
        bytes += n as u64;
        reader.consume(n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn entry(what: &str) -> Entry {
        Entry { who: "north".into(), what: what.into(), verdict: "ok".into(), ..Entry::default() }
    }

    fn entries(path: &Path) -> Vec<Entry> {
        let text = fs::read_to_string(path).unwrap();
        let mut head = Head::default();
        text.lines()
            .map(|line| {
                let (entry, next) = head.follow(line).unwrap();
                head = next;
                entry
            })
            .collect()
    }

    #[test]
    fn the_chain_goes_on_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        for i in 0..3 {
            let audit = Audit::open(Some(&path)).unwrap();
            assert_eq!(audit.head().lines, 2 * i);
            audit.note(entry("enrol"));
            audit.clone().note(entry("answer"));
        }
        let all = entries(&path);
        assert_eq!(all.len(), 6);
        assert!(all.iter().all(|entry| entry.time_ms > 1_700_000_000_000 && entry.who == "north"));
        #[cfg(unix)]
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions()) & 0o777, 0o600);
    }

    #[test]
    fn a_torn_last_line_is_cut_off_and_noted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let audit = Audit::open(Some(&path)).unwrap();
        audit.note(entry("first"));
        audit.note(entry("second"));
        let whole = fs::read(&path).unwrap();
        let first = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
        let zeros = [&whole[..], &vec![0; 3 * MAX_LINE]].concat();
        for (bytes, kept) in [(&whole[..first + 1], 1), (&whole[..whole.len() - 1], 1), (&whole[..5], 0), (&zeros, 2)] {
            fs::write(&path, bytes).unwrap();
            Audit::open(Some(&path)).unwrap().note(entry("after"));
            let all = entries(&path);
            assert_eq!(all.len(), kept + 2);
            assert!(all[kept].verdict.contains("bytes of it are cut off"), "{:?}", all[kept]);
            assert_eq!(all[kept + 1].what, "after");
        }
    }

    #[test]
    fn a_changed_log_is_evidence_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let audit = Audit::open(Some(&path)).unwrap();
        (0..3).for_each(|_| audit.note(entry("answer")));
        let good = fs::read_to_string(&path).unwrap();
        let long = format!("{}\n{good}", "x".repeat(2 * MAX_LINE));
        for bad in [good.replacen("north", "south", 1), good.lines().skip(1).map(|l| format!("{l}\n")).collect(), long] {
            fs::write(&path, &bad).unwrap();
            let error = Audit::open(Some(&path)).unwrap_err().to_string();
            assert!(error.contains("audit.log: line 1: ") && error.contains("Keep the file as evidence"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), bad, "it stays as it was");
        }
    }

    #[test]
    fn long_texts_are_shortened_and_entries_the_disk_did_not_take_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let audit = Audit::open(Some(&path)).unwrap();
        audit
            .note(Entry { who: "\u{1}".repeat(9000), verdict: "ä".repeat(9000), run: Some("\u{2}".repeat(9000)), ..entry("x") });
        assert_eq!(entries(&path)[0].verdict, "ä".repeat(200));
        {
            // Opened for reading, it takes no entry: that stands for a disk that takes none.
            let mut log = lock(audit.0.as_ref().unwrap());
            log.file = File::open(&path).unwrap();
        }
        audit.note(entry("lost"));
        audit.note(entry("lost too"));
        assert_eq!(entries(&path).len(), 1);
        lock(audit.0.as_ref().unwrap()).file = File::options().append(true).open(&path).unwrap();
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"half a li").unwrap();
        audit.note(entry("kept"));
        let all = entries(&path);
        assert!(all[1].verdict.contains("2 are missing"), "{:?}", all[1]);
        assert_eq!((all.len(), all[2].what.as_str()), (3, "kept"));
        Audit::open(None).unwrap().note(entry("nowhere"));
    }
}
