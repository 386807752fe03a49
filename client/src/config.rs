//! What an agent serves and where its coordinator is.

use crate::data::{DataError, Dataset, Manifest};
use crate::device::DeviceError;
use crate::identity::{Identity, IdentityError, Tls, folder};
use crate::policy::Policy;
use crate::task::MemberData;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tessera_common::id::{AgentName, MemberName};
use tessera_common::rng;
use tessera_common::round::MemberInfo;
use tessera_common::spec::SpecError;

pub use crate::dial::Dial;

/// An agent's settings, as in its TOML file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// Name of the agent, for logs.
    pub name: AgentName,
    /// Coordinator, `host:port`; the one that gave the identity, if there is none.
    #[serde(default)]
    pub coordinator: Option<String>,
    /// Certificates in files, instead of an identity. With neither the connection is plaintext, which is taken for loopback
    /// addresses only.
    #[serde(default)]
    pub tls: Option<TlsFiles>,
    /// Take plaintext for any address. Anyone on the way can then read and change what is sent.
    #[serde(default)]
    pub plaintext_that_anyone_on_the_network_can_read: bool,
    /// Compute threads.
    #[serde(default = "one")]
    pub threads: usize,
    /// Device, a name that [`crate::device::find`] takes.
    #[serde(default = "auto")]
    pub device: String,
    /// Folder for what outlives a restart: identity, finished answers, downloads, private blocks. [`Self::load`] names `NAME.state` beside
    /// the settings if there is none; without one, everything is in memory.
    #[serde(default)]
    pub state_dir: Option<PathBuf>,
    /// Members with their own data folders.
    #[serde(default)]
    pub member: Vec<MemberConfig>,
    /// Members cut out of one data set.
    #[serde(default)]
    pub partition: Option<PartitionConfig>,
    /// What this site takes part in, whatever the coordinator asks.
    #[serde(default)]
    pub policy: Policy,
}

fn one() -> usize {
    1
}

fn auto() -> String {
    "auto".into()
}

/// PEM files for TLS.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// Authority that signed the coordinator's certificate.
    pub ca: PathBuf,
    /// The agent's certificate.
    pub cert: PathBuf,
    /// The agent's key.
    pub key: PathBuf,
}

/// A member with its own data.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberConfig {
    /// Its name.
    pub name: MemberName,
    /// Folder with a `dataset.toml`.
    pub data: PathBuf,
    /// Share of the samples that is kept from training, to evaluate on.
    #[serde(default)]
    pub held_out: f64,
    /// Evaluate on all samples and train on none.
    #[serde(default)]
    pub evaluate_only: bool,
}

/// Members cut out of one data set, as `simulate` makes them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionConfig {
    /// Manifest that says which rows are whose.
    pub manifest: PathBuf,
    /// The members of it that this agent serves.
    pub members: Vec<MemberName>,
}

/// Why an agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, std::io::Error),
    /// The settings are not valid.
    #[error("{0}: {1}")]
    Spec(PathBuf, SpecError),
    /// The data of a member is not usable.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The certificates are not usable.
    #[error("{0}")]
    Tls(String),
    /// The identity is not usable.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The device is not usable.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Anything else that is wrong with the settings.
    #[error("{0}")]
    Invalid(String),
}

impl AgentConfig {
    /// Settings with nothing but a name: one thread, no members, nothing on disk.
    pub fn new(name: AgentName) -> Self {
        Self {
            name,
            coordinator: None,
            tls: None,
            plaintext_that_anyone_on_the_network_can_read: false,
            threads: one(),
            device: auto(),
            state_dir: None,
            member: Vec::new(),
            partition: None,
            policy: Policy::default(),
        }
    }

