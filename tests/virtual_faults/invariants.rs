//! What must always hold, one file each.

mod acknowledged;
mod digests;
mod durable;
mod folds;
mod liveness;
mod replay;
mod rounds;
mod stale;
mod tally;
mod verdicts;
mod work;

use super::watch::Invariant;

/// One of each, as at the start of a run.
pub(crate) fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(acknowledged::Acknowledged::default()),
        Box::new(digests::Digests),
        Box::new(durable::Durable::default()),
        Box::new(folds::Folds::default()),
        Box::new(liveness::Liveness),
        Box::new(replay::Replay),
        Box::new(rounds::Rounds::default()),
        Box::new(stale::Stale::default()),
        Box::new(tally::TallyAdds::default()),
        Box::new(verdicts::Verdicts::default()),
        Box::new(work::NotTwice::default()),
    ]
}

/// Their names.
pub(crate) fn names() -> Vec<&'static str> {
    all().iter().map(|i| i.name()).collect()
}
