//! One agent's control stream, from its hello to its end.

use crate::admit::admit;
use crate::clock::Clock;
use crate::fault::{hit, point};
use crate::runtime::{Handle, Hello, Line, SessionId, ToAgent};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tessera_common::id::{AgentName, AssignmentId, MemberName};
use tessera_common::round::{Event, MemberInfo};
use tessera_proto::convert::{member_name, run_id, shorten};
use tessera_proto::v1::agent_message::Message;
use tessera_proto::v1::{self, AgentMessage};
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
pub(crate) async fn converse(handle: Handle, mut inbound: Streaming<AgentMessage>, outbox: Outbox) {
    let hello = match timeout(HELLO, inbound.message()).await {
        Ok(Ok(Some(message))) => read_hello(message),
        Ok(Ok(None)) => return,
        Ok(Err(status)) => return tracing::debug!(%status, "a connection ended before its hello"),
        Err(_) => Err(Status::deadline_exceeded(format!("no hello within {HELLO:?}"))),
    };
    let end = match hello {
        Ok(hello) => welcome(&handle, hello, &mut inbound, &outbox).await,
        Err(status) => Err(status),
    };
    if let Err(status) = end {
        tracing::info!(reason = status.message(), "ending a conversation");
        // An agent that does not read is not told.
        let _ = outbox.try_send(Err(status));
    }
}

fn read_hello(message: AgentMessage) -> Result<Hello, Status> {
    let Some(Message::Hello(hello)) = message.message else {
        return Err(Status::invalid_argument("the first message must be a hello"));
    };
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
    Ok(Hello { agent, members })
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
    let session = handle.connect(hello, Line { outbox: outbox.clone(), close }).await?;
    let talk = Talk { handle, members, outbox, heartbeat };
    let end = talk.run(inbound, closed).await;
    let why = end.clone().err().unwrap_or_else(|| Status::cancelled("the agent left"));
    tracing::info!(%agent, reason = why.message(), "left");
    disconnect(handle, session, why).await;
    end
}

async fn disconnect(handle: &Handle, session: SessionId, why: Status) {
    handle.disconnect(session, why).await;
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
                Some(outcome) = judged.join_next() => outcome.map_err(|e| Status::internal(e.to_string()))??,
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
                judged.spawn(async move {
                    if let Some(verdict) = admit(&handle, &members, answer).await? {
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
        // One that nobody waits for any more needs no answer.
        if let Err(refusal) = self.handle.happened(&run, Event::Failed { member, assignment, reason }).await {
            tracing::debug!(%run, %refusal, "a failure came too late");
        }
        Ok(())
    }
}
