//! Finished answers, kept until the coordinator has judged them, so that no restart loses one.
//!
//! ```text
//! STATE/outbox/RUN/ASSIGNMENT.json                 the record: what was asked, under which spec, and the answer
//! STATE/outbox/RUN/ASSIGNMENT-DIGEST.safetensors   the answer's tensors, named by their digest
//! STATE/outbox/RUN/ASSIGNMENT.started              how often the work was begun without an end
//! ```
//! Tensors are written first and the record last, so a record that is there is complete. What is damaged is renamed to
//! `*.damaged` and is as if it were not there. A folder ends with its run.

mod marker;
#[cfg(test)]
mod tests;

pub(crate) use marker::MOST_STARTS;

use crate::disk;
use crate::fault::{hit, point};
use crate::quiet::Quiet;
use crate::state::StateDir;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tessera_common::id::{AssignmentId, Digest, RunId};
use tessera_common::round::Assignment;
use tessera_common::update::UpdateRef;

/// One assignment of one run.
pub(crate) type Key = (RunId, AssignmentId);

/// A finished answer and what it answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Digest of the run's spec: ids come again when a coordinator is set up anew.
    pub(crate) spec: Digest,
    /// What was asked.
    pub(crate) assignment: Assignment,
    /// The answer.
    pub(crate) update: UpdateRef,
}

/// A record as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Sealed {
    /// Digest of the record's compact JSON.
    digest: Digest,
    record: Record,
}

/// The folder. Its worker writes, its session reads and removes.
#[derive(Debug)]
pub(crate) struct Outbox {
    dir: PathBuf,
    refused: Quiet,
    /// Held as long as anybody may write here.
    _state: Arc<StateDir>,
}

/// What a file of a run's folder is.
#[derive(Debug, PartialEq, Eq)]
enum Name {
    Record(AssignmentId),
    Blob(AssignmentId, Digest),
    Marker(AssignmentId),
    /// Half-written or damaged.
    Waste,
}

impl Name {
    /// None for what is not ours.
    fn of(name: &str) -> Option<Self> {
        if let Some(rest) = name.strip_suffix(".tmp") {
            return Name::of(rest).map(|_| Name::Waste);
        }
        if let Some(rest) = name.strip_suffix(".damaged") {
            return Name::of(rest).map(|_| Name::Waste);
        }
        let (stem, kind) = name.rsplit_once('.')?;
        let id = |text: &str| text.parse().ok().filter(|n: &u64| n.to_string() == text).map(AssignmentId);
        match kind {
            "json" => Some(Name::Record(id(stem)?)),
            "started" => Some(Name::Marker(id(stem)?)),
            "safetensors" => {
                let (number, digest) = stem.split_once('-')?;
                Some(Name::Blob(id(number)?, digest.parse().ok()?))
            }
            _ => None,
        }
    }
}

fn record_name(id: AssignmentId) -> String {
    format!("{}.json", id.0)
}

fn blob_name(id: AssignmentId, digest: &Digest) -> String {
    format!("{}-{digest}.safetensors", id.0)
}

impl Outbox {
    /// The outbox of this state folder. Folders are made when they are needed.
    pub(crate) fn new(state: Arc<StateDir>) -> Self {
        Self { dir: state.path().join("outbox"), refused: Quiet::default(), _state: state }
    }

    fn folder(&self, run: &RunId) -> PathBuf {
        self.dir.join(run.as_str())
    }

    /// Everything that is there and sound. Damage is put aside, with a warning; what no record names is removed.
    pub(crate) fn load(&self) -> BTreeMap<Key, Record> {
        let mut found = BTreeMap::new();
        for run in self.names(&self.dir) {
            let Ok(run) = run.parse::<RunId>() else { continue };
            let folder = self.folder(&run);
            let names = self.names(&folder);
            for name in &names {
                let Some(Name::Record(id)) = Name::of(name) else { continue };
                match read_record(&folder, id) {
                    Ok(record) => drop(found.insert((run.clone(), id), record)),
                    Err(why) => self.put_aside(&folder, id, &why),
                }
            }
            for name in names {
                let wanted = match Name::of(&name) {
                    Some(Name::Blob(id, digest)) => found.get(&(run.clone(), id)).is_some_and(|r| r.update.blob == Some(digest)),
                    Some(Name::Waste) => !name.ends_with(".tmp"),
                    Some(Name::Record(_) | Name::Marker(_)) | None => true,
                };
                if !wanted {
                    self.tell(disk::remove(&folder.join(name)), "cannot remove a leftover");
                }
            }
            // only an empty one goes
            let _ = fs::remove_dir(&folder);
        }
        found
    }

    /// Keeps an answer, durably. False if the disk refuses it: the answer then has to be kept in memory.
    pub(crate) fn keep(&self, run: &RunId, record: &Record, blob: &[u8]) -> bool {
        match self.write(run, record, blob) {
            Ok(()) => true,
            Err(error) => {
                // what is half there would be taken for an answer, or for waste
                self.remove(run, record.assignment.id, record.update.blob);
                self.tell(Err(error), "cannot keep a finished answer, it is in memory only; make room or mend the disk");
                false
            }
        }
    }

