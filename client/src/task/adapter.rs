//! Makes a [`Task`] of any [`FedModel`].

use super::batch::Batch;
use super::evaluate::{self, Answers, Frozen, LibraryAnswers};
use super::fed_model::{Block, FedModel, Scope, TrainedBy};
use super::fill::Filler;
use super::group;
use super::objective::Contrast;
use super::private::{Private, State};
use super::subset::{Subset, subsets};
use super::view::View;
use super::{FitContext, FitOutcome, MemberData, Task, TaskError};
use crate::data::Samples;
use crate::glue;
use crate::prototype::Prototypes;
use crate::train;
use burn::module::{Module, ParamId};
use burn::tensor::Device;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use tessera_common::id::{MemberName, is_valid_name};
use tessera_common::metric::{MAX_METRIC_NAME, Metrics};
use tessera_common::param::{ParamSet, Tensor as Stored, block_of};
use tessera_common::prototype::{Library, ProtoSums};
use tessera_common::rng;
use tessera_common::spec::{FUSED, Fill, RunSpec, SpecError};
use tessera_common::statistics::{FeatureStatistics, InputStatistics, Whitened};
use tessera_common::strategy::{self, Strategy};

/// Longest `SPLIT/ANSWER/` of a metric's name.
const METRIC_PREFIX: usize = 24;

/// Supplies training, exchange, prototypes, stand-ins, evaluation and cancelling to a model.
pub(crate) struct Adapter<M: FedModel> {
    spec: RunSpec,
    strategy: Box<dyn Strategy>,
    model: M,
    /// The initial module; its parameters are replaced by those of each global.
    template: M::Module,
    /// A plain device, without autodiff.
    device: Device,
    blocks: Vec<Block>,
    block_names: Vec<String>,
    private_blocks: BTreeSet<String>,
    /// Parameters of the private blocks in the module.
    private_ids: BTreeSet<ParamId>,
    /// Their values, by member.
    private: Private,
    widths: Vec<usize>,
    subsets: Vec<Subset>,
}

fn is_in(blocks: &BTreeSet<String>, name: &str) -> bool {
    block_of(name).is_some_and(|block| blocks.contains(block))
}

/// The tensors whose name is `wanted`.
fn only(set: &ParamSet, wanted: impl Fn(&str) -> bool) -> ParamSet {
    let mut out = ParamSet::new();
    set.iter().filter(|(name, _)| wanted(name)).for_each(|(name, tensor)| out.insert(name, tensor.clone()));
    out
}

impl<M: FedModel> Adapter<M> {
    /// For one run, with a place for what members keep.
    ///
    /// # Errors
    /// If the spec asks for what the model cannot do, or the place holds the state of another run.
    pub(crate) fn new(spec: &RunSpec, state: &State, device: &Device) -> Result<Self, TaskError> {
        let model = M::new(spec)?;
        let device = device.clone().without_autodiff();
        let seed = spec.seed;
        let template = model.init(&|path| rng::stream(seed, &format!("init {path}"), "", 0), &device);
        let (blocks, subsets) = (model.blocks(), subsets(&spec.modalities()));
        check_blocks(&blocks, &subsets)?;
        if spec.missing.fill == Fill::Token && model.token(&template, 0).is_none() {
            return Err(SpecError::invalid("missing.fill", format!("{} has no tokens; use \"zero\"", spec.task.kind)).into());
        }
        let block_names: Vec<String> = blocks.iter().map(|b| b.name.clone()).collect();
        let private = blocks.iter().filter(|b| b.scope == Scope::Private);
        let private_blocks: BTreeSet<String> = private.map(|b| b.name.clone()).collect();
        let is_private = |name: &str| is_in(&private_blocks, name);
        let initial = match private_blocks.is_empty() {
            true => ParamSet::new(),
            false => only(&glue::collect(&template, &block_names)?, is_private),
        };
        Ok(Self {
            strategy: strategy::create(spec)?,
            widths: (0..spec.task.modalities.len()).map(|m| model.width(m)).collect(),
            private_ids: glue::ids(&template, &block_names, is_private)?,
            private: Private::open(initial, spec, state)?,
            private_blocks,
            block_names,
            spec: spec.clone(),
            model,
            template,
            device,
            blocks,
            subsets,
        })
    }

