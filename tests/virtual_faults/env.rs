//! Virtual time, the network between agents and the coordinator, and what watches over both.
//!
//! A connection delivers in order. Messages carry numbers; whoever sees a wrong one ends the connection, and the agent
//! connects anew: that is how loss, duplicates and disorder are mended. Heartbeats are only simulated where they make a
//! difference: after a lost message they show the gap, and on a silent link their absence ends the connection.

use super::faults::{Dice, Fault, Planted};
use super::watch::{Fact, Watch};
use std::collections::BTreeMap;
use tessera_common::id::{AssignmentId, Millis};
use tessera_common::rng::Stream;
use tessera_common::round::Assignment;
use tessera_common::update::UpdateRef;

const HEARTBEAT: Millis = 1_000;
/// Silence that ends a connection, for the coordinator and for an agent.
const SILENCE: [Millis; 2] = [3 * HEARTBEAT, 10 * HEARTBEAT + 5_000];

pub(crate) type LinkId = usize;

/// An end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Coordinator,
    Agent,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Side::Coordinator => Side::Agent,
            Side::Agent => Side::Coordinator,
        }
    }
}

/// An answer on its way.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) update: UpdateRef,
    /// Its blob holds what it should.
    pub(crate) usable: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Message {
    Hello,
    Answer(Answer),
    Failure(Assignment),
    Welcome,
    Assign(Assignment),
    Cancel(AssignmentId),
    Verdict { assignment: AssignmentId },
    Closed,
    Heartbeat,
}

/// Something that will happen.
#[derive(Debug)]
pub(crate) enum Happening {
    Arrives {
        link: LinkId,
        to: Side,
        sequence: u64,
        message: Message,
    },
    /// An end of a link learns that the other end is closed, or that it is silent.
    Ends {
        link: LinkId,
        at: Side,
    },
    Heartbeat {
        link: LinkId,
        from: Side,
    },
    CoordinatorStarts,
    DiskWorks {
        incarnation: u32,
    },
    Wakes {
        incarnation: u32,
    },
    Checked {
        incarnation: u32,
        link: LinkId,
        answer: Answer,
    },
    FoldDone {
        incarnation: u32,
        fold: u64,
    },
    AgentStarts {
        agent: usize,
    },
    Connects {
        agent: usize,
        incarnation: u32,
    },
    Fetched {
        agent: usize,
        link: LinkId,
        assignment: AssignmentId,
    },
    Trained {
        agent: usize,
        incarnation: u32,
        assignment: AssignmentId,
    },
    OperatorLooks,
    BadLuck,
}

#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) agent: usize,
    open: [bool; 2],
    sent: [u64; 2],
    received: [u64; 2],
    last_arrival: [Millis; 2],
    /// What this end sends gets nowhere.
    mute: [bool; 2],
}

/// A process died; whoever called must go back to the world at once.
#[derive(Debug)]
pub(crate) struct Crash;

#[derive(Debug)]
pub(crate) struct Env {
    pub(crate) now: Millis,
    pub(crate) dice: Dice,
    /// Latencies and the like, which are no faults.
    pub(crate) weather: Stream,
    pub(crate) planted: Option<Planted>,
    pub(crate) watch: Watch,
    pub(crate) coordinator_up: bool,
    /// What faults led to, counted, so that a path that nothing takes any more shows.
    pub(crate) seen: BTreeMap<&'static str, u64>,
    links: Vec<Link>,
    queue: BTreeMap<(Millis, u64), Happening>,
    scheduled: u64,
}

impl Env {
    pub(crate) fn new(dice: Dice, weather: Stream, planted: Option<Planted>, watch: Watch) -> Self {
        Self {
            now: 0,
            dice,
            weather,
            planted,
            watch,
            coordinator_up: false,
            seen: BTreeMap::new(),
            links: Vec::new(),
            queue: BTreeMap::new(),
            scheduled: 0,
        }
    }

    pub(crate) fn has(&self, planted: Planted) -> bool {
        self.planted == Some(planted)
    }

    pub(crate) fn see(&mut self, fact: &Fact<'_>) {
        self.watch.see(fact);
    }

