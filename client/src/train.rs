//! The training loop of one local run.

use crate::glue::host;
use crate::nn::AdamW;
use crate::task::TaskError;
use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdamConfig, GradientsParams, ModuleOptimizer, SgdConfig};
use burn::tensor::Tensor;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use tessera_common::id::Round;
use tessera_common::metric::Metrics;
use tessera_common::rng;
use tessera_common::spec::{Decay, Optimizer, Schedule, TrainSpec};

/// How a local run goes.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// Optimiser, batch size, learning rate and so on.
    pub spec: &'a TrainSpec,
    /// Round of the run, from 1, and how many there are: the schedule's place.
    pub rounds: (Round, Round),
    /// Weight mu of (mu/2)|w - w_start|^2; 0 leaves it out.
    pub proximal: f64,
    /// Parameters that the proximal term leaves alone: private ones, which no global holds.
    pub free: &'a BTreeSet<ParamId>,
    /// When set, the run ends before its next batch.
    pub cancel: &'a AtomicBool,
}

/// Learning rate of a step by the schedule: `lr` at the start of the run, and for the falling ones 0 at its end.
///
/// `step` of `steps` counts from 0 within the local run of `round` (from 1) of `rounds`. Without `per_step` and `warmup`
/// a round keeps one rate. The rise of `warmup` multiplies: the first step has its first part, not 0.
pub fn learning_rate(spec: &TrainSpec, (round, rounds): (Round, Round), step: usize, steps: usize) -> f64 {
    let within = step as f64 / steps.max(1) as f64;
    let part = if spec.per_step || spec.warmup > 0.0 { within } else { 0.0 };
    let total = f64::from(rounds.max(1));
    let done = (f64::from(round.saturating_sub(1)) + part) / total;
    let factor = match spec.schedule {
        Schedule::Constant => 1.0,
        Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        Schedule::Linear => 1.0 - done,
    };
    let next = done + 1.0 / (total * steps.max(1) as f64);
    let rise = if spec.warmup > 0.0 { (next / spec.warmup).min(1.0) } else { 1.0 };
    spec.lr * factor.max(0.0) * rise
}

/// The batches of a local run, one after another: `steps` of them, whole, over as many passes as that takes, or `epochs`
/// passes whose last batch may be smaller. A member with fewer samples than a batch has one batch a pass.
pub fn batches(spec: &TrainSpec, mut epochs: impl FnMut() -> Vec<usize>) -> impl Iterator<Item = Vec<usize>> {
    let (size, by_steps) = (spec.batch.max(1), spec.steps > 0);
    let passes = if by_steps { usize::MAX } else { spec.epochs as usize };
    let most = if by_steps { spec.steps as usize } else { usize::MAX };
    let cut = move |order: Vec<usize>| -> Vec<Vec<usize>> {
        let whole = |c: &&[usize]| !by_steps || c.len() == size || order.len() < size;
        order.chunks(size).filter(whole).map(<[usize]>::to_vec).collect()
    };
    (0..passes).map(move |_| epochs()).take_while(|order| !order.is_empty()).flat_map(cut).take(most)
}

/// How many [`batches`] a member with so many samples has.
pub fn steps(spec: &TrainSpec, samples: usize) -> usize {
    match spec.steps {
        _ if samples == 0 => 0,
        0 => spec.epochs as usize * samples.div_ceil(spec.batch.max(1)),
        steps => steps as usize,
    }
}

/// Orders of `rows` for each epoch of a member's local run in a round, one at each call.
pub fn shuffled_epochs(seed: u64, member: &str, round: Round, rows: &[usize]) -> impl FnMut() -> Vec<usize> {
    let mut draws = rng::stream(seed, "shuffle", member, round);
    move || {
        let mut order = rows.to_vec();
        draws.shuffle(&mut order);
        order
    }
}

