//! One agent's control stream, from its hello to its end.

use crate::access::Caller;
use crate::admit::admit;
use crate::clock::Clock;
use crate::fault::{hit, point};
use crate::quota::Permit;
use crate::refusals::{caught, joined};
use crate::runtime::{Handle, Hello, Line, ToAgent};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tessera_common::access::Role;
use tessera_common::audit::Entry;
use tessera_common::id::{AgentName, AssignmentId, MemberName};
use tessera_common::round::{Event, MemberInfo};
use tessera_proto::convert::{member_name, run_id, shorten};
use tessera_proto::v1::agent_message::Message;
use tessera_proto::v1::{self, AgentMessage};
use tessera_proto::{VERSION, version};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tonic::{Status, Streaming};

/// Messages that may wait for an agent: an agent may host thousands of members and get work of several runs for all of
/// them in one go. One that has more to read than this does not read.
pub(crate) const OUTBOX: usize = 1 << 16;
/// Answers of one agent that are judged at a time; further ones wait unread, which slows the agent down.
const JUDGED: usize = 64;
/// Longest that an agent may take to say who it is.
const HELLO: Duration = Duration::from_secs(5);
/// Heartbeats that may be missed.
const SILENT: u32 = 3;

type Outbox = mpsc::Sender<Result<ToAgent, Status>>;
type Members = Arc<BTreeMap<MemberName, MemberInfo>>;

/// Holds the conversation with an agent until one side ends it.
pub(crate) async fn converse(
    handle: Handle,
    caller: Caller,
    mut permit: Permit,
    mut inbound: Streaming<AgentMessage>,
    outbox: Outbox,
) {
    let hello = match timeout(HELLO, inbound.message()).await {
        Ok(Ok(Some(message))) => read_hello(message, &caller, &handle).inspect_err(|status| {
            handle.shared.refusals.tell(&caller.who(), "Federation/Connect", status.message());
        }),
        Ok(Ok(None)) => return,
        Ok(Err(status)) => return tracing::debug!(%status, "a connection ended before its hello"),
        Err(_) => Err(Status::deadline_exceeded(format!("no hello within {HELLO:?}"))),
    };
    let end = match hello {
        Ok(hello) => {
            permit.serves(hello.members.len());
            welcome(&handle, hello, &mut inbound, &outbox).await
        }
        Err(status) => Err(status),
    };
    if let Err(status) = end {
        tracing::info!(reason = status.message(), "ending a conversation");
        // An agent that does not read is not told.
        let _ = outbox.try_send(Err(status));
    }
}

fn read_hello(message: AgentMessage, caller: &Caller, handle: &Handle) -> Result<Hello, Status> {
    let Some(Message::Hello(hello)) = message.message else {
        return Err(Status::invalid_argument("the first message must be a hello"));
    };
    version::check_between("the agent", &hello.version, "the coordinator", VERSION).map_err(Status::failed_precondition)?;
    let agent: AgentName = hello.agent.parse().map_err(|e| Status::invalid_argument(format!("hello: {e}")))?;
    let mut members = BTreeMap::new();
    for member in hello.members {
        let (name, info) = member.try_into()?;
        if members.insert(name, info).is_some() {
            return Err(Status::invalid_argument("hello: a member is named twice"));
        }
    }
    if members.is_empty() {
        return Err(Status::invalid_argument("hello: an agent serves at least one member"));
    }
    let mut labels = BTreeMap::new();
    for (name, info) in &members {
        may_join(caller, name, info)?;
        handle.shared.identities.check_revoked(name)?;
        let mut given = handle.shared.identities.labels(name.as_str());
        given.extend(caller.certified().into_iter().flat_map(|c| c.labels.iter().cloned()));
        if !given.is_empty() {
            labels.insert(name.clone(), given);
        }
    }
    Ok(Hello { agent, members, peer: caller.certified().map(|c| c.peer.clone()), labels })
}

/// True if the caller may speak for this member, and the member be what it says.
fn may_join(caller: &Caller, member: &MemberName, info: &MemberInfo) -> Result<(), Status> {
    let Some(certified) = caller.certified() else { return Ok(()) };
    let (name, role) = (&certified.peer.name, certified.role);
    let refuse = |why: String| Err(Status::permission_denied(why));
    if !caller.serves(member) {
        let others = certified.peer.serves.iter().map(String::as_str).filter(|other| *other != name.as_str());
        let serves: Vec<&str> = std::iter::once(name.as_str()).chain(others).collect();
        return refuse(format!(
            "the certificate of {name} serves {}, and not {member}: enrol {member} by itself, or {name} anew with `tessera enrol \
             {name} --serves {member}`",
            serves.join(", ")
        ));
    }
    if info.trains && role == Role::Evaluator {
        return refuse(format!(
            "{name} has the role {role}, which only evaluates, and {member} says that it trains: let it evaluate only, or enrol \
             {name} anew with `--role member` (at the site, remove STATE_DIR/identity first)"
        ));
    }
    let may = &certified.modalities;
    match info.modalities.iter().find(|modality| !may.is_empty() && !may.contains(modality)) {
        None => Ok(()),
        Some(modality) => refuse(format!(
            "{name} is enrolled for the modalities {}, and {member} says that it has {modality}: leave that out, or enrol {name} \
             anew with `--modalities`",
            may.join(", ")
        )),
    }
}

