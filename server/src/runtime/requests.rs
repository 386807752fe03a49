//! What the runtime can be asked, and how it takes that.

use super::run::Run;
use super::sessions::{Hello, Line, SessionId, Sessions};
use super::view::{MemberView, RunDetail, RunSummary};
use super::{Runtime, Standing};
use crate::error::Refusal;
use crate::history::Watch;
use crate::store::MemberRecord;
use std::sync::Arc;
use tessera_common::id::{AssignmentId, Digest, MemberName, Round, RunId};
use tessera_common::round::{Event, Reject};
use tessera_common::spec::{RunSpec, SpecError};
use tokio::sync::oneshot;
use tonic::Status;

/// Longest stem of a made-up run id: the id ends in a hyphen and six digits.
const STEM: usize = 57;

#[derive(Debug)]
pub(crate) enum Request {
    Connect {
        hello: Hello,
        line: Line,
        reply: oneshot::Sender<SessionId>,
    },
    Disconnect {
        session: SessionId,
        why: Status,
    },
    Happened {
        run: RunId,
        event: Event,
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    Submit {
        spec: Box<RunSpec>,
        id: Option<RunId>,
        reply: oneshot::Sender<Result<RunId, Refusal>>,
    },
    Fork {
        fork: Box<Fork>,
        reply: oneshot::Sender<Result<RunId, Refusal>>,
    },
    /// The disk failed somebody, who wanted room for so many bytes.
    Trouble {
        reason: String,
        need: u64,
    },
    /// The bytes of this blob are wrong.
    Corrupt {
        digest: Digest,
        reason: String,
    },
    Read(Read),
}

#[derive(Debug)]
pub(crate) enum Read {
    Standing { run: RunId, member: MemberName, assignment: AssignmentId, reply: oneshot::Sender<Result<Standing, Refusal>> },
    List(oneshot::Sender<Vec<RunSummary>>),
    Globals { run: RunId, reply: oneshot::Sender<Result<Vec<(Round, Digest)>, Refusal>> },
    Trouble(oneshot::Sender<Option<String>>),
    Show { run: RunId, reply: oneshot::Sender<Result<RunDetail, Refusal>> },
    Watch { run: RunId, after: u64, reply: oneshot::Sender<Result<Watch, Refusal>> },
    Members(oneshot::Sender<Vec<MemberView>>),
    Published { digest: Digest, reply: oneshot::Sender<bool> },
    Submitted { run: RunId, reply: oneshot::Sender<Result<RunId, Refusal>> },
}

/// A run to be made from a global of another one.
#[derive(Debug)]
pub(crate) struct Fork {
    pub(crate) from: RunId,
    pub(crate) round: Round,
    /// The old one's, if there is none.
    pub(crate) spec: Option<RunSpec>,
    pub(crate) id: Option<RunId>,
}

/// An answer about an event, once that is durable.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) run: RunId,
    pub(super) to: oneshot::Sender<Result<(), Refusal>>,
    pub(super) result: Result<(), Refusal>,
}

impl Runtime {
    pub(super) async fn take(&mut self, request: Request) {
        match request {
            Request::Connect { hello, line, reply } => self.connect(&hello, line, reply),
            Request::Disconnect { session, why } => self.close(session, why),
            Request::Happened { run, event, reply } => {
                let now = self.clock.now();
                let result = match self.runs.get_mut(&run) {
                    Some(found) => found.apply(now, event).map_err(Refusal::from),
                    None => Err(self.no_run(&run)),
                };
                self.replies.push(Reply { run, to: reply, result });
            }
            Request::Submit { spec, id, reply } => match self.submit(*spec, id).await {
                Ok(run) => self.reads.push(Read::Submitted { run, reply }),
                // The caller may have gone, here and below.
                Err(refusal) => drop(reply.send(Err(refusal))),
            },
            Request::Fork { fork, reply } => match self.fork(*fork).await {
                Ok(run) => self.reads.push(Read::Submitted { run, reply }),
                Err(refusal) => drop(reply.send(Err(refusal))),
            },
            Request::Trouble { reason, need } => self.stall_all(&reason, need),
            Request::Corrupt { digest, reason } => self.pause_for(&digest, &reason),
            Request::Read(read) => self.reads.push(read),
        }
    }

