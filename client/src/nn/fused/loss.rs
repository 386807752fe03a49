//! Cross-entropy of logits against classes.

use super::kernel::{exp, largest, sum, vectorised};
use super::memory;
use super::run::Fused;
use burn_flex::FlexTensor;

/// Mean over rows of `-log softmax(logits)[target]`, `[1]`.
#[derive(Debug, Clone)]
pub(in crate::nn) struct CrossEntropy {
    /// The class of each row.
    pub(in crate::nn) targets: Vec<usize>,
}

vectorised! {
    /// Largest logit of each row and `sum(e^(x - largest))`.
    sums(x: &[f32], n: usize, found: &mut [f32]) {
        for (x, found) in x.chunks_exact(n).zip(found.chunks_exact_mut(2)) {
            let top = largest(x);
            found.copy_from_slice(&[top, sum(n, |i| exp(x[i] - top))]);
        }
    }
}

vectorised! {
    /// `factor softmax(x)` of each row.
    gradient(x: &[f32], n: usize, found: &[f32], factor: f32, g: &mut [f32]) {
        for ((x, g), found) in x.chunks_exact(n).zip(g.chunks_exact_mut(n)).zip(found.chunks_exact(2)) {
            let (top, part) = (found[0], factor / found[1]);
            for (g, &x) in g.iter_mut().zip(x) {
                *g = exp(x - top) * part;
            }
        }
    }
}

/// The logits, and of each row the largest and the sum of exponentials.
type Saved = (FlexTensor, Vec<f32>);

impl Fused<1> for CrossEntropy {
    type Saved = Saved;

    fn forward(&self, [logits]: [FlexTensor; 1], keep: bool) -> (FlexTensor, Option<Saved>) {
        let (x, n) = (memory::values(&logits), memory::width(&logits));
        let rows = memory::rows_of_piece(n);
        let mut found = vec![0.0; 2 * self.targets.len()];
        let pieces = x.chunks(rows * n).zip(found.chunks_mut(2 * rows)).zip(self.targets.chunks(rows));
        let losses = memory::gather(pieces, |((x, found), targets)| {
            sums(x, n, found);
            let of = |(row, &target): (usize, &usize)| {
                f64::from(found[2 * row]) - f64::from(x[row * n + target]) + f64::from(found[2 * row + 1]).ln()
            };
            targets.iter().enumerate().map(of).sum::<f64>()
        });
        let mean = losses.iter().sum::<f64>() / self.targets.len() as f64;
        (memory::tensor(vec![mean as f32], &[1]), keep.then_some((logits, found)))
    }

    fn backward(self, (logits, found): Saved, gradient_of_mean: FlexTensor, _: [bool; 1]) -> [Option<FlexTensor>; 1] {
        let (x, n) = (memory::values(&logits), memory::width(&logits));
        let rows = memory::rows_of_piece(n);
        let factor = memory::values(&gradient_of_mean)[0] / self.targets.len() as f32;
        let mut g = vec![0.0; x.len()];
        let pieces = g.chunks_mut(rows * n).zip(x.chunks(rows * n)).zip(found.chunks(2 * rows));
        memory::spread(pieces.zip(self.targets.chunks(rows)), |(((g, x), found), targets)| {
            gradient(x, n, found, factor, g);
            for (row, &target) in targets.iter().enumerate() {
                g[row * n + target] -= factor;
            }
        });
        [Some(memory::tensor(g, &memory::shape(&logits)))]
    }
}
