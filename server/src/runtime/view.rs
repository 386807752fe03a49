//! What operators see.

use super::Broken;
use super::run::Run;
use super::sessions::Known;
use crate::history::EndedBadly;
use std::sync::Arc;
use tessera_common::id::{AgentName, Digest, MemberName, Millis, Round, RunId};
use tessera_common::metric::Metrics;
use tessera_common::round::{Collect, MemberInfo, Phase, Tally};
use tessera_common::spec::RunSpec;

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
    /// Why it waits, if it is waiting for members, paused or broken.
    pub reason: String,
    /// Latest global.
    pub global: Option<Digest>,
    /// Latest statistics of features.
    pub statistics: Option<Digest>,
    /// Bytes of accepted answers.
    pub bytes_up: u64,
    /// Bytes that agents fetched.
    pub bytes_down: u64,
    /// Answers of the phase that are in; while the run waits for members, those with training data that have joined.
    pub answered: usize,
    /// Answers of the phase that are awaited; while the run waits for members, how many more with training data must join.
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
    /// Members that failed repeatedly: failures in a row, and the first round in which they may be asked again.
    pub resting: Vec<(MemberName, u32, Round)>,
    /// Of a paused run: the last assignments since the latest global that did not end well, oldest first.
    pub bad_ends: Vec<EndedBadly>,
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

/// Bad ends that the detail of a paused run shows.
const BAD_ENDS: usize = 10;

/// Members of a run that waits for members: with training data, and with data to evaluate on.
struct Joined {
    training: usize,
    evaluating: usize,
}

impl Joined {
    fn of(run: &Run) -> Self {
        // as the engine counts them: whoever joined and was invited, connected or not
        let members = &run.engine().state().members;
        Self {
            training: members.iter().filter(|(name, m)| m.info.trains && run.invites(name)).count(),
            evaluating: members.values().filter(|m| m.info.evaluates).count(),
        }
    }

    fn text(&self, spec: &RunSpec) -> String {
        let (members, evaluators) = (spec.cohort.members, spec.evaluate.members);
        let mut text = format!("{} of {members} members with training data have joined", self.training);
        if self.evaluating < evaluators {
            text += &format!(", {} of {evaluators} with data to evaluate on", self.evaluating);
        }
        text
    }
}

impl RunSummary {
    pub(super) fn of(run: &Run) -> Self {
        let state = run.engine().state();
        let phase = state.phase.under_pause();
        let joined = matches!(phase, Phase::Waiting).then(|| Joined::of(run));
        let (answered, awaited) = match (&joined, phase.collect()) {
            (Some(joined), _) => (joined.training, run.spec.cohort.members.saturating_sub(joined.training)),
            (None, Some(collect)) => (collect.accepted(), collect.waiting().count()),
            (None, None) => (0, 0),
        };
        let reason = match (&state.phase, joined) {
            (Phase::Paused { reason, .. }, _) => reason.clone(),
            (_, Some(joined)) => joined.text(&run.spec),
            (_, None) => String::new(),
        };
        Self {
            run: run.id.clone(),
            name: run.spec.name.clone(),
            strategy: run.spec.strategy_kind().to_owned(),
            created: run.created,
            phase: state.phase.name().to_owned(),
            round: state.global.map_or(0, |g| g.round),
            rounds: run.spec.rounds,
            reason,
            global: state.global.map(|g| g.digest),
            statistics: state.statistics.map(|s| s.digest),
            bytes_up: run.bytes_up(),
            bytes_down: run.fetched.get(),
            answered,
            awaited,
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
        let collect = state.phase.under_pause().collect();
        let mut waiting: Vec<MemberName> =
            collect.into_iter().flat_map(Collect::waiting).chain(state.late.waiting()).cloned().collect();
        waiting.sort();
        waiting.dedup();
        let paused = matches!(state.phase, Phase::Paused { .. });
        Self {
            summary: RunSummary::of(run),
            spec_toml: run.spec_toml.clone(),
            evaluation: run.history.last_evaluation(),
            waiting,
            tally: state.tally,
            resting: resting(run),
            bad_ends: if paused { run.history.bad_ends(BAD_ENDS) } else { Vec::new() },
        }
    }
}

/// Members that are left out at present, in order of name.
fn resting(run: &Run) -> Vec<(MemberName, u32, Round)> {
    let state = run.engine().state();
    let next = state.global.map_or(0, |g| g.round) + 1;
    let rests = state.members.iter().filter(|(_, m)| m.rests_until > next);
    rests.map(|(name, m)| (name.clone(), m.failures, m.rests_until)).collect()
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
