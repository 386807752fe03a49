//! What the coordinator is asked, and how an answer is admitted.
//!
//! As in the server, an answer is looked at twice: whether anybody waits for it, then, once its blob is checked, whether
//! the engine takes it. In between anything may have happened.

use super::coordinator::Coordinator;
use super::env::{Answer, Crash, Env, Happening, LinkId, Message, Side};
use super::faults::{Fault, Planted};
use super::watch::Fact;
use tessera_common::round::{Event, Phase, Reject};

#[derive(Debug)]
pub(crate) enum Request {
    Connect(LinkId),
    Disconnect(LinkId),
    /// Does anybody wait for this answer?
    Standing(LinkId, Answer),
    /// The answer is checked.
    Happened(LinkId, Answer),
    /// A failure of a member, an operator's wish, or the end of a fold: nobody waits for what comes of it.
    Own(Event),
}

/// What is said once everything before it is durable.
#[derive(Debug)]
pub(crate) enum Reply {
    Verdict {
        link: LinkId,
        answer: Answer,
        refused: Option<String>,
    },
    /// Look whether the answer is waited for; if it was refused already, with its reason.
    Look {
        link: LinkId,
        answer: Answer,
        refused: Option<String>,
    },
}

/// Where an answer stands.
enum Standing {
    Open,
    Settled(Option<String>),
    Unknown(Reject),
}

impl Coordinator {
    pub(crate) fn receive(&mut self, env: &mut Env, link: LinkId, message: Message) -> Result<(), Crash> {
        let request = match message {
            Message::Hello => {
                env.send(link, Side::Coordinator, Message::Welcome);
                Request::Connect(link)
            }
            Message::Answer(answer) => {
                self.keep_blob(env, &answer)?;
                Request::Standing(link, answer)
            }
            Message::Failure(assignment) => {
                let (member, assignment) = (assignment.member, assignment.id);
                Request::Own(Event::Failed { member, assignment, reason: "no power".into() })
            }
            Message::Heartbeat => return Ok(()),
            Message::Welcome | Message::Assign(_) | Message::Cancel(_) | Message::Verdict { .. } | Message::Closed => {
                unreachable!("only the coordinator says that")
            }
        };
        self.ask(env, request);
        Ok(())
    }

    pub(crate) fn ask(&mut self, env: &mut Env, request: Request) {
        self.alive().inbox.push(request);
        self.wake_soon(env);
    }

    pub(crate) fn hang_up(&mut self, env: &mut Env, link: LinkId) {
        env.close(link, Side::Coordinator, false);
        self.ask(env, Request::Disconnect(link));
    }

    pub(super) fn take(&mut self, env: &mut Env, request: Request) {
        let stalled = self.alive().stalled;
        match request {
            // nothing can be said; the agent keeps its answer
            Request::Standing(..) | Request::Happened(..) | Request::Own(_) if stalled => {}
            Request::Connect(link) => self.connected(env, link),
            Request::Disconnect(link) => self.disconnected(env, link),
            Request::Standing(link, answer) => self.alive().reads.push(Reply::Look { link, answer, refused: None }),
            Request::Happened(link, answer) => self.happened(env, link, answer),
            // what the engine refuses has been overtaken by something else
            Request::Own(event) => drop(self.apply(env, event)),
        }
    }

    fn connected(&mut self, env: &mut Env, link: LinkId) {
        if !env.is_open(link, Side::Coordinator) {
            return;
        }
        let members = self.setting.agents[env.agent_of(link)].clone();
        let sessions = &self.alive().sessions;
        let older: Vec<LinkId> = sessions.keys().copied().filter(|l| env.agent_of(*l) == env.agent_of(link)).collect();
        for old in older {
            // the newer connection wins; its members are not gone
            env.close(old, Side::Coordinator, false);
            self.alive().sessions.remove(&old);
        }
        self.alive().sessions.insert(link, members.iter().map(|(name, _)| name.clone()).collect());
        self.join(env, link);
    }

    /// The engine may count on the members of a connection, and gives them their open work again.
    pub(super) fn join(&mut self, env: &mut Env, link: LinkId) {
        if self.alive().stalled {
            return;
        }
        for (member, info) in self.setting.agents[env.agent_of(link)].clone() {
            let known = self.alive().state().members.contains_key(&member);
            let forgotten = known && env.has(Planted::JoinForgotten);
            if !self.is_over() && !forgotten {
                self.expect(env, Event::Joined { member, info });
            }
        }
    }

    fn disconnected(&mut self, env: &mut Env, link: LinkId) {
        let Some(members) = self.alive().sessions.remove(&link).filter(|_| !self.alive().stalled) else { return };
        for member in members {
            let counted = self.alive().state().members.get(&member).is_some_and(|m| m.online);
            if counted && !self.is_over() {
                self.expect(env, Event::Left { member: member.clone() });
            }
            let given: Vec<_> = self.alive().given.values().filter(|a| a.member == member).map(|a| a.id).collect();
            let blamed = if env.has(Planted::AwayIsFailed) { given } else { Vec::new() };
            for assignment in blamed {
                let (member, reason) = (member.clone(), "it is away".into());
                drop(self.apply(env, Event::Failed { member, assignment, reason }));
            }
        }
    }

