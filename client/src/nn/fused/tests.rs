use crate::glue::{host, tensor};
use crate::nn::op::{self, plain};
use burn::tensor::{Device, Tensor};
use tessera_common::rng::{self, Stream};

mod golden;

/// Values about one.
fn draws(purpose: &str) -> Stream {
    rng::stream(5, "fused", purpose, 1)
}

fn normal<const D: usize>(stream: &mut Stream, shape: [usize; D], device: &Device) -> Tensor<D> {
    tensor((0..shape.iter().product()).map(|_| stream.normal() as f32).collect(), shape, device)
}

/// `x` as a tensor that is not row-major: 0 as it is, 1 a transposed copy turned back, 2 the middle of a wider one.
fn view(x: Tensor<3>, kind: usize) -> Tensor<3> {
    match kind {
        0 => x,
        1 => {
            let turned: Tensor<3> = x.swap_dims(0, 2);
            let shape = turned.dims();
            let device = turned.device();
            tensor(host(turned), shape, &device).swap_dims(0, 2)
        }
        _ => {
            let [a, b, c] = x.dims();
            Tensor::cat(vec![x.zeros_like(), x, Tensor::ones([a, b, c], &Device::flex())], 2).narrow(2, c, c)
        }
    }
}

/// Value and gradients of `sum(f(inputs) * w)` with fixed weights `w`.
fn measured<const D: usize>(inputs: &[Tensor<3>], f: &dyn Fn(&[Tensor<3>]) -> Tensor<D>) -> Vec<Vec<f32>> {
    let device = Device::flex().autodiff();
    let leaves: Vec<Tensor<3>> = inputs.iter().map(|x| Tensor::from_inner(x.clone()).require_grad()).collect();
    let value = f(&leaves);
    let weights = normal(&mut draws("weights"), value.dims(), &device);
    let mut gradients = (value.clone() * weights).sum().backward();
    let mut found = vec![host(value.inner())];
    found.extend(leaves.iter().map(|leaf| host(leaf.grad_remove(&mut gradients).expect("every input has a gradient"))));
    found
}

/// Asserts that values and gradients differ by at most 2e-6 of the largest of each.
fn assert_close(what: &str, found: &[Vec<f32>], right: &[Vec<f32>]) {
    assert_eq!(found.len(), right.len());
    for (at, (found, right)) in found.iter().zip(right).enumerate() {
        assert_eq!(found.len(), right.len(), "{what}");
        let most = right.iter().fold(1e-3_f32, |most, x| most.max(x.abs()));
        for (found, right) in found.iter().zip(right) {
            assert!((found - right).abs() <= 2e-6 * most, "{what}, {at}: {found} for {right}, largest {most}");
        }
    }
}

/// The fused operation against the plain one on every view of the first input, and without a graph.
fn assert_alike<const D: usize>(
    what: &str,
    inputs: &[Tensor<3>],
    fused: &dyn Fn(&[Tensor<3>]) -> Tensor<D>,
    plain: &dyn Fn(&[Tensor<3>]) -> Tensor<D>,
) {
    let right = measured(inputs, plain);
    for kind in 0..3 {
        let through = |f: &dyn Fn(&[Tensor<3>]) -> Tensor<D>, inputs: &[Tensor<3>]| {
            let mut inputs = inputs.to_vec();
            inputs[0] = view_in_graph(&inputs[0], kind);
            f(&inputs)
        };
        let found = measured(inputs, &|inputs| through(fused, inputs));
        assert_close(&format!("{what} {:?} view {kind}", inputs[0].dims()), &found, &right);
    }
    for kind in 0..3 {
        let mut inputs = inputs.to_vec();
        inputs[0] = view(inputs[0].clone(), kind);
        let before = host(inputs[0].clone());
        let value = fused(&inputs);
        assert_close(&format!("{what} without a graph"), &[host(value)], &right[..1]);
        assert_eq!(before, host(inputs[0].clone()), "{what} writes over an input that is still in use");
    }
}

/// As [`view`], by operations of the graph.
fn view_in_graph(x: &Tensor<3>, kind: usize) -> Tensor<3> {
    match kind {
        0 => x.clone(),
        1 => x.clone().swap_dims(0, 2).add_scalar(0.0).swap_dims(0, 2),
        _ => {
            let c = x.dims()[2];
            Tensor::cat(vec![x.zeros_like(), x.clone(), x.ones_like()], 2).narrow(2, c, c)
        }
    }
}

const SHAPES: [[usize; 3]; 7] = [[1, 1, 1], [2, 3, 1], [3, 1, 5], [4, 5, 7], [2, 9, 16], [5, 37, 48], [3, 70, 130]];

fn vector(x: &Tensor<3>) -> Tensor<1> {
    x.clone().flatten(0, 2)
}

