//! FedAvg (McMahan et al. 2017): the mean of local models, weighted by their numbers of samples.

use super::{FitPlan, Strategy, StrategyDef};
use crate::aggregate::{FoldError, FoldInput, Sink, fold_mean};
use crate::id::Round;
use crate::spec::{RunSpec, parse_table};
use crate::update::UpdateRef;
use serde::Deserialize;

pub(super) const DEF: StrategyDef = StrategyDef {
    name: "fedavg",
    help: "mean of local models, weighted by samples; blockwise = true weighs each block by the samples that trained it",
    create: |table| Ok(Box::new(parse_table::<FedAvg>("strategy", table)?)),
};

/// W = sum_k n_k w_k / sum n_k, per block.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FedAvg {
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default)]
    blockwise: bool,
}

/// Weight of an update for a block: all of its samples, or those that trained the block.
pub(super) fn weight(blockwise: bool) -> impl Fn(&UpdateRef, &str) -> u32 {
    move |update, block| {
        let trained = update.weights.get(block).copied();
        // A block that was not sent has no weight either way.
        if blockwise { trained.unwrap_or(0) } else { trained.map_or(0, |_| update.examples) }
    }
}

impl Strategy for FedAvg {
    fn plan(&self, spec: &RunSpec, _: Round) -> FitPlan {
        FitPlan { proximal: spec.train.proximal, blockwise: self.blockwise, prototypes: false }
    }

    fn fold(&self, input: &FoldInput<'_>, sink: &mut dyn Sink) -> Result<(), FoldError> {
        fold_mean(input, &weight(self.blockwise), false, sink)
    }
}
