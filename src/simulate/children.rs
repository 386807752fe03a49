//! The processes of a simulation: started, watched, restarted when they die, ended with us.

use super::plan::Plan;
use crate::cli::{self, invalid};
use anyhow::{Context, Result, anyhow};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tessera_client::config::{AgentConfig, PartitionConfig, TlsFiles};
use tessera_common::id::AgentName;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// A child that dies more often than this is broken, not unlucky.
const MOST_RESTARTS: u32 = 20;
/// How long a child may take to end once it is asked to.
const GRACE: Duration = Duration::from_secs(5);

/// The running federation.
#[derive(Debug)]
pub(super) struct Children {
    admin: PathBuf,
    restarts: watch::Receiver<u32>,
    trouble: watch::Receiver<Option<String>>,
    stop: watch::Sender<bool>,
    supervisors: Vec<tokio::task::JoinHandle<()>>,
    /// Private files: keys, sockets, the coordinator's store.
    work: tempfile::TempDir,
}

/// One child: how to start it, again and again.
#[derive(Debug, Clone)]
struct Recipe {
    name: String,
    arguments: Vec<String>,
    log: PathBuf,
    threads: usize,
    /// Print a line of JSON for every process that is started.
    json: bool,
}

impl Recipe {
    fn start(&self) -> Result<Child> {
        let log = fs::File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot write {}", self.log.display()))?;
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let child = Command::new(program)
            .args(&self.arguments)
            // kernels outside our own pool must not take all cores
            .env("RAYON_NUM_THREADS", self.threads.to_string())
            // the child ends when our end of this pipe closes, however we end
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        if self.json {
            cli::print(serde_json::json!({ "type": "process", "name": self.name, "pid": child.id() }));
        }
        Ok(child)
    }
}

/// The line that a coordinator prints when it listens.
async fn ready(child: &mut Child, recipe: &Recipe) -> Result<String> {
    let stdout = child.stdout.take().ok_or_else(|| anyhow!("no pipe from {}", recipe.name))?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).await?;
    let ready: serde_json::Value = serde_json::from_str(&line)
        .map_err(|_| anyhow!("the coordinator did not start; its log: {}\n{}", recipe.log.display(), tail(&recipe.log)))?;
    let address = ready["listen"].as_str().ok_or_else(|| anyhow!("the coordinator does not say where it listens"))?;
    Ok(address.to_owned())
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

impl Children {
    pub(super) async fn start(plan: &Plan, json: bool) -> Result<Self> {
        let work = tempfile::Builder::new().prefix("tessera-").tempdir().context("cannot make a folder for temporary files")?;
        let logs = plan.out.join("logs");
        fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        let deal = plan.deal();
        let agents: Vec<String> = (0..deal.len()).map(|i| format!("agent-{i}")).collect();
        certificates(work.path(), &agents)?;
        let admin = work.path().join("admin.sock");
        let path = |name: &str| work.path().join(name).display().to_string();
        let arguments = |listen: &str| {
            let mut words =
                vec!["-v", "server", "--with-parent", "--listen", listen].into_iter().map(str::to_owned).collect::<Vec<_>>();
            for (flag, file) in [
                ("--data-dir", "coordinator"),
                ("--tls-cert", "server.pem"),
                ("--tls-key", "server.key"),
                ("--client-ca", "ca.pem"),
            ] {
                words.extend([flag.to_owned(), path(file)]);
            }
            words.extend(["--admin".to_owned(), admin.display().to_string()]);
            words
        };
        let mut coordinator = Recipe {
            name: "coordinator".into(),
            arguments: arguments("127.0.0.1:0"),
            log: logs.join("coordinator.log"),
            threads: plan.threads,
            json,
        };
        let mut first = coordinator.start()?;
        let address = ready(&mut first, &coordinator).await?;
        // a restarted coordinator is where its agents look for it
        coordinator.arguments = arguments(&address);
        let (stop, stopping) = watch::channel(false);
        let (restarted, restarts) = watch::channel(0);
        let (report, trouble) = watch::channel(None);
        let supervise = |recipe: Recipe, child: Child| {
            tokio::spawn(supervise(recipe, child, stopping.clone(), restarted.clone(), report.clone()))
        };
        let mut supervisors = vec![supervise(coordinator, first)];
        for (name, members) in agents.into_iter().zip(deal) {
            let config = agent_config(plan, work.path(), &name, &address, &members)?;
            let recipe = Recipe {
                name: name.clone(),
                arguments: ["-v", "client", "--with-parent", "--config", &config].map(str::to_owned).to_vec(),
                log: logs.join(format!("{name}.log")),
                threads: plan.threads,
                json,
            };
            let child = recipe.start()?;
            supervisors.push(supervise(recipe, child));
        }
        Ok(Self { admin, restarts, trouble, stop, supervisors, work })
    }

