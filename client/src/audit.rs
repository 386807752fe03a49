//! The agent's audit log `STATE/audit.log`: what it was asked, what it sent, and what became of it.
//!
//! Each line carries the hash of the one before it ([`tessera_common::audit`]). Lines are handed to the system at once
//! but not synced one by one, so a crash of the machine may cost the last ones; a crash of the process costs none. What a
//! crash left of a line is cut off, and the log says so. A log whose chain is broken is put aside, never written on.
//! Trouble with the disk is told once and never stops the agent; the log says later how many entries it lacks.

use crate::state::StateDir;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
pub(crate) use tessera_common::audit::Entry;
use tessera_common::audit::{Head, MAX_LINE};
use tessera_common::id::{AgentName, RunId};
use tessera_common::round::{Assignment, Work};
use tessera_proto::convert::shorten;

const FILE: &str = "audit.log";
/// Logs that are put aside, at most; then the last one is replaced.
const MOST_ASIDE: usize = 100;

/// The log of one agent. Without a state folder nothing is written.
#[derive(Debug)]
pub(crate) struct Audit {
    who: String,
    path: Option<PathBuf>,
    log: Option<Log>,
    /// Entries that the disk refused since the last one that it took.
    lost: u64,
    /// The trouble at hand was told.
    told: bool,
}

#[derive(Debug)]
struct Log {
    file: File,
    head: Head,
    /// Length of the whole lines.
    length: u64,
    /// Behind them there may be a part of one.
    torn: bool,
}

impl Audit {
    /// The log in this state folder, to go on with.
    pub(crate) fn open(state: Option<&StateDir>, agent: &AgentName) -> Self {
        let path = state.map(|state| state.path().join(FILE));
        let mut audit = Self { who: agent.to_string(), path, log: None, lost: 0, told: false };
        let outcome = audit.ready();
        audit.tell(outcome);
        audit
    }

    /// Appends an entry, with the time and this agent's name.
    pub(crate) fn note(&mut self, entry: Entry) {
        if self.path.is_none() {
            return;
        }
        let outcome = self.write(entry);
        if outcome.is_err() {
            self.lost += 1;
        }
        self.tell(outcome);
    }

    /// Warns of trouble once, until it is over.
    fn tell(&mut self, outcome: io::Result<()>) {
        if let (Err(error), Some(path), false) = (&outcome, &self.path, self.told) {
            tracing::warn!(log = %path.display(), %error, "the audit log cannot be written; going on without");
        }
        self.told = outcome.is_err();
    }

    fn write(&mut self, entry: Entry) -> io::Result<()> {
        self.ready()?;
        if self.lost > 0 {
            let text = format!("{} entries before this one are lost: the disk took nothing", self.lost);
            self.append(Entry { what: "gap".into(), verdict: text, ..Entry::default() })?;
            tracing::info!(lost = self.lost, "the audit log can be written again");
            self.lost = 0;
        }
        self.append(entry)
    }

    fn append(&mut self, entry: Entry) -> io::Result<()> {
        let verdict = shorten(entry.verdict);
        let entry = Entry { time_ms: now(), who: self.who.clone(), verdict, ..entry };
        self.log.as_mut().map_or(Ok(()), |log| log.append(entry))
    }

    /// Opens the log if it is not open, and says in it what was found.
    fn ready(&mut self) -> io::Result<()> {
        let (Some(path), None) = (&self.path, &self.log) else { return Ok(()) };
        let (log, found) = Log::open(path)?;
        self.log = Some(log);
        found.map_or(Ok(()), |text| {
            tracing::warn!("audit log: {text}");
            self.append(Entry { what: "mend".into(), verdict: text, ..Entry::default() })
        })
    }
}

impl Log {
    /// Goes on with the log at `path`; says what had to be done to it.
    fn open(path: &Path) -> io::Result<(Self, Option<String>)> {
        let mut log = Log { file: open(path)?, head: Head::default(), length: 0, torn: false };
        let mut reader = BufReader::new(log.file.try_clone()?);
        loop {
            let mut line = Vec::new();
            let read = reader.by_ref().take(MAX_LINE as u64 + 2).read_until(b'\n', &mut line)? as u64;
            if read == 0 {
                return Ok((log, None));
            }
            let Some(text) = line.strip_suffix(b"\n") else {
                if read <= MAX_LINE as u64 {
                    log.file.set_len(log.length)?;
                    return Ok((log, Some(format!("a torn last line of {read} bytes was cut off: a crash left it"))));
                }
                return put_aside(path, format!("line {} is longer than {MAX_LINE} bytes", log.head.lines + 1));
            };
            match log.head.follow(&String::from_utf8_lossy(text)) {
                Ok((_, head)) => (log.head, log.length) = (head, log.length + read),
                Err(broken) => return put_aside(path, broken.to_string()),
            }
        }
    }

