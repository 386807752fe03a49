//! An agent against a coordinator that a test speaks for, over a pipe.

use super::*;
use crate::config::Dial;
use crate::data::{Modality, Samples};
use crate::outbox::MOST_STARTS;
use crate::policy::Policy;
use crate::task::MemberData;
use scripted::{Conversation, Coordinator, accepted};
use std::path::Path;
use tempfile::TempDir;
use tessera_common::round::Work;
use tessera_proto::convert::wire_assignment;

mod refused;
mod scripted;

const RUN: &str = "first";

fn spec(seed: u64) -> RunSpec {
    let text = format!(
        "version = 1\nname = \"t\"\nrounds = 2\nseed = {seed}\ncohort = {{ members = 1, size = 1 }}\n\
         task = {{ kind = \"classify\", classes = 2, modalities = {{ a = 2 }}, standardise = false }}"
    );
    RunSpec::from_toml(&text).unwrap()
}

/// Two samples that depend on `scale`, and so does whatever is computed from them.
fn data(scale: f32) -> MemberData {
    let a = Modality { name: "a".into(), dim: 2, values: vec![scale, 2.0, 3.0, 4.0] };
    let train = Samples { modalities: vec![a], labels: vec![0, 1], present: vec![1, 1] };
    let none = train.select(&[]);
    MemberData { name: "north".parse().unwrap(), train, held_out: none.clone(), test: none }
}

fn agent(dial: Dial, state: Option<&Path>, scale: f32) -> Agent {
    Agent {
        name: "agent".parse().unwrap(),
        dial,
        identity: None,
        policy: Policy::default(),
        members: [("north".parse().unwrap(), Arc::new(data(scale)))].into(),
        threads: 1,
        device: crate::device::open("cpu").unwrap(),
        state_dir: state.map(Path::to_owned),
        heartbeat: Duration::from_millis(50),
    }
}

fn survey(id: u64) -> Assignment {
    let (member, id) = ("north".parse().unwrap(), AssignmentId(id));
    Assignment { id, member, work: Work::SurveyInputs, round: 0, global: None, statistics: None }
}

fn first_run() -> RunId {
    RUN.parse().unwrap()
}

/// A coordinator, a state folder, and agents that come and go.
struct Theatre {
    coordinator: Coordinator,
    state: TempDir,
}

impl Theatre {
    fn new() -> Self {
        Self { coordinator: Coordinator::start(), state: tempfile::tempdir().unwrap() }
    }

    fn outbox(&self) -> std::path::PathBuf {
        self.state.path().join("outbox").join(RUN)
    }

