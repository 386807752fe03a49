//! Members that fail again and again rest for some rounds, longer each time.

use super::{Command, Engine};
use crate::id::{MemberName, Round};

/// A rest is at most 2^6 rounds.
const LONGEST: u32 = 6;

impl Engine {
    /// Those of `pool` that do not rest in `round`, in order of name. If these are fewer than `least`, those whose rest
    /// ends soonest come back: a rest must not stop a run.
    pub(super) fn awake(&self, pool: Vec<MemberName>, least: usize, round: Round) -> Vec<MemberName> {
        let until = |name: &MemberName| self.state.members.get(name).map_or(0, |m| m.rests_until);
        let (mut awake, mut resting): (Vec<MemberName>, Vec<MemberName>) = pool.into_iter().partition(|n| until(n) <= round);
        if awake.len() < least {
            resting.sort_by(|a, b| (until(a), a).cmp(&(until(b), b)));
            resting.truncate(least - awake.len());
            awake.append(&mut resting);
            awake.sort();
        }
        awake
    }

    /// A member failed, its answer was refused, or it let its time run out.
    pub(super) fn strike(&mut self, name: &MemberName) {
        let (strikes, round) = (self.spec.cohort.strikes, self.current_round());
        if self.spec.rules < 2 {
            return;
        }
        let Some(member) = self.state.members.get_mut(name) else { return };
        member.failures = member.failures.saturating_add(1);
        if strikes == 0 || member.failures < strikes {
            return;
        }
        let rest = 1 << (member.failures - strikes).min(LONGEST);
        member.rests_until = round.saturating_add(1 + rest);
        let (failures, until) = (member.failures, member.rests_until);
        self.commands.push_back(Command::Rest { member: name.clone(), failures, until });
    }

    /// A member gave an answer that counts: its failures are forgotten.
    pub(super) fn trust(&mut self, name: &MemberName) {
        if let Some(member) = self.state.members.get_mut(name) {
            (member.failures, member.rests_until) = (0, 0);
        }
    }
}
