//! Values of private blocks: each member's own, kept from one of its rounds to the next.
//!
//! A member has a value set per round that it trained in, of which the last two are kept: a round may be given again,
//! because its answer was lost in a crash, and must then start from what was there before it. In memory, or in files:
//!
//! ```text
//! STATE/RUN/spec.toml                                 the run, so that another one of the same id is noticed
//! STATE/RUN/MEMBER/private-ROUND-DIGEST.safetensors   canonical bytes of `param/BLOCK/LEAF`, named by their digest
//! ```
//! A file is written under another name, made durable, and renamed. Nothing else says what is there, so there is nothing
//! that it could disagree with; the digest in the name shows damage. A file is read whenever its values are needed.

use super::TaskError;
use crate::disk;
use crate::fault::point;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use tessera_common::id::{Digest, MemberName, Round};
use tessera_common::param::{Limits, ParamSet};
use tessera_common::spec::RunSpec;

/// Rounds of a member whose values are kept: the last one and the one that it started from.
const KEPT: usize = 2;

/// Where a task keeps what outlives a round.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Folder of this run, made when it is first needed; without one, the state is in memory and goes with the task.
    pub folder: Option<PathBuf>,
}

/// Values of the private blocks of all members of an agent.
pub(super) struct Private {
    /// Where every member starts, `param/BLOCK/LEAF`; empty if the model has no private block.
    initial: ParamSet,
    place: Place,
}

enum Place {
    Memory(BTreeMap<MemberName, BTreeMap<Round, ParamSet>>),
    Folder { folder: PathBuf, spec: String },
}

/// A file of one member.
struct Kept {
    path: PathBuf,
    digest: Digest,
}

fn fault(file: &Path, why: impl ToString) -> TaskError {
    TaskError::Private { file: file.to_owned(), why: why.to_string() }
}

impl Private {
    /// For a run whose private blocks start as `initial`. Touches no file if there are none.
    ///
    /// # Errors
    /// If the folder holds the state of a run with another spec, or cannot be read.
    pub(super) fn open(initial: ParamSet, spec: &RunSpec, state: &State) -> Result<Self, TaskError> {
        let place = match &state.folder {
            _ if initial.is_empty() => Place::Memory(BTreeMap::new()),
            None => {
                tracing::warn!(run = spec.name, "private blocks are in memory only and end with this agent: set state_dir");
                Place::Memory(BTreeMap::new())
            }
            Some(folder) => {
                check_run(folder, spec)?;
                Place::Folder { folder: folder.clone(), spec: spec.to_toml() }
            }
        };
        Ok(Self { initial, place })
    }

    /// A member's values after the last round that it trained in; the initial ones if there is none.
    ///
    /// # Errors
    /// If a file is damaged or cannot be read.
    pub(super) fn latest(&self, member: &MemberName) -> Result<Cow<'_, ParamSet>, TaskError> {
        self.find(member, |rounds| Ok(rounds.last().copied()))
    }

    /// A member's values after the last round that it trained in before `round`; the initial ones if there is none.
    ///
    /// # Errors
    /// If a file is damaged or cannot be read, or if the values are no longer kept.
    pub(super) fn before(&self, member: &MemberName, round: Round) -> Result<Cow<'_, ParamSet>, TaskError> {
        self.find(member, |rounds| match rounds.iter().rev().find(|r| **r < round) {
            // With fewer rounds than are kept, none was ever thrown away.
            None if rounds.len() >= KEPT => {
                Err(format!("the values before round {round} are gone, only those after rounds {rounds:?} are kept"))
            }
            found => Ok(found.copied()),
        })
    }

    /// The values after the round that `choose` takes from the kept ones, which ascend.
    fn find(
        &self,
        member: &MemberName,
        choose: impl Fn(&[Round]) -> Result<Option<Round>, String>,
    ) -> Result<Cow<'_, ParamSet>, TaskError> {
        if self.initial.is_empty() {
            return Ok(Cow::Borrowed(&self.initial));
        }
        let found = match &self.place {
            Place::Memory(members) => {
                let none = BTreeMap::new();
                let kept = members.get(member).unwrap_or(&none);
                let rounds: Vec<Round> = kept.keys().copied().collect();
                let round = choose(&rounds).map_err(|why| fault(Path::new(&format!("{member}, in memory")), why))?;
                round.and_then(|round| members.get(member)?.get(&round)).map(Cow::Borrowed)
            }
            Place::Folder { folder, .. } => {
                let folder = folder.join(member.as_str());
                let kept = kept(&folder)?;
                let rounds: Vec<Round> = kept.keys().copied().collect();
                let round = choose(&rounds).map_err(|why| fault(&folder, why))?;
                round.and_then(|round| kept.get(&round)).map(|file| self.read(file)).transpose()?.map(Cow::Owned)
            }
        };
        Ok(found.unwrap_or(Cow::Borrowed(&self.initial)))
    }

    fn read(&self, file: &Kept) -> Result<ParamSet, TaskError> {
        let bytes = fs::read(&file.path).map_err(|e| fault(&file.path, e))?;
        if Digest::of(&bytes) != file.digest {
            let why = "the file is damaged: its content has another digest than its name says; put back a copy, or move the \
                       member's folder away to start from the initial values";
            return Err(fault(&file.path, why));
        }
        let set = ParamSet::from_bytes(&bytes, &Limits::default()).map_err(|e| fault(&file.path, e))?;
        if set.layout() != self.initial.layout() {
            return Err(fault(&file.path, "its names and shapes are not those of this model's private blocks"));
        }
        Ok(set)
    }

    /// Keeps a member's values after `round`; durable on return if there is a folder.
    ///
    /// Values of this and later rounds are replaced: the round has been given again.
    ///
    /// # Errors
    /// If they cannot be written; what a repetition of the round needs is then still there.
    pub(super) fn keep(&mut self, member: &MemberName, round: Round, values: ParamSet) -> Result<(), TaskError> {
        if self.initial.is_empty() {
            return Ok(());
        }
        match &mut self.place {
            Place::Memory(members) => {
                let kept = members.entry(member.clone()).or_default();
                kept.split_off(&round);
                kept.insert(round, values);
                while kept.len() > KEPT {
                    kept.pop_first();
                }
                Ok(())
            }
            Place::Folder { folder, spec } => write(folder, spec, member, round, &values),
        }
    }
}

