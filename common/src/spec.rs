//! The run spec: one TOML document that says what a run is.
//!
//! [`RunSpec::from_toml`] is the only way to make one: a value of this type has been validated. Unknown keys are
//! refused with the nearest valid one. What a task or a strategy alone understands lies in its own table, which that
//! task or strategy parses with [`parse_table`], so that adding one does not touch this file.

use crate::id::is_valid_name;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

mod cohort;
mod error;
mod keep;
mod preset;
#[cfg(test)]
mod tests;
mod units;

pub use cohort::{CohortSpec, EvaluateSpec, Late};
pub use error::{SpecError, nearest};
pub use keep::KeepSpec;
pub use preset::{PRESETS, Preset, merge, set_key};
pub use units::duration;

/// True if `name` is one of the run's modalities.
pub fn is_modality(spec: &RunSpec, name: &str) -> bool {
    spec.task.modalities.contains_key(name)
}

/// Refuses the value of a key, with what would be right.
type Check<'a> = &'a dyn Fn(&str, bool, &str) -> Result<(), SpecError>;

/// Version of the format of this document.
pub const SPEC_VERSION: u32 = 1;

/// Version of the engine's rules that new runs have. A run keeps those that it began with, so that its journal gives
/// the same state again. Rules 1 know neither resting members nor a pause that ends by itself.
pub const RULES: u32 = 2;

/// Most classes of a task.
pub const MAX_CLASSES: usize = 100_000;
/// Most modalities of a task: every non-empty subset of them is evaluated, and a report of all must fit a message.
pub const MAX_MODALITIES: usize = 10;

/// Longest text of a spec or of another TOML document, in bytes; reading it can take 80 times that. One that is written by
/// people has some thousands.
pub const MAX_TEXT: usize = 512 << 10;
/// Deepest nesting of tables and lists in the tables of a task's model and of a strategy.
const MAX_DEPTH: usize = 16;

/// Pseudo-modality under which prototypes of the fused representation are kept.
pub const FUSED: &str = "fused";

/// What a run is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunSpec {
    /// Version of the format; 1.
    pub version: u32,
    /// Version of the engine's rules that the run began with, 1 to [`RULES`].
    #[serde(default = "current_rules")]
    pub rules: u32,
    /// Name of the run, for people.
    pub name: String,
    /// Seed of every random draw of the run.
    #[serde(default)]
    pub seed: u64,
    /// Number of rounds.
    pub rounds: u32,
    /// What is learned.
    pub task: TaskSpec,
    /// The task's model: its own keys.
    #[serde(default)]
    pub model: toml::Table,
    /// Local training.
    #[serde(default)]
    pub train: TrainSpec,
    /// What stands in for a missing modality while training, and how a class is answered.
    #[serde(default)]
    pub missing: MissingSpec,
    /// The prototype library.
    #[serde(default)]
    pub prototypes: PrototypeSpec,
    /// How updates become the next global: `kind` and the strategy's own keys.
    #[serde(default = "default_strategy")]
    pub strategy: toml::Table,
    /// Who is asked, and how long one waits.
    pub cohort: CohortSpec,
    /// When the global is evaluated.
    #[serde(default)]
    pub evaluate: EvaluateSpec,
    /// What the coordinator keeps beyond what the run works with.
    #[serde(default)]
    pub keep: KeepSpec,
}

fn current_rules() -> u32 {
    RULES
}

fn default_strategy() -> toml::Table {
    [("kind".to_owned(), toml::Value::String("pmcm".to_owned()))].into_iter().collect()
}

/// What is learned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    /// Name in the task table, such as `classify`.
    pub kind: String,
    /// Number of classes.
    pub classes: usize,
    /// Modalities and the number of features of each, `{ left = 32, right = 32 }`.
    pub modalities: BTreeMap<String, usize>,
    /// Scale every feature by the federation's own mean and standard deviation, surveyed before round 1.
    #[serde(default = "yes")]
    pub standardise: bool,
}

fn yes() -> bool {
    true
}

