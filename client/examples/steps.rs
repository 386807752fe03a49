//! Times training steps of the image-text model, one JSON line for each: `steps NAME STEPS [KEY=VALUE ..]`.
//!
//! `tests/pytorch/speed.py` runs it in turn with the same model in PyTorch. One thread computes; the first run warms up. Times are
//! of the processor.

#![allow(clippy::print_stdout)] // The lines are what it is for.

#[path = "../benches/world/mod.rs"]
mod world;

/// Seconds that this process has computed, in hundredths; the time that has passed where the system does not tell.
fn seconds(since: std::time::Instant) -> f64 {
    let ticks = || -> Option<f64> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
        Some(fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?)
    };
    ticks().map_or_else(|| since.elapsed().as_secs_f64(), |ticks| ticks / 100.0)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, steps, sets @ ..] = arguments.as_slice() else {
        return Err("usage: steps tiny|deep STEPS [KEY=VALUE ..], such as steps tiny 50 model.image.merge=[9,9]".into());
    };
    tessera_client::device::prepare(Some(1));
    let steps: u32 = steps.parse()?;
    let mut world = world::World::new(name, steps, sets)?;
    world.fit()?;
    let begin = std::time::Instant::now();
    for _ in 0..3 {
        let start = seconds(begin);
        world.fit()?;
        let each = (seconds(begin) - start) * 1e3 / f64::from(steps);
        println!("{{\"name\": {name:?}, \"ms\": {each:.4}, \"tokens_per_second\": {:.0}}}", 1e3 * world.tokens() as f64 / each);
    }
    Ok(())
}
