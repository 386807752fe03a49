//! What survives a crash of the coordinator: a journal whose end may not be fsynced, a store that may lag, and blobs.

use super::faults::{Dice, Fault};
use std::collections::{BTreeMap, BTreeSet};
use tessera_common::id::{AssignmentId, Digest, MemberName, Millis};
use tessera_common::round::{Assignment, Event, Published, State};

/// An accepted event, and when.
pub(crate) type Entry = (Millis, Event);

/// A place in a journal: after how many records, and the chain there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) records: usize,
    chain: Digest,
}

impl Mark {
    pub(crate) fn start() -> Self {
        Self { records: 0, chain: Digest::of(b"spec") }
    }

    fn after(self, payload: &[u8]) -> Self {
        let bytes = [self.chain.as_bytes(), payload].concat();
        Self { records: self.records + 1, chain: Digest::of(&bytes) }
    }
}

/// Records are a length, the chain, and JSON.
#[derive(Debug)]
pub(crate) struct Journal {
    bytes: Vec<u8>,
    durable: usize,
    mark: Mark,
}

const HEAD: usize = 36;

impl Journal {
    pub(crate) fn new() -> Self {
        Self { bytes: Vec::new(), durable: 0, mark: Mark::start() }
    }

    pub(crate) fn mark(&self) -> Mark {
        self.mark
    }

    /// Writes, and does not wait for the disk.
    pub(crate) fn append(&mut self, entries: &[Entry]) {
        for entry in entries {
            let payload = serde_json::to_vec(entry).unwrap();
            self.mark = self.mark.after(&payload);
            self.bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
            self.bytes.extend_from_slice(self.mark.chain.as_bytes());
            self.bytes.extend_from_slice(&payload);
        }
    }

    pub(crate) fn fsync(&mut self) {
        self.durable = self.bytes.len();
    }

    /// The machine dies: of what is not durable, nothing, a part, or all is there afterwards.
    fn crash(&mut self, dice: &mut Dice) {
        let tail = self.bytes.len() - self.durable;
        if tail == 0 {
            return;
        }
        let kept = if dice.hit(Fault::TailLost) {
            0
        } else if dice.hit(Fault::TailTorn) {
            1 + dice.below(tail - 1)
        } else {
            dice.count(Fault::TailKept);
            tail
        };
        self.bytes.truncate(self.durable + kept);
    }

    /// Every intact record; what is behind them is cut off. What is read is made durable.
    pub(crate) fn open(&mut self) -> Vec<(Mark, Entry)> {
        let (mut at, mut mark, mut all) = (0, Mark::start(), Vec::new());
        while let Some((payload, chain)) = record(&self.bytes[at..]) {
            let next = mark.after(payload);
            if next.chain.as_bytes() != chain {
                break;
            }
            mark = next;
            all.push((mark, serde_json::from_slice(payload).unwrap()));
            at += HEAD + payload.len();
        }
        self.bytes.truncate(at);
        self.mark = mark;
        self.fsync();
        all
    }

    /// Cuts off the last record, durable or not: a planted mistake.
    pub(crate) fn cut_short(&mut self) {
        let mut ends = vec![0];
        while let Some((payload, _)) = record(&self.bytes[ends[ends.len() - 1]..]) {
            ends.push(ends[ends.len() - 1] + HEAD + payload.len());
        }
        self.bytes.truncate(ends[ends.len().saturating_sub(2)]);
    }
}

fn record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    Some((rest.get(..len)?, &head[4..]))
}

/// What is told of a run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Told {
    Published(Published),
    Reported(String),
}

/// The run at a place in its journal.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) mark: Mark,
    pub(crate) state: State,
    pub(crate) given: BTreeMap<AssignmentId, Assignment>,
    pub(crate) history: Vec<Told>,
}

/// What became of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Receipt {
    pub(crate) member: MemberName,
    pub(crate) refused: Option<String>,
}

#[derive(Debug)]
enum Put {
    Snapshot(Box<Snapshot>),
    Receipt(AssignmentId, Receipt),
}

/// A log of records, written in the background: a crash loses a part of its end, or all of it.
#[derive(Debug, Default)]
pub(crate) struct Store {
    log: Vec<Put>,
    durable: usize,
    flushed: Millis,
    receipts: BTreeMap<AssignmentId, Receipt>,
}

/// How often the store writes on its own.
const FLUSH: Millis = 500;

impl Store {
    pub(crate) fn put_snapshot(&mut self, now: Millis, snapshot: Snapshot) {
        self.put(now, Put::Snapshot(Box::new(snapshot)));
    }

    pub(crate) fn put_receipt(&mut self, now: Millis, id: AssignmentId, receipt: Receipt) {
        self.receipts.insert(id, receipt.clone());
        self.put(now, Put::Receipt(id, receipt));
    }

    fn put(&mut self, now: Millis, put: Put) {
        if now >= self.flushed + FLUSH {
            (self.durable, self.flushed) = (self.log.len(), now);
        }
        self.log.push(put);
    }

    pub(crate) fn snapshot(&self) -> Option<&Snapshot> {
        self.log.iter().rev().find_map(|put| match put {
            Put::Snapshot(snapshot) => Some(snapshot.as_ref()),
            Put::Receipt(..) => None,
        })
    }

    pub(crate) fn receipt(&self, id: AssignmentId) -> Option<&Receipt> {
        self.receipts.get(&id)
    }

    fn crash(&mut self, dice: &mut Dice) {
        if dice.hit(Fault::StoreLost) {
            self.log.clear();
        } else if self.log.len() > self.durable && dice.hit(Fault::StoreLags) {
            let kept = self.durable + dice.below(self.log.len() - self.durable);
            self.log.truncate(kept);
        }
        self.durable = self.log.len();
        let receipts = self.log.iter().filter_map(|put| match put {
            Put::Receipt(id, receipt) => Some((*id, receipt.clone())),
            Put::Snapshot(_) => None,
        });
        self.receipts = receipts.collect();
    }
}

/// Everything that the coordinator keeps.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) journal: Journal,
    pub(crate) store: Store,
    blobs: BTreeSet<Digest>,
    /// Blobs that were written and not fsynced: only with a planted mistake.
    unsynced: BTreeSet<Digest>,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self { journal: Journal::new(), store: Store::default(), blobs: BTreeSet::new(), unsynced: BTreeSet::new() }
    }

    pub(crate) fn put_blob(&mut self, digest: Digest, synced: bool) {
        if synced {
            self.blobs.insert(digest);
        } else if !self.blobs.contains(&digest) {
            self.unsynced.insert(digest);
        }
    }

    pub(crate) fn has_blob(&self, digest: &Digest) -> bool {
        self.blobs.contains(digest) || self.unsynced.contains(digest)
    }

    pub(crate) fn crash(&mut self, dice: &mut Dice) {
        self.journal.crash(dice);
        self.store.crash(dice);
        self.unsynced.clear();
    }
}