    pub(crate) fn note(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// From `low` to below `high` milliseconds.
    pub(crate) fn between(&mut self, low: Millis, high: Millis) -> Millis {
        low + self.weather.below((high - low) as usize) as Millis
    }

    pub(crate) fn schedule(&mut self, delay: Millis, happening: Happening) {
        self.schedule_at(self.now + delay, happening);
    }

    pub(crate) fn schedule_at(&mut self, at: Millis, happening: Happening) {
        self.scheduled += 1;
        self.queue.insert((at, self.scheduled), happening);
    }

    /// The next thing to happen; time goes on to it.
    pub(crate) fn next(&mut self) -> Option<Happening> {
        let ((at, _), happening) = self.queue.pop_first()?;
        self.now = at;
        Some(happening)
    }

    /// A place at which a process may die.
    pub(crate) fn point(&mut self, fault: Fault) -> Result<(), Crash> {
        if self.dice.hit(fault) { Err(Crash) } else { Ok(()) }
    }

    // ---- links ----

    /// A new connection, on which the agent says hello; None if nobody listens.
    pub(crate) fn connect(&mut self, agent: usize) -> Option<LinkId> {
        if !self.coordinator_up {
            return None;
        }
        let link = self.links.len();
        self.links.push(Link { agent, open: [true; 2], sent: [0; 2], received: [0; 2], last_arrival: [0; 2], mute: [false; 2] });
        self.send(link, Side::Agent, Message::Hello);
        Some(link)
    }

    pub(crate) fn agent_of(&self, link: LinkId) -> usize {
        self.links[link].agent
    }

    pub(crate) fn is_open(&self, link: LinkId, side: Side) -> bool {
        self.links[link].open[side as usize]
    }

    /// Links that are open at this side.
    pub(crate) fn open_links(&self, side: Side) -> Vec<LinkId> {
        (0..self.links.len()).filter(|&link| self.is_open(link, side)).collect()
    }

    pub(crate) fn send(&mut self, link: LinkId, from: Side, message: Message) {
        let i = from as usize;
        if !self.links[link].open[i] {
            return;
        }
        self.links[link].sent[i] += 1;
        let sequence = self.links[link].sent[i];
        if self.links[link].mute[i] {
            return;
        }
        if self.dice.hit(Fault::MessageLost) {
            return self.schedule(HEARTBEAT, Happening::Heartbeat { link, from });
        }
        let mut latency = self.between(1, 20);
        if self.dice.hit(Fault::MessageDelayed) {
            latency += 1 + self.dice.below(3_000) as Millis;
        }
        let mut at = (self.now + latency).max(self.links[link].last_arrival[i]);
        if self.dice.hit(Fault::MessageReordered) {
            // those behind it overtake it
            at += 50 + self.dice.below(500) as Millis;
        } else {
            self.links[link].last_arrival[i] = at;
        }
        let to = from.other();
        if self.dice.hit(Fault::MessageDuplicated) {
            let again = at + self.dice.below(100) as Millis;
            self.schedule_at(at, Happening::Arrives { link, to, sequence, message: message.clone() });
            self.schedule_at(again, Happening::Arrives { link, to, sequence, message });
        } else {
            self.schedule_at(at, Happening::Arrives { link, to, sequence, message });
        }
    }

    /// The number of a message that arrived: Ok(true) if it is to be taken, Err if the connection must end.
    pub(crate) fn accepts(&mut self, link: LinkId, at: Side, sequence: u64) -> Result<bool, ()> {
        let planted = self.planted;
        let link = &mut self.links[link];
        if !link.open[at as usize] {
            return Ok(false);
        }
        let received = &mut link.received[at as usize];
        if sequence == *received + 1 {
            *received = sequence;
            return Ok(true);
        }
        match planted {
            Some(Planted::GapIgnored) if sequence > *received => {
                *received = sequence;
                Ok(true)
            }
            Some(Planted::DuplicateCounted | Planted::DuplicateTrained) if sequence == *received => Ok(true),
            _ => Err(()),
        }
    }

    /// One end ends the connection. The other end learns of it, unless `quietly`; then it finds out by the silence.
    pub(crate) fn close(&mut self, link: LinkId, at: Side, quietly: bool) {
        let (i, other) = (at as usize, at.other());
        if !std::mem::take(&mut self.links[link].open[i]) || !self.links[link].open[other as usize] {
            return;
        }
        if !quietly && !self.links[link].mute[i] {
            let latency = self.between(1, 20);
            let when = (self.now + latency).max(self.links[link].last_arrival[i]);
            self.schedule_at(when, Happening::Ends { link, at: other });
        }
        self.schedule(SILENCE[other as usize], Happening::Ends { link, at: other });
    }

    /// From now on, nothing that one end sends gets through.
    pub(crate) fn half_open(&mut self, link: LinkId, from: Side) {
        self.links[link].mute[from as usize] = true;
        let at = from.other();
        self.schedule(SILENCE[at as usize], Happening::Ends { link, at });
    }
}