/// The folder of a run must be that of this very run: ids come again when a coordinator is set up anew.
fn check_run(folder: &Path, spec: &RunSpec) -> Result<(), TaskError> {
    let path = folder.join("spec.toml");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fault(&path, error)),
    };
    match RunSpec::from_toml(&text) {
        Ok(found) if found == *spec => Ok(()),
        Ok(_) => Err(fault(&path, "this is the state of a run with the same id and another spec; move its folder away")),
        Err(error) => Err(fault(&path, error)),
    }
}

/// The files of a member by round; none if there is no folder.
fn kept(folder: &Path) -> Result<BTreeMap<Round, Kept>, TaskError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(fault(folder, error)),
    };
    let mut kept: BTreeMap<Round, Kept> = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(|e| fault(folder, e))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some(middle) = name.strip_prefix("private-").and_then(|n| n.strip_suffix(".safetensors")) else {
            continue;
        };
        let parsed = middle.split_once('-').and_then(|(round, digest)| {
            Some((round.parse::<Round>().ok()?, digest.parse::<Digest>().ok()?)) // of one file
        });
        let Some((round, digest)) = parsed else {
            return Err(fault(&path, "the name is not private-ROUND-DIGEST.safetensors"));
        };
        if let Some(other) = kept.insert(round, Kept { path: path.clone(), digest }) {
            return Err(fault(&path, format!("{} is of the same round; move one of them away", other.path.display())));
        }
    }
    Ok(kept)
}

fn write(folder: &Path, spec: &str, member: &MemberName, round: Round, values: &ParamSet) -> Result<(), TaskError> {
    point("agent/private-before-write");
    let own = folder.join(member.as_str());
    if !own.is_dir() {
        make(folder, spec, &own).map_err(|e| fault(&own, e))?;
    }
    let bytes = values.to_bytes();
    let name = format!("private-{round}-{}.safetensors", Digest::of(&bytes));
    // No answer of the repeated round has counted, so nobody builds on these.
    for (_, old) in kept(&own)?.split_off(&round) {
        fs::remove_file(&old.path).map_err(|e| fault(&old.path, e))?;
    }
    disk::replace(&own, &name, &bytes).map_err(|e| fault(&own.join(&name), e))?;
    point("agent/private-after-write");
    let mut kept = kept(&own)?;
    while kept.len() > KEPT
        && let Some((_, oldest)) = kept.pop_first()
    {
        fs::remove_file(&oldest.path).map_err(|e| fault(&oldest.path, e))?;
    }
    Ok(())
}

/// Makes a member's folder in that of its run, durably.
fn make(folder: &Path, spec: &str, own: &Path) -> std::io::Result<()> {
    disk::create_private_dir(folder)?;
    if !folder.join("spec.toml").exists() {
        disk::replace(folder, "spec.toml", spec.as_bytes())?;
    }
    disk::create_private_dir(own)?;
    disk::sync_dir(folder)?;
    folder.parent().filter(|p| !p.as_os_str().is_empty()).map_or(Ok(()), disk::sync_dir)
}
