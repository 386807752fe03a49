//! What the engine asks for. Commands are plain, comparable values, carried out in order by the engine's owner.

use crate::id::{AssignmentId, Digest, MemberName, Round};
use crate::metric::Metrics;
use crate::update::UpdateRef;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a member is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Send the initial parameters, made from the run's seed.
    Initialise,
    /// Send sums over input features.
    SurveyInputs,
    /// Train.
    Fit,
    /// Send sums over features of the given global.
    SurveyFeatures,
    /// Measure the given global.
    Evaluate,
}

/// Work for one member. Doing it twice does no harm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Number within the run.
    pub id: AssignmentId,
    /// Who is asked.
    pub member: MemberName,
    /// What for.
    pub work: Work,
    /// Round that it belongs to.
    pub round: Round,
    /// The global to work with, where there is one.
    pub global: Option<Digest>,
    /// Statistics of features under that global, for evaluation.
    pub statistics: Option<Digest>,
}

/// What a fold makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FoldKind {
    /// Sums over input features.
    Inputs,
    /// The initial global, from initial parameters and the sums over input features.
    Initial,
    /// The next global.
    Round,
    /// Statistics of features under a global.
    Features,
}

/// Work for the folding machinery.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fold {
    /// Number within the run.
    pub id: u64,
    /// What to make.
    pub kind: FoldKind,
    /// Round that it belongs to.
    pub round: Round,
    /// The global that the members worked with.
    pub base: Option<Digest>,
    /// Folded sums over input features, for the initial global.
    pub inputs: Option<Digest>,
    /// The answers, in order of member name.
    pub answers: Vec<UpdateRef>,
    /// Of the answers those that are late, and by how many rounds: they were trained from an older global.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stale: BTreeMap<MemberName, u32>,
}

/// A round that is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// Its number; 0 is the initial global.
    pub round: Round,
    /// The global.
    pub digest: Digest,
    /// Whose updates are in it, late ones too, in order of name.
    pub members: Vec<MemberName>,
    /// Metrics of local training, summed over them.
    pub metrics: Metrics,
}

/// What the engine wants done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Give work to a member.
    Assign(Assignment),
    /// Tell a member that its work is no longer wanted.
    Cancel {
        /// Who.
        member: MemberName,
        /// Which work.
        assignment: AssignmentId,
    },
    /// Fold answers. The result comes back as [`super::Event::Folded`].
    Fold(Fold),
    /// A global is out.
    Publish(Published),
    /// A global was evaluated.
    Report {
        /// Its round.
        round: Round,
        /// Statistics of features under it.
        statistics: Option<Digest>,
        /// Metrics summed over members in order of name.
        metrics: Metrics,
    },
    /// A member failed so often that it is left out for some rounds.
    Rest {
        /// Who.
        member: MemberName,
        /// Its failures in a row.
        failures: u32,
        /// The first round that may ask it again.
        until: Round,
    },
    /// The run waits for somebody to act.
    Pause {
        /// Why, and what would help.
        reason: String,
    },
    /// The run is over.
    Finish(super::Outcome),
}
