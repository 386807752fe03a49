//! Quick access to small records: index, snapshots, histories, receipts, members.
//!
//! Nothing here is the truth: journals and folders of runs are, and everything but `created` and the agents' names can
//! be made from them again. So a lost or damaged store costs a replay, and writes need no fsync of their own. Values
//! carry a length and a checksum; a snapshot names its place in the journal, which shows whether it lags. The store names
//! the schema of its records; one with another schema is not read but made anew.

#[cfg(test)]
mod tests;

use crate::disk::is_trouble;
use crate::error::Error;
use crate::fault::point;
use crate::history::{Happened, Recent};
use crate::journal::Mark;
use crate::runtime::Kept;
use crate::sync::lock;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;
use tessera_common::id::{AgentName, AssignmentId, MemberName, Millis, RunId};
use tessera_common::round::{Assignment, MemberInfo, State};

/// Version of what the records look like. Raise it with every change after which old records say something else.
const SCHEMA: u32 = 1;
/// Tree of the store about itself, and its key with the schema.
const META: (&str, &str) = ("meta", "schema");
/// sled's cache; its default of 1 GiB is for a database. Records are written once and hardly ever read.
const CACHE_BYTES: u64 = 512 << 10;
/// How often sled writes and fsyncs on its own.
const FLUSH_MS: u64 = 500;

/// A run in the index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Its spec.
    pub spec_toml: String,
    /// When it was submitted.
    pub created: Millis,
}

/// A run at a place in its journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The place.
    pub mark: Mark,
    /// The engine's state there.
    pub state: State,
    /// Assignments that are open there.
    pub given: Vec<Assignment>,
    /// Length of the history there.
    pub history: u64,
    /// Bytes of accepted answers.
    pub bytes_up: u64,
    /// Bytes that agents fetched.
    pub bytes_down: u64,
    /// Blobs that the run keeps.
    pub kept: Kept,
}

/// What became of an answer, to say it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Whose answer.
    pub member: MemberName,
    /// Why it was refused; None if it was accepted.
    pub refused: Option<String>,
}

/// A member that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// What it said of itself.
    pub info: MemberInfo,
    /// The agent that served it last, where that is known.
    pub agent: Option<AgentName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Table {
    Runs,
    Snapshots,
    History,
    Receipts,
    Members,
}

const TABLES: [Table; 5] = [Table::Runs, Table::Snapshots, Table::History, Table::Receipts, Table::Members];

impl Table {
    fn name(self) -> &'static str {
        match self {
            Table::Runs => "runs",
            Table::Snapshots => "snapshots",
            Table::History => "history",
            Table::Receipts => "receipts",
            Table::Members => "members",
        }
    }
}

type Records = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

#[derive(Debug)]
enum Tables {
    Sled { db: sled::Db, trees: BTreeMap<Table, sled::Tree>, dir: PathBuf },
    Memory(Mutex<Records>),
}

/// The store of a coordinator.
#[derive(Debug)]
pub struct Store {
    tables: Tables,
}

impl Store {
    /// A store that ends with the process.
    pub fn in_memory() -> Self {
        Self { tables: Tables::Memory(Mutex::default()) }
    }

    /// Opens the store in `data/sled`. One that cannot be opened or read to its end, or that has another schema, is put
    /// aside as `sled.broken-N` or `sled.old-N` and a new one begun, which the caller fills from the journals.
    ///
    /// # Errors
    /// If the disk has no room or takes no writes, if such a store cannot be put aside, or a new one not be made.
    pub fn open(data: &Path) -> Result<Self, Error> {
        let dir = data.join("sled");
        let unfit = match open_when_free(&dir) {
            Ok(store) => return Ok(store),
            // what is there may well be sound
            Err(Unfit::Disk(error)) => {
                return Err(Error::io(
                    "there is no room, or the disk takes no writes; mend that and start again: cannot open",
                    &dir,
                )(error));
            }
            Err(unfit) => unfit,
        };
        let stem = if matches!(unfit, Unfit::Schema(_)) { "old" } else { "broken" };
        let aside = (1..).map(|n| data.join(format!("sled.{stem}-{n}"))).find(|p| !p.exists());
        let aside = aside.ok_or_else(|| Error::Store("no free name to put a store aside".into()))?;
        match &unfit {
            Unfit::Disk(_) => {}
            Unfit::Broken(why) => {
                tracing::error!(why, aside = %aside.display(), "the store is broken; putting it aside and making a new one");
            }
            Unfit::Schema(found) => tracing::warn!(
                found = found.map_or_else(|| "none".to_owned(), |n| n.to_string()), expected = SCHEMA, aside = %aside.display(),
                "the store has records of another schema; putting it aside and making a new one from the journals"
            ),
        }
        fs::rename(&dir, &aside).map_err(Error::io("cannot put aside", &dir))?;
        open_and_read(&dir).map_err(|unfit| Error::Store(unfit.to_string()))
    }

