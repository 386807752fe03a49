//! A federation of real processes that a test starts, kills and starts again one by one.

use hyper_util::rt::TokioIo;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tessera_proto::v1::admin_client::AdminClient;
use tessera_proto::v1::watch_run_response::Event;
use tessera_proto::v1::{
    ListMembersRequest, ListRunsRequest, RunSummary, ShowRunRequest, SubmitRunRequest, Tally, WatchRunRequest,
};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tonic::transport::{Channel, Endpoint};

/// Longest that anything may take here; whoever waits longer hangs.
const PATIENCE: Duration = Duration::from_secs(180);
/// Between two looks at a process that is starting.
const AGAIN: Duration = Duration::from_millis(20);

/// What a federation is like.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    pub members: usize,
    pub agents: usize,
    pub rounds: u32,
    /// Extra words for the coordinator.
    pub coordinator: &'static [&'static str],
    /// Agents enrol with tokens and use TLS; plaintext if not.
    pub secure: bool,
    /// Keys of the model: its size.
    pub model: &'static str,
}

pub const SMALL: Setup = Setup { members: 4, agents: 2, rounds: 3, coordinator: &[], secure: false, model: "hidden = 8" };

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct End {
    pub outcome: String,
    pub global: Vec<u8>,
    pub statistics: Vec<u8>,
    pub tally: Tally,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    Coordinator,
    Agent(usize),
}

/// A running process, and the pipe whose end ends it: waiting for a child would close a pipe that it still holds.
pub struct Process {
    pub child: Child,
    _pipe: ChildStdin,
}

impl Process {
    fn new(mut child: Child) -> Self {
        let pipe = child.stdin.take().expect("its standard input is a pipe");
        Self { child, _pipe: pipe }
    }
}

/// Everything that a federation needs on disk, and its processes.
pub struct Federation {
    pub dir: TempDir,
    pub setup: Setup,
    /// Where the coordinator listens, once it did.
    pub address: Option<String>,
    /// Where agents dial, if not there: a proxy, say.
    pub dial: Option<String>,
    pub coordinator: Option<Process>,
    pub agents: Vec<Option<Process>>,
    /// Every process starts with these fault points.
    pub everywhere: String,
    /// What every process logs, if not the usual.
    pub log_filter: Option<String>,
}

fn tessera() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
    command.env_remove("FAILPOINTS").env("RAYON_NUM_THREADS", "1").env("RUST_BACKTRACE", "0");
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

