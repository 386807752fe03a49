//! What happened in a run, for people: a list that only grows and can be followed.

use crate::sync::lock;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex};
use tessera_common::id::{AssignmentId, Digest, MemberName, Round};
use tessera_common::metric::Metrics;
use tessera_common::round::{Outcome, Published};
use tokio::sync::watch;

/// How an assignment ended that did not end well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BadEnd {
    /// Its answer cannot be used.
    Refused,
    /// The member could not do it.
    Failed,
}

/// Something worth telling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Happened {
    /// A global is out.
    Published {
        /// Which, and whose updates are in it.
        published: Published,
        /// Bytes of the run's accepted answers so far.
        bytes_up: u64,
        /// Bytes of the run's blobs that agents fetched so far, as far as this coordinator counted them.
        bytes_down: u64,
    },
    /// A global was evaluated.
    Evaluated {
        /// Its round.
        round: Round,
        /// Statistics of features under it.
        statistics: Option<Digest>,
        /// Metrics summed over members.
        metrics: Metrics,
    },
    /// An assignment did not end well.
    Ended {
        /// Whose.
        member: MemberName,
        /// Which.
        assignment: AssignmentId,
        /// How.
        how: BadEnd,
        /// Why.
        reason: String,
    },
    /// The run waits for somebody to act.
    Paused {
        /// Why.
        reason: String,
    },
    /// Somebody let the run go on.
    Resumed,
    /// The run is over.
    Finished(Outcome),
}

/// An assignment that did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedBadly {
    /// Whose.
    pub member: MemberName,
    /// Which.
    pub assignment: AssignmentId,
    /// How.
    pub how: BadEnd,
    /// Why.
    pub reason: String,
}

/// The history of one run. Positions count from 1 and never change: they follow from the journal.
#[derive(Debug)]
pub struct History {
    entries: Arc<Mutex<Vec<Happened>>>,
    length: watch::Sender<u64>,
}

impl History {
    /// A history so far.
    pub fn new(entries: Vec<Happened>) -> Self {
        let length = entries.len() as u64;
        Self { entries: Arc::new(Mutex::new(entries)), length: watch::Sender::new(length) }
    }

    /// Number of entries, which is the position of the last.
    #[allow(clippy::len_without_is_empty)] // nobody asks
    pub fn len(&self) -> u64 {
        *self.length.borrow()
    }

    /// Appends an entry.
    pub fn push(&self, entry: Happened) {
        let mut entries = lock(&self.entries);
        entries.push(entry);
        self.length.send_replace(entries.len() as u64);
    }

    /// Entries after position `after`.
    pub fn since(&self, after: u64) -> Vec<Happened> {
        lock(&self.entries).get(after as usize..).unwrap_or_default().to_vec()
    }

    /// The latest evaluation: its round and metrics.
    pub fn last_evaluation(&self) -> Option<(Round, Metrics)> {
        lock(&self.entries).iter().rev().find_map(|entry| match entry {
            Happened::Evaluated { round, metrics, .. } => Some((*round, metrics.clone())),
            Happened::Published { .. }
            | Happened::Ended { .. }
            | Happened::Paused { .. }
            | Happened::Resumed
            | Happened::Finished(_) => None,
        })
    }

    /// The last assignments since the latest global that did not end well, oldest first, at most `most`.
    pub fn bad_ends(&self, most: usize) -> Vec<EndedBadly> {
        let entries = lock(&self.entries);
        let since = entries.iter().rev().take_while(|entry| !matches!(entry, Happened::Published { .. }));
        let bad = since.filter_map(|entry| {
            let Happened::Ended { member, assignment, how, reason } = entry else { return None };
            Some(EndedBadly { member: member.clone(), assignment: *assignment, how: *how, reason: reason.clone() })
        });
        let mut bad: Vec<EndedBadly> = bad.take(most).collect();
        bad.reverse();
        bad
    }

    /// Follows the history from behind position `after`.
    pub fn watch(&self, after: u64) -> Watch {
        Watch { entries: self.entries.clone(), length: self.length.subscribe(), position: after }
    }
}

/// Follows the history of a run. A slow reader holds a position, not a queue.
#[derive(Debug)]
pub struct Watch {
    entries: Arc<Mutex<Vec<Happened>>>,
    length: watch::Receiver<u64>,
    position: u64,
}

impl Watch {
    /// The next entry and its position; None when the run is over and told to its end, or when the coordinator stops.
    pub async fn next(&mut self) -> Option<(u64, Happened)> {
        loop {
            let (entry, over) = {
                let entries = lock(&self.entries);
                (entries.get(self.position as usize).cloned(), matches!(entries.last(), Some(Happened::Finished(_))))
            };
            if let Some(entry) = entry {
                self.position += 1;
                return Some((self.position, entry));
            }
            if over || self.length.changed().await.is_err() {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_watch_ends_with_the_run_or_the_coordinator() {
        let history = History::new(vec![Happened::Paused { reason: "a".into() }]);
        let (mut from_start, mut from_one) = (history.watch(0), history.watch(1));
        history.push(Happened::Finished(Outcome::Stopped));
        assert_eq!(from_start.next().await, Some((1, Happened::Paused { reason: "a".into() })));
        assert_eq!(from_start.next().await, Some((2, Happened::Finished(Outcome::Stopped))));
        assert_eq!(from_start.next().await, None);
        assert_eq!(from_one.next().await, Some((2, Happened::Finished(Outcome::Stopped))));
        assert_eq!(history.watch(7).next().await, None);

        let open = History::new(Vec::new());
        let mut waiting = open.watch(0);
        let (end, ()) = tokio::join!(waiting.next(), async { drop(open) });
        assert_eq!(end, None);
    }

    #[test]
    fn bad_ends_are_those_since_the_latest_global() {
        let ended = |n: u64| Happened::Ended {
            member: format!("m{n}").parse().unwrap(),
            assignment: AssignmentId(n),
            how: BadEnd::Failed,
            reason: format!("reason {n}"),
        };
        let published = Published { round: 1, digest: Digest::of(b"g"), members: Vec::new(), metrics: Metrics::default() };
        let history = History::new((1..5).map(ended).collect());
        history.push(Happened::Published { published, bytes_up: 0, bytes_down: 0 });
        assert_eq!(history.bad_ends(10), []);
        (5..20).for_each(|n| history.push(ended(n)));
        history.push(Happened::Paused { reason: "x".into() });
        let numbers = |most| history.bad_ends(most).iter().map(|e| e.assignment.0).collect::<Vec<_>>();
        assert_eq!(numbers(10), (10..20).collect::<Vec<_>>());
        assert_eq!(numbers(100), (5..20).collect::<Vec<_>>());
        let last = history.bad_ends(1).remove(0);
        assert_eq!((last.member.as_str(), last.how, last.reason.as_str()), ("m19", BadEnd::Failed, "reason 19"));
    }
}
