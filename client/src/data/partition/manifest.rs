//! A partition as a file: which row is whose, with which modalities.

use super::super::dataset::Dataset;
use super::super::error::{DataError, Flaw};
use super::super::samples::{Modality, Samples, complete_mask};
use super::missing::{Federation, kept};
use super::scheme::{assign, deal_out};
use super::spec::{DataSpec, Scheme};
use super::split::{hold_out, split};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use tessera_common::id::{Digest, MemberName};
use tessera_common::spec::SpecError;

/// Version of the format of a manifest.
pub const MANIFEST_VERSION: u32 = 1;

/// Longest manifest that is read, in bytes: some ten million rows.
pub(super) const MAX_BYTES: u64 = 256 << 20;

/// Name of the member that holds the test rows and does not train.
pub const EVALUATOR: &str = "evaluator";

/// A partition: which row is whose, with which modalities.
///
/// Rows are numbered from 0 in the data set's order; bit m of a mask stands for `modalities[m]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the format; [`MANIFEST_VERSION`].
    pub schema_version: u32,
    /// The data set that is cut.
    pub dataset: DatasetRef,
    /// Seed of the draws.
    pub seed: u64,
    /// How it was cut.
    pub data: DataSpec,
    /// The modalities used, in name order.
    pub modalities: Vec<String>,
    /// Draws of the shares until the minimum was reached, at most [`super::MAX_DRAWS`].
    pub draws: u32,
    /// Rows that were then moved to reach the minimum.
    pub moved: usize,
    /// The members that train, in name order.
    pub members: Vec<MemberRows>,
    /// Rows of the member [`EVALUATOR`], ascending.
    pub test: Vec<usize>,
    /// Rows that [`EVALUATOR`] holds out, ascending: of the client and of the fold that nobody trains on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_out: Vec<usize>,
}

/// Which data set a manifest is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetRef {
    /// Name or path, as the spec gives it.
    pub source: String,
    /// [`Dataset::digest`].
    pub digest: Digest,
    /// Number of rows.
    pub rows: usize,
    /// Number of classes.
    pub classes: usize,
}

/// The rows of one member, each list ascending.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberRows {
    /// `client-00`, `client-01`, ..., as many digits as the last one needs, two at least.
    pub name: MemberName,
    /// Ids of the data set's client column, if it was cut by them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<String>,
    /// Rows to train on.
    pub train: Vec<usize>,
    /// The modalities of each of them, `[train]`.
    pub present: Vec<u32>,
    /// Rows to train on by class; classes without any are left out.
    pub labels: BTreeMap<u32, usize>,
    /// Rows set aside for the member's own evaluation.
    pub held_out: Vec<usize>,
    /// Rows that lost all their modalities and are not used.
    pub discarded: Vec<usize>,
}

/// The samples of one member.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MemberSplits {
    /// To train on; modalities are missing.
    pub train: Samples,
    /// Set aside for the member's own evaluation.
    pub held_out: Samples,
    /// To test on; only [`EVALUATOR`] has some.
    pub test: Samples,
}

