//! Failures of ours, and refusals that a caller must see; one table turns both into status codes.

use crate::blob::BlobError;
use std::path::{Path, PathBuf};
use tessera_common::id::{Round, RunId};
use tessera_common::round::Reject;
use tessera_common::spec::SpecError;
use tessera_proto::convert::Malformed;
use tonic::Status;

/// Why the coordinator cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Settings that cannot be right.
    #[error("{0}")]
    Config(String),
    /// A file or folder cannot be used.
    #[error("{doing} {path}: {error}", path = path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// What went wrong.
        error: std::io::Error,
    },
    /// Another process uses the data folder.
    #[error("another coordinator uses the folder {}; stop it, or give this one another with --data-dir", .0.display())]
    Locked(PathBuf),
    /// An address cannot be listened at.
    #[error("cannot listen at {at}: {error}; free it, or choose another one with {flag}")]
    Listen {
        /// The flag that chooses it.
        flag: &'static str,
        /// The address.
        at: String,
        /// What went wrong.
        error: std::io::Error,
    },
    /// A journal was altered or damaged.
    #[error(
        "journal {}: the record at byte {offset} is damaged and others follow it: {why}. Restore the file from a backup, \
         or move the folder of the run away to go on without the run",
        path.display()
    )]
    Journal {
        /// The file.
        path: PathBuf,
        /// Where the record starts.
        offset: u64,
        /// What is wrong with it.
        why: String,
    },
    /// A journal that can be read, but is not a history of its run.
    #[error("journal {}: entry {entry} cannot be replayed: {why}", path.display())]
    Replay {
        /// The file.
        path: PathBuf,
        /// Number of the entry, from 1.
        entry: u64,
        /// What is wrong with it.
        why: String,
    },
    /// The quick-access store fails.
    #[error("store: {0}")]
    Store(String),
    /// Certificates cannot be used. The text names flag and file.
    #[error("{0}")]
    Tls(String),
    /// The transport gave up.
    #[error("transport: {0}")]
    Transport(#[from] tonic::transport::Error),
}

impl Error {
    /// Adds what was tried with which file.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self::Io { doing, path: path.to_owned(), error }
    }
}

/// Why a request is refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    /// There is no such run.
    #[error("there is no run {0}")]
    NoRun(RunId),
    /// The id belongs to another run.
    #[error("run {0} exists already, with another spec; choose another id")]
    Taken(RunId),
    /// The spec is not valid.
    #[error("the run spec is not valid: {0}")]
    Spec(#[from] SpecError),
    /// The engine refuses.
    #[error(transparent)]
    Engine(#[from] Reject),
    /// What was sent says nothing valid.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The run's journal or folder cannot be used; it stands still until somebody acts and restarts the coordinator.
    #[error("run {run} stands still: {reason}")]
    Broken {
        /// Which.
        run: RunId,
        /// Why, and what would help.
        reason: String,
    },
    /// The disk has no room or takes no writes. The run goes on by itself once that is mended.
    #[error("run {run} waits for the disk: {reason}")]
    Waiting {
        /// Which.
        run: RunId,
        /// What is wrong with the disk, and what would help.
        reason: String,
    },
    /// A run's global of this round is not kept any more, or there never was one.
    #[error(
        "run {run} has no global of round {round} any more; it keeps those of rounds {kept} (keep.globals in its spec says how many)"
    )]
    NotKept {
        /// Which.
        run: RunId,
        /// The round.
        round: Round,
        /// Rounds that are kept.
        kept: String,
    },
    /// A new run cannot be stored.
    #[error("the run cannot be stored: {0}")]
    NotStored(String),
    /// The coordinator stops.
    #[error("the coordinator is stopping")]
    Stopping,
}

/// The one table from refusals to status codes.
impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            Refusal::NoRun(_) => Status::not_found(text),
            Refusal::Taken(_) => Status::already_exists(text),
            Refusal::Spec(_) | Refusal::Malformed(_) => Status::invalid_argument(text),
            Refusal::Engine(_) => Status::failed_precondition(text),
            Refusal::NotKept { .. } => Status::not_found(text),
            Refusal::Waiting { .. } => Status::unavailable(text),
            Refusal::Broken { .. } => Status::aborted(text),
            Refusal::NotStored(_) => Status::internal(text),
            Refusal::Stopping => Status::unavailable(text),
        }
    }
}

impl From<BlobError> for Status {
    fn from(error: BlobError) -> Self {
        let text = match &error {
            // whoever gets this has no business with our paths
            BlobError::Corrupt { digest, .. } => {
                format!("blob {} of the coordinator is damaged; its operator is told", digest.short())
            }
            BlobError::Io { doing, error, .. } => format!("the coordinator {doing} a blob: {error}"),
            _ => error.to_string(),
        };
        match error {
            BlobError::Missing(_) => Status::not_found(text),
            BlobError::Offset { .. } => Status::failed_precondition(text),
            BlobError::TooLarge { .. } | BlobError::Overflow { .. } => Status::resource_exhausted(text),
            BlobError::Mismatch { .. } | BlobError::Short { .. } | BlobError::Malformed { .. } => Status::invalid_argument(text),
            BlobError::Corrupt { .. } => Status::internal(text),
            BlobError::Io { .. } | BlobError::Lost(_) => Status::internal(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Error, ErrorKind};

    #[test]
    fn agents_do_not_learn_where_our_files_are() {
        let full = BlobError::io("cannot write", Path::new("/var/lib/tessera/blobs/x.1.up"))(Error::from(ErrorKind::StorageFull));
        assert_eq!(full.to_string(), "cannot write /var/lib/tessera/blobs/x.1.up: no storage space");
        let status = Status::from(full);
        assert_eq!(
            (status.code(), status.message()),
            (tonic::Code::Internal, "the coordinator cannot write a blob: no storage space")
        );
    }
}
