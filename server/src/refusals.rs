//! What was refused and what panicked: counted, and told to the logs at a bounded rate.

use crate::audit::Audit;
use crate::sync::lock;
use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use tessera_common::audit::Entry;
use tokio::time::Instant;
use tonic::Status;

/// Refusals told in one go; after that one a second, so that a flood of them fills no disk.
const BURST: f64 = 10.0;
/// Longest text of the other side that is repeated in a log, in characters.
const SHOWN: usize = 200;

#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
    /// Refusals since the last one that was told.
    silent: u64,
}

/// Counts, and the way into the logs.
#[derive(Debug)]
pub(crate) struct Refusals {
    refused: AtomicU64,
    panics: AtomicU64,
    bucket: Mutex<Bucket>,
    audit: Audit,
}

impl Refusals {
    pub(crate) fn new(audit: Audit) -> Self {
        let bucket = Mutex::new(Bucket { left: BURST, at: Instant::now(), silent: 0 });
        Self { refused: AtomicU64::new(0), panics: AtomicU64::new(0), bucket, audit }
    }

    /// Counts a refusal of `what` to `who`, and logs and audits it unless there are too many.
    pub(crate) fn tell(&self, who: &str, what: &str, why: &str) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        let Some(silent) = self.due() else { return };
        let short = |text: &str| -> String { text.chars().take(SHOWN).collect() };
        let (who, what, why) = (short(who), short(what), short(why));
        tracing::warn!(who, what, why, silent, "refused");
        let verdict =
            if silent == 0 { format!("refused: {why}") } else { format!("refused: {why} (and {silent} refusals before)") };
        self.audit.note(Entry { who, what, verdict, ..Entry::default() });
    }

    /// How many were kept silent before this one; None if it is to be silent too.
    fn due(&self) -> Option<u64> {
        let now = Instant::now();
        let mut bucket = lock(&self.bucket);
        bucket.left = (bucket.left + now.duration_since(bucket.at).as_secs_f64()).min(BURST);
        bucket.at = now;
        if bucket.left < 1.0 {
            bucket.silent += 1;
            return None;
        }
        bucket.left -= 1.0;
        Some(std::mem::take(&mut bucket.silent))
    }

    /// Counts a panic while doing `what`, and says so in the log.
    fn panicked(&self, what: &str, payload: &(dyn Any + Send)) {
        self.panics.fetch_add(1, Ordering::Relaxed);
        let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        tracing::error!(what, panic = text.unwrap_or("no text"), "a request panicked: this is a bug, please report it");
    }

    /// Requests and handshakes refused since the start.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Requests that panicked since the start.
    pub(crate) fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }
}

/// Runs `work`; a panic in it costs its caller an error, and nobody else anything.
///
/// # Errors
/// If it panicked. The text says nothing of the inside; the log does.
pub(crate) async fn caught<T>(refusals: &Refusals, what: &str, work: impl Future<Output = T>) -> Result<T, Status> {
    let mut work = pin!(work);
    // whatever a panic left half done goes with the future, which is not polled again
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(payload) => {
            refusals.panicked(what, payload.as_ref());
            std::task::Poll::Ready(Err(Status::internal("the coordinator failed at this request; its log says why")))
        }
    })
    .await
}

/// Counts a panic of a task that was spawned for `what`.
///
/// # Errors
/// If it panicked or was cut off.
pub(crate) fn joined<T>(refusals: &Refusals, what: &str, outcome: Result<T, tokio::task::JoinError>) -> Result<T, Status> {
    outcome.map_err(|error| match error.try_into_panic() {
        Ok(payload) => {
            refusals.panicked(what, payload.as_ref());
            Status::internal("the coordinator failed at this request; its log says why")
        }
        Err(_) => Status::unavailable("the coordinator is stopping"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn refusals() -> Refusals {
        Refusals::new(Audit::open(None).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_refusals_is_counted_and_told_slowly() {
        let refusals = refusals();
        let told = (0..1000).filter(|_| refusals.due().is_some()).count();
        assert_eq!(told, 10);
        tokio::time::advance(Duration::from_millis(999)).await;
        assert_eq!(refusals.due(), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(refusals.due(), Some(991), "it says how many were kept silent");
        for _ in 0..50 {
            refusals.tell("x", "y", "z");
        }
        assert_eq!(refusals.refused(), 50);
    }

    #[tokio::test]
    async fn a_panic_costs_its_caller_an_error() {
        let refusals = refusals();
        let calm = caught(&refusals, "x", async { 7 }).await;
        assert_eq!(calm.unwrap(), 7);
        let broken = caught(&refusals, "x", async {
            tokio::task::yield_now().await;
            panic!("secret {}", 1)
        });
        let status: Status = broken.await.unwrap_err();
        assert_eq!((status.code(), refusals.panics()), (tonic::Code::Internal, 1));
        assert!(!status.message().contains("secret"));
        let task = tokio::spawn(async { panic!("again") }).await;
        assert_eq!(joined(&refusals, "x", task).unwrap_err().code(), tonic::Code::Internal);
        assert_eq!(refusals.panics(), 2);
    }
}
