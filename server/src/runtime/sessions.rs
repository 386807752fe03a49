//! Who is connected, and which agent serves which member.

use super::ToAgent;
use crate::store::MemberRecord;
use std::collections::{BTreeMap, BTreeSet};
use tessera_common::id::{AgentName, MemberName, RunId};
use tessera_common::round::MemberInfo;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

/// Number of a connection of an agent, never reused within a process.
pub(crate) type SessionId = u64;

/// What an agent says first.
#[derive(Debug, Clone)]
pub(crate) struct Hello {
    pub(crate) agent: AgentName,
    pub(crate) members: BTreeMap<MemberName, MemberInfo>,
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
    /// Runs that this stream was told of.
    told: BTreeSet<RunId>,
}

/// A member, connected or not.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) record: MemberRecord,
    pub(super) session: Option<SessionId>,
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
        let members = members.into_iter().map(|(name, record)| (name, Known { record, session: None })).collect();
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
            self.members.insert(member.clone(), Known { record, session: Some(self.last) });
        }
        let members = hello.members.keys().cloned().collect();
        self.sessions.insert(self.last, Session { line, members, told: BTreeSet::new() });
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
    pub(super) fn online(&self) -> Vec<(MemberName, MemberInfo)> {
        let online = self.members.iter().filter(|(_, k)| k.session.is_some());
        online.map(|(name, known)| (name.clone(), known.record.info.clone())).collect()
    }

    /// All members, in order of name.
    pub(super) fn members(&self) -> &BTreeMap<MemberName, Known> {
        &self.members
    }
}
