//! An agent: one process that serves several members, trains for one at a time, and keeps answers until their verdict.

use super::env::{Answer, Crash, Env, Happening, LinkId, Message, Side};
use super::faults::{Fault, Planted};
use super::setting::Setting;
use super::watch::Fact;
use super::work;
use std::collections::{BTreeMap, VecDeque};
use tessera_common::id::{AssignmentId, Millis};
use tessera_common::round::Assignment;

/// Where an assignment stands.
#[derive(Debug)]
enum Stage {
    /// Its global is on the way, by this link.
    Fetching(LinkId),
    Waiting,
    Done(Answer),
}

#[derive(Debug)]
struct Entry {
    assignment: Assignment,
    stage: Stage,
}

#[derive(Debug)]
pub(crate) struct Agent {
    id: usize,
    longest_training: Millis,
    /// Answers that survive a crash.
    outbox: BTreeMap<AssignmentId, (Assignment, Answer)>,
    incarnation: u32,
    up: bool,
    /// Until then it cannot reach the coordinator.
    away_until: Millis,
    link: Option<LinkId>,
    entries: BTreeMap<AssignmentId, Entry>,
    queue: VecDeque<AssignmentId>,
    busy: Option<AssignmentId>,
}

impl Agent {
    pub(crate) fn new(id: usize, setting: &Setting) -> Self {
        Self {
            id,
            longest_training: setting.longest_training,
            outbox: BTreeMap::new(),
            incarnation: 0,
            up: false,
            away_until: 0,
            link: None,
            entries: BTreeMap::new(),
            queue: VecDeque::new(),
            busy: None,
        }
    }

    /// True if it holds no work and no answer.
    pub(crate) fn is_idle(&self) -> bool {
        self.up && self.entries.is_empty() && self.outbox.is_empty()
    }

    pub(crate) fn is_up(&self) -> bool {
        self.up
    }

    pub(crate) fn incarnation(&self) -> u32 {
        self.incarnation
    }

    pub(crate) fn start(&mut self, env: &mut Env) {
        self.up = true;
        self.incarnation += 1;
        let kept = self.outbox.clone().into_iter();
        self.entries = kept.map(|(id, (assignment, answer))| (id, Entry { assignment, stage: Stage::Done(answer) })).collect();
        self.connect_soon(env);
    }

    fn connect_soon(&mut self, env: &mut Env) {
        let pause = env.between(50, 1_500).max(self.away_until.saturating_sub(env.now));
        env.schedule(pause, Happening::Connects { agent: self.id, incarnation: self.incarnation });
    }

    pub(crate) fn connect(&mut self, env: &mut Env) {
        if self.link.is_some() {
            return;
        }
        self.link = if self.away_until > env.now { None } else { env.connect(self.id) };
        if self.link.is_none() {
            self.connect_soon(env);
        }
    }

    /// Loses everything that is not in the outbox.
    pub(crate) fn crash(&mut self, env: &mut Env) {
        self.up = false;
        let quietly = env.dice.below(3) == 0;
        if let Some(link) = self.link.take() {
            env.close(link, Side::Agent, quietly);
        }
        self.entries.clear();
        self.queue.clear();
        self.busy = None;
        let pause = env.between(50, 3_000);
        env.schedule(pause, Happening::AgentStarts { agent: self.id });
    }

    /// Cannot reach the coordinator for a while.
    pub(crate) fn go_away(&mut self, env: &mut Env, millis: Millis) {
        self.away_until = env.now + millis;
        if let Some(link) = self.link {
            let quietly = env.dice.below(2) == 0;
            self.hang_up(env, link, quietly);
        }
    }

    /// Ends its link, if this is it, and connects anew.
    pub(crate) fn hang_up(&mut self, env: &mut Env, link: LinkId, quietly: bool) {
        env.close(link, Side::Agent, quietly);
        if self.link == Some(link) {
            self.link = None;
            // fetches end with their connection; the work is given again after the next hello
            self.entries.retain(|_, entry| !matches!(entry.stage, Stage::Fetching(_)));
            self.connect_soon(env);
        }
    }

