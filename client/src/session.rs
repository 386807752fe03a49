//! The agent's side of the conversation: connect, say who is served, take work, send answers, outlive the network.
//!
//! An answer is kept until the coordinator's verdict is there, and sent again after a reconnect: nobody trains twice
//! because a link broke. An assignment given twice is done once.

use crate::config::{Agent, member_info};
use crate::transfer::{self, Blobs};
use crate::worker::{Finished, Job, Settings, Worker};
use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tessera_common::id::{AgentName, AssignmentId, Digest, MemberName, RunId};
use tessera_common::round::Assignment;
use tessera_common::spec::RunSpec;
use tessera_common::update::UpdateRef;
use tessera_proto::convert::{Malformed, member_name, run_id, shorten, wire_answer, wire_member};
use tessera_proto::v1::{self, agent_message::Message as Up, coordinator_message::Message as Down};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
pub(crate) use tonic::transport::Channel;
use tonic::{Code, Status};

/// Messages that may wait to be sent: a failure of every member of a large agent at once. A full queue means a dead link.
const OUTBOX: usize = 4096;
/// Answers that may wait for the session while it reconnects; the worker then waits too.
const RESULTS: usize = 64;
/// Longest pause between two attempts to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A connection that lived for so long was a good one: the pauses start from the shortest again.
const GOOD_CONNECTION: Duration = Duration::from_secs(10);

type Key = (RunId, AssignmentId);

/// Where an assignment stands.
enum Stage {
    /// Its blobs are being fetched, by the connection of this number.
    Fetching(u64),
    /// The worker has it.
    Working,
    /// Done, and not yet acknowledged.
    Done { update: Box<UpdateRef>, blob: Bytes },
}

struct Entry {
    stage: Stage,
    cancel: Arc<AtomicBool>,
}

/// What a transfer in the background came to.
enum Transfer {
    Fetched(Key, Result<Box<Job>, Status>),
    Sent(Key, MemberName, Result<(), Status>),
}

/// The coordinator will say the same again: the answer is given up, not the connection, which serves other members too.
fn is_final(status: &Status) -> bool {
    matches!(status.code(), Code::ResourceExhausted | Code::InvalidArgument | Code::PermissionDenied | Code::OutOfRange)
}

struct Session {
    agent: Agent,
    worker: Worker,
    results: mpsc::Receiver<Finished>,
    entries: BTreeMap<Key, Entry>,
    specs: BTreeMap<RunId, Arc<RunSpec>>,
    blobs: Arc<Blobs>,
    connection: u64,
}

/// A live connection.
struct Link {
    channel: Channel,
    outbox: mpsc::Sender<v1::AgentMessage>,
    transfers: JoinSet<Transfer>,
}

/// Serves the agent's members until `shutdown` is ready. Connects again, with growing and jittered pauses, for as long
/// as it takes.
///
/// # Errors
/// If the worker thread cannot be started or ends.
pub async fn run(agent: Agent, shutdown: impl Future<Output = ()>) -> std::io::Result<()> {
    let (results_in, results) = mpsc::channel(RESULTS);
    let settings = Settings { threads: agent.threads, state_dir: agent.state_dir.clone(), device: agent.device.clone() };
    let worker = Worker::start(settings, results_in)?;
    let mut session = Session {
        agent,
        worker,
        results,
        entries: BTreeMap::new(),
        specs: BTreeMap::new(),
        blobs: Arc::default(),
        connection: 0,
    };
    tokio::pin!(shutdown);
    let pauses = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(LONGEST_PAUSE)
        .without_max_times()
        .with_jitter()
        // Agents that lost one coordinator must not come back in step. This is no draw of a run.
        .with_jitter_seed(jitter_seed(&session.agent.name));
    let mut pause = pauses.build();
    loop {
        let started = tokio::time::Instant::now();
        let end = tokio::select! {
            () = &mut shutdown => break,
            end = session.connect_and_serve() => end,
        };
        session.cancel_fetches();
        if started.elapsed() > GOOD_CONNECTION {
            pause = pauses.build();
        }
        let wait = pause.next().unwrap_or(LONGEST_PAUSE);
        match end {
            Ok(()) => tracing::info!(?wait, "coordinator closed the connection; connecting again"),
            Err(status) => {
                let (error, code) = (whole_cause(&status), status.code());
                tracing::warn!(error, ?code, ?wait, "no connection to the coordinator; trying again");
            }
        }
        tokio::select! {
            () = &mut shutdown => break,
            () = tokio::time::sleep(wait) => {}
        }
    }
    // whoever trains now need not finish
    session.entries.values().for_each(|e| e.cancel.store(true, Ordering::Relaxed));
    Ok(())
}

/// Different for every start of every agent.
fn jitter_seed(agent: &AgentName) -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let text = format!("{agent} {} {now}", std::process::id());
    let digest = Digest::of(text.as_bytes());
    u64::from_le_bytes(std::array::from_fn(|i| digest.as_bytes()[i]))
}