    /// True if the classes of the data are those of the run.
    fn labelled(&self) -> bool {
        self.model.grouping().is_none()
    }

    fn classes(&self) -> usize {
        self.spec.task.classes
    }

    /// The module of a global and of a member's own values of the private blocks.
    fn module(&self, global: &ParamSet, own: &ParamSet) -> Result<M::Module, TaskError> {
        let leaked = global.section("param/").find(|(name, _)| is_in(&self.private_blocks, name));
        if let Some((name, _)) = leaked {
            let block = block_of(name).unwrap_or_default();
            return Err(TaskError::Global(format!(
                "it holds {name:?}, but block {block:?} is private: it never leaves a member"
            )));
        }
        let mut all = Cow::Borrowed(global);
        if !own.is_empty() {
            let mut joined = only(global, |name| name.starts_with("param/"));
            joined.extend(own.clone());
            all = Cow::Owned(joined);
        }
        Ok(glue::apply(self.template.clone(), &self.block_names, &all, &self.device)?)
    }

    /// The module as the member answers with it, on the plain device and frozen.
    fn frozen(&self, global: &ParamSet, member: &MemberName) -> Result<Frozen<'_, M>, TaskError> {
        let module = self.module(global, &*self.private.latest(member)?)?.valid();
        Ok(Frozen { model: &self.model, module, device: &self.device })
    }

    fn prototypes(&self, libraries: BTreeMap<String, Library>) -> Result<Prototypes, TaskError> {
        let names = self.spec.task.modalities.keys().cloned();
        let modalities: Vec<(String, usize)> = names.zip(self.widths.iter().copied()).collect();
        Prototypes::new(libraries, &modalities, self.model.fused_width(), self.classes()).map_err(TaskError::Global)
    }

    fn library_of(&self, global: &ParamSet) -> Result<Prototypes, TaskError> {
        self.prototypes(Library::read_all(global).map_err(TaskError::Global)?)
    }

    /// Samples that a local run trains on.
    fn used(&self, data: &MemberData, view: &View<'_>) -> Result<Vec<usize>, TaskError> {
        let drop = self.spec.missing.fill == Fill::Drop;
        let rows = if drop { view.complete() } else { view.usable() };
        if !rows.is_empty() {
            return Ok(rows);
        }
        let why = match (view.len(), drop) {
            (0, _) => "it has none at all".to_owned(),
            (n, true) => format!("none of its {n} is complete, and missing.fill = \"drop\""),
            (n, false) => format!("none of its {n} has a modality of this run: {}", self.spec.modalities().join(", ")),
        };
        Err(TaskError::NoSamples { member: data.name.clone(), why })
    }

    /// Trains the global's module on so many `batches` of `view`.
    pub(super) fn train(
        &self,
        cx: &FitContext<'_>,
        view: &View<'_>,
        batches: (usize, impl Iterator<Item = Vec<usize>>),
        mu: f64,
    ) -> Result<(M::Module, Metrics), TaskError> {
        let prototypes = self.library_of(cx.global)?;
        let device = self.device.clone().autodiff();
        let contrast = Contrast::new(&self.spec.prototypes, &prototypes, self.widths.len(), &device);
        let member = cx.data.name.as_str();
        let mut filler = Filler::training(&self.spec, &prototypes, &self.widths, member, cx.round);
        let own = self.private.before(&cx.data.name, cx.round)?;
        let start = self.module(cx.global, &own)?.train();
        let settings = train::Settings {
            spec: &self.spec.train,
            rounds: (cx.round, self.spec.rounds),
            proximal: mu,
            free: &self.private_ids,
            cancel: cx.cancel,
        };
        let mut draws = rng::stream(self.spec.seed, "augment", member, cx.round);
        train::run(start, &settings, batches, |module, rows| {
            let nearest = if filler.retrieves() { self.retrieve(module, view, rows, &prototypes) } else { Vec::new() };
            let batch = Batch::new(&self.model, &mut draws, view, rows, &mut filler, &nearest, &device);
            self.model.loss(module, &batch, &contrast)
        })
    }

    /// Per sample that lacks something, the class nearest to what it has under the current module.
    fn retrieve(&self, module: &M::Module, view: &View<'_>, rows: &[usize], prototypes: &Prototypes) -> Vec<Option<usize>> {
        let frozen = Frozen { model: &self.model, module: module.valid(), device: &self.device };
        let lacking: Vec<usize> = rows.iter().copied().filter(|&i| (0..self.widths.len()).any(|m| !view.has(i, m))).collect();
        let mut found: BTreeMap<usize, Vec<(usize, Vec<f32>)>> = BTreeMap::new();
        for m in 0..self.widths.len() {
            let having: Vec<usize> = lacking.iter().copied().filter(|&i| view.has(i, m)).collect();
            let representations = frozen.representations(view, &having, m);
            for (&i, row) in having.iter().zip(representations.chunks_exact(self.widths[m])) {
                found.entry(i).or_default().push((m, row.to_vec()));
            }
        }
        let nearest = |i: &usize| {
            let present: Vec<(usize, &[f32])> = found.get(i)?.iter().map(|(m, row)| (*m, row.as_slice())).collect();
            prototypes.nearest(&present)
        };
        rows.iter().map(nearest).collect()
    }

    /// `proto/*` of a member's samples under its local model; the fused ones from complete samples.
    fn prototype_sums(&self, frozen: &Frozen<'_, M>, view: &View<'_>) -> ParamSet {
        let mut set = ParamSet::new();
        let mut send = |name: &str, width: usize, values: &[f32], rows: &[usize]| {
            let mut sums = ProtoSums::empty(self.classes(), width);
            sums.add_all(values, &view.labels(rows));
            sums.drop_rare(self.spec.prototypes.min_count);
            if sums.count().iter().any(|&n| n > 0.0) {
                sums.write(name, &mut set);
            }
        };
        for (m, name) in self.spec.modalities().into_iter().enumerate() {
            let rows = view.classed(view.having(m));
            send(name, self.widths[m], &frozen.representations(view, &rows, m), &rows);
        }
        let rows = view.classed(view.complete());
        let all: Vec<Vec<f32>> = (0..self.widths.len()).map(|m| frozen.representations(view, &rows, m)).collect();
        send(FUSED, self.model.fused_width(), &frozen.fused(rows.len(), &all), &rows);
        set
    }

    /// How many of `rows` train each shared block.
    fn weights(&self, view: &View<'_>, rows: &[usize]) -> BTreeMap<String, u32> {
        let count = |by: TrainedBy| match by {
            TrainedBy::All => rows.len(),
            TrainedBy::Having(m) => rows.iter().filter(|&&i| view.has(i, m)).count(),
            TrainedBy::Lacking(m) => rows.iter().filter(|&&i| !view.has(i, m)).count(),
        };
        let shared = self.blocks.iter().filter(|b| b.scope == Scope::Shared);
        shared.map(|b| (b.name.clone(), count(b.trained_by) as u32)).collect()
    }

    fn answers<'a>(
        &'a self,
        names: &'a [&'a str],
        uploaded: &'a Prototypes,
        fresh: &'a Prototypes,
        whitened: Option<Whitened>,
    ) -> Answers<'a> {
        let mut libraries = Vec::new();
        if !uploaded.is_empty() {
            libraries.push(LibraryAnswers { near: "near", ncm: "ncm", cross: "cross", prototypes: uploaded });
        }
        if !fresh.is_empty() {
            libraries.push(LibraryAnswers { near: "near*", ncm: "ncm*", cross: "cross*", prototypes: fresh });
        }
        Answers { names, subsets: &self.subsets, widths: &self.widths, libraries, whitened }
    }

    /// The statistics that fit this model, by modality.
    fn statistics(&self, set: &ParamSet) -> Result<BTreeMap<String, FeatureStatistics>, TaskError> {
        let found = FeatureStatistics::read_all(set).map_err(TaskError::Global)?;
        for (m, name) in self.spec.modalities().into_iter().enumerate() {
            let expected = [self.classes(), self.widths[m]];
            if let Some(s) = found.get(name)
                && [s.classes(), s.width()] != expected
            {
                let shape = [s.classes(), s.width()];
                return Err(TaskError::Global(format!(
                    "statistics of {name:?} have shape {shape:?}, this model needs {expected:?}"
                )));
            }
        }
        Ok(found)
    }
}

