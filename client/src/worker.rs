//! The thread that trains: it owns the tasks and the device, and nothing else does.
//!
//! Work comes in by a queue and goes out as [`Finished`]. A panic in a task is caught and becomes a failed assignment;
//! the task is then made anew. The thread stays warm between rounds: data and tasks are loaded once. An answer is in the
//! outbox before anybody hears of it.

use crate::device;
use crate::fault::{hit, point};
use crate::outbox::{MOST_STARTS, Outbox, Record};
use crate::task::{self, FitContext, MemberData, State, Task, TaskError};
use burn::tensor::Device;
use bytes::Bytes;
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
    pub(crate) spec_digest: Digest,
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
    pub(crate) spec_digest: Digest,
    pub(crate) assignment: Assignment,
    /// The answer; or why there is none.
    pub(crate) result: Result<Answer, String>,
}

/// An answer and where its tensors are.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) update: UpdateRef,
    pub(crate) tensors: Tensors,
}

/// Where the tensors of an answer are.
#[derive(Debug, Clone)]
pub(crate) enum Tensors {
    /// In the outbox, if there are any.
    Stored,
    /// Only here: there is no outbox, or it refused them.
    Memory(Bytes),
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
    /// Where answers are kept until they are judged.
    pub(crate) outbox: Option<Arc<Outbox>>,
}

/// The tasks of the runs, each with the digest of the spec that it was made for.
type Tasks = BTreeMap<RunId, (Digest, Box<dyn Task>)>;

/// The way in.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    jobs: SyncSender<Message>,
    stopping: Arc<AtomicBool>,
}

impl Worker {
    /// Starts the thread. It ends when every handle is gone.
    pub(crate) fn start(settings: Settings, results: tokio::sync::mpsc::Sender<Finished>) -> std::io::Result<Self> {
        let (jobs, queue) = sync_channel(QUEUE);
        let stopping = Arc::new(AtomicBool::new(false));
        let seen = stopping.clone();
        let thread = std::thread::Builder::new().name("tessera-worker".into());
        thread.spawn(move || work(&settings, &seen, &queue, &results))?;
        Ok(Self { jobs, stopping })
    }

    /// Queues a job; gives it back if the queue is full or the thread is gone.
    pub(crate) fn submit(&self, job: Job) -> Result<(), String> {
        self.jobs.try_send(Message::Job(Box::new(job))).map_err(|_| "the agent's queue of work is full".to_owned())
    }

    /// Says that the agent is about to end: jobs are cancelled for that alone, so what ends nevertheless is kept.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Drops what is kept in memory for a run. Its state folder stays: the private values in it are personal models.
    pub(crate) fn forget(&self, run: RunId) {
        // a full queue only means that the task is kept for longer
        let _ = self.jobs.try_send(Message::Forget(run));
    }
}

fn create(job: &Job, settings: &Settings) -> Result<Box<dyn Task>, TaskError> {
    let state = State { folder: settings.state_dir.as_ref().map(|dir| dir.join(job.run.as_str())) };
    task::create_on(&job.spec, &state, &settings.device)
}

fn work(settings: &Settings, stopping: &AtomicBool, queue: &Receiver<Message>, results: &tokio::sync::mpsc::Sender<Finished>) {
    if !device::prepare(Some(settings.threads)) {
        tracing::debug!("the pool of compute threads was already running");
    }
    let mut tasks = Tasks::new();
    while let Ok(message) = queue.recv() {
        let job = match message {
            Message::Job(job) => job,
            Message::Forget(run) => {
                tasks.remove(&run);
                continue;
            }
        };
        let Some(result) = carry_out(&mut tasks, settings, stopping, &job) else { continue };
        let Job { run, spec_digest, assignment, .. } = *job;
        if results.blocking_send(Finished { run, spec_digest, assignment, result }).is_err() {
            return;
        }
    }
}

/// Does a job and keeps its answer. None if nobody wants it any more.
fn carry_out(tasks: &mut Tasks, settings: &Settings, stopping: &AtomicBool, job: &Job) -> Option<Result<Answer, String>> {
    if job.cancel.load(Ordering::Relaxed) {
        return None;
    }
    let outbox = settings.outbox.as_deref();
    let starts = outbox.map_or(0, |outbox| outbox.begin(&job.run, &job.spec_digest, &job.assignment));
    if starts >= MOST_STARTS {
        let text = format!("the agent's process ended {starts} times while it worked on this assignment; out of memory?");
        return Some(Err(text));
    }
    point("agent/job-before");
    let result = attempt(tasks, settings, job);
    point("agent/job-after-train");
    let unwanted = || job.cancel.load(Ordering::Relaxed) && !stopping.load(Ordering::Relaxed);
    let answer = result.map(|(update, bytes)| match unwanted() {
        true => None,
        false => Some(keep(outbox, job, update, bytes)),
    });
    let Some(outbox) = outbox else { return answer.transpose() };
    outbox.ended(&job.run, job.assignment.id);
    match answer {
        // whoever cancelled it in the meantime found no answer to remove
        Ok(Some(answer)) if unwanted() => {
            outbox.remove(&job.run, job.assignment.id, answer.update.blob);
            None
        }
        answer => answer.transpose(),
    }
}

fn attempt(tasks: &mut Tasks, settings: &Settings, job: &Job) -> Result<(UpdateRef, Vec<u8>), String> {
    // A task that panicked may be in any state: it is taken out before and put back only after a normal return. One of
    // another spec is of a coordinator that was set up anew.
    let kept = tasks.remove(&job.run).filter(|(digest, _)| *digest == job.spec_digest);
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let mut task = kept.map_or_else(|| create(job, settings).map_err(|e| e.to_string()), |(_, task)| Ok(task))?;
        assert!(!hit("agent/panic-in-task"), "as a test wants it");
        let result = perform(task.as_mut(), job);
        Ok::<_, String>((task, result))
    }));
    let (task, result) = outcome.map_err(|panic| format!("the task panicked: {}", panic_text(panic.as_ref())))??;
    tasks.insert(job.run.clone(), (job.spec_digest, task));
    result
}

fn keep(outbox: Option<&Outbox>, job: &Job, update: UpdateRef, bytes: Vec<u8>) -> Answer {
    let record = Record { spec: job.spec_digest, assignment: job.assignment.clone(), update };
    let stored = outbox.is_some_and(|outbox| outbox.keep(&job.run, &record, &bytes));
    Answer { update: record.update, tensors: if stored { Tensors::Stored } else { Tensors::Memory(bytes.into()) } }
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
