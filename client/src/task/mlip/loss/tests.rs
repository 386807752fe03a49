use super::super::text::known::{Term, known};
use super::*;
use burn::tensor::{Device, Gradients};

/// An input of a term, whose gradient is asked for.
fn leaf<const D: usize>(term: &Term, name: &str, device: &Device) -> Tensor<D> {
    term.inputs[name].tensor::<D>(device).require_grad()
}

/// A term of the known answers, and the gradients of its inputs here.
struct Run<'a> {
    name: &'a str,
    term: &'a Term,
    gradients: Gradients,
}

impl<'a> Run<'a> {
    /// Holds the value to the known one.
    fn new(name: &'a str, term: &'a Term, value: Tensor<1>) -> Self {
        term.value.check(name, &glue::host(value.clone()), 1e-5);
        Self { name, term, gradients: value.backward() }
    }

    /// Holds the gradient of an input to the known one.
    fn check<const D: usize>(&self, input: &str, leaf: &Tensor<D>) {
        let found = glue::host(leaf.grad(&self.gradients).unwrap());
        self.term.gradients[input].check(&format!("{} gradient of {input}", self.name), &found, 1e-5);
    }
}

fn flags(term: &Term) -> Option<Vec<bool>> {
    term.fixed.get("same").map(|same| same.values.iter().map(|&v| v > 0.0).collect())
}

fn mask(term: &Term, device: &Device) -> Mask {
    Mask { real: term.fixed["mask"].tensor(device) }
}

#[test]
fn unit_rows_are_those_of_pytorch() {
    let (known, device) = (known(), Device::flex().autodiff());
    let term = &known.terms["unit"];
    let x: Tensor<2> = leaf(term, "x", &device);
    let value = (unit(x.clone()) * term.fixed["weights"].tensor(&device)).sum();
    Run::new("unit", term, value).check("x", &x);
}

#[test]
fn contrasts_are_those_of_pytorch() {
    let (known, device) = (known(), Device::flex().autodiff());
    for name in ["contrast", "contrast_same", "contrast_one", "contrast_above"] {
        let term = &known.terms[name];
        let (a, b): (Tensor<2>, Tensor<2>) = (leaf(term, "a", &device), leaf(term, "b", &device));
        let log: Tensor<1> = leaf(term, "log", &device);
        let value = contrast(a.clone(), b.clone(), log.clone(), flags(term).as_deref());
        let run = Run::new(name, term, value);
        run.check("a", &a);
        run.check("b", &b);
        run.check("log", &log);
    }
    assert_eq!(known.terms["contrast_above"].gradients["log"].values, [0.0], "a scale above the bound has no gradient");
    assert_eq!(known.terms["contrast_one"].value.values, [0.0], "a pair alone has nothing to be told from");
}

#[test]
fn late_interaction_is_that_of_pytorch() {
    let (known, device) = (known(), Device::flex().autodiff());
    let term = &known.terms["late"];
    let (v, t): (Tensor<3>, Tensor<3>) = (leaf(term, "v", &device), leaf(term, "t", &device));
    let (i2t, t2i) = late_interaction(v.clone(), t.clone(), &mask(term, &device));
    term.i2t.as_ref().unwrap().check("i2t", &glue::host(i2t.clone()), 1e-5);
    term.t2i.as_ref().unwrap().check("t2i", &glue::host(t2i.clone()), 1e-5);
    let weights: Tensor<3> = term.fixed["weights"].tensor(&device); // [2, n, m]
    let of = |at: usize| weights.clone().narrow(0, at, 1).reshape([4, 4]); // [n, m]
    let value = (i2t * of(0)).sum() + (t2i * of(1)).sum();
    let run = Run::new("late", term, value);
    run.check("v", &v);
    run.check("t", &t);
}

#[test]
fn token_losses_are_those_of_pytorch() {
    let (known, device) = (known(), Device::flex().autodiff());
    for name in ["token", "token_same"] {
        let term = &known.terms[name];
        let (v, t): (Tensor<3>, Tensor<3>) = (leaf(term, "v", &device), leaf(term, "t", &device));
        let log: Tensor<1> = leaf(term, "log", &device);
        let value = token_loss(v.clone(), t.clone(), &mask(term, &device), log.clone(), flags(term).as_deref());
        let run = Run::new(name, term, value);
        run.check("v", &v);
        run.check("t", &t);
        run.check("log", &log);
    }
}