/// Checks that something is shared, and what names of blocks and metrics become of the spec's modalities.
fn check_blocks(blocks: &[Block], subsets: &[Subset]) -> Result<(), SpecError> {
    let fault = |why: String| Err(SpecError::invalid("task.modalities", why));
    if blocks.iter().all(|b| b.scope == Scope::Private) {
        let why = "every block is private, so nothing would be learned together; leave one out";
        return Err(SpecError::invalid("model.private", why));
    }
    let mut names = BTreeSet::new();
    for block in blocks {
        if !is_valid_name(&block.name) || !names.insert(&block.name) {
            return fault(format!("a modality's name makes {:?} the name of a block, which is too long or taken", block.name));
        }
        // A path would not tell which of the two a parameter belongs to.
        let inside = blocks.iter().find(|b| b.name.strip_prefix(&block.name).is_some_and(|rest| rest.starts_with('.')));
        if let Some(other) = inside {
            return fault(format!(
                "block {:?} would lie in block {:?}; name the modalities without the dot",
                other.name, block.name
            ));
        }
    }
    match subsets.iter().find(|s| METRIC_PREFIX + s.name.len() > MAX_METRIC_NAME) {
        Some(s) => fault(format!("{:?} is too long for the name of a metric; use shorter names", s.name)),
        None => Ok(()),
    }
}

