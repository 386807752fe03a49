//! Strategies: whom to ask, what to ask for, and how answers become the next global.
//!
//! A strategy is pure and keeps no state: what it must remember travels in the global. To add one, write
//! `strategy/NAME.rs` with a `DEF` and add it to [`STRATEGIES`]; the conformance suite walks the table.

mod fedavg;
mod fedprox;
mod pmcm;
#[cfg(test)]
mod tests;

use crate::aggregate::{FoldError, FoldInput, Sink};
use crate::id::{MemberName, Round};
use crate::rng::Stream;
use crate::spec::{RunSpec, SpecError};
use std::fmt::Debug;

/// What a member needs to know of the strategy for a round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FitPlan {
    /// Weight of (mu/2)|w - global|^2 in the local loss.
    pub proximal: f64,
    /// Leave out blocks that the member did not train.
    pub blockwise: bool,
    /// Send prototype sums; the strategy keeps a library.
    pub prototypes: bool,
}

/// The server side of an algorithm.
pub trait Strategy: Debug + Send + Sync {
    /// What members do in `round`.
    fn plan(&self, spec: &RunSpec, round: Round) -> FitPlan;

    /// Draws the cohort of a round from `pool`, which is sorted by name: uniform without replacement.
    fn select(&self, pool: &[MemberName], size: usize, rng: &mut Stream) -> Vec<MemberName> {
        rng.choose(pool, size)
    }

    /// Writes the next global.
    ///
    /// # Errors
    /// If an update does not fit, or reading or writing fails. The global then stays as it was.
    fn fold(&self, input: &FoldInput<'_>, sink: &mut dyn Sink) -> Result<(), FoldError>;
}

/// A line of the table of strategies.
#[derive(Debug, Clone, Copy)]
pub struct StrategyDef {
    /// Name, as in `strategy.kind`.
    pub name: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// Makes it from the `[strategy]` table.
    pub create: fn(&toml::Table) -> Result<Box<dyn Strategy>, SpecError>,
}

/// All strategies.
pub const STRATEGIES: &[StrategyDef] = &[fedavg::DEF, fedprox::DEF, pmcm::DEF];

/// The strategy that a spec names.
///
/// # Errors
/// If there is none of that name, or one of its keys is not valid.
pub fn create(spec: &RunSpec) -> Result<Box<dyn Strategy>, SpecError> {
    let kind = spec.strategy_kind();
    let def = STRATEGIES.iter().find(|d| d.name == kind).ok_or_else(|| {
        let names: Vec<&str> = STRATEGIES.iter().map(|d| d.name).collect();
        SpecError::unknown_name("strategy.kind", kind, &names)
    })?;
    (def.create)(&spec.strategy)
}
