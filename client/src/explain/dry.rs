//! All answers of one member in one run, made without anybody to send them to.

use crate::config::member_info;
use crate::task::{self, FitContext, FitOutcome, MemberData, State, Task, TaskError};
use burn::tensor::Device;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use tessera_common::id::MemberName;
use tessera_common::metric::Metrics;
use tessera_common::param::{Limits, ParamSet, TensorSpec};
use tessera_common::prototype::ProtoSums;
use tessera_common::round::Work;
use tessera_common::spec::{FUSED, RunSpec};
use tessera_common::statistics::{FeatureStatistics, InputStatistics, Standardisation};
use tessera_common::strategy;

/// Tensors by name, each with its type and shape.
pub(super) type Tensors = Vec<(String, TensorSpec)>;

/// What is sent in answer to one kind of work.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) work: Work,
    pub(super) tensors: Tensors,
    /// Bytes of all tensors with their header.
    pub(super) bytes: u64,
    /// Samples trained on.
    pub(super) examples: u32,
    /// Per block, samples that train it.
    pub(super) weights: BTreeMap<String, u32>,
    /// Names.
    pub(super) metrics: Vec<String>,
    /// By modality, the classes of the member that are left out, with their number of samples.
    pub(super) withheld: Vec<(String, Vec<(usize, usize)>)>,
    /// It cannot be done; this text is sent instead.
    pub(super) failure: Option<String>,
}

/// Everything of one member in one run.
#[derive(Debug)]
pub(super) struct Dry {
    /// In the order in which a run asks for them.
    pub(super) parts: Vec<Part>,
    /// Tensors of private blocks.
    pub(super) private: Tensors,
}

/// Answers everything that a run with this spec may ask of the member.
///
/// # Errors
/// If the task cannot be made, or there is no room for a temporary folder.
pub(super) fn run(spec: &RunSpec, data: &MemberData) -> Result<Dry, TaskError> {
    let folder = tempfile::tempdir().map_err(|e| at(&std::env::temp_dir(), &e))?;
    let mut still = spec.clone();
    // no step is made, and what the others' sums are is not known: one sample of them is enough for a class
    (still.train.epochs, still.train.steps, still.prototypes.min_total) = (0, 0, 1);
    let mut task = task::create_on(&still, &State { folder: Some(folder.path().to_owned()) }, &Device::flex())?;
    let info = member_info(data);
    let mut parts = Vec::new();
    let inputs = task.survey_inputs(data);
    let initial = task.initialise()?;
    let global = made_up(spec, &initial, inputs.as_ref().ok())?;
    if info.trains {
        if spec.task.standardise {
            parts.push(Part::of(Work::SurveyInputs, inputs));
        }
        parts.push(Part::of(Work::Initialise, Ok(initial.clone())));
        parts.push(fit(task.as_mut(), spec, data, &global));
        let features = task.survey_features(data, &global);
        let mut part = Part::of(Work::SurveyFeatures, features.clone());
        if let Ok(set) = features {
            let sent = FeatureStatistics::read_all(&set).map_err(TaskError::Global)?;
            part.withhold(spec, data, &spec.modalities(), |name| sent.get(name).map(|s| s.count().to_vec()));
        }
        parts.push(part);
    }
    if info.evaluates {
        let mut part = Part::empty(Work::Evaluate);
        match task.evaluate(data, &global, Some(&others(spec, &initial))) {
            Ok(metrics) => part.name(&metrics),
            Err(error) => part.failure = Some(error.to_string()),
        }
        parts.push(part);
    }
    Ok(Dry { parts, private: private(folder.path(), &data.name)? })
}

impl Part {
    fn empty(work: Work) -> Self {
        let (tensors, weights, metrics, withheld) = Default::default();
        Self { work, tensors, bytes: 0, examples: 0, weights, metrics, withheld, failure: None }
    }

    fn of(work: Work, answer: Result<ParamSet, TaskError>) -> Self {
        let mut part = Self::empty(work);
        match answer {
            Ok(set) => (part.tensors, part.bytes) = (specs(&set), set.layout().total()),
            Err(error) => part.failure = Some(error.to_string()),
        }
        part
    }

    fn name(&mut self, metrics: &Metrics) {
        self.metrics = metrics.0.keys().cloned().collect();
    }

    /// Finds the classes that the member has and does not send, given the counts that it sends for a name.
    fn withhold(&mut self, spec: &RunSpec, data: &MemberData, names: &[&str], sent: impl Fn(&str) -> Option<Vec<f64>>) {
        for name in names {
            let counts = sent(name).unwrap_or_default();
            let is_sent = |class: usize| counts.get(class).is_some_and(|n| *n > 0.0);
            let left: Vec<(usize, usize)> =
                held(spec, data, name).into_iter().filter(|(class, n)| *n > 0 && !is_sent(*class)).collect();
            if !left.is_empty() {
                self.withheld.push(((*name).to_owned(), left));
            }
        }
    }
}

fn specs(set: &ParamSet) -> Tensors {
    set.iter().map(|(name, tensor)| (name.to_owned(), tensor.spec().clone())).collect()
}