/// Local training of one member in one round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSpec {
    /// Passes over the member's data.
    pub epochs: u32,
    /// Samples of a step; the last, smaller batch is used too.
    pub batch: usize,
    /// Optimiser; its moments are fresh in every local run.
    pub optimizer: Optimizer,
    /// Learning rate.
    pub lr: f64,
    /// Decoupled weight decay (AdamW), or L2 decay for SGD.
    pub weight_decay: f64,
    /// Momentum of SGD.
    pub momentum: f64,
    /// Largest norm of the whole gradient; 0 does not clip.
    pub clip: f64,
    /// How the learning rate goes over the rounds.
    pub schedule: Schedule,
    /// Weight of (mu/2)|w - global|^2 in the loss (FedProx); a strategy may set it.
    pub proximal: f64,
    /// Steps of a local run, of whole batches, with as many passes as that takes; 0 goes by `epochs`.
    #[serde(skip_serializing_if = "is_default")]
    pub steps: u32,
    /// Share of the run's steps over which the learning rate rises linearly to its height; below 1. Above 0, or with
    /// `per_step`, the schedule falls from step to step.
    #[serde(skip_serializing_if = "is_default")]
    pub warmup: f64,
    /// Let the schedule fall within a local run too, not from round to round only.
    #[serde(skip_serializing_if = "is_default")]
    pub per_step: bool,
    /// Decay rate of the second moment of adam and adamw.
    #[serde(skip_serializing_if = "is_usual_beta2")]
    pub beta2: f64,
    /// What `weight_decay` of adamw pulls at.
    #[serde(skip_serializing_if = "is_default")]
    pub decay: Decay,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

const BETA2: f64 = 0.999;

fn is_usual_beta2(value: &f64) -> bool {
    *value == BETA2
}

/// Which parameters decay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// All.
    #[default]
    All,
    /// Those of two axes and more: no bias, no scale of a normalisation, no temperature.
    Matrices,
}

impl Default for TrainSpec {
    fn default() -> Self {
        Self {
            epochs: 2,
            batch: 32,
            optimizer: Optimizer::Adam,
            lr: 1e-3,
            weight_decay: 0.0,
            momentum: 0.0,
            clip: 0.0,
            schedule: Schedule::Constant,
            proximal: 0.0,
            steps: 0,
            warmup: 0.0,
            per_step: false,
            beta2: BETA2,
            decay: Decay::All,
        }
    }
}

/// Optimiser of local training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Optimizer {
    /// Adam, beta .9 and .999, epsilon 1e-8, no decay.
    Adam,
    /// Adam with decoupled weight decay.
    Adamw,
    /// Stochastic gradient descent with optional momentum.
    Sgd,
}

/// Learning rate over the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// The same in every round.
    Constant,
    /// Half a cosine from `lr` down to 0 after the last round.
    Cosine,
    /// Linear from `lr` down to 0 after the last round.
    Linear,
}

/// What stands in for a modality that a sample lacks, and how a class is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MissingSpec {
    /// Stands in for the representation of a missing modality, in training and for the `head` answer.
    pub fill: Fill,
    /// Prototype that is tried before `fill` while training.
    pub mask: Mask,
    /// Probability of using the mask where there is one; `fill` otherwise.
    pub mask_probability: f64,
    /// Rounds before the first mask is used.
    pub warmup: u32,
    /// Answer that is reported first. All answers are always measured.
    pub inference: Inference,
}

impl Default for MissingSpec {
    fn default() -> Self {
        Self { fill: Fill::Zero, mask: Mask::None, mask_probability: 1.0, warmup: 1, inference: Inference::Whitened }
    }
}

/// Stand-in for the representation of a missing modality.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fill {
    /// Do not train on samples that lack a modality (at inference: zero).
    Drop,
    /// Zeros.
    Zero,
    /// Fresh standard normal noise.
    Noise,
    /// A learned vector per modality.
    Token,
    /// The prototype of the sample's label (training); of the nearest class (inference). Zeros where there is none.
    LabelPrototype,
    /// The prototype of the class nearest to what is present. Zeros where there is none.
    Retrieved,
}

/// Prototype that stands in while training, before `fill` is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mask {
    /// None.
    None,
    /// That of the sample's label (PmcmFL).
    Label,
    /// That of the class nearest to what is present.
    Retrieved,
}

/// How a class is answered for a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Inference {
    /// The fused head, with `fill` for what is missing.
    Head,
    /// The fused head, with the prototype of the nearest class for what is missing.
    Near,
    /// The nearest class by cosine, no head.
    Ncm,
    /// Whitened prototypes: a sum of linear discriminants over what is present.
    Whitened,
    /// Per subset of modalities, whichever of the above was right most often on the members' held-out data.
    Auto,
}

/// The prototype library.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PrototypeSpec {
    /// Weight of the prototype contrast per modality, in the loss. Without effect where the strategy keeps no library.
    pub contrast: f64,
    /// Weight of the prototype contrast of the fused representation.
    pub contrast_fused: f64,
    /// Temperature of the contrast.
    pub tau: f64,
    /// A member does not send a class of which it has fewer samples of a modality.
    pub min_count: u32,
    /// The coordinator renews a row from this many samples on.
    pub min_total: u32,
    /// Share of the old row that is kept when a row is renewed.
    pub ema: f64,
    /// Rounds after which a row that was not renewed is dropped; 0 keeps it.
    pub max_age: u32,
    /// Shrinkage of the whitened prototypes' covariance towards a multiple of the identity.
    pub rho: f64,
    /// Library that `near` and `ncm` use when reported: means of local models as uploaded, or of the final global model.
    pub library: Library,
}

