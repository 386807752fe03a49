//! The thread that trains: it owns the tasks and the device, and nothing else does.
//!
//! Work comes in by a queue and goes out as [`Finished`]. A panic in a task is caught and becomes a failed assignment;
//! the task is then made anew. The thread stays warm between rounds: data and tasks are loaded once.

use crate::device;
use crate::task::{self, FitContext, MemberData, State, Task, TaskError};
use burn::tensor::Device;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use tessera_common::id::{Digest, RunId};
use tessera_common::metric::Metrics;
use tessera_common::param::ParamSet;
use tessera_common::round::{Assignment, Work};
use tessera_common::spec::RunSpec;
use tessera_common::update::UpdateRef;

/// Jobs that may wait: a survey asks every member of every run at once, and a process may host a thousand of them.
const QUEUE: usize = 1 << 14;

/// One assignment with everything that it needs.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) run: RunId,
    pub(crate) spec: Arc<RunSpec>,
    pub(crate) assignment: Assignment,
    pub(crate) data: Arc<MemberData>,
    pub(crate) global: Option<Arc<ParamSet>>,
    pub(crate) statistics: Option<Arc<ParamSet>>,
    pub(crate) cancel: Arc<AtomicBool>,
}

/// An assignment that is done or cannot be done.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) run: RunId,
    pub(crate) assignment: Assignment,
    /// The answer and its blob; or why there is none.
    pub(crate) result: Result<(UpdateRef, Vec<u8>), String>,
}

enum Message {
    Job(Box<Job>),
    Forget(RunId),
}

/// What the thread works with.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Compute threads.
    pub(crate) threads: usize,
    /// Where members keep what stays with them.
    pub(crate) state_dir: Option<PathBuf>,
    /// Where tensors live.
    pub(crate) device: Device,
}

/// The way in.
#[derive(Debug, Clone)]
pub(crate) struct Worker(SyncSender<Message>);

impl Worker {
    /// Starts the thread. It ends when every handle is gone.
    pub(crate) fn start(settings: Settings, results: tokio::sync::mpsc::Sender<Finished>) -> std::io::Result<Self> {
        let (jobs, queue) = sync_channel(QUEUE);
        std::thread::Builder::new().name("tessera-worker".into()).spawn(move || work(&settings, &queue, &results))?;
        Ok(Self(jobs))
    }

    /// Queues a job; gives it back if the queue is full or the thread is gone.
    pub(crate) fn submit(&self, job: Job) -> Result<(), String> {
        self.0.try_send(Message::Job(Box::new(job))).map_err(|_| "the agent's queue of work is full".to_owned())
    }

    /// Drops what is kept in memory for a run. Its state folder stays: the private values in it are personal models.
    pub(crate) fn forget(&self, run: RunId) {
        // a full queue only means that the task is kept for longer
        let _ = self.0.try_send(Message::Forget(run));
    }
}

fn create(job: &Job, settings: &Settings) -> Result<Box<dyn Task>, TaskError> {
    let state = State { folder: settings.state_dir.as_ref().map(|dir| dir.join(job.run.as_str())) };
    task::create_on(&job.spec, &state, &settings.device)
}

fn work(settings: &Settings, queue: &Receiver<Message>, results: &tokio::sync::mpsc::Sender<Finished>) {
    if !device::prepare(Some(settings.threads)) {
        tracing::debug!("the pool of compute threads was already running");
    }
    let mut tasks: BTreeMap<RunId, Box<dyn Task>> = BTreeMap::new();
    while let Ok(message) = queue.recv() {
        let job = match message {
            Message::Job(job) => job,
            Message::Forget(run) => {
                tasks.remove(&run);
                continue;
            }
        };
        if job.cancel.load(Ordering::Relaxed) {
            continue;
        }
        // A task that panicked may be in any state: it is taken out before and put back only after a normal return.
        let task = tasks.remove(&job.run).map_or_else(|| create(&job, settings).map_err(|e| e.to_string()), Ok);
        let result = task.and_then(|mut task| {
            let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| perform(task.as_mut(), &job)));
            let result = outcome.map_err(|panic| format!("the task panicked: {}", panic_text(panic.as_ref())))?;
            tasks.insert(job.run.clone(), task);
            result
        });
        if job.cancel.load(Ordering::Relaxed) {
            continue;
        }
        if results.blocking_send(Finished { run: job.run, assignment: job.assignment, result }).is_err() {
            return;
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// What an answer is made of, before it is packed.
#[derive(Default)]
struct Outcome {
    blob: Option<ParamSet>,
    examples: u32,
    weights: BTreeMap<String, u32>,
    metrics: Metrics,
}

fn perform(task: &mut dyn Task, job: &Job) -> Result<(UpdateRef, Vec<u8>), String> {
    let global = || job.global.as_deref().ok_or("the assignment names no global model".to_owned());
    let text = |e: TaskError| e.to_string();
    let outcome = match job.assignment.work {
        Work::Initialise => Outcome { blob: Some(task.initialise().map_err(text)?), ..Outcome::default() },
        Work::SurveyInputs => Outcome { blob: Some(task.survey_inputs(&job.data).map_err(text)?), ..Outcome::default() },
        Work::SurveyFeatures => {
            Outcome { blob: Some(task.survey_features(&job.data, global()?).map_err(text)?), ..Outcome::default() }
        }
        Work::Fit => {
            let context = FitContext { data: &job.data, global: global()?, round: job.assignment.round, cancel: &job.cancel };
            let fit = task.fit(&context).map_err(text)?;
            Outcome { blob: Some(fit.update), examples: fit.examples, weights: fit.weights, metrics: fit.metrics }
        }
        Work::Evaluate => {
            let metrics = task.evaluate(&job.data, global()?, job.statistics.as_deref()).map_err(text)?;
            Outcome { metrics, ..Outcome::default() }
        }
    };
    let bytes = outcome.blob.map(|set| set.to_bytes());
    let update = UpdateRef {
        member: job.assignment.member.clone(),
        assignment: job.assignment.id,
        blob: bytes.as_deref().map(Digest::of),
        bytes: bytes.as_ref().map_or(0, |b| b.len() as u64),
        examples: outcome.examples,
        weights: outcome.weights,
        metrics: outcome.metrics,
    };
    Ok((update, bytes.unwrap_or_default()))
}
