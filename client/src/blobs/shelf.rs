//! Downloads in files, so that a restarted agent goes on where it was.
//!
//! ```text
//! STATE/blobs/DIGEST        a whole blob
//! STATE/blobs/DIGEST.part   the beginning of one
//! ```
//! Nothing is synced: the digest shows what a crash of the machine did to a file. A disk that refuses costs a warning; the
//! download goes on in memory.

use crate::disk;
use crate::fault::point;
use crate::quiet::Quiet;
use crate::state::StateDir;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use tessera_common::id::Digest;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

/// Whole blobs that stay, and likewise beginnings: a global and its statistics of two runs.
const KEPT: usize = 4;

/// The folder.
#[derive(Debug, Clone)]
pub(crate) struct Shelf(Arc<Folder>);

#[derive(Debug)]
struct Folder {
    dir: PathBuf,
    refused: Quiet,
    /// Held as long as anybody may write here.
    _state: Arc<StateDir>,
}

/// A download in progress.
#[derive(Debug)]
pub(crate) struct Part {
    bytes: Vec<u8>,
    /// Where the same bytes are kept too.
    file: Option<(File, PathBuf, Shelf)>,
}

impl Shelf {
    /// The shelf of this state folder, made when it is first needed.
    pub(crate) fn new(state: Arc<StateDir>) -> Self {
        Self(Arc::new(Folder { dir: state.path().join("blobs"), refused: Quiet::default(), _state: state }))
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.0.dir.join(digest.to_string())
    }

    /// A whole blob, if it is here and sound. A damaged one is removed.
    pub(crate) async fn get(&self, digest: Digest) -> Option<Vec<u8>> {
        let shelf = self.clone();
        let read = move || shelf.read(&digest);
        tokio::task::spawn_blocking(read).await.ok().flatten()
    }

    fn read(&self, digest: &Digest) -> Option<Vec<u8>> {
        let path = self.path(digest);
        let bytes = self.told(found(fs::read(&path)), "cannot read a download that was kept")??;
        if Digest::of(&bytes) == *digest {
            return Some(bytes);
        }
        tracing::warn!(blob = %path.display(), "a download that was kept is damaged; fetching it again");
        self.told(disk::remove(&path), "cannot remove a damaged download");
        None
    }

    /// A download that goes on with what is here.
    pub(crate) async fn part(&self, digest: Digest) -> Part {
        let shelf = self.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let path = shelf.path(&digest).with_extension("part");
            let open = || {
                disk::create_private_dir(&shelf.0.dir)?;
                let file = fs::File::options().create(true).append(true).open(&path)?;
                Ok((found(fs::read(&path))?.unwrap_or_default(), file))
            };
            let (bytes, file) = shelf.told(open(), "cannot keep a download, it is in memory only; make room or mend the disk")?;
            Some(Part { bytes, file: Some((File::from_std(file), path, shelf)) })
        });
        opened.await.ok().flatten().unwrap_or_else(|| Part::in_memory(Vec::new()))
    }

    /// Removes the oldest files beyond those that are kept.
    fn prune(&self) -> io::Result<()> {
        let (mut whole, mut parts) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&self.0.dir)? {
            let entry = entry?;
            let name = entry.file_name().into_string().unwrap_or_default();
            let stem = name.strip_suffix(".part");
            if stem.unwrap_or(&name).parse::<Digest>().is_ok() {
                let changed = entry.metadata()?.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                if stem.is_some() { &mut parts } else { &mut whole }.push((changed, name));
            }
        }
        for mut files in [whole, parts] {
            files.sort_unstable();
            let surplus = files.len().saturating_sub(KEPT);
            files[..surplus].iter().try_for_each(|(_, name)| disk::remove(&self.0.dir.join(name)))?;
        }
        Ok(())
    }

    /// The value, or a warning once a minute.
    fn told<T>(&self, outcome: io::Result<T>, what: &'static str) -> Option<T> {
        outcome
            .inspect_err(|error| {
                if let Some(silent) = self.0.refused.due() {
                    tracing::warn!(blobs = %self.0.dir.display(), %error, silent, "{what}");
                }
            })
            .ok()
    }
}

/// None if there is no such file.
fn found<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        outcome => outcome.map(Some),
    }
}

impl Part {
    /// One without a file, from what came before.
    pub(crate) fn in_memory(bytes: Vec<u8>) -> Self {
        Self { bytes, file: None }
    }

