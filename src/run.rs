//! `tessera run`: what operators do with runs.

mod address;
mod admin;
#[cfg(feature = "client")]
mod elsewhere;
mod fork;
mod globals;
#[cfg(feature = "server")]
mod replay;
mod show;
pub(crate) mod submit;
mod watch;

pub(crate) use address::is_address;
#[cfg(feature = "server")]
pub(crate) use address::{Place, place};
pub(crate) use admin::{DEFAULT_ADMIN, Target, connect, status};
pub(crate) use globals::{kept, not_kept};

use crate::cli::{self, print};
use anyhow::Result;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use tessera_proto::v1::admin_client::AdminClient;
use tessera_proto::v1::{
    ListRunsRequest, PauseRunRequest, ResumeRunRequest, ShowRunRequest, ShowRunResponse, StopRunRequest, SubmitRunRequest,
};
use tonic::transport::Channel;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    #[command(flatten)]
    Ask(Question),
    /// Follow a run to its end: a line for everything that happens. Exits with 0 if it completes, with 1 if it is stopped.
    Watch {
        /// Its id.
        run: String,
    },
    /// Do a run's rounds again from its journal and its blobs, and compare: offline, and nothing is changed.
    #[cfg(feature = "server")]
    Replay(replay::Arguments),
}

/// What takes a question or two.
#[derive(Debug, clap::Subcommand)]
enum Question {
    /// Start a run.
    Submit {
        /// Run spec; a `preset` at its top is laid under it.
        spec: PathBuf,
        /// Id of the run; the same id with the same spec again is the same run.
        #[arg(long)]
        id: Option<String>,
        /// Override a key, such as cohort.size=9.
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
    },
    /// Start a run that goes on from a round of another one.
    Fork(fork::Arguments),
    /// All runs.
    List,
    /// One run.
    Show {
        /// Its id.
        run: String,
    },
    /// The models of a run that are still kept, one for each of its latest rounds.
    Globals {
        /// Its id.
        run: String,
    },
    /// Give no new work until the run is resumed; answers that come in the meantime count.
    Pause {
        /// Its id.
        run: String,
        /// Why, for whoever looks.
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Go on with a paused run, whatever paused it.
    Resume {
        /// Its id.
        run: String,
    },
    /// End a run; what it has published stays.
    Stop {
        /// Its id.
        run: String,
    },
}

pub(crate) fn main(arguments: Arguments) -> Result<ExitCode> {
    let Arguments { target, verb } = arguments;
    match verb {
        #[cfg(feature = "server")]
        Verb::Replay(arguments) => replay::main(&arguments, target.json),
        Verb::Watch { run } => cli::runtime()?.block_on(watch::main(&target, &run)),
        Verb::Ask(question) => cli::runtime()?.block_on(ask(question, &target)),
    }
}

async fn ask(question: Question, target: &Target) -> Result<ExitCode> {
    let json = target.json;
    let mut admin = target.connect().await?;
    match question {
        Question::Submit { spec, id, set } => {
            let spec_toml = submit::read(&spec, &set)?.to_toml();
            let request = SubmitRunRequest { spec_toml, run: id.unwrap_or_default() };
            let run = admin.submit_run(request).await.map_err(status)?.into_inner().run;
            started(&run, json);
        }
        Question::Fork(arguments) => started(&fork::fork(&mut admin, arguments).await?, json),
        Question::List => {
            let runs = admin.list_runs(ListRunsRequest {}).await.map_err(status)?.into_inner().runs;
            show::list(&runs, json);
        }
        Question::Show { run } => show::run(&detail(&mut admin, &run).await?, json),
        Question::Globals { run } => globals::print(&kept(&mut admin, &run).await?, json),
        Question::Pause { run, reason } => {
            admin.pause_run(PauseRunRequest { run: run.clone(), reason }).await.map_err(status)?;
            said(&run, "paused", json);
        }
        Question::Resume { run } => {
            admin.resume_run(ResumeRunRequest { run: run.clone() }).await.map_err(status)?;
            // what it does now: it may have paused again, for want of the same members
            let phase = detail(&mut admin, &run).await?.summary.unwrap_or_default().phase;
            if json {
                said(&run, &phase, true)
            } else {
                print(format_args!("{run} resumed, now {phase}"))
            }
            if phase == "paused" {
                // what paused it is still so
                return Ok(ExitCode::FAILURE);
            }
        }
        Question::Stop { run } => {
            admin.stop_run(StopRunRequest { run: run.clone() }).await.map_err(status)?;
            said(&run, "stopped", json);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn started(run: &str, json: bool) {
    if json { print(json!({ "run": run })) } else { print(run) }
}

fn said(run: &str, phase: &str, json: bool) {
    if json { print(json!({ "run": run, "phase": phase })) } else { print(format_args!("{run} {phase}")) }
}

/// Everything that the coordinator says of a run.
pub(crate) async fn detail(admin: &mut AdminClient<Channel>, run: &str) -> Result<ShowRunResponse> {
    Ok(admin.show_run(ShowRunRequest { run: run.to_owned() }).await.map_err(status)?.into_inner())
}