    fn append(&mut self, entry: Entry) -> io::Result<()> {
        if self.torn {
            self.file.set_len(self.length)?;
            self.torn = false;
        }
        let (mut line, head) = self.head.append(entry);
        line.push('\n');
        self.torn = true;
        self.file.write_all(line.as_bytes())?;
        (self.torn, self.head, self.length) = (false, head, self.length + line.len() as u64);
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.create(true).read(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Begins a new log beside one whose chain is broken.
fn put_aside(path: &Path, why: String) -> io::Result<(Log, Option<String>)> {
    let name = |n: usize| path.with_file_name(format!("{FILE}.broken-{n}"));
    let free = (1..MOST_ASIDE).find(|&n| !name(n).exists()).unwrap_or(MOST_ASIDE);
    fs::rename(path, name(free))?;
    let log = Log { file: open(path)?, head: Head::default(), length: 0, torn: false };
    let aside = name(free).file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok((log, Some(format!("the log before is broken and was put aside as {aside}: {why}"))))
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// An entry about something that is neither a run nor an assignment.
pub(crate) fn entry(what: &str, verdict: impl Into<String>) -> Entry {
    Entry { what: what.into(), verdict: verdict.into(), ..Entry::default() }
}

/// An entry about an assignment. Initial parameters and surveys are told apart from training by `what`.
pub(crate) fn about(what: &str, run: &RunId, assignment: &Assignment, verdict: impl Into<String>) -> Entry {
    Entry {
        what: format!("{what} {}", work_name(assignment.work)),
        run: Some(run.to_string()),
        round: Some(assignment.round),
        member: Some(assignment.member.to_string()),
        verdict: verdict.into(),
        ..Entry::default()
    }
}

/// What a member is asked to do, as it is written.
pub(crate) fn work_name(work: Work) -> &'static str {
    match work {
        Work::Initialise => "initialise",
        Work::SurveyInputs => "survey-inputs",
        Work::Fit => "fit",
        Work::SurveyFeatures => "survey-features",
        Work::Evaluate => "evaluate",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;
    use tessera_common::audit::verify;

    fn folder() -> (TempDir, std::sync::Arc<StateDir>) {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::take(dir.path()).unwrap().unwrap();
        (dir, state)
    }

    fn audit(state: &StateDir) -> Audit {
        Audit::open(Some(state), &"agent".parse().unwrap())
    }

    fn text(dir: &TempDir) -> String {
        fs::read_to_string(dir.path().join(FILE)).unwrap()
    }

    /// The lines of a log that is whole, each as its `what` and verdict.
    fn lines(dir: &TempDir) -> Vec<(String, String)> {
        let text = text(dir);
        verify(text.lines()).unwrap();
        let mut head = Head::default();
        let mut one = |line| {
            let (entry, next) = head.follow(line).unwrap();
            head = next;
            (entry.what, entry.verdict)
        };
        text.lines().map(&mut one).collect()
    }

    #[test]
    fn a_log_goes_on_over_restarts() {
        let (dir, state) = folder();
        audit(&state).note(entry("one", "ok"));
        let mut second = audit(&state);
        second.note(entry("two", "x".repeat(50_000)));
        let found = lines(&dir);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].0, "one");
        assert!((1000..tessera_proto::convert::MAX_REASON).contains(&found[1].1.len()), "a long verdict is cut");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    // Should: cut what a crash left at any place, and go on. Should not: lose a whole line.
    #[test]
    fn a_torn_last_line_is_cut_and_noted() {
        let (dir, state) = folder();
        audit(&state).note(entry("one", "ok"));
        audit(&state).note(entry("two", "ok"));
        let whole = text(&dir);
        let first = whole.find('\n').unwrap() + 1;
        for end in [first + 1, first + 40, whole.len() - 1] {
            fs::write(dir.path().join(FILE), &whole.as_bytes()[..end]).unwrap();
            audit(&state).note(entry("three", "ok"));
            let found = lines(&dir);
            let what: Vec<&str> = found.iter().map(|(what, _)| what.as_str()).collect();
            assert_eq!(what, ["one", "mend", "three"], "{end}");
            assert_eq!(found[1].1, format!("a torn last line of {} bytes was cut off: a crash left it", end - first));
        }
    }

    #[test]
    fn a_broken_log_is_put_aside() {
        let (dir, state) = folder();
        for (n, damage) in [(1, "one\",\"verdict\":\"no"), (2, &"y".repeat(MAX_LINE + 9) as &str)] {
            audit(&state).note(entry("one", "ok"));
            audit(&state).note(entry("two", "ok"));
            let broken = text(&dir).replacen("one\",\"verdict\":\"ok", damage, 1).replacen("mend", damage, 1);
            fs::write(dir.path().join(FILE), &broken).unwrap();
            audit(&state).note(entry("three", "ok"));
            let found = lines(&dir);
            assert_eq!(found.len(), 2, "{found:?}");
            let says = format!("the log before is broken and was put aside as audit.log.broken-{n}: line 1");
            assert!(found[0].1.starts_with(&says), "{found:?}");
            assert_eq!(fs::read_to_string(dir.path().join(format!("audit.log.broken-{n}"))).unwrap(), broken);
        }
    }

    // Should: go on, and say how much is missing once it can. Should not: write on behind half a line.
    #[test]
    fn a_disk_that_refuses_costs_entries_and_no_more() {
        let (dir, state) = folder();
        let path = dir.path().join(FILE);
        fs::create_dir(&path).unwrap();
        let mut log = audit(&state);
        (0..3).for_each(|_| log.note(entry("lost", "ok")));
        fs::remove_dir(&path).unwrap();
        log.note(entry("one", "ok"));
        let found = lines(&dir);
        assert_eq!(found[0], ("gap".into(), "3 entries before this one are lost: the disk took nothing".into()));
        assert_eq!(found[1].0, "one");
        let open = log.log.as_mut().unwrap();
        open.torn = true;
        fs::File::options().append(true).open(&path).unwrap().write_all(b"{\"seq\":3,").unwrap();
        log.note(entry("two", "ok"));
        assert_eq!(lines(&dir)[2].0, "two");
    }

    #[test]
    fn without_a_folder_there_is_no_log() {
        let mut none = Audit::open(None, &"agent".parse().unwrap());
        none.note(entry("one", "ok"));
        assert!(none.log.is_none() && none.lost == 0);
    }
}