async fn welcome(handle: &Handle, hello: Hello, inbound: &mut Streaming<AgentMessage>, outbox: &Outbox) -> Result<(), Status> {
    let heartbeat = handle.shared.heartbeat;
    let members = Arc::new(hello.members.clone());
    let heartbeat_ms = u32::try_from(heartbeat.as_millis()).unwrap_or(u32::MAX);
    // The first message of an empty queue.
    let time_ms = Clock::new().now();
    let _ = outbox.try_send(Ok(ToAgent::Welcome { heartbeat_ms, time_ms }));
    let (close, closed) = oneshot::channel();
    tracing::info!(agent = %hello.agent, members = members.len(), "joined");
    let agent = hello.agent.clone();
    let who: Arc<str> = hello.peer.as_ref().map_or_else(|| agent.as_str().into(), |peer| peer.name.as_str().into());
    let session = handle.connect(hello, Line { outbox: outbox.clone(), close }).await?;
    note(handle, &who, "joined", &format!("ok: agent {agent} serves {} members", members.len()));
    let talk = Talk { handle, members, outbox, heartbeat, who: who.clone() };
    let end = caught(&handle.shared.refusals, "Federation/Connect", talk.run(inbound, closed)).await.and_then(|end| end);
    let why = end.clone().err().unwrap_or_else(|| Status::cancelled("the agent left"));
    tracing::info!(%agent, reason = why.message(), "left");
    note(handle, &who, "left", why.message());
    handle.disconnect(session, why).await;
    end
}

fn note(handle: &Handle, who: &str, what: &str, verdict: &str) {
    let (who, what, verdict) = (who.to_owned(), what.to_owned(), shorten(verdict.to_owned()));
    handle.shared.audit.note(Entry { who, what, verdict, ..Entry::default() });
}

/// Refuses a message if one before it was lost. Versions that do not count send 0.
fn in_order(last: &mut u64, sequence: u64) -> Result<(), Status> {
    if sequence != 0 && sequence != *last + 1 {
        return Err(Status::data_loss(format!("message {} was lost on the way; connect again", *last + 1)));
    }
    *last += 1;
    Ok(())
}

struct Talk<'a> {
    handle: &'a Handle,
    members: Members,
    outbox: &'a Outbox,
    heartbeat: Duration,
    /// For the audit log.
    who: Arc<str>,
}

impl Talk<'_> {
    async fn run(&self, inbound: &mut Streaming<AgentMessage>, mut closed: oneshot::Receiver<Status>) -> Result<(), Status> {
        let mut judged: JoinSet<Result<(), Status>> = JoinSet::new();
        let mut beat = interval(self.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        // the hello was the first
        let mut last = 1;
        loop {
            // While we do not read, or keep uploads waiting for our disk, so that heartbeats are stuck behind full windows,
            // its silence says nothing.
            let reading = judged.len() < JUDGED;
            if !reading || self.handle.shared.writing.load(Ordering::Relaxed) > 0 {
                heard = Instant::now();
            }
            tokio::select! {
                why = &mut closed => return Err(why.unwrap_or_else(|_| Status::unavailable("the coordinator is stopping"))),
                message = inbound.message(), if reading => match message? {
                    None => return Ok(()),
                    Some(message) => {
                        heard = Instant::now();
                        if hit("coordinator/lose-received") {
                            continue;
                        }
                        in_order(&mut last, message.sequence)?;
                        self.take(message, &mut judged).await?;
                    }
                },
                Some(outcome) = judged.join_next() => joined(&self.handle.shared.refusals, "answer", outcome)??,
                _ = beat.tick() => {
                    if heard.elapsed() > self.heartbeat * SILENT {
                        return Err(Status::deadline_exceeded(format!("nothing heard for {SILENT} heartbeats")));
                    }
                    // Whoever has something to read knows that we live.
                    if self.outbox.capacity() == self.outbox.max_capacity() {
                        let _ = self.outbox.try_send(Ok(ToAgent::Heartbeat));
                    }
                }
            }
        }
    }

    async fn take(&self, message: AgentMessage, judged: &mut JoinSet<Result<(), Status>>) -> Result<(), Status> {
        match message.message {
            Some(Message::Heartbeat(_)) => Ok(()),
            Some(Message::Hello(_)) => Err(Status::invalid_argument("a second hello; open a new connection instead")),
            Some(Message::Answer(answer)) => {
                let (handle, members, outbox) = (self.handle.clone(), self.members.clone(), self.outbox.clone());
                let who = self.who.clone();
                judged.spawn(async move {
                    if let Some(verdict) = admit(&handle, &who, &members, answer).await? {
                        point("coordinator/verdict-before");
                        outbox.try_send(Ok(verdict)).map_err(|_| Status::resource_exhausted("this agent does not read"))?;
                    }
                    Ok(())
                });
                Ok(())
            }
            Some(Message::Failure(failure)) => self.failed(failure).await,
            // A message of a newer version: what it asks for is not known here.
            None => Err(Status::unimplemented("a message that this version does not know")),
        }
    }

    async fn failed(&self, failure: v1::Failure) -> Result<(), Status> {
        let (run, member) = (run_id(&failure.run)?, member_name(&failure.member)?);
        if !self.members.contains_key(&member) {
            return Err(Status::permission_denied(format!("member {member} is not served by this connection")));
        }
        let (assignment, reason) = (AssignmentId(failure.assignment), shorten(failure.reason));
        tracing::warn!(%run, %member, %assignment, reason, "an assignment failed at its member");
        self.handle.shared.audit.note(Entry {
            who: self.who.to_string(),
            what: "failure".into(),
            run: Some(run.to_string()),
            member: Some(member.to_string()),
            verdict: reason.clone(),
            ..Entry::default()
        });
        // One that nobody waits for any more needs no answer.
        if let Err(refusal) = self.handle.happened(&run, Event::Failed { member, assignment, reason }).await {
            tracing::debug!(%run, %refusal, "a failure came too late");
        }
        Ok(())
    }
}