impl Manifest {
    /// Cuts `dataset` as `spec` says.
    ///
    /// # Errors
    /// If `spec` is not valid, or asks for more than the data set has.
    pub fn make(dataset: &Dataset, spec: &DataSpec, seed: u64) -> Result<Self, DataError> {
        spec.validate()?;
        let modalities = modalities(dataset, spec)?;
        let bits = bits(dataset, &modalities);
        let natural: Vec<u32> = dataset.samples.present.iter().map(|&mask| project(mask, &bits)).collect();
        let rows = (0..dataset.samples.len()).filter(|&row| natural[row] != 0).collect();
        let parts = split(dataset, &spec.split, rows, seed)?;
        let assignment = assign(dataset, &spec.partition, &parts.train, spec.clients, seed)?;
        let names = member_names(spec.clients);
        let (rows, mut held_out): (Vec<_>, Vec<_>) =
            names.iter().zip(&assignment.rows).map(|(name, rows)| hold_out(rows, spec.held_out, name, seed)).unzip();
        if !parts.own.is_empty() && spec.split.members != Some(false) {
            held_out = deal_out(dataset, &assignment.ids, &parts.own);
        }
        let labels = &dataset.samples.labels;
        let column = if matches!(spec.partition, Scheme::Column {}) { dataset.client.as_deref() } else { None };
        let classes = dataset.classes.len();
        let federation = Federation { modalities: &modalities, classes, labels, names: &names, rows: &rows, column };
        let kept = kept(&spec.missing, &federation, seed)?;
        let mut ids = assignment.ids.into_iter();
        let mut members = Vec::with_capacity(names.len());
        for (((name, rows), kept), held_out) in names.iter().zip(&rows).zip(&kept).zip(held_out) {
            let name = name.parse().map_err(|_| SpecError::invalid("data.clients", "too many to be named"))?;
            let mut member = MemberRows::new(name, ids.next().unwrap_or_default(), held_out);
            rows.iter().zip(kept).for_each(|(&row, &mask)| member.add(row, mask & natural[row], labels[row]));
            members.push(member);
        }
        if members.iter().all(|member| member.train.is_empty()) {
            return Err(
                SpecError::invalid("data.missing", "takes every modality from every row; nothing is left to train").into()
            );
        }
        let dataset = DatasetRef {
            source: spec.source.clone(),
            digest: dataset.digest,
            rows: dataset.samples.len(),
            classes: dataset.classes.len(),
        };
        let (schema_version, data) = (MANIFEST_VERSION, spec.clone());
        let (draws, moved, test, held_out) = (assignment.draws, assignment.moved, parts.test, parts.held_out);
        Ok(Self { schema_version, dataset, seed, data, modalities, draws, moved, members, test, held_out })
    }