    fn no_run(&self, run: &RunId) -> Refusal {
        self.stands_still(run).unwrap_or_else(|| Refusal::NoRun(run.clone()))
    }

    fn find(&self, run: &RunId) -> Result<&Run, Refusal> {
        self.runs.get(run).ok_or_else(|| self.no_run(run))
    }

    fn connect(&mut self, hello: &Hello, line: Line, reply: oneshot::Sender<SessionId>) {
        let (session, gone) = self.sessions.open(hello, line);
        self.left(&gone);
        for (member, info) in &hello.members {
            self.store.put_member(member, &MemberRecord { info: info.clone(), agent: Some(hello.agent.clone()) });
        }
        if reply.send(session).is_err() {
            return self.close(session, Status::cancelled("gone before it was welcomed"));
        }
        let now = self.clock.now();
        for run in self.runs.values_mut().filter(|r| !r.is_over()) {
            join(run, now, &self.sessions, hello.members.keys());
        }
    }

    async fn submit(&mut self, spec: RunSpec, id: Option<RunId>) -> Result<RunId, Refusal> {
        let id = match id {
            Some(id) => id,
            None => self.free_id(&spec),
        };
        if let Some(existing) = self.runs.get(&id) {
            return if *existing.spec == spec { Ok(id) } else { Err(Refusal::Taken(id)) };
        }
        self.create(id, spec, None).await
    }

    /// Makes a run that goes on from a global of another one. Task and model stay: the global is of that shape.
    async fn fork(&mut self, fork: Fork) -> Result<RunId, Refusal> {
        let Fork { from, round, spec, id } = fork;
        let origin = self.find(&from)?;
        let global = origin.globals().get(&round).copied().ok_or_else(|| {
            let kept: Vec<String> = origin.globals().keys().map(ToString::to_string).collect();
            let kept = if kept.is_empty() { "none, it has published nothing".to_owned() } else { kept.join(", ") };
            Refusal::NotKept { run: from.clone(), round, kept }
        })?;
        let spec = spec.unwrap_or_else(|| origin.spec.as_ref().clone());
        let refuse = |key: &str, why: String| Err(SpecError::invalid(key, why).into());
        if spec.task != origin.spec.task || spec.model != origin.spec.model {
            return refuse("task", format!("a run forked from {from} has its task and model; change other keys only"));
        }
        if spec.rounds <= round {
            return refuse("rounds", format!("must be above {round}, the round that the fork starts from"));
        }
        let id = match id {
            Some(id) => id,
            None => self.free_id(&spec),
        };
        if self.runs.contains_key(&id) {
            return Err(Refusal::Taken(id));
        }
        self.create(id, spec, Some(Event::Forked { from: from.to_string(), round, global })).await
    }

    async fn create(&mut self, id: RunId, spec: RunSpec, first: Option<Event>) -> Result<RunId, Refusal> {
        if let Some(refusal) = self.stands_still(&id) {
            return Err(refusal);
        }
        let (dir, now, store) = (self.runs_dir.clone(), self.clock.now(), Arc::clone(&self.store));
        let (run_id, run_spec) = (id.clone(), spec);
        let create = move || Run::create(dir.as_deref(), run_id, run_spec, now, first, &store);
        let created = tokio::task::spawn_blocking(create).await.map_err(|e| Refusal::NotStored(e.to_string()))?;
        let mut run = created.map_err(|e| Refusal::NotStored(e.to_string()))?;
        self.index(&run);
        tracing::info!(run = %id, strategy = run.spec.strategy_kind(), rounds = run.spec.rounds, "submitted");
        join(&mut run, now, &self.sessions, self.sessions.online());
        self.runs.insert(id.clone(), run);
        Ok(id)
    }

