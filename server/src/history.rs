//! What happened in a run, for people: a list that only grows and can be followed.
//!
//! Memory holds its end, the store all of it: what is dropped from memory has been given to the store, and who reads from
//! further back gets it from there, page by page.

use crate::store::Store;
use crate::sync::lock;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};
use tessera_common::id::{AssignmentId, Digest, MemberName, Round, RunId};
use tessera_common::metric::Metrics;
use tessera_common::round::{Outcome, Published};
use tokio::sync::watch;

/// Entries that are kept in memory: watchers that keep up read nothing else.
const RECENT: usize = 64;
/// Entries that the store is given, and read from it, in one go.
const PAGE: u64 = 32;
/// Assignments since the latest global that ended badly and are kept in memory.
const BAD_ENDS: usize = 16;

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
    /// A member failed repeatedly and is not asked for a while.
    Resting {
        /// Who.
        member: MemberName,
        /// Failures without a success in between.
        failures: u32,
        /// The round in which it may be asked again.
        until: Round,
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

/// The end of a history, and what is asked of the rest.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Recent {
    /// Entries before the first in memory.
    dropped: u64,
    entries: VecDeque<Happened>,
    evaluation: Option<(Round, Metrics)>,
    /// Oldest first, since the latest global.
    bad_ends: VecDeque<EndedBadly>,
}

impl Recent {
    /// Reads the end of a history of `length` entries; `page` gives the entries from one position to another, both among
    /// them. None if `page` gives none.
    pub fn read(length: u64, mut page: impl FnMut(u64, u64) -> Option<Vec<Happened>>) -> Option<Self> {
        let mut recent = Self { dropped: length, ..Self::default() };
        let (mut end, mut published) = (length, false);
        // backwards: the latest evaluation may be further back than what is kept
        while end > 0 {
            let told = published || recent.bad_ends.len() == BAD_ENDS;
            if recent.entries.len() == RECENT && told && recent.evaluation.is_some() {
                break;
            }
            let start = end.saturating_sub(PAGE - 1).max(1);
            for entry in page(start, end)?.into_iter().rev() {
                match &entry {
                    Happened::Evaluated { round, metrics, .. } if recent.evaluation.is_none() => {
                        recent.evaluation = Some((*round, metrics.clone()));
                    }
                    Happened::Published { .. } => published = true,
                    Happened::Ended { .. } if !published && recent.bad_ends.len() < BAD_ENDS => {
                        ended_badly(&entry).into_iter().for_each(|end| recent.bad_ends.push_front(end));
                    }
                    Happened::Evaluated { .. }
                    | Happened::Ended { .. }
                    | Happened::Resting { .. }
                    | Happened::Paused { .. }
                    | Happened::Resumed
                    | Happened::Finished(_) => {}
                }
                if recent.entries.len() < RECENT {
                    recent.entries.push_front(entry);
                    recent.dropped -= 1;
                }
            }
            end = start - 1;
        }
        Some(recent)
    }

    fn len(&self) -> u64 {
        self.dropped + self.entries.len() as u64
    }

    fn push(&mut self, entry: Happened) {
        match &entry {
            Happened::Published { .. } => self.bad_ends.clear(),
            Happened::Evaluated { round, metrics, .. } => self.evaluation = Some((*round, metrics.clone())),
            Happened::Ended { .. } => {
                if self.bad_ends.len() == BAD_ENDS {
                    self.bad_ends.pop_front();
                }
                self.bad_ends.extend(ended_badly(&entry));
            }
            Happened::Resting { .. } | Happened::Paused { .. } | Happened::Resumed | Happened::Finished(_) => {}
        }
        self.entries.push_back(entry);
    }

    /// Drops what is not needed in memory and is among the first `stored` entries, which the store has.
    fn trim(&mut self, stored: u64) {
        while self.entries.len() > RECENT && self.dropped < stored {
            self.entries.pop_front();
            self.dropped += 1;
        }
    }

    /// The entry at a position, if it is in memory.
    fn get(&self, position: u64) -> Option<&Happened> {
        self.entries.get(position.checked_sub(self.dropped + 1)? as usize)
    }

    fn is_over(&self) -> bool {
        matches!(self.entries.back(), Some(Happened::Finished(_)))
    }
}

fn ended_badly(entry: &Happened) -> Option<EndedBadly> {
    let Happened::Ended { member, assignment, how, reason } = entry else { return None };
    Some(EndedBadly { member: member.clone(), assignment: *assignment, how: *how, reason: reason.clone() })
}

/// The history of one run. Positions count from 1 and never change: they follow from the journal.
#[derive(Debug)]
pub struct History {
    recent: Arc<Mutex<Recent>>,
    length: watch::Sender<u64>,
    store: Arc<Store>,
    run: RunId,
    /// Entries that the store has.
    stored: Mutex<u64>,
}

