//! Keys of `[model]`: sizes, and which ingredients are on.

use super::words::Words;
use serde::{Deserialize, Serialize};
use tessera_common::spec::{RunSpec, SpecError, merge, parse_table};

/// Most parameters of a model, 1 GiB: a spec comes from outside, and an agent must not run out of memory over it.
const MOST_PARAMETERS: usize = 1 << 28;

/// Most features, tokens or layers of anything.
const MOST_UNITS: usize = 8192;

/// Sizes that a model starts from; each key of the spec replaces one of these. The first is used if none is named.
pub const BASES: &[(&str, &str)] = &[
    (
        "tiny",
        r#"embed = 64
        image = { kind = "vit", size = 24, patch = 4, width = 48, heads = 4, layers = 2, frequency = 1 }
        text = { kind = "bag", context = 8, width = 384, words = { hash = 4096 } }"#,
    ),
    (
        "clip-only",
        r#"embed = 64
        image = { kind = "vit", size = 24, patch = 4, width = 48, heads = 4, layers = 2, frequency = 0 }
        text = { kind = "bag", context = 8, width = 384, words = { hash = 4096 } }"#,
    ),
    (
        "small",
        r#"embed = 256
        image = { kind = "vit", size = 64, patch = 8, width = 256, heads = 8, layers = 12, frequency = 2 }
        text = { kind = "transformer", context = 32, width = 256, heads = 8, layers = 4, words = { hash = 16384 } }"#,
    ),
    (
        "vit-b32",
        r#"embed = 512
        image = { kind = "vit", size = 224, patch = 32, width = 768, heads = 12, layers = 10, frequency = 2 }
        text = { kind = "transformer", context = 77, width = 512, heads = 8, layers = 12, words = { hash = 49152 } }"#,
    ),
    (
        "vit-b16",
        r#"embed = 512
        image = { kind = "vit", size = 224, patch = 16, width = 768, heads = 12, layers = 10, frequency = 2 }
        text = { kind = "transformer", context = 77, width = 512, heads = 8, layers = 12, words = { hash = 49152 } }"#,
    ),
];

/// `[model]`, with everything filled in.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Features of the space that both modalities share.
    pub embed: usize,
    /// The image encoder.
    pub image: ImageConfig,
    /// The text encoder.
    pub text: TextConfig,
    /// What is in the loss.
    #[serde(default)]
    pub loss: LossConfig,
    /// A text for each class, for answers without a trained head; class c is described by the c-th.
    #[serde(default)]
    pub prompts: Vec<String>,
    /// Whether samples are in clusters instead of classes: for data without classes. `task.classes` is their number.
    #[serde(default)]
    pub clusters: bool,
    /// Rounds before pictures without a text are put into clusters.
    #[serde(default = "three")]
    pub clusters_after: u32,
    /// Training pictures are moved by up to so many pixels each way; what comes in at the border repeats the border.
    #[serde(default)]
    pub shift: usize,
    /// Names of blocks that stay at the member.
    #[serde(default)]
    pub private: Vec<String>,
}

/// The image encoder: a vision transformer with a frequency branch, or a projection of features that are there already.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ImageConfig {
    /// Which.
    #[serde(default)]
    pub kind: ImageKind,
    /// Name of the modality.
    #[serde(default = "image")]
    pub modality: String,
    /// Side of the pictures in pixels.
    #[serde(default)]
    pub size: usize,
    /// Side of a patch in pixels; divides `size`.
    #[serde(default)]
    pub patch: usize,
    /// Features of a token.
    #[serde(default)]
    pub width: usize,
    /// Heads of attention; divide `width`.
    #[serde(default)]
    pub heads: usize,
    /// Transformer blocks.
    #[serde(default)]
    pub layers: usize,
    /// Blocks of the frequency branch in front of them; 0 leaves it out.
    #[serde(default)]
    pub frequency: usize,
    /// Tokens that are merged away inside each transformer block, `[9, 9]`; blocks that are not named merge none.
    #[serde(default)]
    pub merge: Vec<usize>,
    /// Weight of the frequency features in deciding what is merged; 0 goes by the keys of attention alone.
    #[serde(default = "one")]
    pub guide: f64,
    /// Mean of the colours, of 0 to 1.
    #[serde(default = "mean")]
    pub mean: [f32; 3],
    /// Standard deviation of the colours, of 0 to 1.
    #[serde(default = "deviation")]
    pub std: [f32; 3],
}

/// Kinds of image encoders.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageKind {
    /// Pictures.
    #[default]
    Vit,
    /// Features of another encoder, projected.
    Embedding,
}

/// The text encoder.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    /// Which.
    #[serde(default)]
    pub kind: TextKind,
    /// Name of the modality.
    #[serde(default = "text")]
    pub modality: String,
    /// Most tokens of a text; more are cut off.
    #[serde(default)]
    pub context: usize,
    /// Features of a token.
    #[serde(default)]
    pub width: usize,
    /// Heads of attention; divide `width`.
    #[serde(default)]
    pub heads: usize,
    /// Transformer blocks.
    #[serde(default)]
    pub layers: usize,
    /// How a text becomes tokens.
    #[serde(default)]
    pub words: Words,
}

