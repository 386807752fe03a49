use super::*;
use crate::glue::{host, tensor};
use std::f64::consts::SQRT_2;

fn device() -> Device {
    Device::flex().autodiff()
}

/// `sin(a (i + 1))` in row-major order.
fn fill<const D: usize>(a: f64, shape: [usize; D]) -> Tensor<D> {
    tensor((1..=shape.iter().product()).map(|i| (a * i as f64).sin() as f32).collect(), shape, &device())
}

fn assert_near(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(*found) - expected).abs() / expected.abs().max(1.0);
        assert!(off < tolerance, "{found} instead of {expected} at {at}");
    }
}

fn both(rows: usize, columns: usize) -> [Transform; 2] {
    let dense = Transform { rows, columns, inner: Matrices::half(rows, columns, &device()), outer: None };
    [dense, Transform::separable(rows, columns, &device())]
}

const GRIDS: [[usize; 2]; 7] = [[1, 5], [1, 6], [2, 3], [4, 6], [5, 5], [7, 2], [6, 6]];

#[test]
fn the_transform_of_a_sequence_is_rfft() {
    let six = Transform::new(1, 6, &device()).forward(tensor((1..=6).map(|i| i as f32).collect(), [1, 6, 1], &device()));
    assert_near(&host(six.re), &[8.573_214, -1.224_745, -1.224_745, -1.224_745], 1e-6);
    assert_near(&host(six.im), &[0.0, 1.5 * SQRT_2, SQRT_2 / 2.0, 0.0], 1e-6);
    let five = Transform::new(1, 5, &device()).forward(tensor((1..=5).map(|i| i as f32).collect(), [1, 5, 1], &device()));
    assert_near(&host(five.re), &[6.708_204, -1.118_034, -1.118_034], 1e-6);
    assert_near(&host(five.im), &[0.0, 1.538_842, 0.363_271], 1e-6);
}

/// Row 1 of the orthonormal DCT-II of 4, `sqrt(2/4) cos(pi (2n + 1) / 8)`: multiples of a sixteenth of the circle.
#[test]
fn the_circle_gives_the_cosine_transform() {
    let circle = circle(16);
    let row: Vec<f32> = (0..4).map(|n| (0.5f64.sqrt() * circle[2 * n + 1].0) as f32).collect();
    assert_near(&row, &[0.653_281, 0.270_598, -0.270_598, -0.653_281], 1e-6);
}

#[test]
fn a_filter_of_a_sequence_gives_the_known_values_and_gradients() {
    let (x, w) = (fill(0.7, [2, 5, 3]), fill(0.3, [1, 3, 3, 2]).require_grad());
    let y = GlobalFilter { weight: Param::from_tensor(w.clone()) }.forward(&Transform::new(1, 5, &device()), x);
    let values = host(y.clone());
    assert_near(&values[..3], &[-0.366_458, -1.146_471, -1.085_196], 2e-6);
    assert_near(&[values.iter().sum()], &[1.844_871], 2e-6);
    let squares = y.square().sum();
    let gradients = squares.backward();
    assert_near(&host(squares), &[21.534_282], 2e-6);
    let gradient = host(w.grad(&gradients).unwrap());
    assert_near(&gradient[..2], &[0.122_523, 0.0], 1e-5);
    assert_near(&gradient[16..], &[-7.749_212, -6.468_158], 1e-5);
    assert_near(&[gradient.iter().sum()], &[-40.388_191], 1e-5);
}

#[test]
fn both_ways_give_the_sums_of_the_definition_and_go_back() {
    for [rows, columns] in GRIDS {
        let (half, x) = (columns / 2 + 1, fill(0.7, [2, rows * columns, 3]));
        let values = host(x.clone());
        let (mut re, mut im) = (Vec::new(), Vec::new());
        for (b, bin, d) in (0..2 * rows * half * 3).map(|i| (i / 3 / (rows * half), i / 3 % (rows * half), i % 3)) {
            let (mut sums, scale) = ([0.0, 0.0], 1.0 / ((rows * columns) as f64).sqrt());
            for token in 0..rows * columns {
                let (r, c) = (token / columns, token % columns);
                let turns = (bin / half * r) as f64 / rows as f64 + (bin % half * c) as f64 / columns as f64;
                let value = f64::from(values[(b * rows * columns + token) * 3 + d]) * scale;
                sums = [sums[0] + value * (TAU * turns).cos(), sums[1] - value * (TAU * turns).sin()];
            }
            re.push(sums[0]);
            im.push(sums[1]);
        }
        for transform in both(rows, columns) {
            let spectrum = transform.forward(x.clone());
            assert_near(&host(spectrum.re.clone()), &re, 2e-6);
            assert_near(&host(spectrum.im.clone()), &im, 2e-6);
            let expected: Vec<f64> = values.iter().map(|&v| f64::from(v)).collect();
            assert_near(&host(transform.inverse(spectrum)), &expected, 2e-6);
        }
    }
}

#[test]
fn both_ways_filter_alike_with_the_same_gradients() {
    for [rows, columns] in GRIDS {
        let results = both(rows, columns).map(|transform| {
            let x = fill(0.7, [2, rows * columns, 3]).require_grad();
            let w = fill(0.3, [rows, columns / 2 + 1, 3, 2]).require_grad();
            let y = GlobalFilter { weight: Param::from_tensor(w.clone()) }.forward(&transform, x.clone());
            let gradients = y.clone().square().sum().backward();
            [host(y), host(x.grad(&gradients).unwrap()), host(w.grad(&gradients).unwrap())]
        });
        for (one, other) in results[0].iter().zip(&results[1]) {
            assert_near(one, &other.iter().map(|&v| f64::from(v)).collect::<Vec<_>>(), 1e-5);
        }
    }
}

#[test]
fn small_grids_are_transformed_at_once_and_large_ones_axis_by_axis() {
    assert!(Transform::new(8, 8, &device()).outer.is_none());
    assert!(Transform::new(9, 9, &device()).outer.is_some());
}
