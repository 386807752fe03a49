//! A virtual cluster: a coordinator around the engine, agents, and a network, in virtual time.
//!
//! Everything is drawn from streams of one seed, so that a seed is a run. First faults strike; from a drawn moment on
//! there are none, and the run must end. [`watch::Watch`] looks at every step.

mod agent;
mod coordinator;
mod disk;
mod env;
mod faults;
mod invariants;
mod loading;
mod requests;
mod setting;
mod watch;
mod work;

pub(crate) use faults::{FAULTS, PLANTED, Planted};
pub(crate) use invariants::names;
pub(crate) use setting::{KINDS, Kind};

use agent::Agent;
use coordinator::Coordinator;
use disk::Told;
use env::{Crash, Env, Happening, LinkId, Message, Side};
use faults::{Counts, Dice, Fault};
use requests::Request;
use setting::Setting;
use std::collections::BTreeMap;
use std::rc::Rc;
use tessera_common::id::Millis;
use tessera_common::rng::stream;
use tessera_common::round::{Event, Phase};
use watch::{Fact, Known, Watch};

/// How often something may happen out of the blue.
const LUCK: Millis = 150;
/// How often the operator looks whether the run is paused.
const LOOK: Millis = 1_000;

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) violations: Vec<(&'static str, String)>,
    pub(crate) ended: bool,
    pub(crate) counts: Counts,
    pub(crate) steps: u64,
    /// What the faults led to.
    pub(crate) seen: BTreeMap<&'static str, u64>,
    history: Vec<Told>,
}

/// Runs a seed to its end, or to the first step that violates an invariant.
pub(crate) fn run(seed: u64, kind: Kind, planted: Option<Planted>, trace: bool) -> Outcome {
    let setting = Setting::new(seed, kind);
    let undisturbed = (kind == Kind::Patient).then(|| {
        let calm = World::new(seed, Known { setting: setting.clone(), undisturbed: None }, None, false).run(false);
        assert!(calm.ended && calm.violations.is_empty(), "seed {seed} without faults: {:?}", calm.violations);
        calm.history
    });
    World::new(seed, Known { setting, undisturbed }, planted, true).run(trace)
}

struct World {
    known: Rc<Known>,
    env: Env,
    coordinator: Coordinator,
    agents: Vec<Agent>,
    steps: u64,
}

impl World {
    fn new(seed: u64, known: Known, planted: Option<Planted>, faults: bool) -> Self {
        let known = Rc::new(known);
        let setting = &known.setting;
        let dice = Dice::new(seed, faults, setting.kind == Kind::Patient);
        let mut env = Env::new(dice, stream(seed, "weather", "", 0), planted, Watch::new(known.clone()));
        let agents: Vec<Agent> = (0..setting.agents.len()).map(|id| Agent::new(id, setting)).collect();
        env.schedule(0, Happening::CoordinatorStarts);
        for agent in 0..agents.len() {
            let at = env.between(0, 500);
            env.schedule(at, Happening::AgentStarts { agent });
        }
        env.schedule(LOOK, Happening::OperatorLooks);
        env.schedule(LUCK, Happening::BadLuck);
        let coordinator = Coordinator::new(setting.clone());
        Self { known, env, coordinator, agents, steps: 0 }
    }

    fn run(mut self, trace: bool) -> Outcome {
        let mut ended = false;
        // behind a planted mistake one looks on, to see who else notices it
        while !ended && (self.env.planted.is_some() || self.env.watch.violations.is_empty()) {
            if self.env.watch.violations.iter().any(|(name, _)| *name == "liveness") {
                break;
            }
            let Some(happening) = self.env.next() else { break };
            self.env.dice.active &= self.env.now < self.known.setting.quiet_from;
            if trace {
                println!("{:>7} ms  {happening:?}", self.env.now);
            }
            self.steps += 1;
            self.step(happening);
            let process = self.coordinator.process();
            let process = process.filter(|p| !p.stalled);
            let (state, open) = (process.map(|p| p.state()), process.map_or(0, |p| p.given.len()));
            self.env.see(&Fact::Step { now: self.env.now, steps: self.steps, state, open });
            ended = self.coordinator.is_done() && self.agents.iter().all(Agent::is_idle);
        }
        let process = self.coordinator.process();
        let tally = process.map(|p| p.state().tally);
        let history = process.map(|p| p.history.clone()).unwrap_or_default();
        if let (true, Some(process)) = (ended, process) {
            self.env.see(&Fact::Ended { history: &history, state: process.state() });
        }
        let Env { watch, dice, mut seen, .. } = self.env;
        if let Some(tally) = tally {
            seen.insert("assignments expired", tally.expired);
            seen.insert("assignments dropped", tally.dropped);
        }
        Outcome { violations: watch.violations, ended, counts: dice.counts, steps: self.steps, seen, history }
    }

