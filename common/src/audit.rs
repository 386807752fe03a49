//! The audit log as text: JSON lines, each of which carries the hash of the one before it.
//!
//! A line that is changed, taken out or put in between breaks the chain from there on. That the end is missing shows
//! only against a hash that was noted elsewhere: [`verify`] returns the last one. Files and clocks are the caller's.

use crate::id::{Digest, Millis, Round, excerpt};
use serde::{Deserialize, Serialize};

/// Longest line that is read, in bytes.
pub const MAX_LINE: usize = 16 << 10;

/// Longest text of an entry, in bytes, and longest verdict: written as JSON, in which a byte can take six, all of them
/// together stay below [`MAX_LINE`].
const MAX_TEXT: usize = 256;
const MAX_VERDICT: usize = 1024;

/// What happened, without its place in the chain. Empty and absent fields are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// When, by the clock of whoever writes.
    pub time_ms: Millis,
    /// Who did it: a name in a certificate, `operator`, or where a connection came from.
    pub who: String,
    /// What: `enrol`, `revoke`, `answer`, `publish` and so on.
    pub what: String,
    /// In which run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// In which round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<Round>,
    /// Of which member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// The content that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// `ok`, or why not.
    pub verdict: String,
}

#[derive(Serialize, Deserialize)]
struct Line {
    seq: u64,
    #[serde(flatten)]
    entry: Entry,
    prev: Digest,
    hash: Digest,
}

/// The end of a chain: what the next line builds on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Lines so far.
    pub lines: u64,
    /// Hash of the last one; of nothing while there is none.
    pub hash: Digest,
}

impl Default for Head {
    fn default() -> Self {
        Self { lines: 0, hash: Digest::of(b"") }
    }
}

/// A line that breaks the chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct Broken {
    /// Number of the line, from 1.
    pub line: u64,
    /// What is wrong.
    pub why: String,
}

impl Entry {
    /// Shortens texts of strangers.
    fn shorten(&mut self) {
        let texts = [Some(&mut self.who), Some(&mut self.what), self.run.as_mut(), self.member.as_mut()];
        texts.into_iter().flatten().for_each(|text| *text = excerpt(text, MAX_TEXT));
        self.verdict = excerpt(&self.verdict, MAX_VERDICT);
    }
}

/// Hash of a line: over the hash before, the number, and the entry's JSON.
fn hash(prev: Digest, seq: u64, entry: &Entry) -> Digest {
    let text = serde_json::to_vec(entry).expect("text and numbers are JSON");
    let mut hasher = blake3::Hasher::new();
    hasher.update(prev.as_bytes()).update(&seq.to_le_bytes()).update(&text);
    Digest::from_hash(hasher.finalize())
}

impl Head {
    /// The line of `entry`, without a line feed, and the head behind it. Texts that would make a line too long to be read
    /// again are shortened.
    pub fn append(self, mut entry: Entry) -> (String, Head) {
        entry.shorten();
        let seq = self.lines + 1;
        let hash = hash(self.hash, seq, &entry);
        let line = Line { seq, entry, prev: self.hash, hash };
        (serde_json::to_string(&line).expect("text and numbers are JSON"), Head { lines: seq, hash })
    }

    /// Takes the next line of a log.
    ///
    /// # Errors
    /// If it does not follow from what came before, or is not what was written.
    pub fn follow(self, text: &str) -> Result<(Entry, Head), Broken> {
        let seq = self.lines + 1;
        let broken = |why: String| Broken { line: seq, why };
        if text.len() > MAX_LINE {
            return Err(broken(format!("it is longer than {MAX_LINE} bytes")));
        }
        let line: Line = serde_json::from_str(text)
            .map_err(|e| broken(format!("it is no line of an audit log: {}", excerpt(&e.to_string(), MAX_VERDICT))))?;
        if line.seq != seq {
            return Err(broken(format!("it has number {}: lines were taken out or put in", line.seq)));
        }
        if line.prev != self.hash {
            return Err(broken("it does not follow from the line before: one of them was changed".into()));
        }
        let expected = hash(self.hash, seq, &line.entry);
        if line.hash != expected {
            return Err(broken("it was changed after it was written".into()));
        }
        Ok((line.entry, Head { lines: seq, hash: expected }))
    }
}

/// Checks a whole log and returns its end.
///
/// # Errors
/// Names the first line that breaks the chain.
pub fn verify<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Head, Broken> {
    lines.into_iter().try_fold(Head::default(), |head, line| head.follow(line).map(|(_, next)| next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn log(n: u64) -> Vec<String> {
        let mut head = Head::default();
        (0..n)
            .map(|i| {
                let entry = Entry {
                    time_ms: 1000 + i,
                    who: format!("site-{}", i % 3),
                    what: "answer".into(),
                    run: Some("first".into()),
                    round: (i % 2 == 0).then_some(3),
                    digest: Some(Digest::of(&i.to_le_bytes())),
                    verdict: "ok".into(),
                    ..Entry::default()
                };
                let (line, next) = head.append(entry);
                head = next;
                line
            })
            .collect()
    }

    fn check(lines: &[String]) -> Result<Head, Broken> {
        verify(lines.iter().map(String::as_str))
    }

    #[test]
    fn a_log_as_it_was_written_is_whole() {
        assert_eq!(check(&[]).unwrap(), Head::default());
        let head = check(&log(9)).unwrap();
        assert_eq!(head.lines, 9);
        assert_ne!(head.hash, check(&log(8)).unwrap().hash);
    }

    #[test]
    fn whatever_is_written_can_be_read_again() {
        let text = "\u{1}".repeat(100_000);
        let entry = Entry {
            who: text.clone(),
            what: text.clone(),
            run: Some(text.clone()),
            member: Some(text.clone()),
            digest: Some(Digest::of(b"")),
            verdict: text,
            ..Entry::default()
        };
        let (line, head) = Head::default().append(entry);
        let (read, next) = Head::default().follow(&line).unwrap();
        assert_eq!((next, read.who.len()), (head, MAX_TEXT + 3));
        // one that was shortened is written the same again
        assert_eq!(Head::default().append(read), (line, head));
    }

    proptest! {
        #[test]
        fn a_line_changed_taken_out_doubled_or_swapped_is_found(at in 0usize..8, kind in 0u8..4) {
            let mut lines = log(9);
            match kind {
                0 => lines[at] = lines[at].replace("site-", "sire-"),
                1 => drop(lines.remove(at)),
                2 => lines.insert(at, lines[at].clone()),
                _ => lines.swap(at, at + 1),
            }
            let broken = check(&lines).unwrap_err();
            prop_assert!(broken.line as usize > at && broken.line as usize <= at + 2, "{broken}");
        }

        #[test]
        fn any_text_is_answered(text in ".{0,200}") {
            prop_assert!(Head::default().follow(&text).is_err());
        }
    }
}