    /// Remembers a run.
    pub fn put_run(&self, run: &RunId, record: &RunRecord) {
        self.put(Table::Runs, key(run, None), record);
    }

    /// All runs in the index.
    pub fn runs(&self) -> BTreeMap<RunId, RunRecord> {
        self.scan(Table::Runs, &[]).into_iter().filter_map(|(key, record)| Some((name(&key)?, record))).collect()
    }

    /// Forgets a run.
    pub fn remove_run(&self, run: &RunId) {
        for table in [Table::Runs, Table::Snapshots] {
            match &self.tables {
                Tables::Memory(tables) => drop(lock(tables).remove(&(table, key(run, None)))),
                Tables::Sled { trees, .. } => {
                    if let Err(error) = guarded(|| trees[&table].remove(key(run, None))) {
                        tracing::error!(table = table.name(), error, "a record cannot be removed");
                    }
                }
            }
        }
    }

    /// Remembers a run's state. Its history comes before, by [`crate::History::keep`]: a snapshot whose history is not
    /// there is not used.
    pub fn put_snapshot(&self, run: &RunId, snapshot: &Snapshot) {
        point("coordinator/store-before-snapshot");
        self.put(Table::Snapshots, key(run, None), snapshot);
        point("coordinator/store-after-snapshot");
    }

    /// A run's latest snapshot and the end of the history that belongs to it; None if either is not there, or if the
    /// history has a gap.
    pub fn snapshot(&self, run: &RunId) -> Option<(Snapshot, Recent)> {
        let snapshot: Snapshot = self.get(Table::Snapshots, &key(run, None))?;
        if self.count(Table::History, key(run, Some(1)), key(run, Some(snapshot.history)))? != snapshot.history {
            return None;
        }
        let recent = Recent::read(snapshot.history, |from, to| self.history(run, from, to))?;
        Some((snapshot, recent))
    }

    /// Remembers entries of a run's history from `position` on. False if they could not all be taken.
    pub fn put_history(&self, run: &RunId, position: u64, entries: &[Happened]) -> bool {
        let taken = (position..).zip(entries).all(|(n, entry)| self.put(Table::History, key(run, Some(n)), entry));
        point("coordinator/store-after-history");
        taken
    }

    /// Entries of a run's history, from one position to another, both among them. None if one is not there.
    pub fn history(&self, run: &RunId, from: u64, to: u64) -> Option<Vec<Happened>> {
        (from..=to).map(|position| self.get(Table::History, &key(run, Some(position)))).collect()
    }

    /// Remembers what became of an answer.
    pub fn put_receipt(&self, run: &RunId, assignment: AssignmentId, receipt: &Receipt) {
        point("coordinator/store-before-receipt");
        self.put(Table::Receipts, key(run, Some(assignment.0)), receipt);
    }

    /// What became of an answer.
    pub fn receipt(&self, run: &RunId, assignment: AssignmentId) -> Option<Receipt> {
        self.get(Table::Receipts, &key(run, Some(assignment.0)))
    }

    /// Remembers a member.
    pub fn put_member(&self, member: &MemberName, record: &MemberRecord) {
        self.put(Table::Members, member.as_str().into(), record);
    }

    /// All members that were seen.
    pub fn members(&self) -> BTreeMap<MemberName, MemberRecord> {
        self.scan(Table::Members, &[]).into_iter().filter_map(|(key, record)| Some((name(&key)?, record))).collect()
    }