    /// Reads a settings file; paths in it are relative to its folder. Without a `state_dir` it is `NAME.state`.
    ///
    /// # Errors
    /// Names the file and the key.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|e| ConfigError::Read(path.to_owned(), e))?;
        Self::from_toml(path, &text)
    }

    /// Parses the text of the settings file `path`, which need not be there.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_toml(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let table = tessera_common::spec::parse_document(text).map_err(|e| ConfigError::Spec(path.to_owned(), e))?;
        let mut config: Self =
            tessera_common::spec::parse_table("agent", &table).map_err(|e| ConfigError::Spec(path.to_owned(), e))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        config.state_dir.get_or_insert_with(|| format!("{}.state", config.name).into());
        let tls = config.tls.iter_mut().flat_map(|t| [&mut t.ca, &mut t.cert, &mut t.key]);
        let data = config.member.iter_mut().map(|m| &mut m.data);
        let manifest = config.partition.iter_mut().map(|p| &mut p.manifest);
        tls.chain(data).chain(manifest).chain(config.state_dir.iter_mut()).for_each(|p| *p = folder.join(&*p));
        Ok(config)
    }

    /// Makes the state folder, loads the members' data and prepares the connection.
    ///
    /// # Errors
    /// Names the member, file and key.
    pub fn prepare(&self) -> Result<Agent, ConfigError> {
        if let Some(dir) = &self.state_dir {
            let bad = |e| ConfigError::Invalid(format!("state_dir {} cannot be made: {e}; name another folder", dir.display()));
            match crate::disk::create_private_dir(dir) {
                // the agent says so, and goes on from memory
                Err(error) if crate::disk::is_trouble(&error) => {}
                outcome => outcome.map_err(bad)?,
            }
        }
        self.inspect()
    }

    /// As [`Self::prepare`], and makes nothing.
    ///
    /// # Errors
    /// Names the member, file and key.
    pub fn inspect(&self) -> Result<Agent, ConfigError> {
        let device = crate::device::open(&self.device)?;
        let members = self.checked_members()?;
        let policy = self.policy.clone();
        let identity = self.identity()?;
        let dial = self.dial(identity.as_ref())?;
        let threads = self.threads.max(1);
        let (name, state_dir) = (self.name.clone(), self.state_dir.clone());
        Ok(Agent { name, dial, identity, members, policy, threads, device, state_dir, heartbeat: Duration::from_millis(500) })
    }

    /// Whether data and policy are usable and the device is built in, before a token is used up for them.
    ///
    /// # Errors
    /// Names the member, file and key.
    pub fn check(&self) -> Result<(), ConfigError> {
        crate::device::check(&self.device)?;
        self.checked_members().map(drop)
    }

    fn checked_members(&self) -> Result<Members, ConfigError> {
        let members = self.members()?;
        let bad = |e: SpecError| ConfigError::Invalid(e.to_string());
        self.policy.validate(members.keys(), self.state_dir.is_some()).map_err(bad)?;
        Ok(members)
    }

    /// The identity in the state folder, unless the settings name certificates.
    fn identity(&self) -> Result<Option<Identity>, ConfigError> {
        match (&self.tls, &self.state_dir) {
            (None, Some(dir)) => Ok(Identity::load(&folder(dir))?),
            _ => Ok(None),
        }
    }

    /// The members' data.
    pub(crate) fn members(&self) -> Result<Members, ConfigError> {
        let mut members = BTreeMap::new();
        for member in &self.member {
            let dataset = Dataset::load(&member.data)?;
            add(&mut members, own_data(member, dataset)?)?;
        }
        if let Some(partition) = &self.partition {
            let manifest = Manifest::load(&partition.manifest)?;
            let dataset = Dataset::open(&manifest.dataset.source)?;
            for name in &partition.members {
                let splits = manifest.member_samples(&dataset, name.as_str())?;
                let (train, held_out, test) = (splits.train, splits.held_out, splits.test);
                add(&mut members, MemberData { name: name.clone(), train, held_out, test })?;
            }
        }
        if members.is_empty() {
            return Err(ConfigError::Invalid("the agent serves no members: give [[member]] tables or a [partition]".into()));
        }
        Ok(members)
    }

    /// How to reach the coordinator, and by what certificates.
    fn dial(&self, identity: Option<&Identity>) -> Result<Dial, ConfigError> {
        let address = match (&self.coordinator, identity) {
            (Some(address), _) => address.clone(),
            (None, Some(identity)) => identity.coordinator(),
            (None, None) => {
                let why = "the settings name no coordinator: give coordinator = \"host:port\", or enrol with \
                           `tessera client --token`";
                return Err(ConfigError::Invalid(why.into()));
            }
        };
        let host = crate::dial::host_of(&address).map_err(ConfigError::Invalid)?;
        let tls = match &self.tls {
            Some(files) => Some(Tls::from_files(files).map_err(ConfigError::Tls)?),
            None => identity.map(Identity::tls),
        };
        let loopback = matches!(host.as_str(), "127.0.0.1" | "::1" | "localhost");
        if tls.is_none() && !loopback && !self.plaintext_that_anyone_on_the_network_can_read {
            let why = "plaintext is for loopback only: make a token at the coordinator with `tessera enrol NAME` and give it with \
                       `tessera client --token`, or give the certificates in [tls] (ca, cert, key)";
            return Err(ConfigError::Invalid(why.into()));
        }
        Ok(Dial::Tcp { address, host, tls })
    }
}