    fn step(&mut self, happening: Happening) {
        match happening {
            Happening::Arrives { link, to, sequence, message } => self.arrives(link, to, sequence, message),
            Happening::Ends { link, at } => self.ends(link, at),
            Happening::Heartbeat { link, from } => self.env.send(link, from, Message::Heartbeat),
            Happening::CoordinatorStarts => self.of_coordinator(Coordinator::start),
            Happening::Wakes { incarnation } => self.of_incarnation(incarnation, Coordinator::wake),
            Happening::DiskWorks { incarnation } => self.of_incarnation(incarnation, Coordinator::disk_works),
            Happening::FoldDone { incarnation, fold } => self.of_incarnation(incarnation, |c, env| c.fold_done(env, fold)),
            Happening::Checked { incarnation, link, answer } => {
                self.of_incarnation(incarnation, |c, env| {
                    // checks end with their connection; the agent sends the answer again
                    if env.is_open(link, Side::Coordinator) {
                        c.ask(env, Request::Happened(link, answer));
                    }
                    Ok(())
                });
            }
            Happening::AgentStarts { agent } => self.agents[agent].start(&mut self.env),
            Happening::Connects { agent, incarnation } => {
                self.of_agent(agent, incarnation, |agent, env| {
                    agent.connect(env);
                    Ok(())
                });
            }
            Happening::Fetched { agent, link, assignment } => {
                let incarnation = self.agents[agent].incarnation();
                self.of_agent(agent, incarnation, |agent, env| agent.fetched(env, link, assignment));
            }
            Happening::Trained { agent, incarnation, assignment } => {
                self.of_agent(agent, incarnation, |agent, env| agent.trained(env, assignment));
            }
            Happening::OperatorLooks => self.operator_looks(),
            Happening::BadLuck => self.bad_luck(),
        }
    }

    fn of_coordinator(&mut self, action: impl FnOnce(&mut Coordinator, &mut Env) -> Result<(), Crash>) {
        if let Err(Crash) = action(&mut self.coordinator, &mut self.env) {
            self.coordinator.crash(&mut self.env);
        }
    }

    /// As [`Self::of_coordinator`], if that process still lives.
    fn of_incarnation(&mut self, of: u32, action: impl FnOnce(&mut Coordinator, &mut Env) -> Result<(), Crash>) {
        if self.coordinator.process().is_some_and(|p| p.incarnation() == of) {
            self.of_coordinator(action);
        }
    }

    fn of_agent(&mut self, id: usize, of: u32, action: impl FnOnce(&mut Agent, &mut Env) -> Result<(), Crash>) {
        let agent = &mut self.agents[id];
        if agent.is_up()
            && agent.incarnation() == of
            && let Err(Crash) = action(agent, &mut self.env)
        {
            agent.crash(&mut self.env);
        }
    }

    fn arrives(&mut self, link: LinkId, to: Side, sequence: u64, message: Message) {
        match self.env.accepts(link, to, sequence) {
            Ok(false) => {}
            Err(()) => {
                self.env.note("connections ended by a gap");
                self.ends(link, to);
            }
            Ok(true) if to == Side::Coordinator => self.of_coordinator(|c, env| c.receive(env, link, message)),
            Ok(true) => {
                let agent = self.env.agent_of(link);
                let incarnation = self.agents[agent].incarnation();
                self.of_agent(agent, incarnation, |agent, env| agent.receive(env, link, message));
            }
        }
    }

    /// An end of a link is closed: by the other end, for its silence, or for a wrong number.
    fn ends(&mut self, link: LinkId, at: Side) {
        if !self.env.is_open(link, at) {
            return;
        }
        match at {
            Side::Coordinator => self.coordinator.hang_up(&mut self.env, link),
            Side::Agent => {
                let agent = self.env.agent_of(link);
                self.agents[agent].hang_up(&mut self.env, link, false);
            }
        }
    }

    fn operator_looks(&mut self) {
        self.env.schedule(LOOK, Happening::OperatorLooks);
        let Some(process) = self.coordinator.process() else { return };
        let paused = matches!(process.state().phase, Phase::Paused { .. });
        let event = if paused && self.env.weather.below(2) == 0 {
            Event::ResumeAsked
        } else if !paused && self.env.dice.hit(Fault::OperatorPause) {
            Event::PauseAsked { reason: "maintenance".into() }
        } else {
            return;
        };
        self.coordinator.ask(&mut self.env, Request::Own(event));
    }

    /// Faults that need no occasion.
    fn bad_luck(&mut self) {
        if !self.env.dice.active {
            return;
        }
        self.env.schedule(LUCK, Happening::BadLuck);
        if self.coordinator.process().is_some() && self.env.dice.hit(Fault::CoordinatorIdle) {
            self.coordinator.crash(&mut self.env);
        }
        let agent = self.env.weather.below(self.agents.len());
        if self.agents[agent].is_up() && self.env.dice.hit(Fault::AgentIdle) {
            self.agents[agent].crash(&mut self.env);
        }
        if self.agents[agent].is_up() && self.env.dice.hit(Fault::Absence) {
            let millis = 1_000 + self.env.dice.below(15_000) as Millis;
            self.agents[agent].go_away(&mut self.env, millis);
        }
        let links = self.env.open_links(Side::Agent);
        if links.is_empty() {
            return;
        }
        let link = links[self.env.weather.below(links.len())];
        if self.env.dice.hit(Fault::LinkCut) {
            self.ends(link, Side::Agent);
        } else if self.env.dice.hit(Fault::LinkHalfOpen) {
            let from = if self.env.dice.below(2) == 0 { Side::Agent } else { Side::Coordinator };
            self.env.half_open(link, from);
        }
    }
}