/// Trains a module whose tensors are on an autodiff device, and returns it with `fit/loss`, the objective summed over
/// samples and their number.
///
/// `objective` gives the mean loss `[1]` of the samples of one of so many `batches`, or None if nothing can be learned from them
/// now: that step is left out. The optimiser and its moments are made anew. A parameter that a batch's loss does not
/// depend on is left alone in that step.
///
/// # Errors
/// If cancelled, or if a loss is not finite.
pub fn run<M: Module>(
    mut module: M,
    settings: &Settings<'_>,
    (steps, batches): (usize, impl Iterator<Item = Vec<usize>>),
    mut objective: impl FnMut(&M, &[usize]) -> Option<Tensor<1>>,
) -> Result<(M, Metrics), TaskError> {
    let mut optimizer = optimizer(settings.spec);
    let start = (settings.proximal > 0.0).then(|| values_of(&module, settings.free));
    let mut metrics = Metrics::default();
    for (step, rows) in batches.enumerate() {
        if settings.cancel.load(Ordering::Relaxed) {
            return Err(TaskError::Cancelled);
        }
        let Some(loss) = objective(&module, &rows) else {
            continue;
        };
        let gradients = loss.backward();
        let value = f64::from(loss.into_scalar::<f32>());
        if !value.is_finite() {
            return Err(TaskError::Diverged { loss: value, step: step + 1, steps });
        }
        metrics.add("fit/loss", value * rows.len() as f64, rows.len() as f64);
        let mut gradients = GradientsParams::from_grads(gradients, &module);
        if let Some(start) = &start {
            module.visit(&mut Pull { start, mu: settings.proximal, gradients: &mut gradients });
        }
        if settings.spec.clip > 0.0 {
            clip(&module, &mut gradients, settings.spec.clip);
        }
        module = optimizer.step(learning_rate(settings.spec, settings.rounds, step, steps), module, gradients);
    }
    Ok((module, metrics))
}

fn optimizer(spec: &TrainSpec) -> ModuleOptimizer {
    let (decay, beta2) = (spec.weight_decay as f32, spec.beta2 as f32);
    match spec.optimizer {
        Optimizer::Adam => AdamConfig::new().with_beta_2(beta2).with_epsilon(1e-8).init(),
        Optimizer::Adamw => ModuleOptimizer::from(AdamW {
            beta2: spec.beta2,
            weight_decay: spec.weight_decay,
            decay_matrices_only: spec.decay == Decay::Matrices,
        }),
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
        let rate = |schedule, round| {
            let spec = TrainSpec { lr: 0.1, schedule, ..TrainSpec::default() };
            assert_eq!(learning_rate(&spec, (round, 4), 0, 10), learning_rate(&spec, (round, 4), 9, 10), "one rate a round");
            learning_rate(&spec, (round, 4), 0, 10)
        };
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
        let orders = |member: &str, round| {
            let mut next = shuffled_epochs(1, member, round, &rows);
            [next(), next(), next()]
        };
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

    #[test]
    fn steps_are_whole_batches_and_rates_rise_and_fall_with_them() {
        let rows: Vec<usize> = (0..10).collect();
        let spec = TrainSpec { steps: 7, batch: 4, lr: 1.0, warmup: 0.2, schedule: Schedule::Cosine, ..TrainSpec::default() };
        let batches = |spec: &TrainSpec, rows: &[usize]| {
            let found: Vec<Vec<usize>> = batches(spec, shuffled_epochs(1, "m", 1, rows)).collect();
            assert_eq!(found.len(), steps(spec, rows.len()));
            found
        };
        let found = batches(&spec, &rows);
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [4; 7]);
        let whole = batches(&TrainSpec { steps: 0, epochs: 2, ..spec.clone() }, &rows);
        assert_eq!(whole.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2, 4, 4, 2]);
        let few = batches(&TrainSpec { batch: 64, ..spec.clone() }, &rows);
        assert_eq!(few.iter().map(Vec::len).collect::<Vec<_>>(), [10; 7]);
        assert!(batches(&spec, &[]).is_empty());
        let rates: Vec<f64> =
            (1..=2).flat_map(|r| (0..10).map(move |s| (r, s))).map(|(r, s)| learning_rate(&spec, (r, 2), s, 10)).collect();
        assert!((rates[0] - 0.25).abs() < 1e-12, "the first of four steps of the rise: {}", rates[0]);
        assert!(rates[..4].windows(2).all(|w| w[0] < w[1]) && rates[4..].windows(2).all(|w| w[0] > w[1]), "{rates:?}");
        assert!((rates[10] - 0.5).abs() < 1e-12 && rates[19] < 0.01, "{rates:?}");
    }
}