    /// The coordinator's admin socket.
    pub(super) fn admin(&self) -> String {
        self.admin.display().to_string()
    }

    /// Children that died and were started again.
    pub(super) fn restarts(&self) -> u32 {
        *self.restarts.borrow()
    }

    /// Why the federation cannot go on, once that is so.
    pub(super) async fn broken(&self) -> String {
        let mut trouble = self.trouble.clone();
        loop {
            if let Some(reason) = trouble.borrow_and_update().clone() {
                return reason;
            }
            if trouble.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Ends every child and waits for it.
    pub(super) async fn stop(self) {
        // nobody listens any more only if every child has ended by itself
        let _ = self.stop.send(true);
        for supervisor in self.supervisors {
            let _ = supervisor.await;
        }
        if let Err(error) = self.work.close() {
            tracing::warn!(%error, "temporary files are left behind");
        }
    }
}

async fn supervise(
    recipe: Recipe,
    mut child: Child,
    mut stopping: watch::Receiver<bool>,
    restarted: watch::Sender<u32>,
    report: watch::Sender<Option<String>>,
) {
    let mut deaths = 0;
    // Waiting for a child closes its standard input unless it is taken out; the child would end.
    let mut pipe = child.stdin.take();
    loop {
        let status = tokio::select! {
            status = child.wait() => status,
            () = async { drop(stopping.wait_for(|stop| *stop).await) } => {
                drop(pipe);
                if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
                    let _ = child.kill().await;
                }
                return;
            }
        };
        deaths += 1;
        let status = status.map_or_else(|e| e.to_string(), |s| s.to_string());
        tracing::warn!(child = recipe.name, status, "a process died and is started again");
        if deaths > MOST_RESTARTS {
            let text = format!(
                "{} died {deaths} times, last with {status}; its log: {}\n{}",
                recipe.name,
                recipe.log.display(),
                tail(&recipe.log)
            );
            report.send_replace(Some(text));
            return;
        }
        // a child that cannot start must not keep a core busy
        tokio::time::sleep(Duration::from_millis(100 * u64::from(deaths.min(10)))).await;
        match recipe.start() {
            Ok(again) => {
                child = again;
                pipe = child.stdin.take();
            }
            Err(error) => {
                report.send_replace(Some(format!("{error:#}")));
                return;
            }
        }
        restarted.send_modify(|n| *n += 1);
    }
}

fn agent_config(plan: &Plan, work: &Path, name: &str, coordinator: &str, members: &[String]) -> Result<String> {
    let members = members.iter().map(|m| m.parse()).collect::<Result<_, _>>().map_err(invalid)?;
    let manifest = fs::canonicalize(plan.out.join("partition.json"))?;
    let config = AgentConfig {
        coordinator: Some(coordinator.to_owned()),
        tls: Some(TlsFiles {
            ca: work.join("ca.pem"),
            cert: work.join(format!("{name}.pem")),
            key: work.join(format!("{name}.key")),
        }),
        threads: plan.threads,
        device: plan.device.clone(),
        state_dir: Some(work.join("state").join(name)),
        partition: Some(PartitionConfig { manifest, members }),
        ..AgentConfig::new(name.parse::<AgentName>().map_err(invalid)?)
    };
    let path = work.join(format!("{name}.toml"));
    fs::write(&path, toml::to_string(&config)?)?;
    Ok(path.display().to_string())
}

/// A throw-away authority with a certificate for the coordinator and one for each agent, which may serve any member.
fn certificates(folder: &Path, agents: &[String]) -> Result<()> {
    use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::new(Vec::<String>::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority.distinguished_name.push(DnType::CommonName, "Tessera simulation");
    let authority_cert = authority.self_signed(&authority_key)?;
    let issuer = Issuer::new(authority, authority_key);
    fs::write(folder.join("ca.pem"), authority_cert.pem())?;
    let leaf = |name: &str, subjects: &[&str], usage: ExtendedKeyUsagePurpose| -> Result<()> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(subjects.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        let cert = params.signed_by(&key, &issuer)?;
        fs::write(folder.join(format!("{name}.pem")), cert.pem())?;
        write_private(&folder.join(format!("{name}.key")), &key.serialize_pem())
    };
    leaf("server", &["127.0.0.1", "localhost"], ExtendedKeyUsagePurpose::ServerAuth)?;
    agents.iter().try_for_each(|name| leaf(name, &["*"], ExtendedKeyUsagePurpose::ClientAuth))
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    let mut options = fs::File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    Ok(options.open(path)?.write_all(text.as_bytes())?)
}
