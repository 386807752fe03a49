//! The agent's side of the conversation: connect, say who is served, take work, send answers, outlive the network.
//!
//! An answer is kept until the coordinator's verdict is there, over restarts too, and sent again after a reconnect: nobody
//! trains twice because a link broke or a process ended. An assignment given twice is done once.

mod answers;
mod clock;
mod entries;
mod link;
mod refusal;
mod rules;
#[cfg(test)]
mod tests;

use crate::audit::{self, Audit};
use crate::blobs::Blobs;
use crate::config::{Agent, member_info};
use crate::dial::{CONNECT_LIMIT, Heard};
use crate::fault::{hit, point};
use crate::outbox::{Key, Outbox};
use crate::policy::Ledger;
use crate::quiet::Quiet;
use crate::state::StateDir;
use crate::transfer;
use crate::worker::{Finished, Job, Settings, Worker};
use backon::{BackoffBuilder, ExponentialBuilder};
use entries::{Entry, Known, Stage};
use link::{Link, Transfer};
use refusal::{Refused, is_final, lasts};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tessera_common::id::{AgentName, AssignmentId, Digest, RunId};
use tessera_common::round::Assignment;
use tessera_common::spec::RunSpec;
use tessera_proto::convert::{Malformed, run_id, wire_member};
use tessera_proto::v1::{self, agent_message::Message as Up, coordinator_message::Message as Down};
use tokio::sync::mpsc;
use tonic::Status;
pub(crate) use tonic::transport::Channel;

/// Answers that may wait for the session while it reconnects; the worker then waits too.
const RESULTS: usize = 64;
/// Longest pause between two attempts to connect: jitter adds up to as much again, so half of it is the limit.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A connection that lived for so long was a good one: the pauses start from the shortest again.
const GOOD_CONNECTION: Duration = Duration::from_secs(10);
/// Heartbeats after which whatever the coordinator had to give again has come: it joins the members before the second.
const CAUGHT_UP: u32 = 2;

struct Session {
    agent: Agent,
    worker: Worker,
    results: mpsc::Receiver<Finished>,
    outbox: Option<Arc<Outbox>>,
    entries: BTreeMap<Key, Entry>,
    specs: BTreeMap<RunId, Known>,
    blobs: Arc<Blobs>,
    connection: u64,
    /// The coordinator has accepted something over this connection.
    progress: bool,
    clocks: Quiet,
    audit: Audit,
    /// Runs taken part in, if the policy bounds their number.
    ledger: Option<Ledger>,
    /// The coordinator would not have this agent at all.
    refused: Refused,
    /// Renewals of the certificate that failed.
    unrenewed: Quiet,
}