    /// The manifest as a file: JSON on one line. Equal manifests have equal bytes.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string(self).expect("a manifest has only text keys and finite numbers");
        text.push('\n');
        text
    }

    /// Parses and checks a manifest.
    ///
    /// # Errors
    /// Names `file` and what is wrong.
    pub fn from_json(file: &str, text: &str) -> Result<Self, DataError> {
        let flaw = |why: String| DataError::content(file, Flaw::new("", why));
        if text.len() as u64 > MAX_BYTES {
            return Err(flaw(too_long(text.len() as u64)));
        }
        let manifest: Self = serde_json::from_str(text).map_err(|e| flaw(format!("is not a partition manifest: {e}")))?;
        manifest.data.validate().map_err(|error| DataError::Spec { file: format!("{file}: "), error })?;
        manifest.check().map_err(flaw)?;
        Ok(manifest)
    }

    /// Writes the manifest, under a temporary name first, so that a whole file or none is there.
    ///
    /// # Errors
    /// If the folder cannot be written to.
    pub fn save(&self, path: &Path) -> Result<(), DataError> {
        write_whole(path, self.to_json().as_bytes()).map_err(|error| DataError::write(path, error))
    }

    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// Names the file and what is wrong.
    pub fn load(path: &Path) -> Result<Self, DataError> {
        let about = std::fs::metadata(path).map_err(|error| DataError::read(path, error))?;
        if about.len() > MAX_BYTES || !about.is_file() {
            let why = if about.is_file() { too_long(about.len()) } else { "is not a regular file".to_owned() };
            return Err(DataError::content(&path.display().to_string(), Flaw::new("", why)));
        }
        let text = std::fs::read_to_string(path).map_err(|error| DataError::read(path, error))?;
        Self::from_json(&path.display().to_string(), &text)
    }

    /// The samples of the member `name`, or of [`EVALUATOR`]. Copies that member's rows only.
    ///
    /// # Errors
    /// If there is no such member, or the manifest is about other data.
    pub fn member_samples(&self, dataset: &Dataset, name: &str) -> Result<MemberSplits, DataError> {
        let mismatch = |why: String| DataError::Mismatch { dataset: dataset.name.clone(), why };
        if self.dataset.digest != dataset.digest {
            let why = format!(
                "it was made for {} with the digest {:?}, this one has {:?}",
                self.dataset.source, self.dataset.digest, dataset.digest
            );
            return Err(mismatch(why));
        }
        if self.dataset.rows != dataset.samples.len() {
            return Err(mismatch(format!("it names {} rows, there are {}", self.dataset.rows, dataset.samples.len())));
        }
        let bits = bits(dataset, &self.modalities);
        if bits.len() != self.modalities.len() {
            return Err(mismatch(format!("not all of {} are there", self.modalities.join(", "))));
        }
        let natural = |rows: &[usize]| rows.iter().map(|&row| project(dataset.samples.present[row], &bits)).collect::<Vec<_>>();
        let samples = |rows: &[usize], present: Vec<u32>| take(&dataset.samples, &bits, rows, present);
        if name == EVALUATOR {
            let held_out = samples(&self.held_out, natural(&self.held_out));
            let test = samples(&self.test, natural(&self.test));
            return Ok(MemberSplits { train: samples(&[], Vec::new()), held_out, test });
        }
        let member = self.members.binary_search_by(|member| member.name.as_str().cmp(name)).map(|at| &self.members[at]);
        let member = member.map_err(|_| self.unknown(name))?;
        let beyond = natural(&member.train).iter().zip(&member.present).position(|(has, mask)| mask & !has != 0);
        if let Some(at) = beyond {
            let why = format!("{name} is to have a modality of row {} that the row lacks", member.train[at]);
            return Err(mismatch(why));
        }
        Ok(MemberSplits {
            train: samples(&member.train, member.present.clone()),
            held_out: samples(&member.held_out, natural(&member.held_out)),
            test: samples(&[], Vec::new()),
        })
    }

    fn unknown(&self, name: &str) -> DataError {
        let ends = [self.members.first(), self.members.last()].into_iter().flatten().map(|member| member.name.as_str());
        DataError::UnknownMember { name: name.to_owned(), members: ends.collect::<Vec<_>>().join(" to ") }
    }

    /// Checks that the manifest agrees with itself.
    fn check(&self) -> Result<(), String> {
        if self.schema_version != MANIFEST_VERSION {
            return Err(format!("is of version {}; this build reads version {MANIFEST_VERSION}", self.schema_version));
        }
        if self.data.source != self.dataset.source {
            return Err(format!("names two data sets, {:?} and {:?}", self.data.source, self.dataset.source));
        }
        let names = &self.modalities;
        if names.is_empty()
            || names.len() > tessera_common::spec::MAX_MODALITIES
            || names.windows(2).any(|pair| pair[0] >= pair[1])
        {
            return Err("has no modalities, too many, or not in name order".into());
        }
        // compared before the names are made: a spec may ask for a million
        if self.members.len() != self.data.clients {
            return Err(format!("must list the {} members that its spec asks for, in order", self.data.clients));
        }
        let expected = member_names(self.data.clients);
        if self.members.iter().zip(&expected).any(|(m, name)| m.name.as_str() != name) {
            return Err(format!("must list the {} members that its spec asks for, in order", expected.len()));
        }
        let mut owner: BTreeMap<usize, &str> = BTreeMap::new();
        for member in &self.members {
            member.check(complete_mask(names.len()), self.dataset.classes)?;
        }
        let lists = self.members.iter().flat_map(|m| [&m.train, &m.held_out, &m.discarded].map(|rows| (m.name.as_str(), rows)));
        for (name, rows) in lists.chain([(EVALUATOR, &self.test), (EVALUATOR, &self.held_out)]) {
            if rows.windows(2).any(|pair| pair[0] >= pair[1]) {
                return Err(format!("{name} has rows that are not ascending"));
            }
            for &row in rows {
                if row >= self.dataset.rows {
                    return Err(format!("{name} has the row {row}, but the data set has {} rows", self.dataset.rows));
                }
                if let Some(other) = owner.insert(row, name) {
                    return Err(format!("row {row} is given to {other} and again to {name}"));
                }
            }
        }
        Ok(())
    }
}

