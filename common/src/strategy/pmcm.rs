//! PmcmFL (arXiv 2312.13508): FedAvg and a library of prototypes per class and modality.
//!
//! The library is renewed from sums and counts per class, not from means per client as in the authors' code, so that
//! its weights are right for every mix of modalities and a class that nobody has leaves its row alone.

use super::{FitPlan, Strategy, StrategyDef, fedavg::weight};
use crate::aggregate::{FoldError, FoldInput, Sink, fold_mean};
use crate::id::Round;
use crate::spec::{RunSpec, parse_table};
use serde::Deserialize;

pub(super) const DEF: StrategyDef = StrategyDef {
    name: "pmcm",
    help: "fedavg and a library of prototypes per class and modality, which stand in for what is missing",
    create: |table| Ok(Box::new(parse_table::<Pmcm>("strategy", table)?)),
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pmcm {
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default = "yes")]
    blockwise: bool,
}

fn yes() -> bool {
    true
}

impl Strategy for Pmcm {
    fn plan(&self, spec: &RunSpec, _: Round) -> FitPlan {
        FitPlan { proximal: spec.train.proximal, blockwise: self.blockwise, prototypes: true }
    }

    fn fold(&self, input: &FoldInput<'_>, sink: &mut dyn Sink) -> Result<(), FoldError> {
        fold_mean(input, &weight(self.blockwise), true, sink)
    }
}