    fn write(&self, run: &RunId, record: &Record, blob: &[u8]) -> io::Result<()> {
        let (folder, id) = (self.folder(run), record.assignment.id);
        self.make(&folder)?;
        if hit("agent/no-space") {
            return Err(ErrorKind::StorageFull.into());
        }
        if let Some(digest) = &record.update.blob {
            disk::place(&folder, &blob_name(id, digest), blob)?;
            point("agent/outbox-blob-written");
        }
        let digest = Digest::of(&serde_json::to_vec(record)?);
        let sealed = serde_json::to_vec(&Sealed { digest, record: record.clone() })?;
        disk::replace(&folder, &record_name(id), &sealed)?;
        point("agent/outbox-record-written");
        Ok(())
    }

    /// Makes the folder of a run, durably.
    fn make(&self, folder: &Path) -> io::Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        disk::create_private_dir(folder)?;
        disk::sync_dir(&self.dir)?;
        self.dir.parent().map_or(Ok(()), disk::sync_dir)
    }

    /// The tensors of an answer that was kept.
    ///
    /// # Errors
    /// If they cannot be read or are not what they were; they are put aside then, together with their record.
    pub(crate) fn read(&self, run: &RunId, update: &UpdateRef) -> Result<Vec<u8>, String> {
        let Some(digest) = &update.blob else { return Ok(Vec::new()) };
        let (folder, id) = (self.folder(run), update.assignment);
        let read = fs::read(folder.join(blob_name(id, digest))).map_err(|e| e.to_string());
        let sound = |bytes: &Vec<u8>| Digest::of(bytes) == *digest;
        let outcome = read.and_then(|bytes| if sound(&bytes) { Ok(bytes) } else { Err("its content has another digest".into()) });
        outcome.inspect_err(|why| self.put_aside(&folder, id, why))
    }

    /// Removes an answer, and how often its work was begun. The record goes first: tensors alone are no answer.
    pub(crate) fn remove(&self, run: &RunId, id: AssignmentId, blob: Option<Digest>) {
        let folder = self.folder(run);
        let names = [Some(record_name(id)), blob.map(|digest| blob_name(id, &digest))];
        for name in names.into_iter().flatten() {
            self.tell(disk::remove(&folder.join(name)), "cannot remove an answer that is judged");
        }
        self.ended(run, id);
    }

    /// Removes everything of a run that is over.
    pub(crate) fn close(&self, run: &RunId) {
        let folder = self.folder(run);
        for name in self.names(&folder).into_iter().filter(|name| Name::of(name).is_some()) {
            self.tell(disk::remove(&folder.join(name)), "cannot remove an answer of a run that is over");
        }
        // what is not ours stays
        let _ = fs::remove_dir(&folder);
    }

    fn put_aside(&self, folder: &Path, id: AssignmentId, why: &str) {
        let path = folder.join(record_name(id));
        tracing::warn!(record = %path.display(), why, "a finished answer is damaged: put aside as *.damaged, its work is done again");
        for name in self.names(folder) {
            if matches!(Name::of(&name), Some(Name::Record(n) | Name::Blob(n, _)) if n == id) {
                let aside = fs::rename(folder.join(&name), folder.join(format!("{name}.damaged")));
                self.tell(aside, "cannot put a damaged answer aside");
            }
        }
    }

    /// Names of what is in a folder; none if there is no folder.
    fn names(&self, folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let entries = match entries {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                self.tell(Err(error), "cannot look into a folder");
                Vec::new()
            }
            Ok(entries) => entries,
        };
        let mut names: Vec<String> = entries.into_iter().filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    /// Warns of what a disk refuses, once a minute.
    fn tell(&self, outcome: io::Result<()>, what: &'static str) {
        if let Err(error) = outcome
            && let Some(silent) = self.refused.due()
        {
            tracing::warn!(outbox = %self.dir.display(), %error, silent, "{what}");
        }
    }
}

/// The record of an assignment, if everything about it is as it was written.
fn read_record(folder: &Path, id: AssignmentId) -> Result<Record, String> {
    let bytes = fs::read(folder.join(record_name(id))).map_err(|e| e.to_string())?;
    let Sealed { digest, record } = serde_json::from_slice(&bytes).map_err(|e| format!("not a record: {e}"))?;
    let again = serde_json::to_vec(&record).map_err(|e| e.to_string())?;
    if Digest::of(&again) != digest {
        return Err("its content has another digest".into());
    }
    if record.assignment.id != id || record.update.assignment != id {
        return Err(format!("it is of assignment {}", record.assignment.id));
    }
    if let Some(digest) = &record.update.blob {
        let name = blob_name(id, digest);
        let found = fs::metadata(folder.join(&name)).map_err(|e| format!("{name}: {e}"))?.len();
        if found != record.update.bytes {
            return Err(format!("{name} has {found} bytes, not {}", record.update.bytes));
        }
    }
    Ok(record)
}
