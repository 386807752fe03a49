//! FedProx (Li et al. 2020): FedAvg whose local loss pulls towards the global model, (mu/2)|w - W|^2.

use super::{FitPlan, Strategy, StrategyDef, fedavg::weight};
use crate::aggregate::{FoldError, FoldInput, Sink, fold_mean};
use crate::id::Round;
use crate::spec::{RunSpec, SpecError, parse_table};
use serde::Deserialize;

pub(super) const DEF: StrategyDef = StrategyDef {
    name: "fedprox",
    help: "fedavg with a pull of strength mu towards the global model in the local loss",
    create: |table| {
        let strategy = parse_table::<FedProx>("strategy", table)?;
        if !strategy.mu.is_finite() || strategy.mu < 0.0 {
            return Err(SpecError::invalid("strategy.mu", "must be 0 or more"));
        }
        Ok(Box::new(strategy))
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FedProx {
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default = "usual_mu")]
    mu: f64,
    #[serde(default)]
    blockwise: bool,
}

fn usual_mu() -> f64 {
    0.01
}

impl Strategy for FedProx {
    fn plan(&self, _: &RunSpec, _: Round) -> FitPlan {
        FitPlan { proximal: self.mu, blockwise: self.blockwise, prototypes: false }
    }

    fn fold(&self, input: &FoldInput<'_>, sink: &mut dyn Sink) -> Result<(), FoldError> {
        fold_mean(input, &weight(self.blockwise), false, sink)
    }
}
