//! Against PyTorch: values and gradients of the operations and three steps of AdamW, `known_answers/nn/make.py`.

use super::{assert_close, host, tensor, vector};
use crate::nn::{AdamW, op};
use burn::module::{Module, Param};
use burn::optim::{AdamState, GradientsParams, ModuleOptimizer, Optimizer};
use burn::tensor::{Device, Tensor};
use serde::Deserialize;

#[derive(Deserialize)]
struct Answers {
    operations: Vec<Operation>,
    adamw: Steps,
}

#[derive(Deserialize)]
struct Operation {
    name: String,
    shapes: Vec<Vec<usize>>,
    inputs: Vec<Vec<f32>>,
    weights: Vec<f32>,
    value: Vec<f32>,
    gradients: Vec<Vec<f32>>,
    #[serde(default)]
    targets: Vec<usize>,
    keys: Option<Vec<f32>>,
}

#[derive(Deserialize)]
struct Steps {
    start: [Vec<f32>; 2],
    beta2: f64,
    weight_decay: f64,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    rate: f64,
    gradients: [Vec<f32>; 2],
    values: [Vec<f32>; 2],
    moments: [[Vec<f32>; 2]; 2],
}

fn answers() -> Answers {
    serde_json::from_str(include_str!("../../../../known_answers/nn/answers.json")).unwrap()
}

/// The operation of this name.
fn value_of(known: &Operation, i: &[Tensor<3>]) -> Tensor<1> {
    let x = i[0].clone();
    let heads = |keys, causal| op::attention(x.clone(), vector(&i[1]), 2, keys, causal);
    let value = match known.name.as_str() {
        "gelu" | "gelu far" => op::gelu(x),
        "gelu biased" => op::gelu_biased(x, vector(&i[1])),
        "residual" => op::residual(x, i[1].clone(), vector(&i[2])),
        "norm" => op::layer_norm(x, vector(&i[1]), vector(&i[2]), 1e-5),
        "softmax" => op::softmax(x, 0.7),
        "causal softmax" => op::causal_softmax(x, 0.7),
        "loss" => return op::cross_entropy(x.squeeze_dim::<2>(0), &known.targets),
        "attention" => heads(None, false),
        "attention causal" => heads(None, true),
        "attention keyed" => {
            let keys = known.keys.clone().expect("given with this one");
            let device = x.device();
            heads(Some(tensor(keys, [2, 1, 1, 6], &device)), false)
        }
        name => panic!("no operation {name:?}"),
    };
    value.flatten(0, 2)
}

#[test]
fn operations_are_those_of_pytorch() {
    let device = Device::flex().autodiff();
    let known = answers().operations;
    assert_eq!(known.len(), 11);
    for known in known {
        let leaf = |(values, shape): (&Vec<f32>, &Vec<usize>)| {
            let mut axes = [1; 3];
            axes[3 - shape.len()..].copy_from_slice(shape);
            tensor::<3>(values.clone(), axes, &device).require_grad()
        };
        let leaves: Vec<Tensor<3>> = known.inputs.iter().zip(&known.shapes).map(leaf).collect();
        let value = value_of(&known, &leaves);
        let weights: Tensor<1> = tensor(known.weights.clone(), [known.weights.len()], &device);
        let mut gradients = (value.clone() * weights).sum().backward();
        let gradients = leaves.iter().map(|leaf| host(leaf.grad_remove(&mut gradients).unwrap()));
        let found: Vec<Vec<f32>> = std::iter::once(host(value)).chain(gradients).collect();
        let right: Vec<Vec<f32>> = std::iter::once(known.value.clone()).chain(known.gradients).collect();
        assert_close(&known.name, &found, &right);
    }
}

/// Runs the steps on one of the two parameters.
fn steps<const D: usize>(which: usize, shape: [usize; D], known: &Steps) {
    let device = Device::flex();
    let adamw = AdamW { beta2: known.beta2, weight_decay: known.weight_decay, decay_matrices_only: true };
    let mut parameter: Tensor<D> = tensor(known.start[which].clone(), shape, &device);
    let mut state: Option<AdamState<D>> = None;
    for step in &known.steps {
        let gradient = tensor(step.gradients[which].clone(), shape, &device);
        (parameter, state) = adamw.step(step.rate, parameter, gradient, state);
        let momentum = state.as_ref().map(|state| &state.momentum).unwrap();
        for (found, right) in [
            (parameter.clone(), &step.values[which]),
            (momentum.moment_1.clone(), &step.moments[which][0]),
            (momentum.moment_2.clone(), &step.moments[which][1]),
        ] {
            for (found, right) in host(found).iter().zip(right) {
                assert!((found - right).abs() <= 5e-7 * right.abs().max(1e-9), "{found} for {right}");
            }
        }
    }
}

#[test]
fn adamw_is_that_of_pytorch() {
    let known = answers().adamw;
    assert_eq!(known.steps.len(), 3);
    steps(0, [3, 5], &known);
    steps(1, [5], &known);
}

#[derive(Module, Debug)]
struct Two {
    used: Param<Tensor<2>>,
    idle: Param<Tensor<2>>,
}

#[test]
fn a_parameter_without_a_gradient_is_left_alone_and_layouts_do_not_matter() {
    let device = Device::flex().autodiff();
    let values: Vec<f32> = (0..15).map(|i| i as f32 / 3.0 - 1.9).collect();
    let adamw = AdamW { beta2: 0.999, weight_decay: 0.5, decay_matrices_only: false };
    let moved = |turned: bool| {
        let used: Tensor<2> = match turned {
            true => {
                let across = (0..15).map(|i| values[i % 3 * 5 + i / 3]).collect();
                tensor(across, [5, 3], &device).transpose()
            }
            false => tensor(values.clone(), [3, 5], &device),
        };
        let (used, idle) = (Param::from_tensor(used), Param::from_tensor(tensor(values.clone(), [3, 5], &device)));
        let mut two = Two { used, idle };
        let mut optimizer = ModuleOptimizer::from(adamw);
        for _ in 0..2 {
            let loss = (two.used.val().square() * two.used.val()).sum();
            let gradients = GradientsParams::from_grads(loss.backward(), &two);
            two = optimizer.step(0.1, two, gradients);
        }
        (host(two.used.val()), host(two.idle.val()))
    };
    let (used, idle) = moved(false);
    assert!(idle == values && used.iter().zip(&values).all(|(a, b)| a != b));
    assert_eq!((used, idle), moved(true));
}

#[test]
fn a_copy_that_is_still_in_use_is_not_written_over() {
    let device = Device::flex();
    let one = || Tensor::<2>::ones([2, 3], &device);
    let adamw = AdamW { beta2: 0.999, weight_decay: 0.5, decay_matrices_only: false };
    let (kept, gradient) = (one(), one());
    let (moved, state) = adamw.step(0.1, kept.clone(), gradient.clone(), None);
    let before = state.clone().unwrap().momentum;
    let (_, after) = adamw.step(0.1, moved.clone(), gradient.clone(), state);
    assert!(host(kept) == [1.0; 6] && host(gradient) == [1.0; 6] && host(moved)[0] < 0.9);
    let first = host(before.moment_1);
    assert!((first[0] - 0.1).abs() < 1e-7 && host(after.unwrap().momentum.moment_1)[0] > first[0]);
}
