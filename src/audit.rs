//! `tessera audit`: is an audit log still what was written?

use crate::cli::{self, Kind, failure, plural, print};
use anyhow::{Context, Result, anyhow};
use serde_json::json;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tessera_common::audit::{Broken, Entry, Head, MAX_LINE};
use tessera_common::id::{Digest, Millis};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Follow the hashes of a log from its first line to its last. Exits with 1 if the chain is broken.
    Verify(Verify),
}

#[derive(Debug, clap::Args)]
struct Verify {
    /// The log: `audit.log` in the folder of a coordinator or an agent.
    file: PathBuf,
    /// Hash of a line that was noted elsewhere: it must be in the log, which shows that nothing up to there is missing.
    #[arg(long, value_name = "HASH")]
    head: Option<Digest>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A log that is whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Whole {
    pub(crate) head: Head,
    /// Times of the first and the last line.
    pub(crate) times: Option<(Millis, Millis)>,
    /// Number of the line with the hash that was asked for.
    found: Option<u64>,
}

/// Why a log cannot be followed.
#[derive(Debug)]
pub(crate) enum Fault {
    Broken(Broken),
    Io(io::Error),
}

impl From<Broken> for Fault {
    fn from(broken: Broken) -> Self {
        Fault::Broken(broken)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Fault::Io(error)
    }
}

pub(crate) fn main(arguments: Arguments) -> Result<ExitCode> {
    let Verb::Verify(Verify { file, head, json }) = arguments.verb;
    let outcome = match verify(&file, head) {
        Ok(whole) => whole,
        Err(Fault::Broken(broken)) => {
            if json {
                print(json!({ "whole": false, "line": broken.line, "why": broken.why }));
            }
            return Err(anyhow!("{} is not what was written: {broken}", file.display()));
        }
        Err(Fault::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Err(failure(Kind::NotFound, format!("there is no {}", file.display())));
        }
        Err(Fault::Io(error)) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    if let Some(wanted) = head.filter(|_| outcome.found.is_none()) {
        let why = format!("no line has the hash {wanted}: lines are missing from its end, or it is another log");
        if json {
            print(json!({ "whole": false, "lines": outcome.head.lines, "why": why }));
        }
        return Err(anyhow!("{}: {why}", file.display()));
    }
    if json {
        print(whole_json(&outcome))
    } else {
        lines(&outcome).into_iter().for_each(print)
    }
    Ok(ExitCode::SUCCESS)
}

/// Follows the chain of the file, one line in memory at a time.
pub(crate) fn verify(file: &Path, wanted: Option<Digest>) -> Result<Whole, Fault> {
    follow(BufReader::new(File::open(file)?), wanted)
}

fn follow(mut log: impl BufRead, wanted: Option<Digest>) -> Result<Whole, Fault> {
    // longest line, its line feed, and one byte to tell that it is longer
    let most = MAX_LINE as u64 + 2;
    let (mut whole, mut line) = (Whole::default(), Vec::new());
    let empty = Head::default().hash;
    whole.found = (wanted == Some(empty)).then_some(0);
    loop {
        line.clear();
        if log.by_ref().take(most).read_until(b'\n', &mut line)? == 0 {
            return Ok(whole);
        }
        let (entry, head) = next(whole.head, &line)?;
        whole.times = Some((whole.times.map_or(entry.time_ms, |(first, _)| first), entry.time_ms));
        if wanted == Some(head.hash) {
            whole.found = Some(head.lines);
        }
        whole.head = head;
    }
}

fn next(head: Head, line: &[u8]) -> Result<(Entry, Head), Broken> {
    let broken = |why: &str| Broken { line: head.lines + 1, why: why.to_owned() };
    match line.strip_suffix(b"\n") {
        Some(text) => head.follow(std::str::from_utf8(text).map_err(|_| broken("it is not text"))?),
        None if line.len() > MAX_LINE => Err(broken(&format!("it is longer than {MAX_LINE} bytes"))),
        None => Err(broken("it does not end: it was cut off, or is being written at this moment")),
    }
}

fn whole_json(whole: &Whole) -> serde_json::Value {
    let Whole { head, times, found } = whole;
    json!({
        "whole": true, "lines": head.lines, "head": head.hash.to_string(),
        "first_ms": times.map(|(first, _)| first), "last_ms": times.map(|(_, last)| last), "head_at_line": found,
    })
}

fn lines(whole: &Whole) -> Vec<String> {
    let Whole { head, times, found } = whole;
    let mut lines = vec![format!("whole: {}", plural(head.lines, "line"))];
    if let Some((first, last)) = times {
        lines.push(format!("from {} to {}", cli::time(*first), cli::time(*last)));
    }
    lines.push(format!("last hash {}", head.hash));
    match found {
        Some(line) if *line == head.lines => lines.push("the given hash is that of the last line".to_owned()),
        Some(line) => lines.push(format!("the given hash is that of line {line}; {} follow", plural(head.lines - line, "line"))),
        None => {}
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(n: u64) -> (String, Vec<Digest>) {
        let (mut head, mut text, mut hashes) = (Head::default(), String::new(), Vec::new());
        for i in 0..n {
            let entry = Entry { time_ms: 1000 * (i + 1), who: "north".into(), what: "answer".into(), ..Entry::default() };
            let (line, next) = head.append(entry);
            text.push_str(&line);
            text.push('\n');
            hashes.push(next.hash);
            head = next;
        }
        (text, hashes)
    }

    fn broken(text: &[u8]) -> Broken {
        match follow(text, None) {
            Err(Fault::Broken(broken)) => broken,
            other => panic!("it passes: {other:?}"),
        }
    }

    #[test]
    fn a_whole_log_has_an_end() {
        let (text, hashes) = log(5);
        let whole = follow(text.as_bytes(), Some(hashes[2])).unwrap();
        assert_eq!((whole.head, whole.times, whole.found), (Head { lines: 5, hash: hashes[4] }, Some((1000, 5000)), Some(3)));
        let shown = lines(&whole).join("\n");
        for part in ["5 lines", "00:00:01 UTC to 1970-01-01 00:00:05 UTC", &hashes[4].to_string(), "line 3; 2 lines follow"] {
            assert!(shown.contains(part), "{shown}");
        }
        assert_eq!(whole_json(&whole)["head_at_line"], 3);
        assert_eq!(follow(&b""[..], None).unwrap(), Whole::default());
    }

    #[test]
    fn what_was_changed_is_named_by_its_line() {
        let (text, _) = log(5);
        assert_eq!(broken(text.replacen("north", "sorth", 1).as_bytes()).line, 1);
        let without: String = text.lines().enumerate().filter(|(i, _)| *i != 2).map(|(_, l)| format!("{l}\n")).collect();
        assert_eq!(broken(without.as_bytes()).line, 3);
        let cut = broken(&text.as_bytes()[..text.len() - 1]);
        assert!(cut.line == 5 && cut.why.contains("does not end"), "{cut}");
        let long = broken(&vec![b' '; 10 * MAX_LINE]);
        assert!(long.line == 1 && long.why.contains("longer than"), "{long}");
        assert!(broken(b"\xff\xfe\n").why.contains("not text"));
    }

    #[test]
    fn an_end_that_is_missing_shows_against_a_noted_hash() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("audit.log");
        let (text, hashes) = log(5);
        std::fs::write(&file, text.lines().take(4).map(|l| format!("{l}\n")).collect::<String>()).unwrap();
        let run = |head: Option<Digest>| main(Arguments { verb: Verb::Verify(Verify { file: file.clone(), head, json: false }) });
        assert_eq!(run(Some(hashes[3])).unwrap(), ExitCode::SUCCESS);
        let error = run(Some(hashes[4])).unwrap_err();
        assert!(error.to_string().contains("lines are missing") && cli::exit_code_of(&error) == ExitCode::from(1), "{error}");
        let gone = Arguments { verb: Verb::Verify(Verify { file: dir.path().join("none"), head: None, json: false }) };
        assert_eq!(cli::exit_code_of(&main(gone).unwrap_err()), ExitCode::from(3));
    }
}