/// Kinds of text encoders.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TextKind {
    /// A sum of word vectors.
    #[default]
    Bag,
    /// A transformer over tokens.
    Transformer,
    /// Features of another encoder, projected.
    Embedding,
}

/// Weights of the terms of the loss; 0 leaves one out.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossConfig {
    /// Contrast of the frequency features with the text.
    pub frequency: f64,
    /// Contrast of tokens with tokens.
    pub token: f64,
    /// Samples with a picture alone, against the prototypes of texts.
    pub image_only: f64,
    /// Samples with a text alone, against the prototypes of pictures.
    pub text_only: f64,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self { frequency: 0.5, token: 0.0, image_only: 1.0, text_only: 1.0 }
    }
}

fn image() -> String {
    "image".to_owned()
}

fn text() -> String {
    "text".to_owned()
}

fn three() -> u32 {
    3
}

fn one() -> f64 {
    1.0
}

/// Of the pictures that CLIP was trained on; any fixed numbers do as long as all members have the same.
fn mean() -> [f32; 3] {
    [0.481_454_66, 0.457_827_5, 0.408_210_73]
}

fn deviation() -> [f32; 3] {
    [0.268_629_55, 0.261_302_6, 0.275_777_1]
}

impl ImageConfig {
    /// Patches along a side.
    pub fn grid(&self) -> usize {
        self.size / self.patch.max(1)
    }

    /// Patches of a picture.
    pub fn patches(&self) -> usize {
        self.grid() * self.grid()
    }

    /// Tokens that block `layer` merges away.
    pub fn merged(&self, layer: usize) -> usize {
        self.merge.get(layer).copied().unwrap_or(0)
    }
}

impl Config {
    /// Reads `spec.model`: `base` names where it starts, every other key replaces one of the base's.
    ///
    /// # Errors
    /// Names the key that is unknown or cannot be right.
    pub fn read(spec: &RunSpec) -> Result<Self, SpecError> {
        let names: Vec<&str> = BASES.iter().map(|(name, _)| *name).collect();
        let mut own = spec.model.clone();
        let base = match own.remove("base") {
            None => names[0].to_owned(),
            Some(toml::Value::String(name)) => name,
            Some(other) => return Err(SpecError::invalid("model.base", format!("{other} is not a name"))),
        };
        let found = BASES.iter().find(|(name, _)| *name == base);
        let (_, text) = found.ok_or_else(|| SpecError::unknown_name("model.base", &base, &names))?;
        let mut table: toml::Table = toml::from_str(text).expect("bases are constants and a test reads each");
        // `words` is one of several ways: a new one does not add to that of the base
        if own.get("text").and_then(|t| t.get("words")).is_some() {
            table.get_mut("text").and_then(toml::Value::as_table_mut).map(|t| t.remove("words"));
        }
        merge(&mut table, &own);
        let config: Self = parse_table("model", &table)?;
        config.check(spec)?;
        Ok(config)
    }

    fn check(&self, spec: &RunSpec) -> Result<(), SpecError> {
        let need = |key: &str, ok: bool, why: &str| if ok { Ok(()) } else { Err(SpecError::invalid(key, why)) };
        let within = |key: &str, value: usize| need(key, (1..=MOST_UNITS).contains(&value), "must be 1 to 8192");
        within("model.embed", self.embed)?;
        self.check_image(&need, &within)?;
        let text = &self.text;
        if text.kind != TextKind::Embedding {
            within("model.text.context", text.context)?;
            within("model.text.width", text.width)?;
            text.words.check()?;
        }
        if text.kind == TextKind::Transformer {
            need("model.text.heads", text.heads > 0 && text.width.is_multiple_of(text.heads), "must divide model.text.width")?;
            need("model.text.layers", (1..=256).contains(&text.layers), "must be 1 to 256")?;
        }
        for (key, weight) in [
            ("model.loss.frequency", self.loss.frequency),
            ("model.loss.token", self.loss.token),
            ("model.loss.image_only", self.loss.image_only),
            ("model.loss.text_only", self.loss.text_only),
            ("model.image.guide", self.image.guide),
        ] {
            need(key, weight.is_finite() && weight >= 0.0, "must be 0 or more")?;
        }
        let tokens = self.loss.token == 0.0 || (self.image.kind == ImageKind::Vit && text.kind != TextKind::Embedding);
        need("model.loss.token", tokens, "needs tokens of both sides; an encoder of kind \"embedding\" has none")?;
        let (prompts, classes) = (self.prompts.len(), spec.task.classes);
        let why = format!("has {prompts} texts for {classes} classes; give one for each, or none");
        need("model.prompts", prompts == 0 || prompts == classes, &why)?;
        let words = self.prompts.is_empty() || text.kind != TextKind::Embedding;
        need("model.prompts", words, "need an encoder of texts; kind \"embedding\" has none")?;
        need("model.prompts", self.prompts.is_empty() || !self.clusters, "describe classes; with model.clusters there are none")?;
        self.check_task(spec, &need)?;
        let size = self.parameters(spec);
        let most = format!("has {size} parameters, at most {MOST_PARAMETERS} are taken");
        need("model", size <= MOST_PARAMETERS, &most)
    }