    /// Makes everything durable: sled's own flush does not reach the disk.
    ///
    /// # Errors
    /// If writing or the fsync fails.
    pub fn flush(&self) -> Result<(), Error> {
        match &self.tables {
            Tables::Memory(_) => Ok(()),
            Tables::Sled { db, dir, .. } => {
                db.flush().map_err(|e| Error::Store(e.to_string()))?;
                let file = dir.join("db");
                File::open(&file).and_then(|f| f.sync_all()).map_err(Error::io("cannot fsync", &file))
            }
        }
    }

    /// Writes the schema into a new store, durably: records without it would not be read again.
    fn name_schema(&self) -> Result<(), Error> {
        if let Tables::Sled { db, .. } = &self.tables {
            let fault = |error: sled::Error| Error::Store(error.to_string());
            let meta = db.open_tree(META.0).map_err(fault)?;
            meta.insert(META.1, framed(SCHEMA.to_string().as_bytes())).map_err(fault)?;
        }
        self.flush()
    }

    /// False if it was not taken.
    fn put<T: Serialize>(&self, table: Table, key: Vec<u8>, value: &T) -> bool {
        let json = match serde_json::to_vec(value) {
            Ok(json) => json,
            Err(error) => {
                tracing::error!(table = table.name(), %error, "a record cannot be written as JSON");
                return false;
            }
        };
        let bytes = framed(&json);
        match &self.tables {
            Tables::Memory(tables) => drop(lock(tables).insert((table, key), bytes)),
            Tables::Sled { trees, .. } => {
                // The journal has it already; the next start replays what is missing here.
                if let Err(error) = guarded(|| trees[&table].insert(key, bytes)) {
                    tracing::error!(table = table.name(), error, "the store takes no more records; journals go on");
                    return false;
                }
            }
        }
        true
    }

    /// How many records have keys between two, both among them; None if they cannot be read.
    fn count(&self, table: Table, from: Vec<u8>, to: Vec<u8>) -> Option<u64> {
        match &self.tables {
            Tables::Memory(tables) if from <= to => Some(lock(tables).range((table, from)..=(table, to)).count() as u64),
            Tables::Sled { trees, .. } if from <= to => {
                guarded(|| trees[&table].range(from..=to).keys().try_fold(0, |count, key| key.map(|_| count + 1)))
                    .inspect_err(|error| tracing::error!(table = table.name(), error, "records cannot be counted"))
                    .ok()
            }
            Tables::Memory(_) | Tables::Sled { .. } => Some(0),
        }
    }

    fn get<T: DeserializeOwned>(&self, table: Table, key: &[u8]) -> Option<T> {
        let bytes = match &self.tables {
            Tables::Memory(tables) => lock(tables).get(&(table, key.to_vec())).cloned(),
            Tables::Sled { trees, .. } => match guarded(|| trees[&table].get(key)) {
                Ok(bytes) => bytes.map(|b| b.to_vec()),
                Err(error) => {
                    tracing::error!(table = table.name(), error, "a record cannot be read; it is made anew");
                    None
                }
            },
        };
        decode(table, &bytes?)
    }

    fn scan<T: DeserializeOwned>(&self, table: Table, prefix: &[u8]) -> Vec<(Vec<u8>, T)> {
        let raw: Vec<(Vec<u8>, Vec<u8>)> = match &self.tables {
            Tables::Memory(tables) => {
                let tables = lock(tables);
                let from = tables.range((table, prefix.to_vec())..);
                let within = from.take_while(|((t, key), _)| *t == table && key.starts_with(prefix));
                within.map(|((_, key), value)| (key.clone(), value.clone())).collect()
            }
            Tables::Sled { trees, .. } => {
                trees[&table].scan_prefix(prefix).filter_map(Result::ok).map(|(k, v)| (k.to_vec(), v.to_vec())).collect()
            }
        };
        raw.into_iter().filter_map(|(key, bytes)| Some((key, decode(table, &bytes)?))).collect()
    }
}

/// Names hold no zero byte, so a run's numbered records lie together and in order.
fn key(run: &RunId, number: Option<u64>) -> Vec<u8> {
    let mut key = run.as_str().as_bytes().to_vec();
    if let Some(number) = number {
        key.push(0);
        key.extend_from_slice(&number.to_be_bytes());
    }
    key
}

