//! Replaying a run from its folder: does the journal lead where it says it led, and are the blobs what they are called?
//!
//! Everything is read only and nothing is locked, so a run can be checked beside the coordinator that works on it.

use crate::blob::{BlobError, Blobs};
use crate::error::Error;
use crate::fold;
use crate::journal::{Entry, Journal};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tessera_common::aggregate::Sink;
use tessera_common::global::GlobalRef;
use tessera_common::id::{Digest, Round, RunId};
use tessera_common::round::{Command, Engine, Event, Fold, FoldKind};
use tessera_common::spec::RunSpec;

/// What came out of folding once more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The digest that the journal has.
    Same,
    /// Another one.
    Different {
        /// Which.
        found: Digest,
    },
    /// Something that went into it is not here or not intact any more.
    NotKept {
        /// What, for people.
        what: String,
    },
    /// Everything is here, but it cannot be folded.
    Failed {
        /// Why.
        why: String,
    },
}

/// A fold of the journal and what came out of folding once more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoundCheck {
    /// The round that it belongs to.
    pub round: Round,
    /// What it made.
    pub kind: FoldKind,
    /// Digest of its result in the journal.
    pub digest: Digest,
    /// What came out.
    pub verdict: Verdict,
}

/// A run as its folder tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// Events in the journal.
    pub records: u64,
    /// Bytes behind them that are no whole record: torn by a crash, or being written.
    pub torn_bytes: u64,
    /// Every fold, in order.
    pub rounds: Vec<RoundCheck>,
    /// The latest global.
    pub final_global: Option<GlobalRef>,
    /// What the run is doing at the end of the journal.
    pub phase: String,
    /// Blobs that the journal names and that are still here; all of their bytes were read.
    pub blobs_checked: u64,
    /// Those of them whose bytes have another digest.
    pub blobs_corrupt: Vec<Digest>,
}

/// Replays the journal of a run through a fresh engine, folds once more whatever can be folded, and reads every blob that
/// the journal names and that is still kept.
///
/// # Errors
/// If the folder cannot be read, the spec is not valid, or the journal is damaged or no history of its spec.
pub fn replay(data_dir: &Path, run: &RunId) -> Result<Replay, Error> {
    let dir = data_dir.join("runs").join(run.as_str());
    let (spec_path, journal_path) = (dir.join("spec.toml"), dir.join("journal"));
    let spec_toml = fs::read_to_string(&spec_path).map_err(Error::io("cannot read", &spec_path))?;
    let spec = RunSpec::stored(&spec_toml).map_err(|e| Error::Config(format!("{}: {e}", spec_path.display())))?;
    let mut player = Player {
        engine: Engine::new(spec.clone()),
        spec,
        blobs: Kept { blobs: Blobs::to_read(&data_dir.join("blobs")), states: BTreeMap::new() },
        wanted: None,
        rounds: Vec::new(),
    };
    let scan = Journal::scan(&journal_path, &spec_toml, &mut |mark, payload| {
        let fault = |why: String| Error::Replay { path: journal_path.clone(), entry: mark.records, why };
        let entry: Entry = serde_json::from_slice(payload).map_err(|e| fault(e.to_string()))?;
        player.take(entry).map_err(|failure| match failure {
            Failure::Refused(why) => fault(why),
            Failure::Disk(error) => error,
        })
    })?;
    let state = player.engine.state();
    let corrupt = player.blobs.states.iter().filter(|(_, state)| matches!(state, State::Corrupt(_)));
    Ok(Replay {
        records: scan.records,
        torn_bytes: scan.torn_bytes,
        final_global: state.global,
        phase: state.phase.name().to_owned(),
        blobs_checked: player.blobs.states.values().filter(|s| **s != State::Gone).count() as u64,
        blobs_corrupt: corrupt.map(|(digest, _)| *digest).collect(),
        rounds: player.rounds,
    })
}

/// Why an entry cannot be taken.
enum Failure {
    Refused(String),
    Disk(Error),
}

/// What became of a blob that the journal names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Intact,
    Corrupt(Digest),
    Gone,
}

/// Blobs, each read once.
struct Kept {
    blobs: Blobs,
    states: BTreeMap<Digest, State>,
}

