//! The time that engines are told.

use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tessera_common::id::Millis;
use tokio::time::Instant;

/// Wall clock at the start, monotonic from then on: a clock that is set back does not stretch a deadline, and tests that
/// pause tokio's time pause this.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    wall: Millis,
    start: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as Millis;
        Self { wall, start: Instant::now() }
    }

    pub(crate) fn now(&self) -> Millis {
        self.wall + self.start.elapsed().as_millis() as Millis
    }

    /// When it will be `at`; at once if that is past.
    pub(crate) fn instant(&self, at: Millis) -> Instant {
        self.start + Duration::from_millis(at.saturating_sub(self.wall))
    }
}
