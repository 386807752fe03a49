//! Phases carry their own data: a deadline without a cohort cannot exist.

use super::collect::Collect;
use super::command::Fold;
use crate::id::Round;
use crate::metric::Metrics;
use serde::{Deserialize, Serialize};

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// All rounds are done.
    Completed,
    /// Somebody stopped it.
    Stopped,
}

/// Why a run is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PauseCause {
    /// Somebody asked for it, who must say when to go on.
    #[default]
    Asked,
    /// There were too few answers. It goes on by itself when a member joins that can help.
    Starved,
    /// Answers could not be folded.
    Fold,
}

/// What a run is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Phase {
    /// For members.
    Waiting,
    /// Members send additive statistics; nothing is trained.
    Surveying(Collect),
    /// A member makes the initial parameters.
    Initialising(Collect),
    /// The cohort trains.
    Fitting {
        /// The round.
        round: Round,
        /// Its answers.
        collect: Collect,
    },
    /// Answers are folded.
    Aggregating {
        /// What is awaited.
        fold: Fold,
        /// Metrics that came with the answers.
        metrics: Metrics,
    },
    /// Members measure the global.
    Evaluating(Collect),
    /// Nothing more will happen.
    Done(Outcome),
    /// Somebody must act.
    Paused {
        /// Why.
        reason: String,
        /// What kind of pause it is.
        #[serde(default)]
        cause: PauseCause,
        /// What to go on with.
        then: Box<Phase>,
    },
}

impl Phase {
    /// One word for people, logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Phase::Waiting => "waiting",
            Phase::Surveying(_) => "surveying",
            Phase::Initialising(_) => "initialising",
            Phase::Fitting { .. } => "fitting",
            Phase::Aggregating { .. } => "aggregating",
            Phase::Evaluating(_) => "evaluating",
            Phase::Done(Outcome::Completed) => "completed",
            Phase::Done(Outcome::Stopped) => "stopped",
            Phase::Paused { .. } => "paused",
        }
    }

    /// Answers that are waited for, if any.
    pub fn collect(&self) -> Option<&Collect> {
        match self {
            Phase::Surveying(c) | Phase::Initialising(c) | Phase::Evaluating(c) | Phase::Fitting { collect: c, .. } => Some(c),
            Phase::Waiting | Phase::Aggregating { .. } | Phase::Done(_) | Phase::Paused { .. } => None,
        }
    }

    /// The phase, or what a paused run goes on with.
    pub fn under_pause(&self) -> &Phase {
        if let Phase::Paused { then, .. } = self { then } else { self }
    }

    /// As [`Self::under_pause`].
    pub(super) fn under_pause_mut(&mut self) -> &mut Phase {
        if let Phase::Paused { then, .. } = self { then } else { self }
    }

    pub(super) fn collect_mut(&mut self) -> Option<&mut Collect> {
        match self {
            Phase::Surveying(c) | Phase::Initialising(c) | Phase::Evaluating(c) | Phase::Fitting { collect: c, .. } => Some(c),
            Phase::Waiting | Phase::Aggregating { .. } | Phase::Done(_) | Phase::Paused { .. } => None,
        }
    }
}