impl MemberRows {
    fn new(name: MemberName, ids: Vec<String>, held_out: Vec<usize>) -> Self {
        let (train, present, labels, discarded) = Default::default();
        Self { name, ids, train, present, labels, held_out, discarded }
    }

    fn add(&mut self, row: usize, mask: u32, label: u32) {
        if mask == 0 {
            self.discarded.push(row);
        } else {
            self.train.push(row);
            self.present.push(mask);
            *self.labels.entry(label).or_default() += 1;
        }
    }

    fn check(&self, complete: u32, classes: usize) -> Result<(), String> {
        let name = &self.name;
        if self.present.len() != self.train.len() {
            return Err(format!("{name} has {} rows to train on, but {} masks", self.train.len(), self.present.len()));
        }
        if let Some(mask) = self.present.iter().find(|&&mask| mask == 0 || mask & !complete != 0) {
            return Err(format!("{name} has the mask {mask}, which must be 1 to {complete}"));
        }
        if self.labels.keys().any(|&label| label as usize >= classes) {
            return Err(format!("{name} counts a class that is not below {classes}"));
        }
        // summed with care: the counts may be any numbers
        let counted = self.labels.values().try_fold(0usize, |sum, &count| sum.checked_add(count));
        if counted != Some(self.train.len()) || self.labels.values().any(|&count| count == 0) {
            return Err(format!("{name} counts other than {} labels", self.train.len()));
        }
        Ok(())
    }
}

fn too_long(bytes: u64) -> String {
    format!("has {bytes} bytes; a manifest has at most {MAX_BYTES}")
}

/// Writes a file under a temporary name first, so that a whole file or none is there.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    // agents that run as other users read it; the default is for secrets
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    // the new name is durable only once the folder is
    crate::disk::sync_dir(folder)
}

/// `client-00` and so on.
fn member_names(clients: usize) -> Vec<String> {
    let width = clients.saturating_sub(1).to_string().len().max(2);
    (0..clients).map(|client| format!("client-{client:0width$}")).collect()
}

/// The modalities to use, in name order.
fn modalities(dataset: &Dataset, spec: &DataSpec) -> Result<Vec<String>, SpecError> {
    let all: Vec<&str> = dataset.samples.modalities.iter().map(|modality| modality.name.as_str()).collect();
    let Some(asked) = &spec.modalities else {
        return Ok(all.into_iter().map(str::to_owned).collect());
    };
    let mut names = asked.clone();
    names.sort_unstable();
    names.dedup();
    if names.len() < asked.len() {
        return Err(SpecError::invalid("data.modalities", "names one twice"));
    }
    match names.iter().find(|name| !all.contains(&name.as_str())) {
        Some(name) => Err(SpecError::unknown_name("data.modalities", name, &all)),
        None => Ok(names),
    }
}

/// For each of `names` its place in the data set; those that are not there are left out.
fn bits(dataset: &Dataset, names: &[String]) -> Vec<usize> {
    let place = |name: &String| dataset.samples.modalities.iter().position(|modality| modality.name == *name);
    names.iter().filter_map(place).collect()
}

/// The bits `bits` of a data set's mask, as the low bits of another.
fn project(mask: u32, bits: &[usize]) -> u32 {
    bits.iter().enumerate().fold(0, |projected, (to, &from)| projected | (mask >> from & 1) << to)
}

/// Rows of a data set with the modalities `bits`, of which `present` says who has which.
fn take(samples: &Samples, bits: &[usize], rows: &[usize], present: Vec<u32>) -> Samples {
    let modality = |&bit: &usize| {
        let Modality { name, dim, .. } = &samples.modalities[bit];
        let values = rows.iter().flat_map(|&row| samples.modalities[bit].row(row)).copied().collect();
        Modality { name: name.clone(), dim: *dim, values }
    };
    let labels = rows.iter().map(|&row| samples.labels[row]).collect();
    let mut taken = Samples { modalities: bits.iter().map(modality).collect(), labels, present };
    taken.clear_absent();
    taken
}