    pub(crate) fn receive(&mut self, env: &mut Env, link: LinkId, message: Message) -> Result<(), Crash> {
        match message {
            Message::Welcome => {
                let done: Vec<AssignmentId> = self.entries.keys().copied().collect();
                done.into_iter().for_each(|id| self.send_if_done(env, id));
            }
            Message::Assign(assignment) => self.assigned(env, link, assignment),
            Message::Cancel(assignment) => {
                self.entries.remove(&assignment);
                self.outbox.remove(&assignment);
                self.stop_working(env, assignment)?;
            }
            Message::Verdict { assignment } => {
                env.point(Fault::AgentBeforeVerdict)?;
                self.entries.remove(&assignment);
                self.outbox.remove(&assignment);
                env.point(Fault::AgentAfterVerdict)?;
            }
            Message::Closed => {
                self.entries.clear();
                self.outbox.clear();
                self.queue.clear();
                self.busy = None;
            }
            Message::Heartbeat => {}
            Message::Hello | Message::Answer(_) | Message::Failure(_) => unreachable!("only agents say that"),
        }
        Ok(())
    }

    fn assigned(&mut self, env: &mut Env, link: LinkId, assignment: Assignment) {
        let id = assignment.id;
        if self.entries.contains_key(&id) && !env.has(Planted::DuplicateTrained) {
            return self.send_if_done(env, id);
        }
        self.entries.insert(id, Entry { assignment, stage: Stage::Fetching(link) });
        let latency = env.between(1, 30);
        env.schedule(latency, Happening::Fetched { agent: self.id, link, assignment: id });
    }

    pub(crate) fn fetched(&mut self, env: &mut Env, link: LinkId, id: AssignmentId) -> Result<(), Crash> {
        let Some(entry) = self.entries.get_mut(&id) else { return Ok(()) };
        if self.link == Some(link) && matches!(entry.stage, Stage::Fetching(by) if by == link) {
            entry.stage = Stage::Waiting;
            self.queue.push_back(id);
            return self.work(env);
        }
        Ok(())
    }

    fn work(&mut self, env: &mut Env) -> Result<(), Crash> {
        while self.busy.is_none()
            && let Some(assignment) = self.queue.pop_front()
        {
            if !self.entries.contains_key(&assignment) {
                continue;
            }
            env.point(Fault::AgentBeforeTraining)?;
            self.busy = Some(assignment);
            let mut takes = env.between(5, self.longest_training);
            if env.dice.hit(Fault::SlowTraining) {
                takes *= 10;
            }
            env.schedule(takes, Happening::Trained { agent: self.id, incarnation: self.incarnation, assignment });
        }
        Ok(())
    }

    fn stop_working(&mut self, env: &mut Env, assignment: AssignmentId) -> Result<(), Crash> {
        if self.busy == Some(assignment) {
            self.busy = None;
        }
        self.work(env)
    }

    pub(crate) fn trained(&mut self, env: &mut Env, id: AssignmentId) -> Result<(), Crash> {
        if self.busy != Some(id) {
            return Ok(());
        }
        self.finish(env, id)?;
        self.busy = None;
        self.work(env)
    }

    fn finish(&mut self, env: &mut Env, id: AssignmentId) -> Result<(), Crash> {
        let Some(entry) = self.entries.get_mut(&id) else { return Ok(()) };
        if env.dice.hit(Fault::TaskFailed) {
            let failed = self.entries.remove(&id).map(|entry| entry.assignment);
            if let (Some(link), Some(assignment)) = (self.link, failed) {
                env.send(link, Side::Agent, Message::Failure(assignment));
            }
            return Ok(());
        }
        env.see(&Fact::Trained { agent: self.id, incarnation: self.incarnation, assignment: id });
        env.point(Fault::AgentAfterTraining)?;
        let answer = Answer { update: work::answer(&entry.assignment), usable: !env.dice.hit(Fault::BadAnswer) };
        let stored = (entry.assignment.clone(), answer.clone());
        entry.stage = Stage::Done(answer);
        if env.has(Planted::OutboxStoredAfterSending) {
            self.send_if_done(env, id);
            env.point(Fault::AgentAfterSend)?;
            self.outbox.insert(id, stored);
            return Ok(());
        }
        self.outbox.insert(id, stored);
        env.point(Fault::AgentBeforeSend)?;
        self.send_if_done(env, id);
        env.point(Fault::AgentAfterSend)
    }

    fn send_if_done(&mut self, env: &mut Env, id: AssignmentId) {
        let Some(link) = self.link else { return };
        let Some(Entry { stage: Stage::Done(answer), .. }) = self.entries.get(&id) else { return };
        env.see(&Fact::Sent { assignment: id });
        env.send(link, Side::Agent, Message::Answer(answer.clone()));
        if env.has(Planted::OutboxForgotten) {
            self.entries.remove(&id);
            self.outbox.remove(&id);
        }
    }
}