    /// Bytes so far.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Number of bytes so far.
    pub(crate) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Adds what came.
    pub(crate) async fn append(&mut self, chunk: &[u8]) {
        self.bytes.extend_from_slice(chunk);
        if let Some((file, _, shelf)) = &mut self.file {
            let written = async {
                file.write_all(chunk).await?;
                file.flush().await
            };
            let written = written.await;
            if shelf.told(written, "cannot keep a download, it is in memory only; make room or mend the disk").is_none() {
                self.file = None;
            }
        }
        point("agent/download-part");
    }

    /// The bytes, if they are in no file.
    pub(crate) fn unkept(self) -> Option<Vec<u8>> {
        if self.file.is_some() { None } else { Some(self.bytes) }
    }

    /// The whole blob, which stays in its file.
    pub(crate) async fn complete(self) -> Vec<u8> {
        if let Some((_, path, shelf)) = self.file {
            blocking(move || {
                let kept = rename_whole(&path).and_then(|()| shelf.prune());
                shelf.told(kept, "cannot keep a download");
            })
            .await;
        }
        self.bytes
    }

    /// Forgets what came: it is of no use.
    pub(crate) async fn discard(self) {
        if let Some((_, path, shelf)) = self.file {
            blocking(move || {
                shelf.told(disk::remove(&path), "cannot remove a useless download");
            })
            .await;
        }
    }
}

fn rename_whole(part: &Path) -> io::Result<()> {
    fs::rename(part, part.with_extension(""))
}

/// What a panic in `work` leaves behind is found by its digest.
async fn blocking(work: impl FnOnce() + Send + 'static) {
    let _ = tokio::task::spawn_blocking(work).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shelf(dir: &Path) -> Shelf {
        Shelf::new(StateDir::take(dir).unwrap().unwrap())
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir.join("blobs")).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    async fn stored(shelf: &Shelf, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let mut part = shelf.part(digest).await;
        part.append(bytes).await;
        assert_eq!(part.complete().await, bytes);
        digest
    }

    #[tokio::test]
    async fn a_download_goes_on_after_a_restart_and_is_kept_whole() {
        let dir = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"one two");
        let mut part = shelf(dir.path()).part(digest).await;
        part.append(b"one").await;
        assert_eq!(part.unkept(), None, "it is in its file");
        let again = shelf(dir.path());
        assert_eq!(again.get(digest).await, None);
        let mut part = again.part(digest).await;
        assert_eq!((part.bytes(), part.len()), (b"one".as_slice(), 3));
        part.append(b" two").await;
        assert_eq!(part.complete().await, b"one two");
        assert_eq!(names(dir.path()), [digest.to_string()]);
        drop(again);
        assert_eq!(shelf(dir.path()).get(digest).await.unwrap(), b"one two");
    }

    #[tokio::test]
    async fn only_the_last_stay() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = shelf(dir.path());
        let mut digests = Vec::new();
        for i in 0..KEPT as u64 + 2 {
            let digest = stored(&shelf, &i.to_le_bytes()).await;
            // clocks of file systems are coarse
            let file = fs::File::options().append(true).open(shelf.path(&digest)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(i)).unwrap();
            digests.push(digest);
        }
        fs::write(dir.path().join("blobs/notes.txt"), "not ours").unwrap();
        stored(&shelf, b"last").await;
        let mut expected: Vec<String> = digests[3..].iter().chain([&Digest::of(b"last")]).map(Digest::to_string).collect();
        expected.push("notes.txt".into());
        expected.sort();
        assert_eq!(names(dir.path()), expected);
    }

    #[tokio::test]
    async fn damage_is_noticed_and_a_useless_part_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = shelf(dir.path());
        let digest = stored(&shelf, b"blob").await;
        fs::write(shelf.path(&digest), b"blab").unwrap();
        assert_eq!(shelf.get(digest).await, None);
        assert!(names(dir.path()).is_empty());
        let mut part = shelf.part(digest).await;
        part.append(b"rubbish").await;
        part.discard().await;
        assert!(names(dir.path()).is_empty());
    }

    #[tokio::test]
    async fn a_folder_that_refuses_leaves_the_download_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = shelf(dir.path());
        // a file where the folder should be: refused for root, too
        fs::write(dir.path().join("blobs"), "").unwrap();
        let mut part = shelf.part(Digest::of(b"x")).await;
        part.append(b"x").await;
        assert_eq!(part.unkept().unwrap(), b"x");
    }
}