impl<M: FedModel> Task for Adapter<M> {
    fn initialise(&mut self) -> Result<ParamSet, TaskError> {
        let all = glue::collect(&self.template, &self.block_names)?;
        let mut set = only(&all, |name| !is_in(&self.private_blocks, name));
        let widths = self.spec.modalities().into_iter().zip(self.widths.iter().copied());
        for (name, width) in widths.chain([(FUSED, self.model.fused_width())]) {
            set.insert(format!("width/{name}"), Stored::f32(&[width, 0], &[]));
        }
        Ok(set)
    }

    fn survey_inputs(&mut self, data: &MemberData) -> Result<ParamSet, TaskError> {
        let view = View::raw(&self.spec, &data.name, &data.train, self.labelled())?;
        let mut set = ParamSet::new();
        for (m, (name, &dim)) in self.spec.task.modalities.iter().enumerate() {
            let rows = view.having(m);
            if !rows.is_empty() {
                let mut sums = InputStatistics::empty(dim);
                rows.iter().for_each(|&i| sums.add(view.features(i, m)));
                sums.write(name, &mut set);
            }
        }
        Ok(set)
    }

    fn survey_features(&mut self, data: &MemberData, global: &ParamSet) -> Result<ParamSet, TaskError> {
        let view = View::new(&self.spec, &data.name, &data.train, global, self.labelled())?;
        let frozen = self.frozen(global, &data.name)?;
        let mut set = ParamSet::new();
        if !self.labelled() {
            // nothing is answered about clusters
            return Ok(set);
        }
        for (m, name) in self.spec.modalities().into_iter().enumerate() {
            let rows = view.having(m);
            let values = frozen.representations(&view, &rows, m);
            let least = self.spec.prototypes.min_count;
            let sums = FeatureStatistics::of(self.classes(), self.widths[m], &values, &view.labels(&rows), least);
            if sums.groups() > 0.0 {
                sums.write(name, &mut set);
            }
        }
        match glue::non_finite(&set) {
            Some(why) => Err(TaskError::Global(format!("its features overflow: {why}"))),
            None => Ok(set),
        }
    }

