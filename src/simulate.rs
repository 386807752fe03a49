//! `tessera simulate`: a whole federation on this machine, as real processes.
//!
//! One coordinator and P agents are started from this very binary, on loopback with TLS and ports chosen free; the
//! members are dealt out over the agents; the runs, one per method, are submitted over the admin socket and watched.

mod children;
mod outcome;
mod output;
mod plan;
mod report;
mod watch;

use crate::cli::{self, Kind, failure};
use anyhow::{Context, Result};
use children::Children;
use outcome::Outcome;
use plan::Plan;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Spec with tables `data` and `method`; without one, the built-in example on handwritten digits.
    spec: Option<PathBuf>,
    /// Agent processes; one per core, at most one per member, if not given.
    #[arg(short, long)]
    processes: Option<NonZeroUsize>,
    /// Compute threads of each agent.
    #[arg(short, long, default_value = "1")]
    threads: NonZeroUsize,
    /// Where agents train: auto, cpu, vulkan, metal or cuda, the last three as built in, with an index if there are several: cuda:1.
    /// Here `auto` is the processor, whatever is built in: on a graphics card equal seeds need not give equal digests.
    #[arg(long, value_name = "NAME", default_value = "auto")]
    device: String,
    /// Seed of split, partition, missing pattern, initial model and every other draw.
    #[arg(short, long)]
    seed: Option<u64>,
    /// Override a key of the file, such as cohort.size=5 or data.missing.rate=0.7. A method's own keys still win.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Folder of the results; a new one under runs/ if not given.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// A manifest of an earlier simulation or of `tessera data partition`, instead of cutting the data anew.
    #[arg(long, value_name = "FILE")]
    partition: Option<PathBuf>,
    /// Print NDJSON whose last line is the result.
    #[arg(long)]
    json: bool,
}

pub(crate) fn main(arguments: Arguments) -> Result<ExitCode> {
    let plan = Plan::make(&arguments)?;
    let runtime = cli::runtime()?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = simulate(&plan, arguments.json) => outcome,
            // Dropping the simulation ends the children: each sees its standard input close and is then killed.
            () = cli::interrupted() => Err(failure(Kind::Interrupted, "interrupted; all processes are ended")),
        }
    });
    // a child's pipe may still be read by a blocked thread
    runtime.shutdown_background();
    let outcome = outcome?;
    output::print(&plan, &outcome, arguments.json);
    let finished = outcome.methods.iter().all(|m| m.finished);
    Ok(if finished { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn simulate(plan: &Plan, json: bool) -> Result<Outcome> {
    std::fs::create_dir_all(&plan.out).with_context(|| format!("cannot make the folder {}", plan.out.display()))?;
    plan.manifest.save(&plan.out.join("partition.json")).map_err(cli::invalid)?;
    let mut children = Children::start(plan, json).await?;
    let methods = watch::run(plan, &mut children, json).await?;
    let outcome = Outcome {
        name: plan.name.clone(),
        seed: plan.seed,
        partition: plan.manifest.summary().to_string(),
        methods,
        restarts: children.restarts(),
        command: plan.command.clone(),
    };
    output::write(plan, &outcome, &mut children).await?;
    children.stop().await;
    Ok(outcome)
}
