use super::*;
use crate::glue;
use burn::tensor::Device;
use tessera_common::rng;

/// Patches, tokens and flags; text 1 has no token, text 2 has gaps.
struct Case {
    v: Tensor<3>,
    t: Tensor<3>,
    real: Tensor<2>,
    weights: [Tensor<2>; 2],
}

fn case([pictures, patches, texts, tokens, embed]: [usize; 5], real: impl Fn(usize, usize) -> bool) -> Case {
    let device = Device::flex().autodiff();
    let mut draw = rng::stream(3, "late interaction", "", 0);
    let mut normal = |n: usize| -> Vec<f32> { (0..n).map(|_| draw.normal() as f32).collect() };
    let v = glue::tensor(normal(pictures * patches * embed), [pictures, patches, embed], &device).require_grad();
    let t = glue::tensor(normal(texts * tokens * embed), [texts, tokens, embed], &device).require_grad();
    let mut weight = || glue::tensor(normal(pictures * texts), [pictures, texts], &device);
    let weights = [weight(), weight()];
    let flags = (0..texts * tokens).map(|at| f32::from(u8::from(real(at / tokens, at % tokens)))).collect();
    Case { v, t, real: glue::tensor(flags, [texts, tokens], &device), weights }
}

/// Both interactions, and the gradients of their weighted sum.
fn found(case: &Case, of: impl Fn(Tensor<3>, Tensor<3>, &Tensor<2>) -> (Tensor<2>, Tensor<2>)) -> [Vec<f32>; 4] {
    let (i2t, t2i) = of(case.v.clone(), case.t.clone(), &case.real);
    let values = [glue::host(i2t.clone()), glue::host(t2i.clone())];
    let total = (i2t * case.weights[0].clone()).sum() + (t2i * case.weights[1].clone()).sum();
    let gradients = total.backward();
    let [forth, back] = values;
    [forth, back, glue::host(case.v.grad(&gradients).unwrap()), glue::host(case.t.grad(&gradients).unwrap())]
}

fn check(what: &str, ours: &[Vec<f32>; 4], theirs: &[Vec<f32>; 4]) {
    for (name, (ours, theirs)) in ["i2t", "t2i", "gradient of v", "gradient of t"].iter().zip(ours.iter().zip(theirs)) {
        assert_eq!(ours.len(), theirs.len());
        let largest = theirs.iter().fold(1.0f32, |largest, v| largest.max(v.abs()));
        let off = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest;
        assert!(off < 2e-6, "{what}, {name}: {off}");
        assert!(ours.iter().any(|&v| v != 0.0), "{what}, {name}: nothing but zeros");
    }
}

#[test]
fn the_kernel_gives_what_the_plain_graph_gives() {
    let gaps = |text: usize, token: usize| text != 1 && (text != 2 || token % 2 == 1);
    for sizes in [[3, 7, 4, 5, 6], [1, 1, 3, 2, 9], [5, 36, 9, 8, 64], [2, 3, 17, 1, 4]] {
        let case = case(sizes, gaps);
        let theirs = found(&case, |v, t, real| plain(v, t, real, MOST));
        let parts = found(&case, |v, t, real| plain(v, t, real, 1));
        check(&format!("plain in parts, {sizes:?}"), &parts, &theirs);
        check(&format!("kernel, {sizes:?}"), &found(&case, late_interaction), &theirs);
        let in_parts = |v: Tensor<3>, t: Tensor<3>, real: &Tensor<2>| {
            let [patches, words, flags] = [Operand::of(&v), Operand::of(&t), Operand::of(real)].map(Option::unwrap);
            let both: Tensor<3> = run(LateInteraction::new(flags.into_memory()).in_parts(1), [patches, words]); // [2, n, m]
            let of = |at: usize| both.clone().narrow(0, at, 1).reshape([sizes[0], sizes[2]]); // [n, m]
            (of(0), of(1))
        };
        check(&format!("kernel in parts, {sizes:?}"), &found(&case, in_parts), &theirs);
    }
}

#[test]
fn texts_without_any_token_give_zeros_and_no_gradient() {
    let case = case([2, 3, 2, 4, 5], |_, _| false);
    for (at, values) in found(&case, late_interaction).iter().chain(&found(&case, |v, t, r| plain(v, t, r, MOST))).enumerate() {
        assert!(!values.is_empty() && values.iter().all(|&v| v == 0.0), "{at}: {values:?}");
    }
}

#[test]
fn outside_a_graph_the_kernel_gives_the_same() {
    let case = case([3, 7, 4, 5, 6], |text, token| token <= text);
    let [v, t] = [case.v.clone(), case.t.clone()].map(|x| Tensor::<3>::from_data(x.into_data(), &Device::flex()));
    let real = Tensor::<2>::from_data(case.real.clone().into_data(), &Device::flex());
    let (i2t, t2i) = late_interaction(v, t, &real);
    let known = found(&case, late_interaction);
    assert_eq!([glue::host(i2t), glue::host(t2i)], known[..2]);
}

#[test]
fn what_is_not_a_number_stays_so() {
    let case = case([2, 3, 2, 2, 4], |_, _| true);
    let broken = |x: &Tensor<3>, at: usize| {
        let mut values = glue::host(x.clone());
        values[at] = f32::NAN;
        glue::tensor(values, x.dims(), &Device::flex().autodiff())
    };
    let (i2t, _) = late_interaction(broken(&case.v, 9), case.t.clone(), &case.real);
    assert!(glue::host(i2t)[..2].iter().all(|v| v.is_nan()), "one patch of the first picture");
    let (_, t2i) = late_interaction(case.v.clone(), broken(&case.t, 9), &case.real);
    assert!(glue::host(t2i).iter().skip(1).step_by(2).all(|v| v.is_nan()), "a token of the second text");
}