    fn fit(&mut self, cx: &FitContext<'_>) -> Result<FitOutcome, TaskError> {
        let plan = self.strategy.plan(&self.spec, cx.round);
        let mut view = View::new(&self.spec, &cx.data.name, &cx.data.train, cx.global, self.labelled())?;
        if let Some(grouping) = self.model.grouping() {
            let frozen = self.frozen(cx.global, &cx.data.name)?;
            let library = self.library_of(cx.global)?;
            view.group(group::assign(&frozen, &self.spec, grouping, &view, &library, cx.round));
        }
        let rows = self.used(cx.data, &view)?;
        let mut weights = self.weights(&view, &rows);
        if plan.blockwise {
            weights.retain(|_, weight| *weight > 0);
        }
        if weights.is_empty() {
            let why = format!("none of its {} trains a shared block", rows.len());
            return Err(TaskError::NoSamples { member: cx.data.name.clone(), why });
        }
        let orders = train::shuffled_epochs(self.spec.seed, cx.data.name.as_str(), cx.round, &rows);
        let steps = train::steps(&self.spec.train, rows.len());
        let batches = train::batches(&self.spec.train, orders);
        let (module, metrics) = self.train(cx, &view, (steps, batches), plan.proximal)?;
        if metrics.0.is_empty() && steps > 0 {
            // Parameters that nothing has trained count nowhere; the prototypes of the samples do.
            weights.values_mut().for_each(|weight| *weight = 0);
        }
        let module = module.valid();
        let trained = glue::collect(&module, &self.block_names)?;
        let own = only(&trained, |name| is_in(&self.private_blocks, name));
        let mut update = only(&trained, |name| block_of(name).is_some_and(|block| weights.contains_key(block)));
        if plan.prototypes {
            let frozen = Frozen { model: &self.model, module, device: &self.device };
            update.extend(self.prototype_sums(&frozen, &view));
        }
        if let Some(why) = glue::non_finite(&update).or_else(|| glue::non_finite(&own)) {
            return Err(TaskError::NotFinite(why));
        }
        // Work that is no longer wanted leaves no trace.
        if cx.cancel.load(Ordering::Relaxed) {
            return Err(TaskError::Cancelled);
        }
        self.private.keep(&cx.data.name, cx.round, own)?;
        Ok(FitOutcome { update, examples: rows.len() as u32, weights, metrics })
    }

    fn evaluate(&mut self, data: &MemberData, global: &ParamSet, statistics: Option<&ParamSet>) -> Result<Metrics, TaskError> {
        let frozen = self.frozen(global, &data.name)?;
        let uploaded = self.library_of(global)?;
        let statistics = statistics.map(|set| self.statistics(set)).transpose()?;
        let (rho, min_total) = (self.spec.prototypes.rho, self.spec.prototypes.min_total);
        let means = statistics.iter().flatten().map(|(name, s)| (name.clone(), s.means(min_total))).collect();
        let fresh = self.prototypes(means)?;
        let whitened = statistics.as_ref().map(|s| Whitened::new(s, rho, min_total));
        let names = self.spec.modalities();
        let answers = self.answers(&names, &uploaded, &fresh, whitened);
        let mut metrics = Metrics::default();
        let splits: [(&str, &Samples); 2] = [("held-out", &data.held_out), ("test", &data.test)];
        for (split, samples) in splits.into_iter().filter(|(_, samples)| !samples.is_empty()) {
            let view = View::new(&self.spec, &data.name, samples, global, self.labelled())?;
            let purpose = format!("{}/{split}", data.name);
            let mut filler = Filler::inference(&self.spec, &uploaded, &self.widths, &purpose);
            evaluate::evaluate(&frozen, &answers, split, &view, &mut filler, &mut metrics);
        }
        Ok(metrics)
    }
}
