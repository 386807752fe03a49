use super::*;
use crate::glue::{host, tensor};
use proptest::prelude::*;

fn device() -> Device {
    Device::flex().autodiff()
}

/// Values between -1 and 1 that look random.
fn noise(seed: u64, n: usize) -> Vec<f32> {
    (0..n as u64).map(|i| ((seed + 1) as f64 * 0.618 + i as f64 * 12.9898).sin() as f32).collect()
}

/// Where tokens go, by the steps as they are told, in loops.
fn reference(metric: &[f32], [batch, tokens, width]: [usize; 3], gone: usize) -> Vec<f32> {
    let mut all = Vec::new();
    for metric in metric.chunks(tokens * width).take(batch) {
        let row = |i: usize| {
            let row = &metric[i * width..][..width];
            let length = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            row.iter().map(move |v| f64::from(*v) / length)
        };
        let score = |i: usize, j: usize| row(2 * i).zip(row(2 * j + 1)).map(|(a, b)| a * b).sum::<f64>();
        let even = tokens - tokens / 2;
        let best: Vec<(f64, usize)> = (0..even)
            .map(|i| {
                let first = |found: (f64, usize), j| if score(i, j) > found.0 { (score(i, j), j) } else { found };
                (0..tokens / 2).fold((f64::MIN, 0), first)
            })
            .collect();
        let mut order: Vec<usize> = (1..even).collect();
        order.sort_by(|&a, &b| best[b].0.total_cmp(&best[a].0).then(a.cmp(&b)));
        let leaving = &order[..gone];
        let staying: Vec<usize> = (0..even).filter(|i| !leaving.contains(i)).collect();
        all.extend((0..tokens).map(|n| {
            let place = staying.iter().position(|&i| 2 * i == n);
            let behind = if n % 2 == 1 { n / 2 } else { best[n / 2].1 };
            place.unwrap_or(staying.len() + behind) as f32
        }));
    }
    all
}

#[test]
fn a_known_metric_gives_the_known_groups() {
    let metric = tensor((1..=27).map(|i| (2.3 * f64::from(i)).sin() as f32).collect(), [1, 9, 3], &device());
    let rows = host(plan(metric, 3).matrix());
    let groups: Vec<Vec<usize>> = rows.chunks(9).map(|row| (0..9).filter(|&token| row[token] == 1.0).collect()).collect();
    assert_eq!(groups, [vec![0], vec![8], vec![1, 2], vec![3], vec![4, 5, 6], vec![7]]);
    assert_eq!(rows.iter().sum::<f32>(), 9.0);
}

#[test]
fn ties_go_to_the_lower_index() {
    let found = plan(Tensor::ones([2, 8, 2], &device()), 2);
    // even tokens 2 and 4 go to token 1, the first of B; 0 and 6 stay
    assert_eq!(host(found.to), [0.0, 2.0, 2.0, 3.0, 2.0, 4.0, 1.0, 5.0].repeat(2));
}

#[test]
fn keys_are_averaged_over_heads_and_the_guide_has_its_weight() {
    let keys = tensor(vec![3.0, 0.0, 0.0, 2.0, 0.0, 1.0, 4.0, 4.0], [1, 2, 2, 2], &device());
    let guide = tensor(vec![0.0, 0.0, 2.0, 3.0, 0.0, 4.0], [1, 2, 3], &device());
    let h = 0.5f32.sqrt();
    let alone = host(metric(keys.clone(), None));
    let expected = [3.0 / 10f32.sqrt(), 1.0 / 10f32.sqrt(), 4.0 / 52f32.sqrt(), 6.0 / 52f32.sqrt()];
    assert!(alone.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6), "{alone:?}");
    let guided = host(metric(keys, Some((guide, f64::from(h)))));
    let expected = [expected[0], expected[1], 0.0, 0.0, h, expected[2], expected[3], 0.6 * h, 0.0, 0.8 * h];
    assert!(guided.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6), "{guided:?}");
}

#[test]
fn no_gradient_goes_through_what_tokens_are_compared_by() {
    let keys = tensor(noise(1, 60), [1, 2, 10, 3], &device()).require_grad();
    let guide = tensor(noise(2, 20), [1, 10, 2], &device()).require_grad();
    let x = tensor(noise(3, 40), [1, 10, 4], &device()).require_grad();
    let average = plan(metric(keys.clone(), Some((guide.clone(), 1.0))), 3).average(Tensor::ones([1, 10], &device()), 4);
    let gradients = average.of(x.clone()).square().sum().backward();
    assert!(x.grad(&gradients).is_some() && keys.grad(&gradients).is_none() && guide.grad(&gradients).is_none());
}

/// A model that has diverged ends with a message about its loss, so nothing may panic before it is there.
#[test]
fn numbers_that_are_none_do_no_harm() {
    for hole in [0, 5, 11] {
        let mut values = noise(4, 27);
        values[hole] = f32::NAN;
        for values in [values, vec![f32::NAN; 27]] {
            let plan = plan(tensor(values, [1, 9, 3], &device()), 4);
            let x = Tensor::<3>::ones([1, 9, 2], &device());
            for average in [plan.by_matrix(Tensor::ones([1, 9], &device())), plan.by_moving(Tensor::ones([1, 9], &device()))] {
                assert_eq!(average.of(x.clone()).dims(), [1, 5, 2]);
            }
        }
    }
}

proptest! {
    #[test]
    fn tokens_are_kept_in_sum(seed in 0u64..1 << 40, batch in 1usize..4, tokens in 3usize..24, part in 0.0f64..1.0, width in 2usize..6) {
        let gone = 1 + (part * ((tokens - 1) / 2) as f64) as usize;
        let metric = noise(seed, batch * tokens * width);
        let plan = plan(tensor(metric.clone(), [batch, tokens, width], &device()), gone);
        prop_assert_eq!(host(plan.to.clone()), reference(&metric, [batch, tokens, width], gone));
        let matrix = plan.matrix();
        prop_assert_eq!(matrix.dims(), [batch, tokens - gone, tokens]);
        prop_assert_eq!(host(matrix.clone().sum_dim(1)), vec![1.0; batch * tokens]);
        prop_assert!(host(matrix.narrow(1, 0, 1).narrow(2, 0, 1)).iter().all(|&v| v == 1.0));

        let sizes: Vec<f32> = (0..batch * tokens).map(|i| (1 + i % 3) as f32).collect();
        let size = tensor(sizes, [batch, tokens], &device());
        let values = tensor(noise(seed ^ 7, batch * tokens * 4), [batch, tokens, 4], &device());
        let mut seen: Vec<[Vec<f32>; 3]> = Vec::new();
        for average in [plan.by_matrix(size.clone()), plan.by_moving(size.clone())] {
            let x = values.clone().require_grad();
            let y = average.of(x.clone());
            prop_assert_eq!(host(average.size.clone().sum_dim(1)), host(size.clone().sum_dim(1)));
            let before = host((values.clone() * size.clone().unsqueeze_dim::<3>(2)).sum_dim(1));
            let after = host((y.clone() * average.size.clone().unsqueeze_dim::<3>(2)).sum_dim(1));
            prop_assert!(before.iter().zip(&after).all(|(a, b)| (a - b).abs() < 2e-5), "{:?} {:?}", before, after);
            let gradients = y.clone().square().sum().backward();
            seen.push([host(average.size), host(y), host(x.grad(&gradients).unwrap())]);
        }
        for (one, other) in seen[0].iter().zip(&seen[1]) {
            prop_assert!(one.iter().zip(other).all(|(a, b)| (a - b).abs() < 1e-6), "{:?} {:?}", one, other);
        }
    }
}
