//! `tessera run`: submit, list, show, pause, resume, stop.

mod address;
mod show;
mod submit;

pub(crate) use address::{Place, place};

use crate::cli::{self, Kind, failure, print};
use anyhow::Result;
use serde_json::json;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tessera_proto::MAX_MESSAGE_BYTES;
use tessera_proto::v1::admin_client::AdminClient;
use tessera_proto::v1::{
    ListRunsRequest, PauseRunRequest, ResumeRunRequest, ShowRunRequest, ShowRunResponse, StopRunRequest, SubmitRunRequest,
};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

/// Longest that a connection to the admin interface may take: it is on this machine.
const CONNECT: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The coordinator's admin socket, or host:port of its admin interface on loopback.
    #[arg(long, global = true, env = "TESSERA_ADMIN", default_value = "tessera-data/admin.sock")]
    admin: String,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
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
    /// All runs.
    List,
    /// One run.
    Show {
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
    let json = arguments.json;
    cli::runtime()?.block_on(async {
        let mut admin = connect(&arguments.admin).await?;
        match arguments.verb {
            Verb::Submit { spec, id, set } => {
                let spec_toml = submit::read(&spec, &set)?.to_toml();
                let request = SubmitRunRequest { spec_toml, run: id.unwrap_or_default() };
                let run = admin.submit_run(request).await.map_err(status)?.into_inner().run;
                if json { print(json!({ "run": run })) } else { print(&run) }
            }
            Verb::List => {
                let runs = admin.list_runs(ListRunsRequest {}).await.map_err(status)?.into_inner().runs;
                show::list(&runs, json);
            }
            Verb::Show { run } => show::run(&detail(&mut admin, &run).await?, json),
            Verb::Pause { run, reason } => {
                admin.pause_run(PauseRunRequest { run: run.clone(), reason }).await.map_err(status)?;
                said(&run, "paused", json);
            }
            Verb::Resume { run } => {
                admin.resume_run(ResumeRunRequest { run: run.clone() }).await.map_err(status)?;
                // what it does now: it may have paused again, for want of the same members
                let phase = detail(&mut admin, &run).await?.summary.unwrap_or_default().phase;
                if json { said(&run, &phase, true) } else { print(format_args!("{run} resumed, now {phase}")) }
            }
            Verb::Stop { run } => {
                admin.stop_run(StopRunRequest { run: run.clone() }).await.map_err(status)?;
                said(&run, "stopped", json);
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn said(run: &str, phase: &str, json: bool) {
    if json { print(json!({ "run": run, "phase": phase })) } else { print(format_args!("{run} {phase}")) }
}

async fn detail(admin: &mut AdminClient<Channel>, run: &str) -> Result<ShowRunResponse> {
    Ok(admin.show_run(ShowRunRequest { run: run.to_owned() }).await.map_err(status)?.into_inner())
}

/// Connects to the admin interface of a coordinator on this machine.
pub(crate) async fn connect(address: &str) -> Result<AdminClient<Channel>> {
    let channel = match place(address).await? {
        Place::Loopback(addresses) => connect_any(&addresses).await,
        #[cfg(unix)]
        Place::Socket(path) => {
            let connector = tower::service_fn(move |_| {
                let path = path.clone();
                async move { Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(tokio::net::UnixStream::connect(path).await?)) }
            });
            let endpoint = Endpoint::from_static("http://admin").connect_timeout(CONNECT);
            endpoint.connect_with_connector(connector).await.map_err(|e| cause(&e))
        }
        #[cfg(not(unix))]
        Place::Socket(_) => return Err(cli::invalid(format!("--admin {address:?} is not an address such as 127.0.0.1:7444"))),
    };
    let channel = channel.map_err(|why| {
        let text = format!("no coordinator answers at {address} ({why}); start one, or name its admin interface with --admin");
        failure(Kind::Unreachable, text)
    })?;
    Ok(AdminClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES))
}

/// The first address that answers, or why the last one does not.
async fn connect_any(addresses: &[SocketAddr]) -> Result<Channel, String> {
    let mut why = "no address".to_owned();
    for address in addresses {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| cause(&e))?;
        match endpoint.connect_timeout(CONNECT).connect().await {
            Ok(channel) => return Ok(channel),
            Err(error) => why = cause(&error),
        }
    }
    Err(why)
}

/// The innermost cause: "transport error" alone helps nobody.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |e| e.source()).last().map(ToString::to_string).unwrap_or_default()
}

/// A refusal of the coordinator as an error with the right exit code.
pub(crate) fn status(status: tonic::Status) -> anyhow::Error {
    let code = status.code();
    // only what went wrong on this side has a source
    if std::error::Error::source(&status).is_some() {
        let (what, why) = (status.message(), cause(&status));
        let text = format!("the connection broke ({what}: {why}); is --admin the admin interface of a running coordinator?");
        return failure(Kind::Unreachable, text);
    }
    let text = match (status.message(), code) {
        ("", Code::Unimplemented) => {
            "this is not the admin interface of a coordinator of this version (Unimplemented); is --admin the address of the \
             agents?"
                .to_owned()
        }
        ("", _) => format!("refused without a reason ({code:?}: {}); see the log of the coordinator", code.description()),
        (text, _) => text.to_owned(),
    };
    match code {
        Code::NotFound => failure(Kind::NotFound, text),
        Code::InvalidArgument | Code::AlreadyExists | Code::Unimplemented => failure(Kind::Invalid, text),
        Code::Unavailable => failure(Kind::Unreachable, text),
        _ => anyhow::anyhow!("{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Status;

    #[test]
    fn a_refusal_always_says_something() {
        let said = |s: Status| status(s).to_string();
        assert!(said(Status::new(Code::Unimplemented, "")).contains("is --admin the address of the agents?"));
        let unknown = said(Status::new(Code::Unknown, ""));
        assert!(unknown.contains("(Unknown: ") && unknown.contains("see the log"), "{unknown}");
        assert_eq!(said(Status::not_found("there is no run x")), "there is no run x");
        let broken = status(Status::from_error(Box::new(std::io::Error::other("broken pipe"))));
        assert_eq!(cli::exit_code_of(&broken), ExitCode::from(6));
        assert!(broken.to_string().contains("broken pipe); is --admin"), "{broken}");
        let code = |c: Code| cli::exit_code_of(&status(Status::new(c, "")));
        assert_eq!(code(Code::Unimplemented), ExitCode::from(4));
        assert_eq!(code(Code::NotFound), ExitCode::from(3));
        assert_eq!(code(Code::Unavailable), ExitCode::from(6));
    }
}
