//! Once nothing goes wrong any more, the run ends, completed, and every agent has got rid of what it held.

use crate::cluster::watch::{Fact, Invariant, Known};
use tessera_common::round::{Outcome, Phase};

/// Most steps of a run. A run with faults has some hundreds.
const STEPS: u64 = 60_000;

#[derive(Debug)]
pub(crate) struct Liveness;

impl Invariant for Liveness {
    fn name(&self) -> &'static str {
        "liveness"
    }

    fn see(&mut self, fact: &Fact<'_>, known: &Known) -> Result<(), String> {
        match fact {
            Fact::Step { now, steps, state, .. } => {
                let setting = &known.setting;
                if *now > setting.quiet_from + setting.patience || *steps > STEPS {
                    let (phase, since) = (state.map(|s| s.phase.name()), now.saturating_sub(setting.quiet_from));
                    return Err(format!("{phase:?} after {steps} steps, {since} ms after the last fault"));
                }
            }
            Fact::Ended { state, .. } if state.phase != Phase::Done(Outcome::Completed) => {
                return Err(format!("the run ended {}", state.phase.name()));
            }
            _ => {}
        }
        Ok(())
    }
}
