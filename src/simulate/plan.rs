//! From a spec file with methods to one run spec per method, a cut data set, and a folder.

use super::Arguments;
use crate::cli::invalid;
use anyhow::Result;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tessera_client::data::{DataSpec, Dataset, EVALUATOR, Manifest, MemberRows};
use tessera_common::id::is_valid_name;
use tessera_common::spec::{Inference, Preset, RunSpec, SpecError, merge, set_key};

/// The built-in example: setting L of docs/missing-modality.md.
const EXAMPLE: &str = include_str!("../../deploy/runs/digits.toml");

/// Names in a run folder that a method's own folder would collide with.
const RESERVED: [&str; 6] = ["logs", "manifest.json", "metrics.jsonl", "partition.json", "report.html", "spec.toml"];

/// Everything that is decided before a process is started.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) name: String,
    pub(super) seed: u64,
    pub(super) methods: Vec<(String, RunSpec)>,
    pub(super) manifest: Manifest,
    /// The spec as read, with overrides.
    pub(super) table: toml::Table,
    pub(super) out: PathBuf,
    pub(super) processes: usize,
    pub(super) threads: usize,
    /// Where agents train, as their settings name it.
    pub(super) device: String,
    pub(super) command: String,
}

fn text_of(table: &toml::Table, key: &str) -> Option<String> {
    table.get(key).and_then(toml::Value::as_str).map(str::to_owned)
}