/// Training samples by class that have a modality; for the fused one, all of the run's.
fn held(spec: &RunSpec, data: &MemberData, name: &str) -> BTreeMap<usize, usize> {
    let wanted: Vec<&str> = if name == FUSED { spec.modalities() } else { vec![name] };
    let places: Option<Vec<usize>> =
        wanted.iter().map(|wanted| data.train.modalities.iter().position(|m| m.name == *wanted)).collect();
    let mut counts = BTreeMap::new();
    let Some(places) = places else { return counts };
    for (row, &label) in data.train.labels.iter().enumerate() {
        if places.iter().all(|&m| data.train.has(row, m)) {
            *counts.entry(label as usize).or_default() += 1;
        }
    }
    counts
}

/// The update of a round, without the training.
fn fit(task: &mut dyn Task, spec: &RunSpec, data: &MemberData, global: &ParamSet) -> Part {
    let never = AtomicBool::new(false);
    let outcome = task.fit(&FitContext { data, global, round: 1, cancel: &never });
    let (update, rest) = match outcome {
        Ok(FitOutcome { update, examples, weights, .. }) => (Ok(update), Some((examples, weights))),
        Err(error) => (Err(error), None),
    };
    let mut part = Part::of(Work::Fit, update.clone());
    let (Ok(update), Some((examples, weights))) = (update, rest) else { return part };
    (part.examples, part.weights) = (examples, weights);
    match step(spec, data, global) {
        Ok(metrics) => part.name(&metrics),
        Err(error) => part.failure = Some(error.to_string()),
    }
    if strategy::create(spec).is_ok_and(|s| s.plan(spec, 1).prototypes) {
        let names: Vec<&str> = spec.modalities().into_iter().chain([FUSED]).collect();
        let sent = |name: &str| ProtoSums::read(name, &update).ok().flatten().map(|s| s.count().to_vec());
        part.withhold(spec, data, &names, sent);
    }
    part
}

/// Metrics of training on one batch: of the samples that have most.
fn step(spec: &RunSpec, data: &MemberData, global: &ParamSet) -> Result<Metrics, TaskError> {
    let mut once = spec.clone();
    (once.train.epochs, once.train.steps) = (1, 0);
    let uses = |row: &usize| {
        let modalities = data.train.modalities.iter().enumerate().filter(|(_, m)| spec.task.modalities.contains_key(&m.name));
        std::cmp::Reverse(modalities.filter(|(m, _)| data.train.has(*row, *m)).count())
    };
    let mut rows: Vec<usize> = (0..data.train.len()).collect();
    rows.sort_by_key(uses);
    rows.truncate(spec.train.batch);
    let data = MemberData { train: data.train.select(&rows), ..data.clone() };
    let never = AtomicBool::new(false);
    let outcome = task::create(&once)?.fit(&FitContext { data: &data, global, round: 1, cancel: &never });
    Ok(outcome?.metrics)
}

/// Width of the representation of each modality and of the fused one, as the initial global says.
fn widths(initial: &ParamSet) -> impl Iterator<Item = (&str, usize)> {
    initial.section("width/").filter_map(|(name, tensor)| Some((name.strip_prefix("width/")?, *tensor.shape().first()?)))
}

/// A global as it may be in any round: scaled by the member's own survey, or by mean 0 and deviation 1 where it has none,
/// and with a prototype of every class.
fn made_up(spec: &RunSpec, initial: &ParamSet, inputs: Option<&ParamSet>) -> Result<ParamSet, TaskError> {
    let mut global = initial.clone();
    if spec.task.standardise {
        let own = inputs.map(InputStatistics::read_all).transpose().map_err(TaskError::Global)?.unwrap_or_default();
        for (name, &dim) in &spec.task.modalities {
            let mut plain = InputStatistics::empty(dim);
            [1.0, -1.0].iter().for_each(|&x| plain.add(&vec![x; dim]));
            Standardisation::from(own.get(name).unwrap_or(&plain)).write(name, &mut global);
        }
    }
    if strategy::create(spec)?.plan(spec, 1).prototypes {
        let classes = spec.task.classes;
        for (name, width) in widths(initial) {
            let sums = ProtoSums::new(classes, width, vec![1.0; classes * width], vec![1.0; classes]);
            sums.map_err(TaskError::Global)?.means(0, 1).write(name, &mut global);
        }
    }
    Ok(global)
}

/// Statistics of features as the coordinator may send them: two samples of every class, which differ.
fn others(spec: &RunSpec, initial: &ParamSet) -> ParamSet {
    let classes = spec.task.classes;
    let labels: Vec<u32> = (0..2 * classes).map(|i| (i % classes) as u32).collect();
    let mut set = ParamSet::new();
    for (name, width) in widths(initial).filter(|(name, _)| *name != FUSED) {
        let values: Vec<f32> = (0..labels.len() * width).map(|i| (i % 7) as f32).collect();
        FeatureStatistics::of(classes, width, &values, &labels, 1).write(name, &mut set);
    }
    set
}

/// What the task kept for the member in the state folder of the run.
fn private(folder: &Path, member: &MemberName) -> Result<Tensors, TaskError> {
    let own = folder.join(member.as_str());
    let mut found = Tensors::new();
    let Ok(entries) = std::fs::read_dir(&own) else { return Ok(found) };
    for entry in entries {
        let path = entry.map_err(|e| at(&own, &e))?.path();
        let bytes = std::fs::read(&path).map_err(|e| at(&path, &e))?;
        let set = ParamSet::from_bytes(&bytes, &Limits::default()).map_err(|e| at(&path, &e))?;
        found.extend(specs(&set));
    }
    Ok(found)
}

fn at(file: &Path, why: &dyn std::fmt::Display) -> TaskError {
    TaskError::Private { file: file.to_owned(), why: why.to_string() }
}
