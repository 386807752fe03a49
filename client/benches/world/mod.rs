//! A made-up member with pictures and texts, for timings of training steps.

use std::error::Error;
use std::sync::atomic::AtomicBool;
use tessera_client::data::{Modality, Samples};
use tessera_client::task::{self, FitContext, MemberData, Task};
use tessera_common::param::ParamSet;
use tessera_common::rng;
use tessera_common::spec::{RunSpec, set_key};

/// The allocator of the agent.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Sizes that are timed: name, batch, side of the pictures, settings of the model.
const SIZES: &[(&str, usize, usize, &str)] = &[
    ("tiny", 96, 24, "base = \"tiny\"\nloss = { frequency = 0.5 }\ntext = { width = 64, words = { hash = 1024 } }"),
    (
        "deep",
        16,
        64,
        "base = \"tiny\"\nembed = 256\nloss = { frequency = 0.5 }\nimage = { size = 64, patch = 8, width = 256, heads = 8, \
         layers = 12 }\ntext = { width = 64, words = { hash = 1024 } }",
    ),
];

pub(crate) struct World {
    data: MemberData,
    global: ParamSet,
    task: Box<dyn Task>,
    tokens: usize,
}

impl World {
    /// The size `name`, trained for `steps` in each fit, with settings changed by `sets` (KEY=VALUE).
    pub(crate) fn new(name: &str, steps: u32, sets: &[String]) -> Result<Self, Box<dyn Error>> {
        let size = SIZES.iter().find(|(known, ..)| *known == name).ok_or("the sizes are tiny and deep")?;
        let (batch, side, model) = (size.1, size.2, size.3);
        let text = format!(
            "version = 1\nname = \"speed\"\nrounds = 1\ncohort = {{ members = 1, size = 1 }}\nstrategy = {{ kind = \"fedavg\" }}\n\
             prototypes = {{ contrast = 0, contrast_fused = 0 }}\n\
             task = {{ kind = \"mlip\", classes = 2, modalities = {{ image = {}, text = 48 }}, standardise = false }}\n\
             train = {{ optimizer = \"adamw\", lr = 1e-3, weight_decay = 0.1, decay = \"matrices\", batch = {batch}, steps = {steps} }}\n\
             [model]\n{model}",
            3 * side * side
        );
        let mut table: toml::Table = toml::from_str(&text)?;
        for set in sets {
            set_key(&mut table, set)?;
        }
        let spec = RunSpec::from_table(&table)?;
        let mut task = task::create(&spec)?;
        let global = task.initialise()?;
        let patches = global.get("param/image/position").map_or(0, |t| t.shape()[0]);
        let train = samples(4 * batch, 3 * side * side);
        let data = MemberData { name: "m".parse()?, train, held_out: Samples::default(), test: Samples::default() };
        Ok(Self { data, global, task, tokens: batch * (patches + 1) })
    }

    /// Tokens of the pictures of one step, before any is merged away.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// One local run of so many steps.
    pub(crate) fn fit(&mut self) -> Result<(), Box<dyn Error>> {
        let cancel = AtomicBool::new(false);
        self.task.fit(&FitContext { data: &self.data, global: &self.global, round: 1, cancel: &cancel })?;
        Ok(())
    }
}

/// Noise with texts that all differ.
fn samples(n: usize, pixels: usize) -> Samples {
    let mut draws = rng::stream(1, "speed", "", 0);
    let images = (0..n * pixels).map(|_| draws.uniform_f32(0.0, 255.0)).collect();
    let texts = (0..n).flat_map(|i| {
        let mut bytes: Vec<f32> =
            format!("word{} word{} word{} word{}", i, i + 7, 3 * i, 5 * i + 1).bytes().map(f32::from).collect();
        bytes.resize(48, 0.0);
        bytes
    });
    let modality = |name: &str, dim, values| Modality { name: name.into(), dim, values };
    let modalities = vec![modality("image", pixels, images), modality("text", 48, texts.collect())];
    Samples { modalities, labels: vec![0; n], present: vec![3; n] }
}