impl Plan {
    pub(super) fn make(arguments: &Arguments) -> Result<Self> {
        let (origin, text) = match &arguments.spec {
            None => ("the built-in example".to_owned(), EXAMPLE.to_owned()),
            Some(path) => {
                let read = std::fs::read_to_string(path);
                (path.display().to_string(), read.map_err(|e| invalid(format!("{}: {e}", path.display())))?)
            }
        };
        let wrong = |e: SpecError| invalid(format!("{origin}: {e}"));
        let mut table: toml::Table = toml::from_str(&text).map_err(|e| wrong(SpecError::Syntax(e.to_string())))?;
        for set in &arguments.set {
            set_key(&mut table, set).map_err(|e| invalid(format!("--set {set}: {e}")))?;
        }
        if let Some(seed) = arguments.seed {
            table.insert(
                "seed".into(),
                toml::Value::Integer(i64::try_from(seed).map_err(|_| invalid("--seed must be below 2^63"))?),
            );
        }
        let seed = table.get("seed").and_then(toml::Value::as_integer).and_then(|s| u64::try_from(s).ok()).unwrap_or(0);
        let (manifest, about) = cut(&table, seed, arguments.partition.as_deref()).map_err(|e| match e {
            Cut::Spec(e) => wrong(e),
            Cut::Data(e) => invalid(e),
        })?;
        let methods = methods(&table, &manifest, &about).map_err(wrong)?;
        let name = text_of(&table, "name").unwrap_or_default();
        let out = match &arguments.out {
            // results of two simulations in one folder could not be told apart
            Some(out) if out.join("manifest.json").exists() => {
                return Err(invalid(format!(
                    "--out {}: there are results of another simulation in it; take a new folder",
                    out.display()
                )));
            }
            Some(out) => out.clone(),
            None => fresh_folder(Path::new("runs"), &format!("{name}-seed{seed}")),
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let processes = arguments.processes.map_or(cores, usize::from).clamp(1, manifest.members.len().max(1));
        let command = command(arguments, seed);
        let device = device(&arguments.device)?.to_owned();
        let threads = arguments.threads.into();
        Ok(Self { name, seed, methods, manifest, table, out, processes, threads, device, command })
    }

    /// Members with something to train on, and the evaluator if there is something to test on, dealt out over the agents.
    pub(super) fn deal(&self) -> Vec<Vec<String>> {
        let mut hands = vec![Vec::new(); self.processes];
        let evaluator = (!self.manifest.test.is_empty()).then(|| tessera_client::data::EVALUATOR.to_owned());
        let members = self.manifest.members.iter().map(|m| m.name.to_string());
        for (i, name) in evaluator.into_iter().chain(members).enumerate() {
            hands[i % self.processes].push(name);
        }
        hands
    }
}

/// The device of the agents: what is not named is the processor, whose digests repeat.
fn device(name: &str) -> Result<&str> {
    tessera_client::device::check(name).map_err(|e| invalid(format!("--device: {e}")))?;
    Ok(if name == "auto" { "cpu" } else { name })
}

enum Cut {
    Spec(SpecError),
    Data(String),
}

/// Number of features of each modality of a data set.
type Dims = BTreeMap<String, usize>;

/// What a data set says beside its cut.
#[derive(Debug)]
struct About {
    dims: Dims,
    /// Whether its samples have classes.
    labelled: bool,
}

/// The cut of the data that the spec or a given manifest asks for.
fn cut(table: &toml::Table, seed: u64, given: Option<&Path>) -> Result<(Manifest, About), Cut> {
    let open = |source: &str| Dataset::open(source).map_err(|e| Cut::Data(e.to_string()));
    let data = table.get("data").and_then(toml::Value::as_table);
    if let Some(path) = given {
        let manifest = Manifest::load(path).map_err(|e| Cut::Data(e.to_string()))?;
        // what was trained on must be what the run folder says
        let same = data.map(DataSpec::from_table).transpose().map_err(Cut::Spec)?.is_none_or(|d| d == manifest.data);
        if !same {
            let why = "the [data] table of the spec is not the one that it was cut by; leave [data] out, or cut anew without --partition";
            return Err(Cut::Data(format!("--partition {}: {why}", path.display())));
        }
        let dataset = open(&manifest.dataset.source)?;
        return Ok((manifest, About { dims: dataset.dims(), labelled: dataset.is_labelled() }));
    }
    let data = data.ok_or_else(|| {
        Cut::Spec(SpecError::invalid("data", "a simulation needs a [data] table: source, clients, partition, missing"))
    })?;
    let data = DataSpec::from_table(data).map_err(Cut::Spec)?;
    let dataset = open(&data.source)?;
    let manifest = Manifest::make(&dataset, &data, seed).map_err(|e| Cut::Data(e.to_string()))?;
    Ok((manifest, About { dims: dataset.dims(), labelled: dataset.is_labelled() }))
}

/// The run spec of every method: the preset, overridden by the file's own keys, overridden by the method's.
fn methods(table: &toml::Table, manifest: &Manifest, about: &About) -> Result<Vec<(String, RunSpec)>, SpecError> {
    let mut base = table.clone();
    base.remove("data");
    let listed = base.remove("method");
    let preset = base.remove("preset");
    complete(&mut base, manifest, &about.dims);
    let listed = match listed {
        None => vec![toml::Table::new()],
        Some(toml::Value::Array(list)) => list
            .into_iter()
            .map(|m| m.try_into::<toml::Table>().map_err(|e| SpecError::invalid("method", e.to_string())))
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(SpecError::invalid("method", "write [[method]] tables")),
    };
    let mut methods: Vec<(String, RunSpec)> = Vec::new();
    for mut own in listed {
        let mut merged = toml::Table::new();
        if let Some(name) = own.remove("preset").or_else(|| preset.clone()) {
            let name = name.as_str().map(str::to_owned).ok_or_else(|| SpecError::invalid("preset", "must be a name"))?;
            merge(&mut merged, &Preset::find(&name)?.table());
            own.entry("name").or_insert(toml::Value::String(name));
        }
        merge(&mut merged, &base);
        merge(&mut merged, &own);
        restrict(&mut merged, &own, manifest);
        let spec = RunSpec::from_table(&merged)?;
        if spec.missing.inference == Inference::Auto && manifest.members.iter().all(|m| m.held_out.is_empty()) {
            let why = "\"auto\" chooses by the members' held-out data; set data.held_out, such as 0.1";
            return Err(SpecError::invalid("missing.inference", why));
        }
        // what only the task understands, before any process is started
        tessera_client::task::create(&spec).map_err(|e| SpecError::invalid(format!("method {}", spec.name), e.to_string()))?;
        if RESERVED.contains(&spec.name.as_str()) {
            return Err(SpecError::invalid(
                "method.name",
                format!("{:?} is a file of every run folder; take another name", spec.name),
            ));
        }
        agrees(&spec, manifest, about)?;
        if methods.iter().any(|(name, _)| *name == spec.name) {
            return Err(SpecError::invalid("method.name", format!("{:?} is there twice", spec.name)));
        }
        methods.push((spec.name.clone(), spec));
    }
    Ok(methods)
}

/// A spec that says classes or modalities itself must say what the data has.
fn agrees(spec: &RunSpec, manifest: &Manifest, about: &About) -> Result<(), SpecError> {
    let dims = &about.dims;
    let classes = manifest.dataset.classes;
    // clusters take the place of the data's classes, and the spec says how many
    let clustered = spec.model.get("clusters").and_then(toml::Value::as_bool).unwrap_or(false);
    if !about.labelled && !clustered {
        let why = "the data set has no labels, so there is no class to learn; the task mlip can go without: set \
                   model.clusters = true and task.classes to the number of clusters";
        return Err(SpecError::invalid("task.classes", why));
    }
    if spec.task.classes != classes && !clustered {
        let why = format!("is {}, but the data set has {classes} classes; leave it out", spec.task.classes);
        return Err(SpecError::invalid("task.classes", why));
    }
    for (name, dim) in &spec.task.modalities {
        if dims.get(name) != Some(dim) || !manifest.modalities.contains(name) {
            let there: Vec<String> = manifest.modalities.iter().filter_map(|m| Some(format!("{m} = {}", dims.get(m)?))).collect();
            let why = format!("is {dim}, but the data that is used has {{ {} }}; leave it out", there.join(", "));
            return Err(SpecError::invalid(format!("task.modalities.{name}"), why));
        }
    }
    Ok(())
}

/// A method of `cohort.only` some members: the evaluator may take part too, and no others are waited for.
fn restrict(merged: &mut toml::Table, own: &toml::Table, manifest: &Manifest) {
    let Some(cohort) = merged.get_mut("cohort").and_then(toml::Value::as_table_mut) else { return };
    let Some(only) = cohort.get_mut("only").and_then(toml::Value::as_array_mut).filter(|only| !only.is_empty()) else { return };
    let evaluator = !manifest.test.is_empty();
    if evaluator && !only.iter().any(|name| name.as_str() == Some(EVALUATOR)) {
        only.push(toml::Value::String(EVALUATOR.to_owned()));
    }
    let admitted = |m: &&MemberRows| only.iter().any(|name| name.as_str() == Some(m.name.as_str()));
    let training = manifest.members.iter().filter(admitted).filter(|m| !m.train.is_empty()).count();
    let holding = manifest.members.iter().filter(admitted).filter(|m| !m.held_out.is_empty()).count();
    let given = |section: &str, key: &str| own.get(section).and_then(|s| s.get(key)).is_some();
    let number = |n: usize| toml::Value::Integer(i64::try_from(n).unwrap_or(i64::MAX));
    for key in ["members", "size"].into_iter().filter(|key| !given("cohort", key)) {
        cohort.insert(key.to_owned(), number(training));
    }
    if !given("evaluate", "members") {
        let evaluate = merged.entry("evaluate").or_insert_with(|| toml::Value::Table(toml::Table::new()));
        if let Some(table) = evaluate.as_table_mut() {
            table.insert("members".to_owned(), number(holding + usize::from(evaluator)));
        }
    }
}

/// Fills in what the data says: classes, modalities, the number of members.
fn complete(base: &mut toml::Table, manifest: &Manifest, dims: &Dims) {
    let training = manifest.members.iter().filter(|m| !m.train.is_empty()).count();
    let held_out = manifest.members.iter().filter(|m| !m.held_out.is_empty()).count();
    let evaluators = held_out + usize::from(!manifest.test.is_empty());
    let modalities: toml::Table = manifest
        .modalities
        .iter()
        .filter_map(|m| Some((m.clone(), toml::Value::Integer(i64::try_from(*dims.get(m)?).ok()?))))
        .collect();
    let number = |n: usize| toml::Value::Integer(i64::try_from(n).unwrap_or(i64::MAX));
    let mut fill = |section: &str, key: &str, value: toml::Value| {
        let table = base.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        if let Some(table) = table.as_table_mut() {
            table.entry(key).or_insert(value);
        }
    };
    fill("task", "kind", toml::Value::String("classify".into()));
    fill("task", "classes", number(manifest.dataset.classes));
    fill("task", "modalities", toml::Value::Table(modalities));
    fill("cohort", "members", number(training));
    fill("cohort", "size", number(training));
    fill("evaluate", "members", number(evaluators));
}

/// `base/name`, or with the first free number behind it.
fn fresh_folder(base: &Path, name: &str) -> PathBuf {
    let name = if is_valid_name(name) { name } else { "run" };
    std::iter::once(base.join(name))
        .chain((2..).map(|i| base.join(format!("{name}-{i}"))))
        .find(|p| !p.exists())
        .unwrap_or_else(|| base.join(name))
}

fn command(arguments: &Arguments, seed: u64) -> String {
    let mut words = vec!["tessera simulate".to_owned()];
    words.extend(arguments.spec.as_ref().map(|s| s.display().to_string()));
    words.push(format!("--seed {seed}"));
    words.extend(arguments.set.iter().map(|s| format!("--set '{s}'")));
    words.extend((arguments.device != "auto").then(|| format!("--device {}", arguments.device)));
    words.extend(arguments.partition.as_ref().map(|p| format!("--partition {}", p.display())));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_train_on_the_processor_unless_another_device_is_named() {
        assert_eq!((device("auto").unwrap(), device("cpu").unwrap()), ("cpu", "cpu"));
        let error = device("cuda:x").unwrap_err().to_string();
        assert!(error.contains("--device") && error.contains("cuda:x"), "{error}");
    }

    #[test]
    fn a_method_of_some_members_waits_for_no_others() {
        let mut table: toml::Table = toml::from_str(EXAMPLE).unwrap();
        let method = "[[method]]\nname = \"two\"\ncohort = { only = [\"client-03\", \"client-07\"] }";
        table.insert("method".into(), toml::from_str::<toml::Table>(method).unwrap()["method"].clone());
        let (manifest, about) = cut(&table, 0, None).unwrap_or_else(|_| panic!("the example's data is built in"));
        let spec = &methods(&table, &manifest, &about).unwrap()[0].1;
        let only: Vec<&str> = spec.cohort.only.iter().map(|name| name.as_str()).collect();
        assert_eq!(only, ["client-03", "client-07", EVALUATOR]);
        assert_eq!((spec.cohort.members, spec.cohort.size, spec.evaluate.members), (2, 2, 1));
    }

    #[test]
    fn the_built_in_example_is_valid() {
        let table: toml::Table = toml::from_str(EXAMPLE).unwrap();
        let (manifest, about) = cut(&table, 0, None).unwrap_or_else(|_| panic!("the example's data is built in"));
        let names: Vec<String> = methods(&table, &manifest, &about).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["fedavg-zero", "pmcmfl", "tessera"]);
    }
}