/// An error with its causes: "transport error" alone helps nobody.
fn whole_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut parts = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.downcast_ref::<Status>().map_or_else(|| error.to_string(), |s| s.message().to_owned());
        if !parts.contains(&text) && !text.is_empty() {
            parts.push(text);
        }
        next = error.source();
    }
    parts.join(": ")
}

impl Session {
    fn hello(&self) -> v1::AgentMessage {
        let members = self.agent.members.values().map(|data| wire_member(&data.name, &member_info(data))).collect();
        let hello = v1::Hello { agent: self.agent.name.to_string(), version: tessera_proto::VERSION.into(), members };
        v1::AgentMessage { message: Some(Up::Hello(hello)) }
    }

    async fn connect_and_serve(&mut self) -> Result<(), Status> {
        let channel = self.agent.dial.connect().await.map_err(|e| Status::unavailable(whole_cause(&e)))?;
        let (outbox, queue) = mpsc::channel(OUTBOX);
        let mut link = Link { channel, outbox, transfers: JoinSet::new() };
        self.connection += 1;
        link.send(self.hello())?;
        let mut inbound = transfer::client(&link.channel).connect(ReceiverStream::new(queue)).await?.into_inner();
        let mut heartbeat = tokio::time::interval(self.agent.heartbeat);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut silent_since = tokio::time::Instant::now();
        loop {
            tokio::select! {
                message = inbound.message() => {
                    silent_since = tokio::time::Instant::now();
                    let Some(message) = message?.and_then(|m| m.message) else { return Ok(()) };
                    if let Down::Welcome(welcome) = &message {
                        let every = Duration::from_millis(u64::from(welcome.heartbeat_ms.clamp(50, 60_000)));
                        self.agent.heartbeat = every;
                        heartbeat = tokio::time::interval(every);
                        self.send_finished(&mut link);
                    }
                    self.receive(message, &mut link)?;
                }
                Some(finished) = self.results.recv() => self.finished(finished, &mut link)?,
                Some(done) = link.transfers.join_next() => self.transferred(done, &mut link)?,
                _ = heartbeat.tick() => {
                    // A half-open connection looks alive to TCP for minutes.
                    if silent_since.elapsed() > self.agent.heartbeat * 10 + Duration::from_secs(5) {
                        return Err(Status::deadline_exceeded("nothing heard from the coordinator"));
                    }
                    link.send(v1::AgentMessage { message: Some(Up::Heartbeat(v1::Heartbeat {})) })?;
                }
            }
        }
    }

    /// Fetches end with their connection; the coordinator gives the work again after the next hello.
    fn cancel_fetches(&mut self) {
        self.entries.retain(|_, e| !matches!(e.stage, Stage::Fetching(_)));
    }

    fn send_finished(&mut self, link: &mut Link) {
        for ((run, _), entry) in &self.entries {
            if let Stage::Done { update, blob } = &entry.stage {
                link.answer(run, update, blob);
            }
        }
    }

    fn receive(&mut self, message: Down, link: &mut Link) -> Result<(), Status> {
        match message {
            Down::Welcome(welcome) => {
                tracing::info!(coordinator = welcome.version, members = self.agent.members.len(), "joined");
            }
            Down::RunOpened(opened) => self.run_opened(&opened)?,
            Down::Assignment(wire) => {
                let (run, assignment) = wire.try_into().map_err(|e: Malformed| Status::from(e))?;
                self.assigned(run, assignment, link)?;
            }
            Down::Cancel(cancel) => {
                let key = (run_id(&cancel.run)?, AssignmentId(cancel.assignment));
                if let Some(entry) = self.entries.remove(&key) {
                    entry.cancel.store(true, Ordering::Relaxed);
                }
            }
            Down::Verdict(verdict) => self.verdict(&verdict)?,
            Down::RunClosed(closed) => {
                let run = run_id(&closed.run)?;
                tracing::info!(%run, outcome = closed.outcome, "run is over");
                self.specs.remove(&run);
                let over = self.entries.extract_if(.., |key, _| key.0 == run);
                over.for_each(|(_, entry)| entry.cancel.store(true, Ordering::Relaxed));
                self.worker.forget(run);
            }
            Down::Heartbeat(_) => {}
        }
        Ok(())
    }

    fn run_opened(&mut self, opened: &v1::RunOpened) -> Result<(), Status> {
        let run = run_id(&opened.run)?;
        // A spec of a newer version, say: its assignments are answered with a failure that says so.
        match RunSpec::from_toml(&opened.spec_toml) {
            Ok(spec) => {
                self.specs.insert(run, Arc::new(spec));
            }
            Err(error) => tracing::error!(%run, %error, "the spec of this run is not understood"),
        }
        Ok(())
    }