#[test]
fn the_pull_towards_prototypes_is_that_of_pytorch() {
    let (known, device) = (known(), Device::flex().autodiff());
    let term = &known.terms["toward"];
    let (e, prototypes): (Tensor<2>, Tensor<2>) = (leaf(term, "e", &device), leaf(term, "prototypes", &device));
    let log: Tensor<1> = leaf(term, "log", &device);
    let columns: Vec<usize> = term.fixed["columns"].values.iter().map(|&v| v as usize).collect();
    let run = Run::new("toward", term, toward(e.clone(), prototypes.clone(), &columns, log.clone()));
    run.check("e", &e);
    run.check("prototypes", &prototypes);
    run.check("log", &log);
}

/// `sin(rate * (i + 1))`, row-major.
fn fill<const D: usize>(rate: f64, shape: [usize; D]) -> Tensor<D> {
    let values = (1..=shape.iter().product()).map(|i| (rate * i as f64).sin() as f32).collect();
    glue::tensor(values, shape, &Device::flex())
}

fn near(found: &[f32], known: &[f64]) {
    assert_eq!(found.len(), known.len());
    let off = found.iter().zip(known).map(|(&a, &b)| (f64::from(a) - b).abs()).fold(0.0, f64::max);
    assert!(off < 2e-5, "{found:?} is {off} from {known:?}");
}

#[test]
fn the_contrast_has_its_golden_value() {
    let log = Tensor::from_floats([(1.0f32 / 0.07).ln()], &Device::flex());
    let value = contrast(fill(0.37, [4, 6]), fill(0.53, [4, 6]), log, None);
    near(&glue::host(value), &[(13.385_749 + 15.690_149) / 2.0]);
}

#[test]
fn the_late_interaction_has_its_golden_values() {
    let real = vec![1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0];
    let mask = Mask { real: glue::tensor(real, [3, 4], &Device::flex()) };
    let (i2t, t2i) = late_interaction(fill(0.21, [2, 5, 4]), fill(0.33, [3, 4, 4]), &mask);
    near(&glue::host(i2t), &[0.900_248, 0.661_837, -0.486_181, 0.932_683, 0.732_204, -0.055_458]);
    near(&glue::host(t2i), &[0.945_789, 0.589_925, 0.917_420, 0.906_110, 0.824_703, 0.993_299]);
}

#[test]
fn equal_texts_are_no_negatives_of_each_other() {
    let log = || Tensor::from_floats([(1.0f32 / 0.07).ln()], &Device::flex());
    let a: Tensor<2> = fill(0.37, [3, 6]);
    // the last two pairs are equal
    let twice = |x: Tensor<2>| Tensor::cat(vec![x.clone().narrow(0, 0, 2), x.narrow(0, 1, 1)], 0); // [3, 6]
    let (a, b) = (twice(a), twice(fill(0.53, [3, 6])));
    let same: Vec<bool> = (0..9).map(|at| at / 3 == at % 3 || (at / 3 > 0 && at % 3 > 0)).collect();
    let masked = glue::host(contrast(a.clone(), b.clone(), log(), Some(&same)))[0];
    let plain = glue::host(contrast(a.clone(), b.clone(), log(), None))[0];
    let pair = glue::host(contrast(a.narrow(0, 0, 2), b.narrow(0, 0, 2), log(), None))[0];
    assert!(plain > masked + 0.1, "an equal text was a negative: {plain} against {masked}");
    // rows and columns of the pair, the second counted twice: between once and 4/3 of the plain loss of the two
    assert!(masked < 4.0 / 3.0 * pair + 1e-5 && masked > 2.0 / 3.0 * pair, "{masked} against {pair}");
}

#[test]
fn scales_are_bounded() {
    let of = |log: f32| glue::host(scale(Tensor::from_floats([log], &Device::flex())))[0];
    assert!((of(0.0) - 1.0).abs() < 1e-6 && (of(4.0) - 4f32.exp()).abs() < 1e-4);
    assert!((of(9.0) - 100.0).abs() < 1e-3 && (of(f32::MAX) - 100.0).abs() < 1e-3);
}
