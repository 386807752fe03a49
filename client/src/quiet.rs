//! Warnings that would come over and over: told at once, and then once a minute.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the log is spared the same warning.
const QUIET: Duration = Duration::from_secs(60);

/// When one warning was told last, and how often it was kept silent since.
#[derive(Debug, Default)]
pub(crate) struct Quiet(Mutex<Option<(Instant, u64)>>);

impl Quiet {
    /// How many warnings were kept silent since the last one that was told; None if this one is to be silent too.
    pub(crate) fn due(&self) -> Option<u64> {
        self.due_at(Instant::now())
    }

    fn due_at(&self, now: Instant) -> Option<u64> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match told.as_mut() {
            Some((at, silent)) if now.duration_since(*at) < QUIET => {
                *silent += 1;
                None
            }
            last => {
                let silent = last.map_or(0, |(_, silent)| *silent);
                *told = Some((now, 0));
                Some(silent)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_told_once_a_minute() {
        let (quiet, start) = (Quiet::default(), Instant::now());
        assert_eq!(quiet.due_at(start), Some(0));
        assert_eq!((0..50).filter_map(|_| quiet.due_at(start)).count(), 0);
        assert_eq!(quiet.due_at(start + QUIET - Duration::from_millis(1)), None);
        assert_eq!(quiet.due_at(start + QUIET), Some(51));
        assert_eq!(quiet.due_at(start + QUIET), None);
    }
}
