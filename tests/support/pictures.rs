//! Generated pictures with captions: a coloured shape that is filled with a grating.
//!
//! Colour, frequency and orientation of the grating and the shape make 8 x 3 x 4 x 5 = 480 captions of four words; 96 of
//! them are only tested. A rendering draws place, size, phase and noise anew, so only the four words tell two apart.

use tessera_client::data::{Modality, Samples};
use tessera_common::rng::{self, Stream};

pub const SIDE: usize = 24;
const COLOURS: [(&str, [f32; 3]); 8] = [
    ("red", [1.0, 0.1, 0.1]),
    ("green", [0.1, 0.8, 0.1]),
    ("blue", [0.1, 0.2, 1.0]),
    ("yellow", [0.9, 0.9, 0.1]),
    ("purple", [0.6, 0.1, 0.8]),
    ("cyan", [0.1, 0.8, 0.9]),
    ("orange", [1.0, 0.5, 0.0]),
    ("white", [1.0, 1.0, 1.0]),
];
const GRATINGS: [(&str, f32); 3] = [("coarse", 1.5), ("medium", 3.0), ("fine", 6.0)];
const ORIENTATIONS: [(&str, f32); 4] = [("level", 0.0), ("rising", 0.25), ("upright", 0.5), ("falling", 0.75)];
const SHAPES: [&str; 5] = ["disc", "square", "diamond", "ring", "cross"];

/// The words of all captions.
pub fn words() -> Vec<&'static str> {
    let all = COLOURS.iter().map(|c| c.0).chain(GRATINGS.iter().map(|g| g.0)).chain(ORIENTATIONS.iter().map(|o| o.0));
    all.chain(SHAPES).collect()
}

/// A caption's number in 0..480 as its four parts.
fn parts(caption: usize) -> [usize; 4] {
    [caption / 60, caption / 20 % 3, caption / 5 % 4, caption % 5]
}

pub fn caption(caption: usize) -> String {
    let [colour, grating, orientation, shape] = parts(caption);
    format!("{} {} {} {}", COLOURS[colour].0, GRATINGS[grating].0, ORIENTATIONS[orientation].0, SHAPES[shape])
}

/// Captions that are trained on, and those that are only tested: the same for every seed.
pub fn split() -> (Vec<usize>, Vec<usize>) {
    let mut all: Vec<usize> = (0..480).collect();
    rng::stream(7, "pictures: held-out captions", "", 0).shuffle(&mut all);
    let test = all.split_off(384);
    (all, test)
}

/// How far a point lies inside a shape of this radius; above 0 is inside.
fn inside(shape: usize, x: f32, y: f32, radius: f32) -> bool {
    let distance = x.hypot(y);
    match SHAPES[shape] {
        "disc" => distance < radius,
        "square" => x.abs().max(y.abs()) < 0.85 * radius,
        "diamond" => x.abs() + y.abs() < 1.2 * radius,
        "ring" => distance < radius && distance > 0.5 * radius,
        _ => x.abs().min(y.abs()) < 0.35 * radius && x.abs().max(y.abs()) < radius,
    }
}

/// A rendering, `[3 SIDE^2]` in 0..255 with values beyond where the noise goes there.
fn render(caption: usize, draws: &mut Stream) -> Vec<f32> {
    let [colour, grating, orientation, shape] = parts(caption);
    let [cx, cy] = [draws.uniform_f32(8.0, 16.0), draws.uniform_f32(8.0, 16.0)];
    let (radius, phase) = (draws.uniform_f32(5.0, 7.0), draws.uniform_f32(0.0, std::f32::consts::TAU));
    let turn = ORIENTATIONS[orientation].1 * std::f32::consts::PI;
    let mut out = vec![0.0; 3 * SIDE * SIDE];
    for row in 0..SIDE {
        for column in 0..SIDE {
            let (x, y) = (column as f32 + 0.5, row as f32 + 0.5);
            let along = (x * turn.cos() + y * turn.sin()) / SIDE as f32;
            let wave = 0.5 + 0.5 * (std::f32::consts::TAU * GRATINGS[grating].1 * along + phase).sin();
            for channel in 0..3 {
                let value = if inside(shape, x - cx, y - cy, radius) { COLOURS[colour].1[channel] * wave } else { 0.5 };
                let noisy = value + 0.25 * draws.normal() as f32;
                out[(channel * SIDE + row) * SIDE + column] = 255.0 * noisy;
            }
        }
    }
    out
}

/// Renderings of `captions`, so many of each, in the order caption by caption.
pub fn samples(captions: &[usize], each: usize, seed: u64, purpose: &str) -> Samples {
    const BYTES: usize = 40;
    let mut draws = rng::stream(seed, purpose, "", 0);
    let (mut images, mut texts) = (Vec::new(), Vec::new());
    for &number in captions {
        let mut bytes: Vec<f32> = caption(number).bytes().map(f32::from).collect();
        bytes.resize(BYTES, 0.0);
        for _ in 0..each {
            images.extend(render(number, &mut draws));
            texts.extend_from_slice(&bytes);
        }
    }
    let n = captions.len() * each;
    let modality = |name: &str, dim, values| Modality { name: name.into(), dim, values };
    Samples {
        modalities: vec![modality("image", 3 * SIDE * SIDE, images), modality("text", BYTES, texts)],
        labels: captions.iter().flat_map(|&c| std::iter::repeat_n(parts(c)[0] as u32, each)).collect(),
        present: vec![3; n],
    }
}
