//! Training steps of transformers on one thread of the processor: forward, backward and AdamW.
//!
//! `tests/pytorch/nn_speed.py` runs these and the same steps of PyTorch in turns. Times are those that its threads were on
//! the processor for, where the system tells (Linux), so that they mean something on a busy machine too.

use burn::module::Module;
use burn::nn::Linear;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use std::time::{Duration, Instant};
use tessera_client::nn::{AdamW, Init, LayerNorm, TransformerBlock, op};
use tessera_client::{device, glue};
use tessera_common::rng;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CLASSES: usize = 10;

#[derive(Module, Debug)]
struct Model {
    blocks: Vec<TransformerBlock>,
    norm: LayerNorm,
    head: Linear,
}

#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    batch: usize,
    tokens: usize,
    width: usize,
    heads: usize,
    layers: usize,
}

const SHAPES: [Shape; 2] = [
    Shape { name: "tiny", batch: 96, tokens: 37, width: 48, heads: 4, layers: 2 },
    Shape { name: "deep", batch: 16, tokens: 65, width: 256, heads: 8, layers: 12 },
];

impl Model {
    fn new(shape: Shape, device: &Device) -> Self {
        let draws = |path: &str| rng::stream(1, path, "bench", 1);
        let init = Init { draws: &draws, device };
        let block = |i| TransformerBlock::new(&init, &format!("block.{i}"), shape.width, shape.heads);
        Self {
            blocks: (0..shape.layers).map(block).collect(),
            norm: init.layer_norm(shape.width),
            head: init.linear("head", shape.width, CLASSES),
        }
    }

    /// `[B, t, width]` to logits `[B, classes]`.
    fn forward(&self, x: Tensor<3>) -> Tensor<2> {
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x, None, false)); // [B, t, width]
        self.head.forward(self.norm.forward(x).mean_dim(1).squeeze_dim::<2>(1)) // [B, classes]
    }
}

/// Time of all threads of this process on the processor, or of the day where the system does not tell.
fn clock() -> impl Fn() -> Duration {
    let start = Instant::now();
    let busy = || -> Option<u64> {
        let threads = std::fs::read_dir("/proc/self/task").ok()?;
        let of = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("schedstat")).ok();
        threads.map(|thread| of(thread.ok()?)?.split(' ').next()?.parse::<u64>().ok()).sum()
    };
    move || busy().map_or_else(|| start.elapsed(), Duration::from_nanos)
}

fn input(shape: Shape, device: &Device) -> (Tensor<3>, Vec<usize>) {
    let mut stream = rng::stream(1, "input", "bench", 1);
    let values = (0..shape.batch * shape.tokens * shape.width).map(|_| stream.normal() as f32).collect();
    (glue::tensor(values, [shape.batch, shape.tokens, shape.width], device), (0..shape.batch).map(|i| i % CLASSES).collect())
}

/// Runs on a thread of the pool: from any other one every matrix product is handed over, which a fifth of a step can go into.
fn in_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}

fn steps(c: &mut Criterion) {
    device::prepare(Some(1));
    let mut group = c.benchmark_group("nn");
    group.sample_size(10).measurement_time(Duration::from_secs(4)).warm_up_time(Duration::from_secs(1));
    for shape in SHAPES {
        let device = Device::flex().autodiff();
        let (x, targets) = input(shape, &device);
        // Taken out for the optimiser, which writes over parameters that nobody else holds.
        let mut model = Some(Model::new(shape, &device));
        let mut optimizer = ModuleOptimizer::from(AdamW { beta2: 0.98, weight_decay: 0.1, decay_matrices_only: true });
        let now = clock();
        group.bench_function(format!("{}/step", shape.name), |b| {
            b.iter_custom(|times| {
                in_pool(|| {
                    let start = now();
                    for _ in 0..times {
                        let current = model.take().expect("put back below");
                        let loss = op::cross_entropy(current.forward(x.clone()), &targets);
                        let gradients = GradientsParams::from_grads(loss.backward(), &current);
                        model = Some(optimizer.step(1e-4, current, gradients));
                    }
                    now() - start
                })
            });
        });
        let (model, x) = (model.expect("put back after each step").valid(), x.inner());
        group.bench_function(format!("{}/forward", shape.name), |b| {
            b.iter_custom(|times| {
                in_pool(|| {
                    let start = now();
                    for _ in 0..times {
                        std::hint::black_box(model.forward(x.clone()).into_data());
                    }
                    now() - start
                })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