impl Default for PrototypeSpec {
    fn default() -> Self {
        Self {
            contrast: 0.3,
            contrast_fused: 0.3,
            tau: 0.1,
            min_count: 8,
            min_total: 1,
            ema: 0.0,
            max_age: 0,
            rho: 0.1,
            library: Library::Fresh,
        }
    }
}

/// Which prototypes answer at inference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Library {
    /// Sums that members sent with their updates: means over their local models.
    Uploaded,
    /// From the statistics pass over all members with the global model itself.
    Fresh,
}

/// Parses a TOML document, without saying anything about its keys yet.
///
/// # Errors
/// If it is longer than [`MAX_TEXT`] or not TOML; names the line.
pub fn parse_document(text: &str) -> Result<toml::Table, SpecError> {
    bounded(text)?;
    toml::from_str(text).map_err(|e| SpecError::syntax(&e.to_string()))
}

/// Refuses a text that no person would write.
fn bounded(text: &str) -> Result<(), SpecError> {
    if text.len() > MAX_TEXT {
        return Err(SpecError::Syntax(format!("the text has {} bytes, at most {MAX_TEXT} are read", text.len())));
    }
    Ok(())
}

/// True if tables and lists lie at most `most` deep in `value`.
fn shallow(value: &toml::Value, most: usize) -> bool {
    match value {
        toml::Value::Table(table) => most > 0 && table.values().all(|value| shallow(value, most - 1)),
        toml::Value::Array(list) => most > 0 && list.iter().all(|value| shallow(value, most - 1)),
        _ => true,
    }
}

/// Parses the own table of a task or strategy, refusing unknown keys with the nearest valid one.
///
/// # Errors
/// Names `section` and the key.
pub fn parse_table<T: DeserializeOwned>(section: &str, table: &toml::Table) -> Result<T, SpecError> {
    // Through text: only then do errors carry a position to show.
    let text = toml::to_string(table).map_err(|e| SpecError::invalid(section, e.to_string()))?;
    toml::from_str(&text).map_err(|e| SpecError::from_toml(e).within(section))
}

impl RunSpec {
    /// Parses and validates a spec.
    ///
    /// # Errors
    /// Names the line and key, and for an unknown key the nearest valid one.
    pub fn from_toml(text: &str) -> Result<Self, SpecError> {
        bounded(text)?;
        let spec: RunSpec = toml::from_str(text).map_err(SpecError::from_toml)?;
        spec.validate()?;
        Ok(spec)
    }

    /// Parses a spec that a coordinator keeps on disk. One without `rules` is of the version before that key: rules 1.
    ///
    /// # Errors
    /// As [`Self::from_toml`].
    pub fn stored(text: &str) -> Result<Self, SpecError> {
        let mut spec = Self::from_toml(text)?;
        let table: toml::Table = toml::from_str(text).map_err(SpecError::from_toml)?;
        if !table.contains_key("rules") {
            spec.rules = 1;
        }
        Ok(spec)
    }

    /// From a table that presets and overrides were merged into.
    ///
    /// # Errors
    /// As [`Self::from_toml`], but without lines: they would be those of the merged text.
    pub fn from_table(table: &toml::Table) -> Result<Self, SpecError> {
        let text = toml::to_string(table).map_err(|e| SpecError::invalid("spec", e.to_string()))?;
        Self::from_toml(&text).map_err(SpecError::without_position)
    }

