//! The training loop of one local run.

use crate::glue::host;
use crate::task::TaskError;
use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdamConfig, AdamWConfig, GradientsParams, ModuleOptimizer, SgdConfig};
use burn::tensor::Tensor;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use tessera_common::id::Round;
use tessera_common::metric::Metrics;
use tessera_common::rng;
use tessera_common::spec::{Optimizer, Schedule, TrainSpec};

/// How a local run goes.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// Optimiser, batch size, learning rate and so on.
    pub spec: &'a TrainSpec,
    /// Learning rate of this round, see [`learning_rate`].
    pub lr: f64,
    /// Weight mu of (mu/2)|w - w_start|^2; 0 leaves it out.
    pub proximal: f64,
    /// Parameters that the proximal term leaves alone: private ones, which no global holds.
    pub free: &'a BTreeSet<ParamId>,
    /// When set, the run ends before its next batch.
    pub cancel: &'a AtomicBool,
}

/// Learning rate of a round by the schedule: `lr` in round 1, and for the falling ones 0 after the last round.
pub fn learning_rate(spec: &TrainSpec, round: Round, rounds: Round) -> f64 {
    let done = f64::from(round.saturating_sub(1)) / f64::from(rounds.max(1));
    let factor = match spec.schedule {
        Schedule::Constant => 1.0,
        Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        Schedule::Linear => 1.0 - done,
    };
    spec.lr * factor.max(0.0)
}

/// Orders of `rows` for each epoch of a member's local run in a round.
pub fn shuffled_epochs(seed: u64, member: &str, round: Round, rows: &[usize], epochs: u32) -> impl Iterator<Item = Vec<usize>> {
    let mut draws = rng::stream(seed, "shuffle", member, round);
    (0..epochs).map(move |_| {
        let mut order = rows.to_vec();
        draws.shuffle(&mut order);
        order
    })
}

/// Trains a module whose tensors are on an autodiff device, and returns it with `fit/loss`, the objective summed over
/// samples and their number.
///
/// Each of `epochs` is an order of samples; it is cut into batches of `settings.spec.batch`, the last smaller one kept.
/// `objective` gives the mean loss `[1]` of the samples of one batch. The optimiser and its moments are made anew. A
/// parameter that a batch's loss does not depend on is left alone in that step.
///
/// # Errors
/// If cancelled, or if a loss is not finite.
pub fn run<M: Module>(
    mut module: M,
    settings: &Settings<'_>,
    epochs: impl Iterator<Item = Vec<usize>>,
    mut objective: impl FnMut(&M, &[usize]) -> Tensor<1>,
) -> Result<(M, Metrics), TaskError> {
    let mut optimizer = optimizer(settings.spec);
    let start = (settings.proximal > 0.0).then(|| values_of(&module, settings.free));
    let mut metrics = Metrics::default();
    for (epoch, order) in epochs.enumerate() {
        for (step, rows) in order.chunks(settings.spec.batch.max(1)).enumerate() {
            if settings.cancel.load(Ordering::Relaxed) {
                return Err(TaskError::Cancelled);
            }
            let loss = objective(&module, rows);
            let gradients = loss.backward();
            let value = f64::from(loss.into_scalar::<f32>());
            if !value.is_finite() {
                return Err(TaskError::Diverged { loss: value, step: step + 1, epoch: epoch + 1 });
            }
            metrics.add("fit/loss", value * rows.len() as f64, rows.len() as f64);
            let mut gradients = GradientsParams::from_grads(gradients, &module);
            if let Some(start) = &start {
                module.visit(&mut Pull { start, mu: settings.proximal, gradients: &mut gradients });
            }
            if settings.spec.clip > 0.0 {
                clip(&module, &mut gradients, settings.spec.clip);
            }
            module = optimizer.step(settings.lr, module, gradients);
        }
    }
    Ok((module, metrics))
}