fn add(members: &mut Members, data: MemberData) -> Result<(), ConfigError> {
    let name = data.name.clone();
    match members.insert(name.clone(), Arc::new(data)) {
        None => Ok(()),
        Some(_) => Err(ConfigError::Invalid(format!("member {name} is there twice"))),
    }
}

/// A member's own samples, cut into training and held-out ones.
fn own_data(member: &MemberConfig, dataset: Dataset) -> Result<MemberData, ConfigError> {
    let name = member.name.clone();
    if !(0.0..1.0).contains(&member.held_out) {
        return Err(ConfigError::Invalid(format!("member {name}: held_out must be in [0, 1)")));
    }
    let samples = dataset.samples;
    if member.evaluate_only {
        return Ok(MemberData { name, train: samples.select(&[]), held_out: samples.select(&[]), test: samples });
    }
    let mut rows: Vec<usize> = (0..samples.len()).collect();
    // The site's own cut, the same at every start; it has nothing to do with any run's seed.
    rng::stream(0, "held-out", name.as_str(), 0).shuffle(&mut rows);
    let held = (member.held_out * rows.len() as f64).round() as usize;
    let mut train = rows.split_off(held);
    train.sort_unstable();
    rows.sort_unstable();
    Ok(MemberData { name, train: samples.select(&train), held_out: samples.select(&rows), test: samples.select(&[]) })
}

/// What a member says of itself.
pub(crate) fn member_info(data: &MemberData) -> MemberInfo {
    let parts = [&data.train, &data.held_out, &data.test];
    let mut modalities: Vec<String> = parts
        .into_iter()
        .flat_map(|s| s.modalities.iter().enumerate().filter(|(m, _)| s.present.iter().any(|p| p >> m & 1 == 1)))
        .map(|(_, m)| m.name.clone())
        .collect();
    modalities.sort();
    modalities.dedup();
    MemberInfo { trains: !data.train.is_empty(), evaluates: !data.held_out.is_empty() || !data.test.is_empty(), modalities }
}

/// Members by name, each with its data.
pub type Members = BTreeMap<MemberName, Arc<MemberData>>;

/// An agent that is ready to run.
#[derive(Debug)]
pub struct Agent {
    /// Its name.
    pub name: AgentName,
    /// How to reach the coordinator.
    pub dial: Dial,
    /// Its identity, to be renewed in time; none with certificates from files or in plaintext.
    pub identity: Option<Identity>,
    /// Whom it serves.
    pub members: Members,
    /// What this site takes part in.
    pub policy: Policy,
    /// Compute threads.
    pub threads: usize,
    /// Where tensors live; opened by [`crate::device::open`].
    pub device: Device,
    /// Folder for what outlives a restart; [`crate::session::run`] keeps other agents out of it.
    pub state_dir: Option<PathBuf>,
    /// How often to send a sign of life, until the coordinator says otherwise.
    pub heartbeat: Duration,
}