    /// The spec as TOML, every key written out.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a validated spec has only keys and values that TOML can hold")
    }

    /// The strategy's name.
    pub fn strategy_kind(&self) -> &str {
        self.strategy.get("kind").and_then(toml::Value::as_str).unwrap_or_default()
    }

    /// Modality names in order.
    pub fn modalities(&self) -> Vec<&str> {
        self.task.modalities.keys().map(String::as_str).collect()
    }

    fn validate(&self) -> Result<(), SpecError> {
        let check = |key: &str, ok: bool, why: &str| if ok { Ok(()) } else { Err(SpecError::invalid(key, why)) };
        check("version", self.version == SPEC_VERSION, "this build reads version 1")?;
        check("rules", (1..=RULES).contains(&self.rules), "this build knows rules 1 and 2; leave the key out for a new run")?;
        check("name", is_valid_name(&self.name), "use 1 to 64 of a-z, A-Z, 0-9, '.', '_', '-'")?;
        check("rounds", (1..=1_000_000).contains(&self.rounds), "must be 1 to 1000000")?;
        check("seed", self.seed <= i64::MAX as u64, "must be below 2^63")?;
        check("task.classes", (2..=MAX_CLASSES).contains(&self.task.classes), "must be 2 to 100000")?;
        check(
            "task.modalities",
            (1..=MAX_MODALITIES).contains(&self.task.modalities.len()),
            "name 1 to 10 modalities with their number of features, { left = 32, right = 32 }",
        )?;
        for (name, &dim) in &self.task.modalities {
            let key = format!("task.modalities.{name}");
            check(&key, is_valid_name(name) && name != FUSED, "not a usable name ('fused' is reserved)")?;
            check(&key, (1..=10_000_000).contains(&dim), "the number of features must be 1 to 10000000")?;
        }
        for (key, table) in [("model", &self.model), ("strategy", &self.strategy)] {
            // written out, deep tables become keys that are too long to be read again
            let ok = table.values().all(|value| shallow(value, MAX_DEPTH));
            check(key, ok, "tables and lists are nested more than 16 deep")?;
        }
        self.validate_numbers(&check)?;
        self.cohort.validate(&check)?;
        self.keep.validate(&check)?;
        self.validate_library(&check)
    }

    /// What needs a prototype library needs a strategy that keeps one.
    fn validate_library(&self, check: Check<'_>) -> Result<(), SpecError> {
        let strategy = crate::strategy::create(self)?;
        let kept = strategy.plan(self, 1).prototypes;
        let why = "needs a prototype library, which this strategy does not keep; use strategy.kind = \"pmcm\"";
        check("missing.mask", kept || self.missing.mask == Mask::None, why)?;
        check("missing.fill", kept || !matches!(self.missing.fill, Fill::LabelPrototype | Fill::Retrieved), why)?;
        let uploaded =
            self.prototypes.library == Library::Uploaded && matches!(self.missing.inference, Inference::Near | Inference::Ncm);
        check("prototypes.library", kept || !uploaded, "\"uploaded\" needs a strategy that keeps a library, such as \"pmcm\"")
    }

    fn validate_numbers(&self, check: Check<'_>) -> Result<(), SpecError> {
        let (train, missing, proto) = (&self.train, &self.missing, &self.prototypes);
        check("train.epochs", (1..=10_000).contains(&train.epochs), "must be 1 to 10000")?;
        check("train.batch", (1..=1_000_000).contains(&train.batch), "must be 1 to 1000000")?;
        check("train.lr", train.lr.is_finite() && train.lr > 0.0, "must be above 0")?;
        for (key, value) in [
            ("train.weight_decay", train.weight_decay),
            ("train.clip", train.clip),
            ("train.proximal", train.proximal),
            ("prototypes.contrast", proto.contrast),
            ("prototypes.contrast_fused", proto.contrast_fused),
            ("prototypes.rho", proto.rho),
        ] {
            check(key, value.is_finite() && value >= 0.0, "must be 0 or more")?;
        }
        check("train.momentum", (0.0..1.0).contains(&train.momentum), "must be in [0, 1)")?;
        let decays = train.weight_decay > 0.0 && train.optimizer == Optimizer::Adam;
        check("train.weight_decay", !decays, "adam has no decay; use optimizer = \"adamw\"")?;
        let momentum = train.momentum > 0.0 && train.optimizer != Optimizer::Sgd;
        check("train.momentum", !momentum, "only optimizer = \"sgd\" has a momentum")?;
        check("train.steps", train.steps <= 10_000_000, "must be at most 10000000; 0 goes by train.epochs")?;
        check("train.warmup", (0.0..1.0).contains(&train.warmup), "must be in [0, 1): a share of the run's steps")?;
        check("train.beta2", (0.0..1.0).contains(&train.beta2), "must be in [0, 1)")?;
        let chosen = train.decay != Decay::All && train.optimizer != Optimizer::Adamw;
        check("train.decay", !chosen, "only optimizer = \"adamw\" can leave parameters out of its decay")?;
        check("missing.mask_probability", (0.0..=1.0).contains(&missing.mask_probability), "must be in [0, 1]")?;
        check("prototypes.tau", proto.tau.is_finite() && proto.tau > 0.0, "must be above 0")?;
        check("prototypes.ema", (0.0..1.0).contains(&proto.ema), "must be in [0, 1)")?;
        check("prototypes.min_count", proto.min_count >= 1, "must be 1 or more")?;
        check("prototypes.min_total", proto.min_total >= 1, "must be 1 or more")
    }
}