impl History {
    /// The history of a run that begins.
    pub fn new(store: Arc<Store>, run: RunId) -> Self {
        Self::restored(store, run, Recent::default())
    }

    /// A history of which the store has everything up to here.
    pub fn restored(store: Arc<Store>, run: RunId, recent: Recent) -> Self {
        let length = recent.len();
        let recent = Arc::new(Mutex::new(recent));
        Self { recent, length: watch::Sender::new(length), store, run, stored: Mutex::new(length) }
    }

    /// Number of entries, which is the position of the last.
    #[allow(clippy::len_without_is_empty)] // nobody asks
    pub fn len(&self) -> u64 {
        *self.length.borrow()
    }

    /// Appends an entry. Now and then the store is given the latest ones, so that memory does not grow with the history.
    pub fn push(&self, entry: Happened) {
        let length = {
            let mut recent = lock(&self.recent);
            recent.push(entry);
            recent.len()
        };
        self.length.send_replace(length);
        let waiting = length - *lock(&self.stored);
        if waiting.is_multiple_of(PAGE) {
            self.keep();
        }
    }

    /// Gives the store what it has not yet got. A store that does not take it is given it again; memory holds it till then.
    pub fn keep(&self) {
        let mut stored = lock(&self.stored);
        let (length, news) = {
            let recent = lock(&self.recent);
            let news = recent.entries.iter().skip(stored.saturating_sub(recent.dropped) as usize);
            (recent.len(), news.cloned().collect::<Vec<_>>())
        };
        if self.store.put_history(&self.run, *stored + 1, &news) {
            *stored = length;
            lock(&self.recent).trim(length);
        }
    }

    /// The latest evaluation: its round and metrics.
    pub fn last_evaluation(&self) -> Option<(Round, Metrics)> {
        lock(&self.recent).evaluation.clone()
    }

    /// The last assignments since the latest global that did not end well, oldest first, at most `most` and 16.
    pub fn bad_ends(&self, most: usize) -> Vec<EndedBadly> {
        let recent = lock(&self.recent);
        recent.bad_ends.iter().skip(recent.bad_ends.len().saturating_sub(most)).cloned().collect()
    }

    /// Follows the history from behind position `after`.
    pub fn watch(&self, after: u64) -> Watch {
        Watch {
            recent: self.recent.clone(),
            length: self.length.subscribe(),
            position: after,
            store: Arc::downgrade(&self.store),
            run: self.run.clone(),
            page: VecDeque::new(),
        }
    }
}

/// Follows the history of a run. A slow reader holds a position and at most a page, not a queue.
#[derive(Debug)]
pub struct Watch {
    recent: Arc<Mutex<Recent>>,
    length: watch::Receiver<u64>,
    position: u64,
    /// Weak: a reader must not keep the store of a coordinator open that has stopped.
    store: Weak<Store>,
    run: RunId,
    /// Entries behind the position that are not in memory any more.
    page: VecDeque<Happened>,
}

impl Watch {
    /// The next entry and its position; None when the run is over and told to its end, when the coordinator stops, or when
    /// an entry cannot be read, which the log says.
    pub async fn next(&mut self) -> Option<(u64, Happened)> {
        loop {
            if let Some(entry) = self.page.pop_front() {
                self.position += 1;
                return Some((self.position, entry));
            }
            let (entry, dropped, over) = {
                let recent = lock(&self.recent);
                (recent.get(self.position + 1).cloned(), recent.dropped, recent.is_over())
            };
            if let Some(entry) = entry {
                self.position += 1;
                return Some((self.position, entry));
            }
            if self.position < dropped {
                self.page = self.older(dropped)?.into();
            } else if over || self.length.changed().await.is_err() {
                return None;
            }
        }
    }