impl Kept {
    fn state(&mut self, digest: Digest) -> Result<State, Error> {
        if let Some(state) = self.states.get(&digest) {
            return Ok(*state);
        }
        let state = match self.blobs.digest_of_bytes(&digest) {
            Ok(found) if found == digest => State::Intact,
            Ok(found) => State::Corrupt(found),
            Err(BlobError::Missing(_)) => State::Gone,
            Err(BlobError::Io { doing, path, error }) => return Err(Error::Io { doing, path, error }),
            Err(error) => return Err(Error::Store(error.to_string())),
        };
        self.states.insert(digest, state);
        Ok(state)
    }
}

struct Player {
    engine: Engine,
    spec: RunSpec,
    blobs: Kept,
    /// The fold that the engine asked for last; it asks for one at a time.
    wanted: Option<Fold>,
    rounds: Vec<RoundCheck>,
}

impl Player {
    fn take(&mut self, entry: Entry) -> Result<(), Failure> {
        let named = match &entry.event {
            Event::Answered(update) => update.blob,
            Event::Folded { digest, .. } => Some(*digest),
            Event::Forked { global, .. } => Some(*global),
            Event::Joined { .. }
            | Event::Left { .. }
            | Event::Refused { .. }
            | Event::Failed { .. }
            | Event::FoldFailed { .. }
            | Event::Ticked
            | Event::Restarted
            | Event::PauseAsked { .. }
            | Event::ResumeAsked
            | Event::StopAsked => None,
        };
        let result = if let Event::Folded { fold, digest } = &entry.event { Some((*fold, *digest)) } else { None };
        let refused = |e| Failure::Refused(format!("the engine refuses it: {e}"));
        self.engine.handle(entry.at, entry.event).map_err(refused)?;
        if let Some(digest) = named {
            self.blobs.state(digest).map_err(Failure::Disk)?;
        }
        if let Some((fold, digest)) = result {
            self.check(fold, digest).map_err(Failure::Disk)?;
        }
        while let Some(command) = self.engine.poll() {
            if let Command::Fold(task) = command {
                self.wanted = Some(task);
            }
        }
        Ok(())
    }

    fn check(&mut self, fold: u64, digest: Digest) -> Result<(), Error> {
        let Some(task) = self.wanted.take_if(|task| task.id == fold) else {
            return Err(Error::Store(format!("the engine took the result of fold {fold}, which it had not asked for")));
        };
        let verdict = self.fold_again(&task, digest)?;
        self.rounds.push(RoundCheck { round: task.round, kind: task.kind, digest, verdict });
        Ok(())
    }

    fn fold_again(&mut self, task: &Fold, digest: Digest) -> Result<Verdict, Error> {
        let answers = task.answers.iter().map(|update| (format!("the answer of {}", update.member), update.blob));
        // what a fold is told of and what it reads are not the same
        let base = task.base.filter(|_| task.kind == FoldKind::Round);
        let base = base.map(|base| ("the global that it starts from".to_owned(), Some(base)));
        let inputs = task.inputs.filter(|_| task.kind == FoldKind::Initial);
        let inputs = inputs.map(|inputs| ("the sums over input features".to_owned(), Some(inputs)));
        for (what, blob) in answers.chain(base).chain(inputs) {
            let Some(blob) = blob else { continue };
            match self.blobs.state(blob)? {
                State::Intact => {}
                State::Gone => return Ok(Verdict::NotKept { what: format!("{what}, blob {}, is not kept", blob.short()) }),
                State::Corrupt(found) => {
                    let what = format!("{what}, blob {}, has bytes with the digest {}", blob.short(), found.short());
                    return Ok(Verdict::NotKept { what });
                }
            }
        }
        let mut sink = Hashing(blake3::Hasher::new());
        let blobs = &self.blobs.blobs;
        if let Err(why) = fold::run_into(&self.spec, task, &|digest| blobs.open(digest), &mut sink) {
            return Ok(Verdict::Failed { why });
        }
        let found = Digest::from_hash(sink.0.finalize());
        Ok(if found == digest { Verdict::Same } else { Verdict::Different { found } })
    }
}

/// Takes a result for its digest alone.
struct Hashing(blake3::Hasher);

impl Sink for Hashing {
    fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.0.update(bytes);
        Ok(())
    }
}