fn optimizer(spec: &TrainSpec) -> ModuleOptimizer {
    let decay = spec.weight_decay as f32;
    match spec.optimizer {
        Optimizer::Adam => AdamConfig::new().with_epsilon(1e-8).init(),
        Optimizer::Adamw => AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(decay).init(),
        Optimizer::Sgd => {
            // Burn damps new gradients by .1 unless told not to.
            let momentum = MomentumConfig::new().with_momentum(spec.momentum).with_dampening(0.0);
            let decay = (decay > 0.0).then(|| WeightDecayConfig::new(decay));
            SgdConfig::new().with_momentum((spec.momentum > 0.0).then_some(momentum)).with_weight_decay(decay).init()
        }
    }
}

/// Values of all parameters but `free`, off the autodiff graph.
fn values_of<M: Module>(module: &M, free: &BTreeSet<ParamId>) -> GradientsParams {
    struct Keep<'a>(GradientsParams, &'a BTreeSet<ParamId>);
    impl ModuleVisitor for Keep<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if !self.1.contains(&param.id) {
                self.0.register(param.id, param.val().inner());
            }
        }
    }
    let mut keep = Keep(GradientsParams::new(), free);
    module.visit(&mut keep);
    keep.0
}

/// Adds the gradient `mu (w - start)` of the proximal term.
struct Pull<'a> {
    start: &'a GradientsParams,
    mu: f64,
    gradients: &'a mut GradientsParams,
}

impl ModuleVisitor for Pull<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(start) = self.start.get::<D>(param.id) {
            let pull = (param.val().inner() - start).mul_scalar(self.mu);
            let gradient = match self.gradients.remove::<D>(param.id) {
                Some(gradient) => gradient + pull,
                None => pull,
            };
            self.gradients.register(param.id, gradient);
        }
    }
}

/// Scales all gradients so that their common norm is at most `most`.
fn clip<M: Module>(module: &M, gradients: &mut GradientsParams, most: f64) {
    struct Norm<'a>(&'a GradientsParams, f64);
    impl ModuleVisitor for Norm<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.get::<D>(param.id) {
                self.1 += host(gradient).iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
            }
        }
    }
    struct Scale<'a>(&'a mut GradientsParams, f64);
    impl ModuleVisitor for Scale<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.remove::<D>(param.id) {
                self.0.register(param.id, gradient.mul_scalar(self.1));
            }
        }
    }
    let mut norm = Norm(gradients, 0.0);
    module.visit(&mut norm);
    let norm = norm.1.sqrt();
    if norm > most {
        module.visit(&mut Scale(gradients, most / norm));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_start_at_the_rate_and_end_at_zero() {
        let rate = |schedule, round| learning_rate(&TrainSpec { lr: 0.1, schedule, ..TrainSpec::default() }, round, 4);
        for schedule in [Schedule::Constant, Schedule::Cosine, Schedule::Linear] {
            assert!((rate(schedule, 1) - 0.1).abs() < 1e-15, "{schedule:?}");
        }
        assert_eq!(rate(Schedule::Constant, 4), 0.1);
        assert!((rate(Schedule::Linear, 3) - 0.05).abs() < 1e-15 && rate(Schedule::Linear, 5).abs() < 1e-15);
        assert!((rate(Schedule::Cosine, 3) - 0.05).abs() < 1e-15 && rate(Schedule::Cosine, 5).abs() < 1e-15);
        assert!(rate(Schedule::Cosine, 2) > rate(Schedule::Linear, 2));
        assert_eq!(rate(Schedule::Linear, 9), 0.0, "never below 0");
    }

    #[test]
    fn every_epoch_has_every_sample_in_an_order_of_its_own() {
        let rows: Vec<usize> = (10..30).collect();
        let orders = |member: &str, round| shuffled_epochs(1, member, round, &rows, 3).collect::<Vec<_>>();
        let epochs = orders("m", 1);
        assert_eq!(epochs.len(), 3);
        for order in &epochs {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, rows);
        }
        assert!(epochs[0] != epochs[1] && epochs[0] != rows);
        assert_eq!(epochs, orders("m", 1));
        assert!(epochs != orders("n", 1) && epochs != orders("m", 2));
    }
}