/// Serves the agent's members until `shutdown` is ready. Connects again, with growing and jittered pauses, for as long
/// as it takes.
///
/// # Errors
/// If the state folder is another agent's or cannot be used, if the policy cannot be kept, or the worker thread cannot be
/// started. Whatever the coordinator says is no error: an agent that is refused asks again.
pub async fn run(agent: Agent, shutdown: impl Future<Output = ()>) -> std::io::Result<()> {
    let mut session = Session::start(agent)?;
    tokio::pin!(shutdown);
    let pauses = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(LONGEST_PAUSE / 2)
        .without_max_times()
        .with_jitter()
        // Agents that lost one coordinator must not come back in step. This is no draw of a run.
        .with_jitter_seed(jitter_seed(&session.agent.name));
    let mut pause = pauses.build();
    loop {
        let started = tokio::time::Instant::now();
        session.progress = false;
        let end = tokio::select! {
            () = &mut shutdown => break,
            end = session.connect_and_serve() => end,
        };
        session.drop_fetches();
        if session.progress || started.elapsed() > GOOD_CONNECTION {
            pause = pauses.build();
        }
        let wait = refusal::wait(&end, &mut pause);
        match end {
            Err(status) if lasts(&status) => session.turned_away(&status, wait),
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
    session.stop();
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
    fn start(agent: Agent) -> std::io::Result<Self> {
        let invalid = |e| std::io::Error::new(std::io::ErrorKind::InvalidInput, format!("{e}"));
        agent.policy.validate(agent.members.keys(), agent.state_dir.is_some()).map_err(invalid)?;
        let state = agent.state_dir.as_deref().map(StateDir::take).transpose()?.flatten();
        if state.is_none() {
            tracing::warn!("finished answers are in memory only and are lost if this process ends: set state_dir");
        }
        let outbox = state.clone().map(|state| Arc::new(Outbox::new(state)));
        let stored = outbox.as_ref().map(|outbox| outbox.load()).unwrap_or_default();
        if !stored.is_empty() {
            tracing::info!(answers = stored.len(), "finished answers of an earlier start wait to be sent");
        }
        let ledger = Ledger::open(&agent.policy, state.clone())?;
        let mut audit = Audit::open(state.as_deref(), &agent.name);
        audit.note(audit::entry("start", agent.policy.to_string()));
        let (results_in, results) = mpsc::channel(RESULTS);
        let settings = Settings {
            threads: agent.threads,
            state_dir: agent.state_dir.clone(),
            device: agent.device.clone(),
            outbox: outbox.clone(),
        };
        Ok(Self {
            worker: Worker::start(settings, results_in)?,
            agent,
            results,
            outbox,
            entries: stored.into_iter().map(|(key, record)| (key, Entry::stored(record))).collect(),
            specs: BTreeMap::new(),
            blobs: Arc::new(Blobs::new(state)),
            connection: 0,
            progress: false,
            clocks: Quiet::default(),
            audit,
            ledger,
            refused: Refused::default(),
            unrenewed: Quiet::default(),
        })
    }

    /// Whoever trains now need not finish. That this end is no crash is noted.
    fn stop(&self) {
        self.worker.stop();
        for ((run, id), entry) in &self.entries {
            entry.cancel();
            if let (Stage::Working, Some(outbox)) = (&entry.stage, &self.outbox) {
                outbox.ended(run, *id);
            }
        }
    }

    fn hello(&self) -> Up {
        let members = self.agent.members.values().map(|data| wire_member(&data.name, &member_info(data))).collect();
        Up::Hello(v1::Hello { agent: self.agent.name.to_string(), version: tessera_proto::VERSION.into(), members })
    }

    async fn connect_and_serve(&mut self) -> Result<(), Status> {
        let heard = Heard::default();
        let channel = self.agent.dial.connect(&heard).await.map_err(|e| Status::unavailable(whole_cause(&e)))?;
        let (mut link, messages) = Link::new(channel, heard);
        self.connection += 1;
        link.send(self.hello())?;
        let mut client = transfer::client(&link.channel);
        let answered = tokio::time::timeout(CONNECT_LIMIT, client.connect(messages)).await;
        let late = |_| Status::deadline_exceeded("the coordinator does not answer");
        let mut inbound = answered.map_err(late)??.into_inner();
        let mut heartbeat = ticks(self.agent.heartbeat);
        loop {
            tokio::select! {
                message = inbound.message() => {
                    let Some(message) = message? else { return Ok(()) };
                    if hit("agent/lose-received") {
                        continue;
                    }
                    link.in_order(message.sequence)?;
                    match message.message {
                        Some(Down::Welcome(welcome)) => {
                            self.welcomed(&welcome)?;
                            heartbeat = ticks(self.agent.heartbeat);
                        }
                        Some(message) => self.receive(message, &mut link)?,
                        None => tracing::debug!("a message that this version does not know"),
                    }
                }
                Some(finished) = self.results.recv() => self.finished(finished, &mut link)?,
                Some(done) = link.transfers.join_next() => self.transferred(done, &mut link)?,
                _ = heartbeat.tick() => {
                    link.listen(self.agent.heartbeat)?;
                    self.renew(&mut link);
                    link.send(Up::Heartbeat(v1::Heartbeat {}))?;
                }
            }
        }
    }

    /// Fetches end with their connection; the coordinator gives the work again after the next hello.
    fn drop_fetches(&mut self) {
        self.entries.retain(|_, e| !matches!(e.stage, Stage::Fetching));
    }

    /// # Errors
    /// If the coordinator is too old or too new.
    fn welcomed(&mut self, welcome: &v1::Welcome) -> Result<(), Status> {
        let (theirs, ours) = (&welcome.version, tessera_proto::VERSION);
        tessera_proto::version::check_between("the coordinator", theirs, "the agent", ours)
            .map_err(Status::failed_precondition)?;
        self.refused = Refused::default();
        self.audit.note(audit::entry("join", format!("ok: coordinator of version {theirs}")));
        tracing::info!(coordinator = welcome.version, members = self.agent.members.len(), "joined");
        clock::compare(welcome.time_ms, &self.clocks);
        self.agent.heartbeat = Duration::from_millis(u64::from(welcome.heartbeat_ms.clamp(50, 60_000)));
        point("agent/welcomed");
        Ok(())
    }

    fn receive(&mut self, message: Down, link: &mut Link) -> Result<(), Status> {
        match message {
            // only the first message is one
            Down::Welcome(_) => {}
            Down::RunOpened(opened) => self.run_opened(&opened)?,
            Down::Assignment(wire) => {
                let (run, assignment) = wire.try_into().map_err(|e: Malformed| Status::from(e))?;
                self.assigned(run, assignment, link)?;
            }
            Down::Cancel(cancel) => self.forget(&(run_id(&cancel.run)?, AssignmentId(cancel.assignment))),
            Down::Verdict(verdict) => self.verdict(&verdict)?,
            Down::RunClosed(closed) => self.run_closed(&closed)?,
            Down::Heartbeat(_) => {
                link.beats = link.beats.saturating_add(1);
                if link.beats == CAUGHT_UP {
                    self.send_waiting(link);
                }
            }
        }
        Ok(())
    }

    fn run_opened(&mut self, opened: &v1::RunOpened) -> Result<(), Status> {
        let run = run_id(&opened.run)?;
        // A spec of a newer version, say: its assignments are answered with a failure that says so.
        match RunSpec::from_toml(&opened.spec_toml) {
            Ok(spec) => self.look_at(run, spec.into()),
            Err(error) => {
                tracing::error!(%run, %error, "the spec of this run is not understood");
                let entry = audit::entry("open", format!("the spec is not understood: {error}"));
                self.audit.note(audit::Entry { run: Some(run.to_string()), ..entry });
                self.specs.remove(&run);
            }
        }
        Ok(())
    }

    fn run_closed(&mut self, closed: &v1::RunClosed) -> Result<(), Status> {
        let run = run_id(&closed.run)?;
        tracing::info!(%run, outcome = closed.outcome, "run is over");
        self.specs.remove(&run);
        self.entries.extract_if(.., |key, _| key.0 == run).for_each(|(_, entry)| entry.cancel());
        if let Some(outbox) = &self.outbox {
            outbox.close(&run);
        }
        self.worker.forget(run);
        Ok(())
    }

    fn assigned(&mut self, run: RunId, assignment: Assignment, link: &mut Link) -> Result<(), Status> {
        let key = (run.clone(), assignment.id);
        let known = self.specs.get(&run).cloned();
        if let Some(reason) = self.refusal(&run, &assignment) {
            self.forget(&key);
            return link.fail(&run, &assignment.member, assignment.id, reason);
        }
        if let Some(entry) = self.entries.get_mut(&key) {
            if entry.assignment == assignment && known.as_ref().is_some_and(|k| k.digest == entry.spec) {
                entry.given = self.connection;
                self.send(&key, link);
                return Ok(());
            }
            let id = assignment.id;
            tracing::warn!(%run, assignment = %id, "this number was another assignment before: what was done for it is thrown away");
            self.forget(&key);
        }
        let data = self.agent.members.get(&assignment.member).cloned();
        let (Some(data), Some(Known { spec, digest: spec_digest })) = (data, known) else {
            let reason = "this agent does not serve the member, or does not understand the run's spec";
            return link.fail(&run, &assignment.member, assignment.id, reason.into());
        };
        let (cancel, given) = (Arc::default(), self.connection);
        let entry = Entry { assignment: assignment.clone(), spec: spec_digest, stage: Stage::Fetching, cancel, given };
        let cancel = entry.cancel.clone();
        self.entries.insert(key.clone(), entry);
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
                Ok(Box::new(Job { run, spec, spec_digest, assignment, data, global, statistics, cancel }))
            };
            Transfer::Fetched(key, fetch.await)
        });
        Ok(())
    }

    fn transferred(&mut self, done: Result<Transfer, tokio::task::JoinError>, link: &mut Link) -> Result<(), Status> {
        match done.map_err(|e| Status::internal(e.to_string()))? {
            Transfer::Sent(key, outcome) => self.sent(key, outcome, link),
            Transfer::Fetched(key, Ok(job)) => self.fetched(&key, *job, link),
            Transfer::Fetched(key, Err(status)) => self.unfetched(&key, status, link),
            Transfer::Renewed(outcome) => {
                self.renewed(outcome);
                Ok(())
            }
        }
    }

    /// What the coordinator will not give again is the end of this assignment, not of the connection.
    fn unfetched(&mut self, key: &Key, status: Status, link: &mut Link) -> Result<(), Status> {
        let Some(entry) = self.entries.get(key).filter(|_| is_final(&status)) else { return Err(status) };
        let (reason, member) = (status.message().to_owned(), entry.assignment.member.clone());
        tracing::error!(run = %key.0, %member, assignment = %key.1, reason, "the coordinator does not give what this assignment needs");
        self.forget(key);
        link.fail(&key.0, &member, key.1, reason)
    }

    fn fetched(&mut self, key: &Key, job: Job, link: &mut Link) -> Result<(), Status> {
        // it may have been cancelled or replaced while its blobs were on the way
        let wanted = |e: &&mut Entry| matches!(e.stage, Stage::Fetching) && Arc::ptr_eq(&e.cancel, &job.cancel);
        let Some(entry) = self.entries.get_mut(key).filter(wanted) else {
            return Ok(());
        };
        entry.stage = Stage::Working;
        let member = job.assignment.member.clone();
        if let Err(reason) = self.worker.submit(job) {
            self.entries.remove(key);
            link.fail(&key.0, &member, key.1, reason)?;
        }
        Ok(())
    }
}

/// Ticks of the heartbeat; those that this process misses are not made up for.
fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}
