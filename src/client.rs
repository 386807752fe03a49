//! `tessera client`: the agent.

use crate::cli::{self, Kind, failure, invalid, print, say};
use crate::join::{Secret, read};
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tessera_client::config::{AgentConfig, MemberConfig};
use tessera_client::identity::{self, Identity, IdentityError, folder, when};
use tessera_common::access::Token;
use tessera_common::id::MemberName;
use tokio::time::Instant;

/// How long a coordinator that does not answer is tried, before a token is given up for now.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Settings: name, tables `member`, `policy` and `tls`; see docs/deployment.md. Without them, --data says all there is.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data", "held_out", "state_dir"], required_unless_present = "data")]
    config: Option<PathBuf>,
    /// Token that `tessera enrol` printed, for the first start. Other users of this machine see it while this runs: --token-file
    /// or the environment hides it.
    #[arg(long, env = "TESSERA_TOKEN", hide_env_values = true)]
    token: Option<Secret>,
    /// File with the token; - for standard input.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Serve the data in this folder, with a `dataset.toml`, as the member that the token or the identity names.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Share of the samples that is kept from training, to evaluate on.
    #[arg(long, value_name = "SHARE", requires = "data")]
    held_out: Option<f64>,
    /// Folder for identity and unfinished work; NAME.state if not given.
    #[arg(long, value_name = "DIR", requires = "data")]
    state_dir: Option<PathBuf>,
    /// Where to train: auto, cpu, vulkan, metal or cuda, the last three as built in, with an index if there are several: cuda:1.
    /// `auto` is the first that works of cuda, metal, vulkan, cpu. Goes before `device` of the settings.
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// Show what this agent will send, and send nothing.
    #[arg(long)]
    explain: bool,
    /// Spec of a run, to explain what is sent in it.
    #[arg(long, value_name = "FILE", requires = "explain")]
    spec: Option<PathBuf>,
    /// End when standard input ends.
    #[arg(long, hide = true)]
    with_parent: bool,
}

pub(crate) fn main(arguments: Arguments) -> Result<ExitCode> {
    let token = arguments.token()?;
    let mut config = arguments.settings(token.as_ref())?;
    config.device = arguments.device.clone().unwrap_or(config.device);
    if arguments.explain {
        let spec = arguments.spec.as_deref().map(|path| crate::run::submit::read(path, &[])).transpose()?;
        print(tessera_client::explain::explain(&config, spec.as_ref()).map_err(invalid)?.trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = cli::runtime()?;
    if let Some(token) = &token {
        runtime.block_on(async {
            tokio::select! {
                outcome = enrol(&config, token) => outcome,
                () = cli::shutdown(arguments.with_parent) => Err(failure(Kind::Interrupted, "interrupted before the site is enrolled")),
            }
        })?;
    }
    let agent = config.prepare().map_err(invalid)?;
    tracing::info!(agent = %agent.name, members = agent.members.len(), "data loaded");
    runtime.block_on(tessera_client::session::run(agent, cli::shutdown(arguments.with_parent)))?;
    Ok(ExitCode::SUCCESS)
}

impl Arguments {
    fn token(&self) -> Result<Option<Token>> {
        let text = match (&self.token_file, &self.token) {
            (Some(file), _) => Some(read(file)?),
            (None, Some(Secret(text))) => Some(text.clone()),
            (None, None) => None,
        };
        text.map(|text| text.parse().map_err(invalid)).transpose()
    }

    /// From the file, or from the data folder and the name that token or identity give.
    fn settings(&self, token: Option<&Token>) -> Result<AgentConfig> {
        let data = match (&self.config, &self.data) {
            (Some(file), _) => return AgentConfig::load(file).map_err(invalid),
            (None, Some(data)) => data.clone(),
            (None, None) => return Err(invalid("give --config, or --data with the data of this site")),
        };
        let (name, state_dir) = match (token, &self.state_dir) {
            (Some(token), Some(dir)) => (token.name.clone(), dir.clone()),
            (Some(token), None) => (token.name.clone(), PathBuf::from(format!("{}.state", token.name))),
            (None, Some(dir)) => (name_in(dir)?, dir.clone()),
            (None, None) => the_only_one(Path::new("."))?,
        };
        let mut config = AgentConfig::new(name.as_str().parse().map_err(invalid)?);
        config.state_dir = Some(state_dir);
        config.member = vec![MemberConfig { name, data, held_out: self.held_out.unwrap_or(0.0), evaluate_only: false }];
        Ok(config)
    }
}

/// Name of the identity in a state folder.
fn name_in(state_dir: &Path) -> Result<MemberName> {
    match Identity::load(&folder(state_dir)).map_err(invalid)? {
        Some(identity) => Ok(identity.name()),
        None => Err(invalid(format!(
            "--state-dir {}: there is no identity in it: make a token at the coordinator with `tessera enrol NAME` and give it with \
             --token",
            state_dir.display()
        ))),
    }
}

/// The one state folder within `dir` that has an identity.
fn the_only_one(dir: &Path) -> Result<(MemberName, PathBuf)> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)?
        .flatten()
        .map(|entry| entry.file_name())
        .filter(|name| name.to_string_lossy().ends_with(".state"))
        .map(PathBuf::from)
        .filter(|path| folder(&dir.join(path)).join("cert.pem").exists())
        .collect();
    found.sort();
    let shown: Vec<String> = found.iter().map(|path| path.display().to_string()).collect();
    match found.pop() {
        Some(path) if shown.len() == 1 => Ok((name_in(&dir.join(&path))?, path)),
        Some(_) => {
            Err(invalid(format!("there are several identities here: say which one with --state-dir: {}", shown.join(", "))))
        }
        None => Err(invalid(
            "there is no identity here: make a token at the coordinator with `tessera enrol NAME` and give it with --token, or say \
             where the identity is with --state-dir",
        )),
    }
}

