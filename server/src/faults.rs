//! Failures of our own disk in the log: told at once, and then once a minute for each cause, however often agents try.

use crate::blob::BlobError;
use crate::sync::lock;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// How long the log is spared the same cause.
const QUIET: Duration = Duration::from_secs(60);

/// What was tried, and the kind of failure.
type Cause = (&'static str, ErrorKind);

#[derive(Debug)]
struct Told {
    at: Instant,
    /// Failures since then.
    silent: u64,
}

/// What was told when.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    // both parts of a cause come from small sets, so this does not grow
    told: Mutex<BTreeMap<Cause, Told>>,
}

impl Faults {
    /// Warns of a failure of our disk, unless the same was told less than a minute ago. Other errors are the caller's, who
    /// gets them as an answer.
    pub(crate) fn tell(&self, fault: &BlobError) {
        let BlobError::Io { doing, path, error } = fault else { return };
        if let Some(silent) = self.due((*doing, error.kind())) {
            tracing::warn!(path = %path.display(), %error, silent, "{doing} a blob; make room or mend the disk, agents try again");
        }
    }

    /// How many were kept silent since the last one that was told; None if this one is to be silent too.
    fn due(&self, cause: Cause) -> Option<u64> {
        let now = Instant::now();
        let mut told = lock(&self.told);
        match told.get_mut(&cause) {
            Some(last) if now.duration_since(last.at) < QUIET => {
                last.silent += 1;
                None
            }
            last => {
                let silent = last.map_or(0, |l| l.silent);
                told.insert(cause, Told { at: now, silent: 0 });
                Some(silent)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_cause_is_told_once_a_minute() {
        let faults = Faults::default();
        let (full, denied) = (("cannot write", ErrorKind::StorageFull), ("cannot write", ErrorKind::PermissionDenied));
        assert_eq!(faults.due(full), Some(0));
        assert_eq!((0..50).filter_map(|_| faults.due(full)).count(), 0);
        assert_eq!(faults.due(denied), Some(0), "another cause is another warning");
        assert_eq!(faults.due(("cannot create", ErrorKind::StorageFull)), Some(0));
        tokio::time::advance(QUIET - Duration::from_millis(1)).await;
        assert_eq!(faults.due(full), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(faults.due(full), Some(51));
        assert_eq!(faults.due(full), None);
        tokio::time::advance(QUIET).await;
        assert_eq!(faults.due(full), Some(1));
    }
}
