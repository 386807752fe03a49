//! Where every update is waited for, globals, statistics and metrics are those of the run without faults.

use crate::cluster::watch::{Fact, Invariant, Known};

#[derive(Debug)]
pub(crate) struct Digests;

impl Invariant for Digests {
    fn name(&self) -> &'static str {
        "digests"
    }

    fn see(&mut self, fact: &Fact<'_>, known: &Known) -> Result<(), String> {
        let (Fact::Ended { history, state }, Some(undisturbed)) = (fact, &known.undisturbed) else { return Ok(()) };
        if let Some(i) = (0..undisturbed.len().max(history.len())).find(|&i| undisturbed.get(i) != history.get(i)) {
            return Err(format!("without faults: {:?}, with them: {:?}", undisturbed.get(i), history.get(i)));
        }
        let expired = state.tally.expired;
        if expired > 0 { Err(format!("{expired} assignments expired, though deadlines are longer than outages")) } else { Ok(()) }
    }
}
