//! Training steps of the image-text model with and without token merging: `cargo bench -p tessera-client --bench mlip`.
//!
//! One iteration is a local run of four steps. Compare lines of one run with each other, not with another day's.

mod world;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::time::Duration;

const STEPS: u32 = 4;

/// Name, size and settings.
const ARMS: &[(&str, &str, &[&str])] = &[
    ("clip-only", "tiny", &["model.image.frequency=0"]),
    ("filter", "tiny", &[]),
    ("filter, merged 36-27-18", "tiny", &["model.image.merge=[9,9]"]),
    ("filter, merged 36-18-9", "tiny", &["model.image.merge=[18,9]"]),
    ("filter, token loss", "tiny", &["model.loss.token=0.5"]),
    ("filter, token loss, merged 36-27-18", "tiny", &["model.loss.token=0.5", "model.image.merge=[9,9]"]),
    ("deep", "deep", &[]),
    ("deep, 4 merged a layer", "deep", &["model.image.merge=[4,4,4,4,4,4,4,4,4,4,4,4]"]),
];

fn steps(criterion: &mut Criterion) {
    tessera_client::device::prepare(Some(1));
    let mut group = criterion.benchmark_group("steps");
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(5));
    for (name, size, sets) in ARMS {
        let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
        let mut world = world::World::new(size, STEPS, &sets).expect("the arms are valid specs");
        group.throughput(Throughput::Elements(u64::from(STEPS) * world.tokens() as u64));
        group.bench_function(*name, |bench| bench.iter(|| world.fit().expect("training goes on")));
    }
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