#[test]
fn gelu_is_that_of_the_plain_graph() {
    let device = Device::flex();
    for shape in SHAPES {
        let mut stream = draws("gelu");
        let x = normal(&mut stream, shape, &device).mul_scalar(2.0);
        let bias = normal(&mut stream, [1, 1, shape[2]], &device);
        assert_alike("gelu", std::slice::from_ref(&x), &|i| op::gelu(i[0].clone()), &|i| plain::gelu(i[0].clone()));
        assert_alike("gelu with a bias", &[x, bias], &|i| op::gelu_biased(i[0].clone(), vector(&i[1])), &|i| {
            plain::gelu(i[0].clone() + i[1].clone())
        });
    }
}

#[test]
fn residual_sums_are_those_of_the_plain_graph() {
    let device = Device::flex();
    for shape in SHAPES {
        let mut stream = draws("residual");
        let [x, y] = [0, 1].map(|_| normal(&mut stream, shape, &device));
        let bias = normal(&mut stream, [1, 1, shape[2]], &device);
        let sum = |i: &[Tensor<3>]| i[0].clone() + (i[1].clone() + i[2].clone());
        let fused = |i: &[Tensor<3>]| op::residual(i[0].clone(), i[1].clone(), vector(&i[2]));
        assert_alike("residual", &[x.clone(), y, bias.clone()], &fused, &sum);
        let twice = |i: &[Tensor<3>]| op::residual(i[0].clone(), i[0].clone(), vector(&i[1]));
        assert_alike("a sum with itself", &[x, bias], &twice, &|i| i[0].clone() + (i[0].clone() + i[1].clone()));
    }
}

#[test]
fn layer_norm_is_that_of_the_plain_graph() {
    let device = Device::flex();
    for shape in SHAPES {
        let mut stream = draws("norm");
        let x = normal(&mut stream, shape, &device);
        let [weight, bias] = [0, 1].map(|_| normal(&mut stream, [1, 1, shape[2]], &device));
        let all = [x, weight, bias];
        let fused = |i: &[Tensor<3>]| op::layer_norm(i[0].clone(), vector(&i[1]), vector(&i[2]), 1e-5);
        assert_alike("norm", &all, &fused, &|i| plain::layer_norm(i[0].clone(), vector(&i[1]), vector(&i[2]), 1e-5));
    }
}

#[test]
fn softmax_is_that_of_the_plain_graph() {
    let device = Device::flex();
    for shape in SHAPES {
        let x = normal(&mut draws("softmax"), shape, &device);
        for scale in [1.0, 0.3, -2.0] {
            let plain = |i: &[Tensor<3>]| plain::softmax(i[0].clone(), scale);
            assert_alike("softmax", std::slice::from_ref(&x), &|i| op::softmax(i[0].clone(), scale), &plain);
        }
        let square = normal(&mut draws("causal"), [shape[0], shape[1], shape[1]], &device);
        let plain = |i: &[Tensor<3>]| plain::causal_softmax(i[0].clone(), 0.7);
        assert_alike("causal softmax", &[square], &|i| op::causal_softmax(i[0].clone(), 0.7), &plain);
    }
}

#[test]
fn cross_entropy_is_that_of_the_plain_graph() {
    let device = Device::flex();
    for [a, b, n] in SHAPES {
        let x = normal(&mut draws("loss"), [a, b, n], &device);
        let targets: Vec<usize> = (0..a * b).map(|i| i * 7 % n).collect();
        let rows = |i: &[Tensor<3>]| i[0].clone().reshape([a * b, n]);
        let plain = |i: &[Tensor<3>]| plain::cross_entropy(rows(i), &targets);
        assert_alike("cross-entropy", &[x], &|i| op::cross_entropy(rows(i), &targets), &plain);
    }
}

#[test]
fn attention_is_that_of_the_plain_graph() {
    let device = Device::flex();
    for (batch, tokens, heads, each) in [(1, 1, 1, 1), (2, 3, 2, 5), (3, 37, 4, 12), (2, 65, 2, 32), (2, 8, 1, 16), (1, 18, 3, 7)]
    {
        let mut stream = draws("attention");
        let width = 3 * heads * each;
        let x = normal(&mut stream, [batch, tokens, width], &device);
        let bias = normal(&mut stream, [1, 1, width], &device);
        let added = normal(&mut stream, [batch, 1, 1, tokens], &device);
        for causal in [false, true] {
            for keys in [None, Some(added.clone())] {
                let keys = |i: &[Tensor<3>]| match (&keys, i[0].device().is_autodiff()) {
                    (Some(keys), true) => Some(Tensor::<4>::from_inner(keys.clone())),
                    (keys, _) => keys.clone(),
                };
                let fused = |i: &[Tensor<3>]| op::attention(i[0].clone(), vector(&i[1]), heads, keys(i), causal);
                let plain = |i: &[Tensor<3>]| plain::attention(i[0].clone() + i[1].clone(), heads, keys(i), causal);
                assert_alike("attention", &[x.clone(), bias.clone()], &fused, &plain);
            }
        }
    }
}