/// What to do with a token.
#[derive(Debug, PartialEq, Eq)]
enum Use {
    /// There is no identity, or one that is of no use any more.
    Enrol,
    /// There is one; this is what to say.
    Keep(String),
}

fn decide(there: Option<&Identity>, token: &Token, dir: &Path, now: u64) -> Result<Use, String> {
    let Some(identity) = there else { return Ok(Use::Enrol) };
    let (name, shown) = (identity.name(), dir.display());
    if name != token.name {
        return Err(format!(
            "{shown} has the identity of {name}, and the token is for {}: give another state folder (--state-dir, or state_dir in the \
             settings)",
            token.name
        ));
    }
    if identity.expires() <= now || !identity.trusts(&token.authority) {
        return Ok(Use::Enrol);
    }
    Ok(Use::Keep(format!(
        "{name} is enrolled already, and uses its identity in {shown}; the token is not needed and not used up. To enrol anew, remove \
         that folder"
    )))
}

/// Makes an identity of the token, unless there is one.
async fn enrol(config: &AgentConfig, token: &Token) -> Result<()> {
    if config.tls.is_some() {
        return Err(invalid("a token is given, and the settings name certificates in [tls]: take one of the two out"));
    }
    let Some(state_dir) = &config.state_dir else { return Err(invalid("an identity needs a state_dir")) };
    let dir = folder(state_dir);
    // a damaged identity is replaced
    let there = Identity::load(&dir).unwrap_or_default();
    match decide(there.as_ref(), token, &dir, identity::now()).map_err(invalid)? {
        Use::Keep(why) => {
            say(why);
            return Ok(());
        }
        // a token must not be used up for an agent that cannot start
        Use::Enrol => config.check().map_err(invalid)?,
    }
    let started = Instant::now();
    loop {
        match Identity::enrol(token, &dir).await {
            Ok(identity) => {
                let (name, role) = (identity.name(), identity.role());
                say(format_args!("enrolled as {name} ({role}) at {}; identity in {}", token.address, dir.display()));
                tracing::info!(%name, expires = when(identity.expires()), "enrolled");
                return Ok(());
            }
            Err(error @ IdentityError::Unreachable { .. }) if started.elapsed() < PATIENCE => {
                tracing::warn!(%error, wait = ?PAUSE, "trying again");
                tokio::time::sleep(PAUSE).await;
            }
            Err(error @ IdentityError::Unreachable { .. }) => return Err(failure(Kind::Unreachable, error.to_string())),
            Err(error) => return Err(anyhow::Error::new(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn token(name: &str) -> Token {
        let address = "localhost:7443".into();
        Token { name: name.parse().unwrap(), address, authority: [1; 32], secret: [2; 32], expires: 0 }
    }

    fn parse(words: &[&str]) -> Result<Arguments, clap::Error> {
        Line::try_parse_from(std::iter::once("client").chain(words.iter().copied())).map(|line| line.arguments)
    }

    #[test]
    fn a_token_and_a_data_folder_are_enough() {
        let arguments = parse(&["--data", "d", "--held-out", "0.25", "--token", &token("north").reveal()]).unwrap();
        let given = arguments.token().unwrap().unwrap();
        assert_eq!(given, token("north"));
        let config = arguments.settings(Some(&given)).unwrap();
        assert_eq!((config.name.as_str(), config.member[0].name.as_str()), ("north", "north"));
        assert_eq!((config.member[0].held_out, config.state_dir), (0.25, Some("north.state".into())));
        assert!(!format!("{arguments:?}").contains(&token("north").reveal()), "a token is a secret");
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        assert!(parse(&[]).unwrap_err().to_string().contains("--config"));
        assert!(parse(&["--config", "a", "--data", "d"]).is_err());
        assert!(parse(&["--config", "a", "--spec", "s"]).is_err());
        let text = parse(&["--data", "d", "--token", "hello"]).unwrap().token().unwrap_err().to_string();
        assert!(text.starts_with("this is no token"), "{text}");
    }

    #[test]
    fn without_a_token_an_identity_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        let text = the_only_one(dir.path()).unwrap_err().to_string();
        assert!(text.starts_with("there is no identity here: make a token at the coordinator"), "{text}");
        let text = name_in(&dir.path().join("north.state")).unwrap_err().to_string();
        assert!(text.contains("north.state: there is no identity in it"), "{text}");
        for name in ["a.state", "b.state"] {
            std::fs::create_dir_all(folder(&dir.path().join(name))).unwrap();
            std::fs::write(folder(&dir.path().join(name)).join("cert.pem"), "").unwrap();
        }
        let text = the_only_one(dir.path()).unwrap_err().to_string();
        assert!(text.ends_with("say which one with --state-dir: a.state, b.state"), "{text}");
    }

    #[tokio::test]
    async fn a_token_beside_certificates_is_refused() {
        let mut config = AgentConfig::new("north".parse().unwrap());
        let none = PathBuf::new;
        config.tls = Some(tessera_client::config::TlsFiles { ca: none(), cert: none(), key: none() });
        let text = enrol(&config, &token("north")).await.unwrap_err().to_string();
        assert!(text.contains("take one of the two out"), "{text}");
    }
}