    /// Entries behind the position, of the first `dropped`; None if they cannot be read.
    fn older(&self, dropped: u64) -> Option<Vec<Happened>> {
        let (from, to) = (self.position + 1, dropped.min(self.position + PAGE));
        let page = self.store.upgrade()?.history(&self.run, from, to);
        if page.is_none() {
            tracing::error!(
                run = %self.run, from, to,
                "the history cannot be read from the store; restart the coordinator to make it anew"
            );
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paused(n: u64) -> Happened {
        Happened::Paused { reason: format!("{n}") }
    }

    fn ended(n: u64) -> Happened {
        Happened::Ended {
            member: format!("m{n}").parse().unwrap(),
            assignment: AssignmentId(n),
            how: BadEnd::Failed,
            reason: format!("reason {n}"),
        }
    }

    fn published(round: Round) -> Happened {
        let published = Published { round, digest: Digest::of(b"g"), members: Vec::new(), metrics: Metrics::default() };
        Happened::Published { published, bytes_up: 0, bytes_down: 0 }
    }

    fn evaluated(round: Round) -> Happened {
        Happened::Evaluated { round, statistics: None, metrics: Metrics::default() }
    }

    fn history() -> (Arc<Store>, History) {
        let store = Arc::new(Store::in_memory());
        (store.clone(), History::new(store, "run".parse().unwrap()))
    }

    #[tokio::test]
    async fn a_watch_ends_with_the_run_or_the_coordinator() {
        let (_store, history) = history();
        history.push(paused(1));
        let (mut from_start, mut from_one) = (history.watch(0), history.watch(1));
        history.push(Happened::Finished(Outcome::Stopped));
        assert_eq!(from_start.next().await, Some((1, paused(1))));
        assert_eq!(from_start.next().await, Some((2, Happened::Finished(Outcome::Stopped))));
        assert_eq!(from_start.next().await, None);
        assert_eq!(from_one.next().await, Some((2, Happened::Finished(Outcome::Stopped))));
        assert_eq!(history.watch(7).next().await, None);

        let (_store, open) = self::history();
        let mut waiting = open.watch(0);
        let (end, ()) = tokio::join!(waiting.next(), async { drop(open) });
        assert_eq!(end, None);
    }

    #[tokio::test]
    async fn a_long_history_is_in_memory_only_at_its_end_and_can_be_read_from_its_start() {
        let (_store, history) = history();
        let mut early = history.watch(0);
        assert!(tokio::time::timeout(std::time::Duration::ZERO, early.next()).await.is_err(), "nothing has happened");
        for n in 1..=3000 {
            history.push(paused(n));
            assert!(lock(&history.recent).entries.len() <= RECENT + PAGE as usize, "after {n}");
        }
        history.push(Happened::Finished(Outcome::Completed));
        for (mut watch, from) in [(early, 0), (history.watch(2000), 2000), (history.watch(2900), 2900)] {
            for n in from + 1..=3000 {
                assert_eq!(watch.next().await, Some((n, paused(n))));
            }
            assert_eq!(watch.next().await, Some((3001, Happened::Finished(Outcome::Completed))));
            assert_eq!(watch.next().await, None);
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_ends_the_watch() {
        // a history of which the store has nothing
        let recent = Recent { dropped: 100, entries: [paused(101)].into(), ..Recent::default() };
        let store = Arc::new(Store::in_memory());
        let history = History::restored(store.clone(), "run".parse().unwrap(), recent);
        assert_eq!(history.watch(99).next().await, None);
        assert_eq!(history.watch(100).next().await, Some((101, paused(101))));
        let mut watch = history.watch(0);
        drop((history, store));
        assert_eq!(watch.next().await, None, "the coordinator is gone");
    }

    #[test]
    fn what_is_read_back_is_what_memory_held() {
        let run: RunId = "run".parse().unwrap();
        // the latest evaluation and the latest global are within and before the end that is kept
        for (length, evaluation, global) in
            [(0, 0, 0), (5, 2, 3), (5, 0, 0), (900, 700, 650), (900, 10, 20), (2000, 3, 1990), (700, 600, 0)]
        {
            let (store, history) = history();
            for n in 1..=length {
                history.push(match n {
                    n if n == evaluation => evaluated(7),
                    n if n == global => published(3),
                    n if n % 3 == 0 => paused(n),
                    n => ended(n),
                });
            }
            history.keep();
            let read = Recent::read(length, |from, to| store.history(&run, from, to)).unwrap();
            let again = History::restored(store.clone(), run.clone(), read.clone());
            assert_eq!(again.len(), length);
            assert_eq!(read.entries.len() as u64, length.min(RECENT as u64));
            assert_eq!(again.last_evaluation(), (evaluation > 0).then(|| (7, Metrics::default())));
            assert_eq!(again.last_evaluation(), history.last_evaluation(), "{length} {evaluation}");
            for most in [0, 1, 10, 1000] {
                assert_eq!(again.bad_ends(most), history.bad_ends(most), "{length} {global} {most}");
            }
        }
        assert_eq!(Recent::read(3, |_, _| None), None);
    }

    #[test]
    fn bad_ends_are_those_since_the_latest_global() {
        let (_store, history) = history();
        (1..5).for_each(|n| history.push(ended(n)));
        history.push(published(1));
        assert_eq!(history.bad_ends(10), []);
        (5..20).for_each(|n| history.push(ended(n)));
        history.push(paused(0));
        let numbers = |most| history.bad_ends(most).iter().map(|e| e.assignment.0).collect::<Vec<_>>();
        assert_eq!(numbers(10), (10..20).collect::<Vec<_>>());
        assert_eq!(numbers(100), (5..20).collect::<Vec<_>>());
        let last = history.bad_ends(1).remove(0);
        assert_eq!((last.member.as_str(), last.how, last.reason.as_str()), ("m19", BadEnd::Failed, "reason 19"));
        (100..300).for_each(|n| history.push(ended(n)));
        assert_eq!(numbers(1000), (284..300).collect::<Vec<_>>(), "no more than memory holds");
    }
}