    fn verdict(&mut self, verdict: &v1::Verdict) -> Result<(), Status> {
        let (run, member) = (run_id(&verdict.run)?, member_name(&verdict.member)?);
        let assignment = AssignmentId(verdict.assignment);
        if !verdict.accepted {
            tracing::warn!(%run, %member, %assignment, reason = verdict.reason, "the coordinator refused this answer");
        }
        self.entries.remove(&(run, assignment));
        Ok(())
    }

    fn assigned(&mut self, run: RunId, assignment: Assignment, link: &mut Link) -> Result<(), Status> {
        let key = (run.clone(), assignment.id);
        if let Some(entry) = self.entries.get(&key) {
            if let Stage::Done { update, blob } = &entry.stage {
                link.answer(&run, update, blob);
            }
            return Ok(());
        }
        let data = self.agent.members.get(&assignment.member).cloned();
        let (Some(data), Some(spec)) = (data, self.specs.get(&run).cloned()) else {
            let reason = "this agent does not serve the member, or does not understand the run's spec";
            return link.fail(&run, &assignment.member, assignment.id, reason.into());
        };
        let cancel = Arc::new(AtomicBool::new(false));
        self.entries.insert(key.clone(), Entry { stage: Stage::Fetching(self.connection), cancel: cancel.clone() });
        let (blobs, channel) = (self.blobs.clone(), link.channel.clone());
        link.transfers.spawn(async move {
            let fetch = async {
                let mut parts = [None, None];
                for (part, digest) in parts.iter_mut().zip([assignment.global, assignment.statistics]) {
                    if let Some(digest) = digest {
                        *part = Some(blobs.get(&channel, digest).await?);
                    }
                }
                let [global, statistics] = parts;
                Ok(Box::new(Job { run, spec, assignment, data, global, statistics, cancel }))
            };
            Transfer::Fetched(key, fetch.await)
        });
        Ok(())
    }

    fn transferred(&mut self, done: Result<Transfer, tokio::task::JoinError>, link: &mut Link) -> Result<(), Status> {
        match done.map_err(|e| Status::internal(e.to_string()))? {
            Transfer::Sent((run, assignment), member, Err(status)) if is_final(&status) => {
                let reason = status.message().to_owned();
                tracing::error!(%run, %member, %assignment, reason, "the coordinator does not take this answer");
                self.entries.remove(&(run.clone(), assignment));
                link.fail(&run, &member, assignment, reason)
            }
            Transfer::Sent(_, _, result) => result,
            Transfer::Fetched(key, result) => {
                let job = result?;
                // it may have been cancelled while its blobs were on the way
                let Some(entry) =
                    self.entries.get_mut(&key).filter(|e| matches!(e.stage, Stage::Fetching(c) if c == self.connection))
                else {
                    return Ok(());
                };
                entry.stage = Stage::Working;
                let member = job.assignment.member.clone();
                if let Err(reason) = self.worker.submit(*job) {
                    self.entries.remove(&key);
                    link.fail(&key.0, &member, key.1, reason)?;
                }
                Ok(())
            }
        }
    }

    fn finished(&mut self, finished: Finished, link: &mut Link) -> Result<(), Status> {
        let Finished { run, assignment, result } = finished;
        let key = (run.clone(), assignment.id);
        let Some(entry) = self.entries.get_mut(&key) else {
            return Ok(());
        };
        match result {
            Ok((update, blob)) => {
                let blob = Bytes::from(blob);
                link.answer(&run, &update, &blob);
                entry.stage = Stage::Done { update: Box::new(update), blob };
                Ok(())
            }
            Err(reason) => {
                tracing::error!(%run, member = %assignment.member, round = assignment.round, reason, "an assignment failed");
                self.entries.remove(&key);
                link.fail(&run, &assignment.member, assignment.id, reason)
            }
        }
    }
}

impl Link {
    fn send(&self, message: v1::AgentMessage) -> Result<(), Status> {
        self.outbox.try_send(message).map_err(|_| Status::unavailable("the link takes no more messages"))
    }

    fn fail(&self, run: &RunId, member: &MemberName, assignment: AssignmentId, reason: String) -> Result<(), Status> {
        let failure =
            v1::Failure { run: run.to_string(), member: member.to_string(), assignment: assignment.0, reason: shorten(reason) };
        self.send(v1::AgentMessage { message: Some(Up::Failure(failure)) })
    }

    /// Uploads the blob, then says so.
    fn answer(&mut self, run: &RunId, update: &UpdateRef, blob: &Bytes) {
        let (channel, outbox, blob) = (self.channel.clone(), self.outbox.clone(), blob.clone());
        let (digest, answer) = (update.blob, wire_answer(run, update));
        let (key, member) = ((run.clone(), update.assignment), update.member.clone());
        self.transfers.spawn(async move {
            let send = async {
                if let Some(digest) = digest {
                    transfer::upload(&channel, digest, blob).await?;
                }
                let message = v1::AgentMessage { message: Some(Up::Answer(answer)) };
                outbox.send(message).await.map_err(|_| Status::unavailable("the link is closed"))
            };
            Transfer::Sent(key, member, send.await)
        });
    }
}