    /// Gives the engine an event that it must take.
    pub(super) fn expect(&mut self, env: &mut Env, event: Event) {
        let text = format!("{event:?}");
        if let Err(reject) = self.apply(env, event) {
            env.watch.violations.push(("engine", format!("the engine refuses {text}: {reject}")));
        }
    }

    fn is_over(&mut self) -> bool {
        matches!(self.alive().state().phase, Phase::Done(_))
    }

    fn happened(&mut self, env: &mut Env, link: LinkId, mut answer: Answer) {
        let (member, id) = (answer.update.member.clone(), answer.update.assignment);
        let refused = (!answer.usable).then(|| "it holds NaN".to_owned());
        if env.has(Planted::AnswerToAnotherRound)
            && let Some(open) = self.alive().given.values().find(|a| a.member == member)
        {
            answer.update.assignment = open.id;
        }
        let event = match &refused {
            None => Event::Answered(answer.update.clone()),
            Some(reason) => Event::Refused { member, assignment: id, reason: reason.clone() },
        };
        let reply = match self.apply(env, event) {
            Ok(()) | Err(Reject::AlreadyAnswered(_)) => Reply::Verdict { link, answer, refused },
            // overtaken: by its own twin after a reconnect, whose verdict holds, or by the end of the phase
            Err(reject) => Reply::Look { link, answer, refused: refused.or(Some(reject.to_string())) },
        };
        self.alive().replies.push(reply);
    }

    fn standing(&mut self, answer: &Answer) -> Standing {
        let (member, id) = (&answer.update.member, answer.update.assignment);
        let over = self.is_over();
        let reject = match self.alive().given.get(&id) {
            Some(open) if !over && open.member == *member => return Standing::Open,
            Some(_) if !over => Reject::NotYours(id, member.clone()),
            _ if over => Reject::Over,
            _ => Reject::NotOpen(id),
        };
        match self.disk.store.receipt(id) {
            Some(receipt) if receipt.member == *member => Standing::Settled(receipt.refused.clone()),
            _ => Standing::Unknown(reject),
        }
    }

    pub(super) fn send_replies(&mut self, env: &mut Env) -> Result<(), Crash> {
        for reply in std::mem::take(&mut self.alive().replies) {
            match reply {
                // what they would tell may not be durable
                _ if self.alive().stalled => {}
                Reply::Verdict { link, answer, refused } => self.send_verdict(env, link, &answer, refused)?,
                look @ Reply::Look { .. } => self.alive().reads.push(look),
            }
        }
        Ok(())
    }

    pub(super) fn answer_reads(&mut self, env: &mut Env) -> Result<(), Crash> {
        for read in std::mem::take(&mut self.alive().reads) {
            let Reply::Look { link, answer, refused: before } = read else { continue };
            if self.alive().stalled {
                continue;
            }
            match (self.standing(&answer), before) {
                (Standing::Open, None) => self.check(env, link, answer),
                (Standing::Open, before) => self.send_verdict(env, link, &answer, before)?,
                (Standing::Settled(refused), _) => {
                    env.note("verdicts said again");
                    self.count_copy(env, &answer, refused.is_none());
                    self.send_verdict(env, link, &answer, refused)?;
                }
                (Standing::Unknown(_), None) if env.has(Planted::AnswerToAnotherRound) => self.check(env, link, answer),
                (Standing::Unknown(reject), before) => {
                    self.send_verdict(env, link, &answer, before.or(Some(reject.to_string())))?;
                }
            }
        }
        Ok(())
    }

    fn check(&mut self, env: &mut Env, link: LinkId, answer: Answer) {
        let incarnation = self.alive().incarnation;
        self.count_copy(env, &answer, true);
        let takes = env.between(1, 15);
        env.schedule(takes, Happening::Checked { incarnation, link, answer });
    }

    fn count_copy(&mut self, env: &Env, answer: &Answer, good: bool) {
        if good && env.has(Planted::DuplicateCounted) {
            *self.alive().copies.entry(answer.update.assignment).or_default() += 1;
        }
    }

    fn send_verdict(&mut self, env: &mut Env, link: LinkId, answer: &Answer, refused: Option<String>) -> Result<(), Crash> {
        let (member, assignment) = (&answer.update.member, answer.update.assignment);
        if !env.is_open(link, Side::Coordinator) {
            return Ok(());
        }
        env.point(Fault::BeforeVerdict)?;
        env.see(&Fact::Verdict { member, assignment, refused: refused.as_deref() });
        env.send(link, Side::Coordinator, Message::Verdict { assignment });
        env.point(Fault::AfterVerdict)
    }
}