    fn check_image(
        &self,
        need: &dyn Fn(&str, bool, &str) -> Result<(), SpecError>,
        within: &dyn Fn(&str, usize) -> Result<(), SpecError>,
    ) -> Result<(), SpecError> {
        let image = &self.image;
        if image.kind == ImageKind::Embedding {
            return need("model.image.frequency", image.frequency == 0, "needs pictures; kind \"embedding\" has none");
        }
        for (key, value) in
            [("model.image.size", image.size), ("model.image.patch", image.patch), ("model.image.width", image.width)]
        {
            within(key, value)?;
        }
        need("model.image.patch", image.size.is_multiple_of(image.patch), "must divide model.image.size")?;
        need("model.image.patch", image.patches() <= MOST_UNITS, "makes more than 8192 patches of a picture")?;
        need("model.image.heads", image.heads > 0 && image.width.is_multiple_of(image.heads), "must divide model.image.width")?;
        need("model.image.layers", (1..=256).contains(&image.layers), "must be 1 to 256")?;
        need("model.image.frequency", image.frequency <= 256, "must be at most 256")?;
        need("model.image.merge", image.merge.len() <= image.layers, "names more blocks than model.image.layers")?;
        let mut tokens = image.patches() + 1;
        for &gone in &image.merge {
            let why = format!("{gone} of {tokens} tokens cannot be merged away: at most half of those behind the first");
            need("model.image.merge", gone <= (tokens - 1) / 2, &why)?;
            tokens -= gone;
        }
        need("model.shift", self.shift < image.size, "must be below model.image.size")?;
        need("model.image.std", image.std.iter().all(|s| s.is_finite() && *s > 0.0), "must be above 0")?;
        need("model.image.mean", image.mean.iter().all(|m| m.is_finite()), "must be finite")
    }

    fn check_task(&self, spec: &RunSpec, need: &dyn Fn(&str, bool, &str) -> Result<(), SpecError>) -> Result<(), SpecError> {
        let (image, text) = (&self.image, &self.text);
        let both = spec.task.modalities.len() == 2 && image.modality != text.modality;
        let dim = |name: &str| spec.task.modalities.get(name).copied().filter(|_| both);
        let why =
            format!("must be {} and {}: model.image.modality and model.text.modality name them", image.modality, text.modality);
        need("task.modalities", dim(&image.modality).is_some() && dim(&text.modality).is_some(), &why)?;
        need("train.batch", spec.train.batch > 1, "must be 2 or more: a pair alone has nothing to be contrasted with")?;
        let pixels = 3 * image.size * image.size;
        let why = format!(
            "pictures of side {0} (model.image.size) have 3 x {0} x {0} = {pixels} features: set it to the side of the data's pictures",
            image.size
        );
        let fits = image.kind == ImageKind::Embedding || dim(&image.modality) == Some(pixels);
        need(&format!("task.modalities.{}", image.modality), fits, &why)?;
        need("task.standardise", !spec.task.standardise, "must be false: pictures and texts are taken as they are")
    }

    /// Number of parameters.
    pub fn parameters(&self, spec: &RunSpec) -> usize {
        let (image, text, embed) = (&self.image, &self.text, self.embed);
        let dim = |name: &String| spec.task.modalities.get(name).copied().unwrap_or(0);
        let block = |width: usize| 12 * width * width + 13 * width;
        let tokens = usize::from(self.loss.token > 0.0);
        let images = match image.kind {
            ImageKind::Embedding => dim(&image.modality) * embed,
            ImageKind::Vit => {
                let (width, grid) = (image.width, image.grid());
                let filter = 2 * grid * (grid / 2 + 1) * width + 8 * width * width + 5 * width + 4 * width;
                let head = if self.loss.frequency > 0.0 { width * embed } else { 0 };
                let branch = if image.frequency > 0 { image.frequency * filter + 2 * width + head } else { 0 };
                let patch = 3 * image.patch * image.patch * width + width;
                let heads = (1 + tokens) * width * embed;
                patch + (image.patches() + 1) * width + image.layers * block(width) + 2 * width + heads + branch
            }
        };
        let texts = match text.kind {
            TextKind::Embedding => dim(&text.modality) * embed,
            TextKind::Bag => text.words.size() * text.width + (1 + tokens) * text.width * embed,
            TextKind::Transformer => {
                let width = text.width;
                let towers = text.layers * block(width) + 2 * width + (1 + tokens) * width * embed;
                (text.words.size() + text.context) * width + towers
            }
        };
        images + texts + 1 + usize::from(image.frequency > 0 && self.loss.frequency > 0.0) + tokens
    }
}
