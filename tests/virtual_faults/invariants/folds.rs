//! A fold holds only members that were asked for it, each once, at least a quorum; and it never changes. Where late
//! answers count, there may be some of the round before, beyond the quorum.

use crate::cluster::watch::{Fact, Invariant, Known};
use std::collections::{BTreeMap, BTreeSet};
use tessera_common::id::{AssignmentId, Digest, MemberName};
use tessera_common::round::{Assignment, Fold, FoldKind, Work};

#[derive(Debug, Default)]
pub(crate) struct Folds {
    given: BTreeMap<AssignmentId, Assignment>,
    folds: BTreeMap<u64, Fold>,
    global: Option<Digest>,
}

fn work(kind: FoldKind) -> Work {
    match kind {
        FoldKind::Inputs => Work::SurveyInputs,
        FoldKind::Initial => Work::Initialise,
        FoldKind::Round => Work::Fit,
        FoldKind::Features => Work::SurveyFeatures,
    }
}

impl Folds {
    fn check(&self, fold: &Fold, known: &Known) -> Result<(), String> {
        let mut members: BTreeSet<&MemberName> = BTreeSet::new();
        let mut fresh = 0;
        for answer in &fold.answers {
            let asked = self.given.get(&answer.assignment);
            let late = |a: &Assignment| fold.kind == FoldKind::Round && known.setting.late && a.round + 1 == fold.round;
            let right = |a: &&Assignment| a.member == answer.member && a.work == work(fold.kind);
            let Some(asked) = asked.filter(right).filter(|a| a.round == fold.round || late(a)) else {
                return Err(format!(
                    "{} of {}, who was not asked for {:?} of round {}",
                    answer.assignment, answer.member, fold.kind, fold.round
                ));
            };
            fresh += usize::from(asked.round == fold.round);
            if !members.insert(&answer.member) {
                return Err(format!("{} is in a fold of round {} twice", answer.member, fold.round));
            }
        }
        let cohort = &known.setting.spec.cohort;
        let (fewest, most) = match fold.kind {
            FoldKind::Initial => (1, 1),
            // those rules did not limit what came during a pause
            FoldKind::Round if known.setting.old_rules => (cohort.quorum(), cohort.size),
            FoldKind::Round => (cohort.quorum(), cohort.most()),
            FoldKind::Inputs | FoldKind::Features => (cohort.quorum(), usize::MAX),
        };
        if fresh < fewest || fresh > most {
            return Err(format!("{:?} of round {} folds {fresh} answers, not {fewest} to {most}", fold.kind, fold.round));
        }
        if fold.base != self.global {
            return Err(format!("fold {} starts from {:?}, published is {:?}", fold.id, fold.base, self.global));
        }
        match self.folds.get(&fold.id) {
            Some(before) if before != fold => Err(format!("fold {} was {before:?} and is {fold:?}", fold.id)),
            _ => Ok(()),
        }
    }
}

impl Invariant for Folds {
    fn name(&self) -> &'static str {
        "folds"
    }

    fn see(&mut self, fact: &Fact<'_>, known: &Known) -> Result<(), String> {
        match fact {
            Fact::Given(assignment) => drop(self.given.insert(assignment.id, (*assignment).clone())),
            Fact::Restarted(restart) => self.global = restart.state.global.map(|g| g.digest),
            Fact::Published(published) => self.global = Some(published.digest),
            Fact::Folding(fold) => {
                self.check(fold, known)?;
                self.folds.insert(fold.id, (*fold).clone());
            }
            _ => {}
        }
        Ok(())
    }
}