impl Federation {
    pub async fn new(setup: Setup) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let members = setup.members;
        let spec = format!(
            "version = 1\nname = \"faults\"\nseed = 3\nrounds = {}\npreset = \"tessera\"\n\
             [data]\nsource = \"digits\"\nclients = {members}\nsplit = {{ test_per_class = 5 }}\n\
             partition = {{ kind = \"dirichlet\", alpha = 1.0, min = 3 }}\nmissing = {{ kind = \"sample\", rate = 0.5 }}\n",
            setup.rounds
        );
        std::fs::write(dir.path().join("cut.toml"), spec).unwrap();
        let manifest = dir.path().join("partition.json");
        let output = tessera().args(["data", "partition"]).arg(dir.path().join("cut.toml")).arg("--out").arg(&manifest).output();
        let output = output.await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let agents = (0..setup.agents).map(|_| None).collect();
        let (everywhere, log_filter) = (String::new(), None);
        Self { dir, setup, address: None, dial: None, coordinator: None, agents, everywhere, log_filter }
    }

    /// A federation whose processes all run.
    pub async fn started(setup: Setup) -> Self {
        let mut all = Self::new(setup).await;
        all.start(Victim::Coordinator, "").await;
        for i in 0..setup.agents {
            all.start(Victim::Agent(i), "").await;
        }
        all
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("coordinator")
    }

    fn admin_socket(&self) -> PathBuf {
        self.dir.path().join("admin.sock")
    }

    fn points(&self, more: &str) -> String {
        [self.everywhere.as_str(), more].into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join(";")
    }

    fn log(&self, name: &str) -> Stdio {
        let path = self.dir.path().join(format!("{name}.log"));
        std::fs::File::options().create(true).append(true).open(path).unwrap().into()
    }

    /// The words that start the coordinator.
    pub fn coordinator_words(&self) -> Vec<String> {
        let listen = self.address.clone().unwrap_or_else(|| "127.0.0.1:0".into());
        let mut words = vec!["-v".into(), "server".into(), "--with-parent".into(), "--listen".into(), listen];
        words.extend((!self.setup.secure).then(|| "--plaintext".into()));
        words.extend(["--data-dir".into(), self.data().display().to_string()]);
        words.extend(["--admin".into(), self.admin_socket().display().to_string()]);
        words.extend(self.setup.coordinator.iter().map(|w| (*w).to_owned()));
        words
    }

    /// Starts a process with these fault points. A coordinator that dies before it listens is left dead.
    pub async fn start(&mut self, victim: Victim, points: &str) {
        let mut command = tessera();
        match victim {
            Victim::Coordinator => {
                command.args(self.coordinator_words());
                self.launch_coordinator(command, points).await;
            }
            Victim::Agent(i) => {
                let config = self.agent_config(i);
                if self.setup.secure {
                    self.give_identity(i).await;
                }
                self.logging(&mut command);
                command.args(["-v", "client", "--with-parent", "--config"]).arg(config);
                command.env("FAILPOINTS", self.points(points)).stderr(self.log(&format!("agent-{i}")));
                let child = command.stdin(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
                self.agents[i] = Some(Process::new(child));
            }
        }
    }

    fn logging(&self, command: &mut Command) {
        if let Some(filter) = &self.log_filter {
            command.env("TESSERA_LOG", filter);
        }
    }

    /// Enrols an agent for the members that it serves, at its first start.
    async fn give_identity(&self, i: usize) {
        let identity = self.dir.path().join(format!("agent-{i}.state/identity"));
        if identity.exists() {
            return;
        }
        let mut words = Vec::new();
        for name in self.served(i) {
            words.extend(["--serves".to_owned(), name]);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let token = self.enrol(&format!("agent-{i}"), &words).await;
        let file = self.dir.path().join(format!("agent-{i}.token"));
        std::fs::write(&file, token).unwrap();
        let [file, identity] = [file, identity].map(|path| path.display().to_string());
        self.tessera(&["join", "--token-file", &file, "--identity", &identity]).await.unwrap();
    }

    /// An operator's command on the coordinator's machine: what it prints, or what it says when it fails.
    pub async fn tessera(&self, words: &[&str]) -> Result<String, String> {
        let mut command = tessera();
        command.args(words).env("TESSERA_ADMIN", self.admin_socket()).env("TESSERA_DATA_DIR", self.data());
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
        let output = self.within(&words.join(" "), output).await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// A token for `name`.
    pub async fn enrol(&self, name: &str, more: &[&str]) -> String {
        let words: Vec<&str> = ["enrol", name].into_iter().chain(more.iter().copied()).collect();
        self.tessera(&words).await.unwrap().trim().to_owned()
    }

    /// Uses a token; the folder of the identity that it gave.
    pub async fn join(&self, token: &str, name: &str) -> PathBuf {
        let dir = self.dir.path().join(format!("{name}.identity"));
        self.tessera(&["join", token, "--identity", &dir.display().to_string()]).await.unwrap();
        dir
    }

    /// Starts a coordinator by `command`, and waits until it listens or is dead.
    pub async fn launch_coordinator(&mut self, mut command: Command, points: &str) {
        self.logging(&mut command);
        command.env("FAILPOINTS", self.points(points)).stderr(self.log("coordinator"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
        if let Ok(ready) = serde_json::from_str::<serde_json::Value>(&line) {
            self.address = Some(ready["listen"].as_str().unwrap().to_owned());
        }
        self.coordinator = Some(Process::new(child));
    }

    fn agent_config(&self, i: usize) -> PathBuf {
        let members: Vec<String> = self.served(i).into_iter().map(|n| format!("{n:?}")).collect();
        let dial = self.dial.clone().or_else(|| self.address.clone()).expect("the coordinator has listened");
        let text = format!(
            "name = \"agent-{i}\"\ncoordinator = \"{dial}\"\nthreads = 1\nstate_dir = \"agent-{i}.state\"\n\
             [partition]\nmanifest = \"partition.json\"\nmembers = [{}]\n",
            members.join(", ")
        );
        let path = self.dir.path().join(format!("agent-{i}.toml"));
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Names of the members that an agent serves.
    fn served(&self, i: usize) -> Vec<String> {
        self.names().into_iter().skip(i).step_by(self.setup.agents).collect()
    }

    /// Names of all members, and of the one that has the test samples.
    fn names(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.path().join("partition.json")).unwrap();
        let manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
        let members = manifest["members"].as_array().expect("a manifest has members");
        let names = members.iter().map(|m| m["name"].as_str().unwrap().to_owned());
        names.chain(["evaluator".to_owned()]).collect()
    }

    pub fn child(&mut self, victim: Victim) -> &mut Child {
        let process = match victim {
            Victim::Coordinator => self.coordinator.as_mut(),
            Victim::Agent(i) => self.agents[i].as_mut(),
        };
        &mut process.expect("the process was started").child
    }

    /// kill -9.
    pub async fn kill(&mut self, victim: Victim) {
        // it may have died by itself
        let _ = self.child(victim).kill().await;
    }

    pub async fn admin(&self) -> Option<AdminClient<Channel>> {
        let path = self.admin_socket();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(path).await?)) }
        });
        let channel = Endpoint::from_static("http://admin").connect_with_connector(connector).await.ok()?;
        Some(AdminClient::new(channel))
    }

    pub fn spec(&self) -> String {
        let Setup { members, rounds, model, .. } = self.setup;
        format!(
            "version = 1\nname = \"faults\"\nseed = 3\nrounds = {rounds}\n\
             task = {{ kind = \"classify\", classes = 10, modalities = {{ left = 32, right = 32 }} }}\n\
             model = {{ {model} }}\ntrain = {{ epochs = 1 }}\n\
             cohort = {{ members = {members}, size = {members}, deadline = \"10m\", retries = 20 }}\nevaluate = {{ every = 2 }}\n"
        )
    }

    /// Submits a run, over deaths of the coordinator too. The same again is the same run.
    pub async fn submit(&self, run: &str) -> bool {
        let Some(mut admin) = self.admin().await else { return false };
        admin.submit_run(SubmitRunRequest { spec_toml: self.spec(), run: run.into() }).await.is_ok()
    }

    /// Waits until the run is over. Never ends while the coordinator is dead.
    pub async fn finished(&self, run: &str) {
        self.until(run, |event| matches!(event, Event::Finished(_))).await;
    }

    /// Waits until something happened in a run, from its start.
    pub async fn until(&self, run: &str, wanted: impl Fn(&Event) -> bool) {
        loop {
            if let Some(mut admin) = self.admin().await
                && let Ok(stream) = admin.watch_run(WatchRunRequest { run: run.into(), after: 0 }).await
            {
                let mut stream = stream.into_inner();
                while let Ok(Some(message)) = stream.message().await {
                    if message.event.as_ref().is_some_and(&wanted) {
                        return;
                    }
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    pub async fn end(&self, run: &str) -> End {
        let mut admin = self.admin().await.expect("the coordinator runs");
        let shown = admin.show_run(ShowRunRequest { run: run.into() }).await.unwrap().into_inner();
        let summary = shown.summary.unwrap();
        let (global, statistics) = (summary.global.to_vec(), summary.statistics.to_vec());
        End { outcome: summary.phase, global, statistics, tally: shown.tally.unwrap() }
    }

    pub async fn summary(&self, run: &str) -> Option<RunSummary> {
        let runs = self.admin().await?.list_runs(ListRunsRequest {}).await.ok()?.into_inner().runs;
        runs.into_iter().find(|r| r.run == run)
    }

    /// Number of members that the coordinator thinks are connected.
    pub async fn online(&self) -> usize {
        let Some(mut admin) = self.admin().await else { return 0 };
        let members = admin.list_members(ListMembersRequest {}).await.unwrap().into_inner().members;
        members.iter().filter(|m| m.online).count()
    }

    /// Waits for a condition that the processes bring about.
    pub async fn eventually<F: Future<Output = bool>>(&self, what: &str, condition: impl Fn() -> F) {
        let wait = async {
            while !condition().await {
                tokio::time::sleep(AGAIN).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "{what} did not come true\n{}", self.logs());
    }

    /// A whole run that nothing disturbs.
    pub async fn run(&self, run: &str) -> End {
        self.eventually("the submission", || self.submit(run)).await;
        self.within("the run", self.finished(run)).await;
        self.end(run).await
    }

    pub async fn within<T>(&self, what: &str, future: impl Future<Output = T>) -> T {
        match tokio::time::timeout(PATIENCE, future).await {
            Ok(value) => value,
            Err(_) => panic!("{what} hangs\n{}", self.logs()),
        }
    }

    /// The ends of all logs.
    pub fn logs(&self) -> String {
        let tail = |path: &Path| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("== {}\n{}\n", path.display(), lines[lines.len().saturating_sub(15)..].join("\n"))
        };
        let names = std::iter::once("coordinator".to_owned()).chain((0..self.setup.agents).map(|i| format!("agent-{i}")));
        names.map(|name| tail(&self.dir.path().join(format!("{name}.log")))).collect()
    }
}
