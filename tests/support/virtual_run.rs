//! A run without server, agent or wire: the engine's commands are carried out by real tasks, in this very thread.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::AtomicBool;
use tessera_client::data::{Dataset, EVALUATOR, Manifest};
use tessera_client::task::{self, FitContext, MemberData, Task};
use tessera_common::aggregate::{self, Contribution, FoldInput, check};
use tessera_common::id::{Digest, MemberName};
use tessera_common::metric::Metrics;
use tessera_common::param::{Limits, MemorySource, ParamSet, Source};
use tessera_common::rng;
use tessera_common::round::{Assignment, Command, Engine, Event, Fold, FoldKind, MemberInfo, Phase, Work};
use tessera_common::spec::RunSpec;
use tessera_common::strategy;
use tessera_common::update::UpdateRef;

/// What a run ends with.
pub struct End {
    pub global: Digest,
    pub statistics: Digest,
    pub metrics: Metrics,
}

struct World<'a> {
    spec: &'a RunSpec,
    engine: Engine,
    task: Box<dyn Task>,
    members: BTreeMap<MemberName, MemberData>,
    blobs: BTreeMap<Digest, ParamSet>,
}

/// The members of a cut data set, the evaluator among them.
pub fn members(manifest: &Manifest) -> BTreeMap<MemberName, MemberData> {
    let dataset = Dataset::open(&manifest.dataset.source).unwrap();
    let names = manifest.members.iter().map(|m| m.name.to_string()).chain([EVALUATOR.to_owned()]);
    names
        .map(|name| {
            let splits = manifest.member_samples(&dataset, &name).unwrap();
            let name: MemberName = name.parse().unwrap();
            (name.clone(), MemberData { name, train: splits.train, held_out: splits.held_out, test: splits.test })
        })
        .collect()
}

/// Runs a spec to its end; answers come in an order drawn from `order`.
pub fn run(spec: &RunSpec, members: BTreeMap<MemberName, MemberData>, order: u64) -> End {
    let task = task::create(spec).unwrap();
    let mut world = World { spec, engine: Engine::new(spec.clone()), task, members, blobs: BTreeMap::new() };
    let mut rng = rng::stream(order, "order", "", 0);
    let names: Vec<MemberName> = world.members.keys().cloned().collect();
    for member in names {
        let data = &world.members[&member];
        let info = MemberInfo { trains: !data.train.is_empty(), evaluates: !data.test.is_empty(), modalities: vec![] };
        world.engine.handle(0, Event::Joined { member, info }).unwrap();
    }
    let mut end = End { global: Digest::of(b""), statistics: Digest::of(b""), metrics: Metrics::default() };
    let mut open: VecDeque<Assignment> = VecDeque::new();
    loop {
        while let Some(command) = world.engine.poll() {
            match command {
                Command::Assign(assignment) => open.push_back(assignment),
                Command::Fold(fold) => {
                    let digest = world.fold(&fold);
                    world.engine.handle(0, Event::Folded { fold: fold.id, digest }).unwrap();
                }
                Command::Publish(published) => end.global = published.digest,
                Command::Report { statistics, metrics, .. } => {
                    end.statistics = statistics.unwrap();
                    end.metrics = metrics;
                }
                Command::Finish(_) => return end,
                Command::Cancel { .. } => {}
                Command::Pause { reason } => panic!("{reason}"),
                Command::Rest { member, .. } => panic!("{member} rests"),
            }
        }
        assert!(!open.is_empty(), "nothing to do in {}", world.engine.state().phase.name());
        let assignment = open.remove(rng.below(open.len())).unwrap();
        if !matches!(world.engine.state().phase, Phase::Done(_)) {
            world.answer(&assignment);
        }
    }
}

impl World<'_> {
    fn answer(&mut self, assignment: &Assignment) {
        let data = &self.members[&assignment.member];
        let blob = |digest: Option<Digest>| digest.map(|d| &self.blobs[&d]);
        let mut update = UpdateRef {
            member: assignment.member.clone(),
            assignment: assignment.id,
            blob: None,
            bytes: 0,
            examples: 0,
            weights: BTreeMap::new(),
            metrics: Metrics::default(),
        };
        let set = match assignment.work {
            Work::Initialise => Some(self.task.initialise().unwrap()),
            Work::SurveyInputs => Some(self.task.survey_inputs(data).unwrap()),
            Work::SurveyFeatures => Some(self.task.survey_features(data, blob(assignment.global).unwrap()).unwrap()),
            Work::Fit => {
                let cancel = AtomicBool::new(false);
                let global = blob(assignment.global).unwrap();
                let fit = self.task.fit(&FitContext { data, global, round: assignment.round, cancel: &cancel }).unwrap();
                (update.examples, update.weights, update.metrics) = (fit.examples, fit.weights, fit.metrics);
                check::check_update(self.spec, &global.layout(), &update, &fit.update.layout()).unwrap();
                Some(fit.update)
            }
            Work::Evaluate => {
                update.metrics = self.task.evaluate(data, blob(assignment.global).unwrap(), blob(assignment.statistics)).unwrap();
                None
            }
        };
        if let Some(set) = set {
            update.blob = Some(set.digest());
            self.blobs.insert(set.digest(), set);
        }
        self.engine.handle(0, Event::Answered(update)).unwrap();
    }

    fn fold(&mut self, fold: &Fold) -> Digest {
        let sources: Vec<MemorySource> = fold.answers.iter().map(|a| self.blobs[&a.blob.unwrap()].clone().into()).collect();
        let updates: Vec<Contribution<'_>> =
            fold.answers.iter().zip(&sources).map(|(update, source)| Contribution { update, source, late: 0 }).collect();
        let source = |digest: Digest| MemorySource::from(self.blobs[&digest].clone());
        let mut out = Vec::new();
        match fold.kind {
            FoldKind::Inputs | FoldKind::Features => aggregate::sum_statistics(&updates, &mut out).unwrap(),
            FoldKind::Initial => {
                let inputs = fold.inputs.map(source);
                aggregate::fold_initial(&sources[0], inputs.as_ref().map(|s| s as &dyn Source), &mut out).unwrap();
            }
            FoldKind::Round => {
                let base = source(fold.base.unwrap());
                let input = FoldInput { spec: self.spec, round: fold.round, base: &base, updates: &updates };
                strategy::create(self.spec).unwrap().fold(&input, &mut out).unwrap();
            }
        }
        let set = ParamSet::from_bytes(&out, &Limits::default()).unwrap();
        let digest = Digest::of(&out);
        self.blobs.insert(digest, set);
        digest
    }
}