    /// The spec's name and a suffix that no run has.
    fn free_id(&self, spec: &RunSpec) -> RunId {
        let stem: String = spec.name.chars().take(STEM).collect();
        let digest = |n: u64| Digest::of(format!("{n} {} {}", self.clock.now(), spec.to_toml()).as_bytes()).to_string();
        let names = (0..).map(|n| format!("{stem}-{}", &digest(n)[..6]));
        let mut ids = names.map(|name| name.parse::<RunId>().expect("a spec's name and a hyphen and digits are a name"));
        let free = |id: &RunId| !self.runs.contains_key(id) && self.stands_still(id).is_none();
        ids.find(free).expect("the names do not end")
    }

    pub(super) fn answer(&mut self, read: Read) {
        // The caller may have gone, in each case.
        match read {
            Read::Standing { run, member, assignment, reply } => drop(reply.send(self.standing(&run, &member, assignment))),
            Read::Globals { run, reply } => {
                let globals = self.find(&run).map(|r| r.globals().iter().map(|(round, digest)| (*round, *digest)).collect());
                drop(reply.send(globals));
            }
            Read::Trouble(reply) => {
                let first = self.stalled.iter().next().map(|(run, s)| format!("run {run} waits: {}", s.reason()));
                drop(reply.send(first));
            }
            Read::List(reply) => drop(reply.send(self.summaries())),
            Read::Show { run, reply } => {
                let stalled = self.stalled.get(&run).map(|s| s.detail.clone());
                drop(reply.send(stalled.map_or_else(|| self.find(&run).map(RunDetail::of), Ok)));
            }
            Read::Watch { run, after, reply } => drop(reply.send(self.find(&run).map(|r| r.history.watch(after)))),
            Read::Members(reply) => {
                let members = self.sessions.members().iter();
                drop(reply.send(members.map(|(name, known)| MemberView::of(name, known)).collect()));
            }
            Read::Published { digest, reply } => {
                let _ = reply.send(self.runs.values().any(|run| run.published(&digest)));
            }
            Read::Submitted { run, reply } => drop(reply.send(self.find(&run).map(|r| r.id.clone()))),
        }
    }

    fn standing(&self, id: &RunId, member: &MemberName, assignment: AssignmentId) -> Result<Standing, Refusal> {
        let run = self.find(id)?;
        match run.open(assignment, member) {
            Ok(assignment) => Ok(Standing::Open { assignment, spec: run.spec.clone() }),
            Err(refusal) => match self.store.receipt(id, assignment) {
                Some(receipt) if receipt.member == *member => Ok(Standing::Settled { refused: receipt.refused }),
                Some(_) => Err(Reject::NotYours(assignment, member.clone()).into()),
                None => Err(refusal),
            },
        }
    }

    pub(super) fn summaries(&self) -> Vec<RunSummary> {
        let broken = self.broken.iter().map(|(id, b)| RunSummary::of_broken(id, b));
        let stalled = self.stalled.values().map(|s| s.detail.summary.clone());
        let mut all: Vec<RunSummary> = self.runs.values().map(RunSummary::of).chain(broken).chain(stalled).collect();
        all.sort_by(|a, b| (a.created, &a.run).cmp(&(b.created, &b.run)));
        all
    }
}

/// Lets members join a run that are connected and that it admits.
pub(super) fn join<'a>(run: &mut Run, now: u64, sessions: &Sessions, members: impl Iterator<Item = &'a MemberName>) {
    for member in members {
        let Some(known) = sessions.members().get(member) else { continue };
        if run.admits(member, &known.labels)
            && let Err(reject) = run.apply(now, Event::Joined { member: member.clone(), info: known.record.info.clone() })
        {
            tracing::error!(run = %run.id, %member, %reject, "the engine refuses a member");
        }
    }
}