    fn files(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.outbox()) else { return Vec::new() };
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Waits until no agent has the folder; the worker of the last one may still be ending.
    async fn free(&self) -> Arc<StateDir> {
        loop {
            match StateDir::take(self.state.path()) {
                Ok(state) => return state.unwrap(),
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    /// An agent that has joined, and the conversation with it.
    async fn join(&mut self, scale: f32) -> (Running, Conversation) {
        drop(self.free().await);
        let agent = agent(self.coordinator.dial(), Some(self.state.path()), scale);
        let running = Running(tokio::spawn(run(agent, std::future::pending())));
        let mut talk = self.coordinator.conversation().await;
        talk.welcome().await;
        (running, talk)
    }
}

struct Running(tokio::task::JoinHandle<std::io::Result<()>>);

impl Running {
    /// As a crash would.
    async fn kill(self) {
        self.0.abort();
        assert!(self.0.await.unwrap_err().is_cancelled());
    }
}

async fn give(talk: &mut Conversation, seed: u64, assignment: &Assignment) {
    talk.say(Down::RunOpened(v1::RunOpened { run: RUN.into(), spec_toml: spec(seed).to_toml() })).await;
    talk.say(Down::Assignment(wire_assignment(&first_run(), assignment))).await;
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("this takes too long")
}

// Should: send the answer of the process before. Should not: do the work again, which would give other sums from other data.
#[tokio::test]
async fn a_finished_answer_outlives_its_agent() {
    within(async {
        let mut stage = Theatre::new();
        let (first, mut talk) = stage.join(1.0).await;
        give(&mut talk, 1, &survey(5)).await;
        let answer = talk.answer().await;
        assert_eq!(stage.files().len(), 2, "{:?}", stage.files());
        first.kill().await;
        let (second, mut talk) = stage.join(9.0).await;
        give(&mut talk, 1, &survey(5)).await;
        assert_eq!(talk.answer().await, answer);
        talk.say(accepted(&answer)).await;
        talk.idle().await;
        assert!(stage.files().is_empty(), "{:?}", stage.files());
        second.kill().await;
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_is_not_asked_for_again_is_sent_for_its_verdict() {
    within(async {
        let mut stage = Theatre::new();
        let (first, mut talk) = stage.join(1.0).await;
        give(&mut talk, 1, &survey(5)).await;
        let answer = talk.answer().await;
        first.kill().await;
        let (second, mut talk) = stage.join(9.0).await;
        talk.say(Down::Heartbeat(v1::Heartbeat {})).await;
        talk.say(Down::Heartbeat(v1::Heartbeat {})).await;
        assert_eq!(talk.answer().await, answer);
        talk.say(Down::RunClosed(v1::RunClosed { run: RUN.into(), outcome: "completed".into() })).await;
        talk.idle().await;
        assert!(!stage.outbox().exists());
        second.kill().await;
    })
    .await;
}

// Should: do the work. Should not: pass off what was done for another run of the same id, or for other work.
#[tokio::test]
async fn what_was_done_for_a_coordinator_that_is_no_more_is_thrown_away() {
    within(async {
        let mut stage = Theatre::new();
        let (first, mut talk) = stage.join(1.0).await;
        give(&mut talk, 1, &survey(5)).await;
        let old = talk.answer().await;
        give(&mut talk, 1, &survey(6)).await;
        assert_eq!(talk.answer().await.blob, old.blob);
        first.kill().await;
        let (second, mut talk) = stage.join(9.0).await;
        give(&mut talk, 2, &survey(5)).await;
        assert_ne!(talk.answer().await.blob, old.blob, "another spec");
        give(&mut talk, 1, &Assignment { round: 1, ..survey(6) }).await;
        assert_ne!(talk.answer().await.blob, old.blob, "another assignment");
        second.kill().await;
    })
    .await;
}

#[tokio::test]
async fn a_damaged_answer_is_computed_again() {
    within(async {
        let mut stage = Theatre::new();
        let (first, mut talk) = stage.join(1.0).await;
        give(&mut talk, 1, &survey(5)).await;
        let old = talk.answer().await;
        first.kill().await;
        let blob = stage.files().into_iter().find(|f| f.ends_with(".safetensors")).unwrap();
        let mut bytes = std::fs::read(stage.outbox().join(&blob)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(stage.outbox().join(&blob), bytes).unwrap();
        stage.coordinator.forget_blobs();
        let (second, mut talk) = stage.join(9.0).await;
        give(&mut talk, 1, &survey(5)).await;
        assert_ne!(talk.answer().await.blob, old.blob);
        assert!(stage.files().contains(&format!("{blob}.damaged")), "{:?}", stage.files());
        second.kill().await;
    })
    .await;
}

#[tokio::test]
async fn work_that_ended_three_processes_is_a_failure() {
    within(async {
        let mut stage = Theatre::new();
        let outbox = Outbox::new(stage.free().await);
        let digest = Known::from(spec(1)).digest;
        for before in 0..MOST_STARTS {
            assert_eq!(outbox.begin(&first_run(), &digest, &survey(5)), before);
        }
        drop(outbox);
        let (first, mut talk) = stage.join(1.0).await;
        give(&mut talk, 1, &survey(5)).await;
        let reason = talk.failure().await.reason;
        assert_eq!(reason, "the agent's process ended 3 times while it worked on this assignment; out of memory?");
        give(&mut talk, 1, &survey(6)).await;
        talk.answer().await;
        first.kill().await;
    })
    .await;
}

#[tokio::test]
async fn an_outbox_that_refuses_costs_nothing_but_safety() {
    within(async {
        let mut stage = Theatre::new();
        std::fs::write(stage.state.path().join("outbox"), "").unwrap();
        let (first, mut talk) = stage.join(1.0).await;
        give(&mut talk, 1, &survey(5)).await;
        let answer = talk.answer().await;
        // the link breaks, the process lives
        drop(talk);
        let mut talk = stage.coordinator.conversation().await;
        talk.welcome().await;
        give(&mut talk, 1, &survey(5)).await;
        assert_eq!(talk.answer().await, answer);
        first.kill().await;
    })
    .await;
}

#[tokio::test]
async fn a_lost_message_ends_the_connection_and_everything_comes_again() {
    within(async {
        let mut stage = Theatre::new();
        let (first, mut talk) = stage.join(1.0).await;
        give(&mut talk, 1, &survey(5)).await;
        let answer = talk.answer().await;
        talk.lose();
        talk.say(accepted(&answer)).await;
        let mut talk = stage.coordinator.conversation().await;
        talk.welcome().await;
        give(&mut talk, 1, &survey(5)).await;
        assert_eq!(talk.answer().await, answer);
        first.kill().await;
    })
    .await;
}

// Should: go on where the process before was, and fetch what is whole no more. Should not: start anew.
#[tokio::test]
async fn a_download_goes_on_after_a_restart() {
    within(async {
        let mut stage = Theatre::new();
        let blob = crate::task::create(&spec(1)).unwrap().initialise().unwrap().to_bytes();
        let global = stage.coordinator.put(&blob);
        let features = Assignment { work: Work::SurveyFeatures, global: Some(global), ..survey(5) };
        stage.coordinator.break_downloads_after(Some(100));
        let (first, mut talk) = stage.join(1.0).await;
        give(&mut talk, 1, &features).await;
        drop(stage.coordinator.conversation().await);
        first.kill().await;
        assert_eq!(stage.coordinator.offsets()[0], 0);
        let had = std::fs::metadata(stage.state.path().join("blobs").join(format!("{global}.part"))).unwrap().len();
        assert!(had > 0 && had < blob.len() as u64);
        stage.coordinator.break_downloads_after(None);
        let before = stage.coordinator.offsets().len();
        let (second, mut talk) = stage.join(1.0).await;
        give(&mut talk, 1, &features).await;
        let answer = talk.answer().await;
        assert_eq!(stage.coordinator.offsets()[before..], [had]);
        talk.say(accepted(&answer)).await;
        talk.idle().await;
        second.kill().await;
        let (third, mut talk) = stage.join(1.0).await;
        give(&mut talk, 1, &Assignment { id: AssignmentId(6), ..features }).await;
        assert_eq!(talk.answer().await.blob, answer.blob);
        assert_eq!(stage.coordinator.offsets().len(), before + 1, "the whole blob was here");
        third.kill().await;
    })
    .await;
}

#[tokio::test]
async fn a_state_folder_of_another_agent_is_refused() {
    let stage = Theatre::new();
    let _other = stage.free().await;
    let agent = agent(stage.coordinator.dial(), Some(stage.state.path()), 1.0);
    let error = run(agent, std::future::pending()).await.unwrap_err().to_string();
    assert!(error.contains("is in use by another agent"), "{error}");
}

#[tokio::test]
async fn an_agent_that_is_stopped_has_not_crashed() {
    within(async {
        let mut stage = Theatre::new();
        drop(stage.free().await);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let agent = agent(stage.coordinator.dial(), Some(stage.state.path()), 1.0);
        let running = tokio::spawn(run(agent, async { drop(stopped.await) }));
        let mut talk = stage.coordinator.conversation().await;
        talk.welcome().await;
        give(&mut talk, 1, &survey(5)).await;
        drop(stop);
        running.await.unwrap().unwrap();
        drop(stage.free().await);
        let left: Vec<String> = stage.files().into_iter().filter(|f| f.ends_with(".started")).collect();
        assert!(left.is_empty(), "{left:?}");
    })
    .await;
}
