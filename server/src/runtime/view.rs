//! What operators see.

use super::Broken;
use super::run::Run;
use super::sessions::Known;
use std::sync::Arc;
use tessera_common::id::{AgentName, Digest, MemberName, Millis, Round, RunId};
use tessera_common::metric::Metrics;
use tessera_common::round::{Collect, MemberInfo, Phase, Tally};

/// A run in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSummary {
    /// Its id.
    pub run: RunId,
    /// Name in its spec.
    pub name: String,
    /// Strategy in its spec.
    pub strategy: String,
    /// When it was submitted.
    pub created: Millis,
    /// What it is doing; `broken` if it stands still for want of a journal.
    pub phase: String,
    /// Latest published round.
    pub round: Round,
    /// Rounds that it will have.
    pub rounds: u32,
    /// Why it waits, if it is paused or broken.
    pub reason: String,
    /// Latest global.
    pub global: Option<Digest>,
    /// Latest statistics of features.
    pub statistics: Option<Digest>,
    /// Bytes of accepted answers.
    pub bytes_up: u64,
    /// Bytes that agents fetched.
    pub bytes_down: u64,
    /// Answers of the phase that are in.
    pub answered: usize,
    /// Answers of the phase that are awaited.
    pub awaited: usize,
}

/// A run in full.
#[derive(Debug, Clone, PartialEq)]
pub struct RunDetail {
    /// The summary.
    pub summary: RunSummary,
    /// Its spec.
    pub spec_toml: Arc<str>,
    /// The latest evaluation: round and metrics.
    pub evaluation: Option<(Round, Metrics)>,
    /// Members that the phase waits for, in order of name.
    pub waiting: Vec<MemberName>,
    /// How its assignments ended.
    pub tally: Tally,
}

/// A member and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberView {
    /// Its name.
    pub member: MemberName,
    /// What it has.
    pub info: MemberInfo,
    /// It is connected.
    pub online: bool,
    /// The agent that serves or served it, where that is known.
    pub agent: Option<AgentName>,
}

fn collect(phase: &Phase) -> Option<&Collect> {
    match phase {
        Phase::Paused { then, .. } => then.collect(),
        Phase::Waiting
        | Phase::Surveying(_)
        | Phase::Initialising(_)
        | Phase::Fitting { .. }
        | Phase::Aggregating { .. }
        | Phase::Evaluating(_)
        | Phase::Done(_) => phase.collect(),
    }
}

impl RunSummary {
    pub(super) fn of(run: &Run) -> Self {
        let state = run.engine().state();
        let gate = collect(&state.phase);
        Self {
            run: run.id.clone(),
            name: run.spec.name.clone(),
            strategy: run.spec.strategy_kind().to_owned(),
            created: run.created,
            phase: state.phase.name().to_owned(),
            round: state.global.map_or(0, |g| g.round),
            rounds: run.spec.rounds,
            reason: if let Phase::Paused { reason, .. } = &state.phase { reason.clone() } else { String::new() },
            global: state.global.map(|g| g.digest),
            statistics: state.statistics.map(|s| s.digest),
            bytes_up: run.bytes_up(),
            bytes_down: run.fetched.get(),
            answered: gate.map_or(0, Collect::accepted),
            awaited: gate.map_or(0, |c| c.waiting().count()),
        }
    }

    pub(super) fn of_broken(id: &RunId, broken: &Broken) -> Self {
        Self {
            run: id.clone(),
            name: broken.name.clone(),
            strategy: String::new(),
            created: broken.created,
            phase: "broken".to_owned(),
            round: 0,
            rounds: 0,
            reason: broken.reason.clone(),
            global: None,
            statistics: None,
            bytes_up: 0,
            bytes_down: 0,
            answered: 0,
            awaited: 0,
        }
    }
}

impl RunDetail {
    pub(super) fn of(run: &Run) -> Self {
        let state = run.engine().state();
        let mut waiting: Vec<MemberName> = collect(&state.phase).into_iter().flat_map(Collect::waiting).cloned().collect();
        waiting.sort();
        Self {
            summary: RunSummary::of(run),
            spec_toml: run.spec_toml.clone(),
            evaluation: run.history.last_evaluation(),
            waiting,
            tally: state.tally,
        }
    }
}

impl MemberView {
    pub(super) fn of(name: &MemberName, known: &Known) -> Self {
        Self {
            member: name.clone(),
            info: known.record.info.clone(),
            online: known.session.is_some(),
            agent: known.record.agent.clone(),
        }
    }
}
