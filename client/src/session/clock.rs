//! The clocks of both ends, for whoever compares logs. Nothing else depends on them.

use crate::quiet::Quiet;
use std::time::{SystemTime, UNIX_EPOCH};

/// Difference that is worth a warning, in milliseconds.
const WORTH_A_WORD: u64 = 5_000;

/// Warns if the coordinator's clock is not ours. 0 is from a version that does not say.
pub(super) fn compare(theirs: u64, told: &Quiet) {
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let ours = u64::try_from(ours).unwrap_or(u64::MAX);
    if let Some((seconds, ahead)) = difference(theirs, ours)
        && told.due().is_some()
    {
        tracing::warn!(seconds, ahead, "the clocks of coordinator and agent differ; set them by a time server");
    }
}

/// How far the clocks are apart, and whose is ahead; None if they agree.
fn difference(theirs: u64, ours: u64) -> Option<(u64, &'static str)> {
    let apart = theirs.abs_diff(ours);
    let ahead = if theirs > ours { "coordinator" } else { "agent" };
    (theirs != 0 && apart > WORTH_A_WORD).then_some((apart / 1000, ahead))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_differ_are_noticed() {
        let now = 1_700_000_000_000;
        assert_eq!(difference(now + 12_500, now), Some((12, "coordinator")));
        assert_eq!(difference(now - 6_000, now), Some((6, "agent")));
        assert_eq!(difference(now + WORTH_A_WORD, now), None);
        assert_eq!(difference(0, now), None, "an older coordinator does not say");
    }
}
