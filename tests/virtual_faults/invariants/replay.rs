//! After a restart the engine is as it was, up to what was not durable; the snapshot and the journal tell the same.

use crate::cluster::watch::{Fact, Invariant, Known};
use tessera_common::round::Engine;

#[derive(Debug)]
pub(crate) struct Replay;

impl Invariant for Replay {
    fn name(&self) -> &'static str {
        "replay"
    }

    fn see(&mut self, fact: &Fact<'_>, known: &Known) -> Result<(), String> {
        let Fact::Restarted(restart) = fact else { return Ok(()) };
        let records = restart.entries.len();
        match restart.before {
            None => return Err(format!("{records} records are left, fewer than were fsynced")),
            Some(before) if before != restart.state => {
                return Err(format!(
                    "after {records} records the state was {before:?}, after the restart it is {:?}",
                    restart.state
                ));
            }
            Some(_) => {}
        }
        let mut engine = Engine::new(known.setting.spec.clone());
        for (at, event) in restart.entries {
            engine.handle(*at, event.clone()).map_err(|reject| format!("{event:?} is refused in a replay: {reject}"))?;
        }
        if engine.state() == restart.state {
            Ok(())
        } else {
            Err("the whole journal tells of another state than the snapshot".into())
        }
    }
}