#[test]
fn a_bias_of_keys_with_a_gradient_gets_it() {
    let device = Device::flex();
    let mut stream = draws("keys");
    let [x, keys] = [normal(&mut stream, [2, 5, 12], &device), normal(&mut stream, [2, 1, 5], &device)];
    let of = |i: &[Tensor<3>], fused: bool| {
        let keys: Tensor<4> = i[1].clone().unsqueeze_dim(1); // [B, 1, 1, t]
        let none = Tensor::zeros([12], &i[0].device());
        if fused {
            op::attention(i[0].clone(), none, 2, Some(keys), false)
        } else {
            plain::attention(i[0].clone(), 2, Some(keys), false)
        }
    };
    let inputs = [x, keys];
    assert_close("keys", &measured(&inputs, &|i| of(i, true)), &measured(&inputs, &|i| of(i, false)));
}

/// Digest of every operation's value and gradients.
fn bits() -> Vec<u32> {
    let device = Device::flex();
    let mut stream = draws("threads");
    let x = normal(&mut stream, [24, 37, 96], &device);
    let [weight, bias] = [0, 1].map(|_| normal(&mut stream, [1, 1, 96], &device));
    let targets: Vec<usize> = (0..24 * 37).map(|i| i * 5 % 96).collect();
    let all = |i: &[Tensor<3>]| {
        let y = op::layer_norm(i[0].clone(), vector(&i[1]), vector(&i[2]), 1e-5);
        let y = op::gelu_biased(op::gelu(y), vector(&i[2]));
        let heads = op::attention(y.clone(), vector(&i[1]), 4, None, true);
        let y = op::residual(Tensor::cat(vec![heads.clone(), heads.clone(), heads], 2), y, vector(&i[1]));
        op::cross_entropy(op::softmax(y, 3.0).reshape([24 * 37, 96]).mul_scalar(20.0), &targets)
    };
    measured(&[x, weight, bias], &all).concat().iter().map(|x| x.to_bits()).collect()
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let [one, two, three] = [1, 2, 3].map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
    let found = one.install(bits);
    assert!(found.iter().any(|&bits| f32::from_bits(bits).abs() > 1e-4));
    assert!(found == two.install(bits) && found == three.install(bits));
}

#[test]
fn what_is_not_finite_stays_so() {
    let device = Device::flex();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = vec![0.5; 2 * 12];
        values[5] = bad;
        let x: Tensor<3> = tensor(values, [1, 2, 12], &device);
        let one = Tensor::<1>::ones([12], &device);
        let is_bad = |y: Tensor<3>| host(y).iter().any(|y| !y.is_finite());
        assert!(is_bad(op::gelu(x.clone())) && is_bad(op::layer_norm(x.clone(), one.clone(), one.clone(), 1e-5)), "{bad}");
        assert!(is_bad(op::residual(x.clone(), x.clone(), one.clone())) && is_bad(op::gelu_biased(x.clone(), one.clone())));
        // A softmax takes minus infinity for "never".
        if bad != f32::NEG_INFINITY {
            assert!(is_bad(op::softmax(x.clone(), 1.0)), "{bad}");
            assert!(is_bad(op::attention(x.clone(), one, 2, None, false)), "{bad}");
        }
        let loss = host(op::cross_entropy(x.reshape([2, 12]), &[5, 1]))[0];
        assert!(!loss.is_finite(), "{bad}");
    }
}

#[test]
fn a_row_of_masked_logits_is_finite() {
    let device = Device::flex();
    let x = Tensor::<3>::full([1, 2, 9], -1e30, &device);
    for y in host(op::softmax(x, 1.0)) {
        assert!((y - 1.0 / 9.0).abs() < 1e-6, "{y}");
    }
    let x = normal(&mut draws("masked"), [1, 3, 12], &device);
    let keys = Tensor::<4>::full([1, 1, 1, 3], -1e30, &device);
    assert!(host(op::attention(x, Tensor::zeros([12], &device), 1, Some(keys), false)).iter().all(|y| y.is_finite()));
}

#[test]
fn nothing_has_a_value_and_no_gradient() {
    let device = Device::flex();
    let none = Tensor::<3>::zeros([0, 3, 12], &device);
    let one = Tensor::<3>::ones([1, 1, 12], &device);
    type Op<'a> = &'a dyn Fn(&[Tensor<3>]) -> Tensor<3>;
    let ops: [Op<'_>; 5] = [
        &|i| op::layer_norm(op::gelu(i[0].clone()), vector(&i[1]), vector(&i[1]), 1e-5),
        &|i| op::gelu_biased(op::softmax(i[0].clone(), 1.0), vector(&i[1])),
        &|i| op::gelu_biased(op::causal_softmax(i[0].clone(), 1.0), vector(&i[1])),
        &|i| op::attention(i[0].clone(), vector(&i[1]), 2, None, false),
        &|i| op::residual(op::gelu(i[0].clone()), op::gelu(i[0].clone()), vector(&i[1])),
    ];
    for op in ops {
        let found = measured(&[none.clone(), one.clone()], op);
        assert!(found[0].is_empty() && found[1].is_empty());
        assert_eq!(found[2], [0.0; 12]);
    }
}
