//! Published rounds are consecutive from 0, and never change or disappear, across restarts too.

use crate::cluster::disk::Told;
use crate::cluster::watch::{Fact, Invariant, Known};
use tessera_common::round::Published;

#[derive(Debug, Default)]
pub(crate) struct Rounds {
    seen: Vec<Published>,
}

impl Rounds {
    fn take(&mut self, published: &Published) -> Result<(), String> {
        match self.seen.get(published.round as usize) {
            Some(before) if before == published => Ok(()),
            Some(before) => Err(format!("{before:?} became {published:?}")),
            None if self.seen.len() == published.round as usize => {
                self.seen.push(published.clone());
                Ok(())
            }
            None => Err(format!("round {} is published after {} rounds", published.round, self.seen.len())),
        }
    }
}

impl Invariant for Rounds {
    fn name(&self) -> &'static str {
        "rounds"
    }

    fn see(&mut self, fact: &Fact<'_>, known: &Known) -> Result<(), String> {
        let history = match fact {
            Fact::Published(published) => return self.take(published),
            Fact::Restarted(restart) => restart.history,
            Fact::Ended { history, .. } => history,
            _ => return Ok(()),
        };
        let mut rounds = 0;
        for told in history {
            if let Told::Published(published) = told {
                self.take(published)?;
                rounds += 1;
            }
        }
        if rounds < self.seen.len() {
            return Err(format!("{} rounds were published, {rounds} are known", self.seen.len()));
        }
        let all = known.setting.spec.rounds as usize + 1;
        let short = matches!(fact, Fact::Ended { .. }) && rounds != all;
        if short { Err(format!("the run ended with {rounds} globals, not {all}")) } else { Ok(()) }
    }
}
