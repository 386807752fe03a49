//! Who is connected, and which agent serves which member.

use super::{Runtime, ToAgent};
use crate::identity::Peer;
use crate::store::MemberRecord;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tessera_common::id::{AgentName, MemberName, RunId};
use tessera_common::round::{Event, MemberInfo};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

/// Number of a connection of an agent, never reused within a process.
pub(crate) type SessionId = u64;

/// What an agent says first.
#[derive(Debug, Clone)]
pub(crate) struct Hello {
    pub(crate) agent: AgentName,
    pub(crate) members: BTreeMap<MemberName, MemberInfo>,
    /// Whose certificate the connection showed.
    pub(crate) peer: Option<Arc<Peer>>,
    /// Labels of members that have some.
    pub(crate) labels: BTreeMap<MemberName, Vec<String>>,
}

/// The coordinator's end of a control stream.
#[derive(Debug)]
pub(crate) struct Line {
    /// To the agent.
    pub(crate) outbox: mpsc::Sender<Result<ToAgent, Status>>,
    /// Ends the conversation, with a reason.
    pub(crate) close: oneshot::Sender<Status>,
}

#[derive(Debug)]
struct Session {
    line: Line,
    members: BTreeSet<MemberName>,
    peer: Option<Arc<Peer>>,
    /// Runs that this stream was told of.
    told: BTreeSet<RunId>,
}

/// A member, connected or not.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) record: MemberRecord,
    pub(super) session: Option<SessionId>,
    /// As of its latest connection; none before the first one of this process.
    pub(super) labels: Vec<String>,
}

/// All members that were ever seen, and the connections of today.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    sessions: BTreeMap<SessionId, Session>,
    members: BTreeMap<MemberName, Known>,
    last: SessionId,
}

impl Sessions {
    pub(super) fn new(members: BTreeMap<MemberName, MemberRecord>) -> Self {
        let members =
            members.into_iter().map(|(name, record)| (name, Known { record, session: None, labels: Vec::new() })).collect();
        Self { members, ..Self::default() }
    }

    /// Takes a connection. Older connections that serve one of its members are closed; the newer wins. Returns its number
    /// and the members that the older ones served besides.
    pub(super) fn open(&mut self, hello: &Hello, line: Line) -> (SessionId, Vec<MemberName>) {
        let mut older: BTreeMap<SessionId, Vec<MemberName>> = BTreeMap::new();
        for member in hello.members.keys() {
            if let Some(session) = self.members.get(member).and_then(|known| known.session) {
                older.entry(session).or_default().push(member.clone());
            }
        }
        let mut gone = Vec::new();
        for (session, members) in older {
            let Some(member) = members.first() else { continue };
            self.tell_of_rivals(hello, member, members.len());
            let why = Status::aborted(format!("member {member} is served by a newer connection"));
            gone.extend(self.close(session, why).into_iter().filter(|m| !hello.members.contains_key(m)));
        }
        self.last += 1;
        for (member, info) in &hello.members {
            let record = MemberRecord { info: info.clone(), agent: Some(hello.agent.clone()) };
            let labels = hello.labels.get(member).cloned().unwrap_or_default();
            self.members.insert(member.clone(), Known { record, session: Some(self.last), labels });
        }
        let members = hello.members.keys().cloned().collect();
        self.sessions.insert(self.last, Session { line, members, peer: hello.peer.clone(), told: BTreeSet::new() });
        (self.last, gone)
    }

    /// Says in the log that a newer connection takes over `members` members of an older one, such as `member`.
    fn tell_of_rivals(&self, hello: &Hello, member: &MemberName, members: usize) {
        match self.members.get(member).and_then(|known| known.record.agent.as_ref()) {
            Some(other) if *other != hello.agent => tracing::warn!(
                %member, members, agent = %hello.agent, %other,
                "two agents serve one member; the newer connection wins. Leave the member to one of them"
            ),
            _ => tracing::info!(%member, members, agent = %hello.agent, "the agent connected anew; closing its older connection"),
        }
    }