fn name<T: std::str::FromStr>(key: &[u8]) -> Option<T> {
    std::str::from_utf8(key).ok()?.parse().ok()
}

/// A record as it is stored: length and checksum before it.
fn framed(json: &[u8]) -> Vec<u8> {
    let mut bytes = (json.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(&crc32fast::hash(json).to_le_bytes());
    bytes.extend_from_slice(json);
    bytes
}

fn payload(bytes: &[u8]) -> Option<&[u8]> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, json) = rest.split_first_chunk::<4>()?;
    let intact = u32::from_le_bytes(*len) as usize == json.len() && u32::from_le_bytes(*crc) == crc32fast::hash(json);
    intact.then_some(json)
}

fn decode<T: DeserializeOwned>(table: Table, bytes: &[u8]) -> Option<T> {
    let Some(json) = payload(bytes) else {
        tracing::error!(table = table.name(), "a record is damaged; it is made anew");
        return None;
    };
    // A record of another version of this software is no fault: it is made anew from the journal.
    serde_json::from_slice(json)
        .inspect_err(|error| tracing::warn!(table = table.name(), %error, "a record is not understood"))
        .ok()
}

/// Asks sled. A panic within it is an error like others: the store can be lost, the coordinator must not stop for it.
fn guarded<T>(work: impl FnOnce() -> sled::Result<T>) -> Result<T, String> {
    let outcome = catch_unwind(AssertUnwindSafe(work));
    outcome.map_err(|_| "sled panicked".to_owned())?.map_err(|error| error.to_string())
}

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    /// The disk has no room or takes no writes: that is no damage.
    #[error("{0}")]
    Disk(io::Error),
    #[error("{0}")]
    Broken(String),
    /// Its records are of this schema, or say nothing of one.
    #[error("it has another schema")]
    Schema(Option<u32>),
}

impl From<sled::Error> for Unfit {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(error) if is_trouble(&error) => Self::Disk(error),
            error => Self::Broken(error.to_string()),
        }
    }
}

/// How often, and how long each time, whoever had the store open is waited for: sled lets go in a thread of its own, a
/// little after.
const LET_GO: (u32, Duration) = (500, Duration::from_millis(10));

/// As [`open_and_read`], but a store that is still in use is not taken for a broken one at once.
fn open_when_free(dir: &Path) -> Result<Store, Unfit> {
    for _ in 0..LET_GO.0 {
        match open_and_read(dir) {
            Err(Unfit::Broken(why)) if why.contains("could not acquire lock") => std::thread::park_timeout(LET_GO.1),
            outcome => return outcome,
        }
    }
    open_and_read(dir)
}

/// Opens sled and reads every record once. Damage shows as an error, or as a panic within sled.
fn open_and_read(dir: &Path) -> Result<Store, Unfit> {
    let open = || -> Result<Store, Unfit> {
        let config = sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).flush_every_ms(Some(FLUSH_MS));
        let db = config.open()?;
        let schema = schema_of(&db)?;
        if schema.is_some_and(|found| found != SCHEMA) {
            return Err(Unfit::Schema(schema));
        }
        let mut trees = BTreeMap::new();
        for table in TABLES {
            let tree = db.open_tree(table.name())?;
            for record in &tree {
                let (_, value) = record?;
                if schema.is_none() {
                    return Err(Unfit::Schema(None));
                }
                payload(&value).ok_or_else(|| Unfit::Broken(format!("a record of {:?} is damaged", table.name())))?;
            }
            trees.insert(table, tree);
        }
        let store = Store { tables: Tables::Sled { db, trees, dir: dir.to_owned() } };
        if schema.is_none() {
            store.name_schema().map_err(|error| Unfit::Broken(error.to_string()))?;
        }
        Ok(store)
    };
    catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|_| Err(Unfit::Broken("sled panicked".into())))
}

/// What a store says of its schema; None if it says nothing.
fn schema_of(db: &sled::Db) -> Result<Option<u32>, Unfit> {
    let Some(bytes) = db.open_tree(META.0)?.get(META.1)? else { return Ok(None) };
    let schema = payload(&bytes).and_then(|json| serde_json::from_slice(json).ok());
    schema.map(Some).ok_or_else(|| Unfit::Broken("its schema is damaged".into()))
}
