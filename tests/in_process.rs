//! The second of three speeds: coordinator and agents in this process, over pipes, with the whole wire in between.

// A test may panic, and no test uses all of what the tests share.
#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code, unreachable_pub, missing_debug_implementations)]

#[path = "support/virtual_run.rs"]
mod virtual_run;

use std::sync::Arc;
use tessera_client::config::{Agent, Dial, Members};
use tessera_client::data::{DataSpec, Dataset, Manifest};
use tessera_client::policy::Policy;
use tessera_common::id::Digest;
use tessera_common::spec::{Preset, RunSpec, merge};
use tessera_server::{Config, Happened, Server};
use tokio::sync::{mpsc, oneshot};

fn short_run(preset: &str) -> (Manifest, RunSpec) {
    let mut table: toml::Table = toml::from_str(include_str!("../deploy/runs/digits.toml")).unwrap();
    let data = DataSpec::from_table(table["data"].as_table().unwrap()).unwrap();
    let manifest = Manifest::make(&Dataset::builtin("digits").unwrap(), &data, 0).unwrap();
    table.remove("data");
    table.remove("method");
    let members = manifest.members.iter().filter(|m| !m.train.is_empty()).count();
    let own = format!(
        "name = \"{preset}\"\nrounds = 3\ncohort = {{ members = {members} }}\nevaluate = {{ members = 1, every = 2 }}\n\
         task = {{ kind = \"classify\", classes = 10, modalities = {{ left = 32, right = 32 }} }}"
    );
    merge(&mut table, &Preset::find(preset).unwrap().table());
    merge(&mut table, &toml::from_str(&own).unwrap());
    (manifest, RunSpec::from_table(&table).unwrap())
}

/// Starts an agent for `members` whose connections arrive at the coordinator.
fn start_agent(name: &str, members: Members, server: &tessera_server::Handle) -> oneshot::Sender<()> {
    let (dial, mut pipes) = mpsc::channel(4);
    let (stop, stopped) = oneshot::channel::<()>();
    let agent = Agent {
        name: name.parse().unwrap(),
        dial: Dial::Pipe(dial),
        identity: None,
        members,
        policy: Policy::default(),
        threads: 1,
        device: tessera_client::device::open("cpu").unwrap(),
        state_dir: None,
        heartbeat: std::time::Duration::from_millis(200),
    };
    let server = server.clone();
    tokio::spawn(async move {
        while let Some(pipe) = pipes.recv().await {
            server.serve_io(pipe).await.unwrap();
        }
    });
    tokio::spawn(tessera_client::session::run(agent, async { drop(stopped.await) }));
    stop
}

async fn run_in_process(manifest: &Manifest, spec: &RunSpec, agents: usize) -> (Digest, Digest) {
    let server = Server::bind(Config::in_memory()).await.unwrap();
    let handle = server.handle();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(server.run(async { drop(stopped.await) }));
    let mut hands = vec![Members::new(); agents];
    for (i, (name, data)) in virtual_run::members(manifest).into_iter().enumerate() {
        hands[i % agents].insert(name, Arc::new(data));
    }
    let running: Vec<_> =
        hands.into_iter().enumerate().map(|(i, members)| start_agent(&format!("agent-{i}"), members, &handle)).collect();
    let run = handle.submit(&spec.to_toml(), None).await.unwrap();
    let mut watch = handle.watch(&run, 0).await.unwrap();
    let (mut global, mut statistics) = (None, None);
    while let Some((_, happened)) = watch.next().await {
        match happened {
            Happened::Published { published, .. } => global = Some(published.digest),
            Happened::Evaluated { statistics: latest, .. } => statistics = latest,
            Happened::Ended { .. } | Happened::Resting { .. } | Happened::Resumed => panic!("{happened:?}"),
            Happened::Paused { reason } => panic!("{reason}"),
            Happened::Finished(_) => break,
        }
    }
    drop(running);
    drop(stop);
    serving.await.unwrap().unwrap();
    (global.unwrap(), statistics.unwrap())
}

// Should: give the digests of the engine alone, with any number of agents, each of which hosts many members.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wire_changes_nothing() {
    for preset in ["tessera", "pmcmfl"] {
        let (manifest, spec) = short_run(preset);
        let reference = virtual_run::run(&spec, virtual_run::members(&manifest), 5);
        for agents in [1, 3] {
            let digests = run_in_process(&manifest, &spec, agents).await;
            assert_eq!(digests, (reference.global, reference.statistics), "{preset} with {agents} agents");
        }
    }
}

// Should: tell the operator what is too large and for whom. Should not: make the agent lose its connection over and over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_too_large_is_a_fault_with_a_reason() {
    let (manifest, spec) = short_run("tessera");
    let server = Server::bind(Config { max_blob_bytes: 10_000, ..Config::in_memory() }).await.unwrap();
    let handle = server.handle();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(server.run(async { drop(stopped.await) }));
    let members = virtual_run::members(&manifest).into_iter().map(|(name, data)| (name, Arc::new(data))).collect();
    let agent = start_agent("agent", members, &handle);
    let run = handle.submit(&spec.to_toml(), None).await.unwrap();
    let mut watch = handle.watch(&run, 0).await.unwrap();
    let mut faults = 0;
    let reason = loop {
        match watch.next().await.unwrap().1 {
            Happened::Ended { reason, .. } => {
                assert!(reason.contains("this coordinator takes at most 10000"), "{reason}");
                faults += 1;
            }
            Happened::Paused { reason } => break reason,
            Happened::Resting { failures, .. } => assert!(failures >= 3),
            other => panic!("{other:?}"),
        }
    };
    assert!(faults > 0);
    assert!(reason.contains("takes at most 10000"), "{reason}");
    drop((agent, stop));
    serving.await.unwrap().unwrap();
}