    /// Ends a connection; the members that are no longer served. Nothing if it is closed already.
    pub(super) fn close(&mut self, id: SessionId, why: Status) -> Vec<MemberName> {
        let Some(session) = self.sessions.remove(&id) else { return Vec::new() };
        // The conversation may have ended by itself.
        let _ = session.line.close.send(why);
        for member in &session.members {
            if let Some(known) = self.members.get_mut(member) {
                known.session = None;
            }
        }
        session.members.into_iter().collect()
    }

    pub(super) fn close_all(&mut self, why: &Status) {
        for id in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.close(id, why.clone());
        }
    }

    /// Tells the agent of `member`, if it is connected; the run first, where the stream does not know it. Err names a
    /// connection that does not keep up.
    pub(super) fn tell(&mut self, member: &MemberName, run: &RunId, opened: &ToAgent, message: ToAgent) -> Result<(), SessionId> {
        let Some(id) = self.members.get(member).and_then(|k| k.session) else { return Ok(()) };
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(()) };
        if !session.told.contains(run) {
            session.line.outbox.try_send(Ok(opened.clone())).map_err(|_| id)?;
            session.told.insert(run.clone());
        }
        session.line.outbox.try_send(Ok(message)).map_err(|_| id)
    }

    /// Tells every agent that knows `run` that it is over.
    pub(super) fn tell_over(&mut self, run: &RunId, message: &ToAgent) -> Vec<SessionId> {
        let mut slow = Vec::new();
        for (id, session) in &mut self.sessions {
            if session.told.remove(run) && session.line.outbox.try_send(Ok(message.clone())).is_err() {
                slow.push(*id);
            }
        }
        slow
    }

    /// Members that are connected, in order of name.
    pub(super) fn online(&self) -> impl Iterator<Item = &MemberName> {
        self.members.iter().filter(|(_, known)| known.session.is_some()).map(|(name, _)| name)
    }

    /// Connections of today that may not go on, and why, by what `judge` says of their certificates and members.
    pub(super) fn barred(
        &self,
        judge: impl Fn(Option<&Peer>, &BTreeSet<MemberName>) -> Result<(), Status>,
    ) -> Vec<(SessionId, Status)> {
        let judged = self.sessions.iter().map(|(id, s)| (*id, judge(s.peer.as_deref(), &s.members)));
        judged.filter_map(|(id, outcome)| outcome.err().map(|why| (id, why))).collect()
    }

    /// All members, in order of name.
    pub(super) fn members(&self) -> &BTreeMap<MemberName, Known> {
        &self.members
    }
}

impl Runtime {
    /// Ends a connection; its members are not reachable any more.
    pub(super) fn close(&mut self, session: SessionId, why: Status) {
        let gone = self.sessions.close(session, why);
        self.left(&gone);
    }

    pub(super) fn left(&mut self, members: &[MemberName]) {
        let now = self.clock.now();
        for run in self.runs.values_mut().filter(|r| !r.is_over()) {
            for member in members.iter().filter(|m| run.counts_on(m)).cloned().collect::<Vec<_>>() {
                if let Err(reject) = run.apply(now, Event::Left { member }) {
                    tracing::error!(run = %run.id, %reject, "the engine does not know a member that it counted on");
                }
            }
        }
    }

    /// Ends the connections of those that may not be here any more.
    pub(super) fn bar(&mut self) {
        let identities = &self.identities;
        let barred = self.sessions.barred(|peer, members| {
            peer.map_or(Ok(()), |peer| identities.standing(peer).map(drop))?;
            members.iter().try_for_each(|member| identities.check_revoked(member))?;
            Ok(())
        });
        for (session, why) in barred {
            tracing::warn!(reason = why.message(), "ending a connection");
            self.close(session, why);
        }
    }
}
