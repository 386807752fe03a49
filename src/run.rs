//! `tessera run`: submit, list, show, stop.

use crate::cli::{self, Kind, failure, print};
use crate::table::Table;
use anyhow::Result;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tessera_common::id::Digest;
use tessera_common::spec::RunSpec;
use tessera_proto::MAX_MESSAGE_BYTES;
use tessera_proto::v1::admin_client::AdminClient;
use tessera_proto::v1::{ListRunsRequest, RunSummary, ShowRunRequest, StopRunRequest, SubmitRunRequest};
use tonic::transport::{Channel, Endpoint};

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
        /// Run spec.
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
    /// End a run; what it has published stays.
    Stop {
        /// Its id.
        run: String,
    },
}

pub(crate) fn main(arguments: Arguments) -> Result<ExitCode> {
    cli::runtime()?.block_on(async {
        let mut admin = connect(&arguments.admin).await?;
        match arguments.verb {
            Verb::Submit { spec, id, set } => submit(&mut admin, &spec, id, &set, arguments.json).await?,
            Verb::List => list(&mut admin, arguments.json).await?,
            Verb::Show { run } => show(&mut admin, run, arguments.json).await?,
            Verb::Stop { run } => {
                admin.stop_run(StopRunRequest { run: run.clone() }).await.map_err(status)?;
                if arguments.json {
                    print(json!({ "run": run, "phase": "stopped" }));
                } else {
                    print(format_args!("{run} stopped"));
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Connects to the admin interface of a coordinator on this machine.
pub(crate) async fn connect(address: &str) -> Result<AdminClient<Channel>> {
    let endpoint = Endpoint::from_static("http://admin").connect_timeout(Duration::from_secs(5));
    let loopback = address.parse::<std::net::SocketAddr>().ok();
    let channel = match loopback {
        Some(address) => Endpoint::from_shared(format!("http://{address}"))?.connect().await,
        #[cfg(unix)]
        None => {
            let path = PathBuf::from(address);
            let connector = tower::service_fn(move |_| {
                let path = path.clone();
                async move { Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(tokio::net::UnixStream::connect(path).await?)) }
            });
            endpoint.connect_with_connector(connector).await
        }
        #[cfg(not(unix))]
        None => return Err(cli::invalid(format!("--admin {address:?} is not an address such as 127.0.0.1:7444"))),
    };
    let channel = channel.map_err(|e| {
        failure(
            Kind::Unreachable,
            format!("no coordinator answers at {address} ({e}); start one, or name its socket with --admin"),
        )
    })?;
    Ok(AdminClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES))
}

/// A refusal of the coordinator as an error with the right exit code.
pub(crate) fn status(status: tonic::Status) -> anyhow::Error {
    let text = status.message().to_owned();
    match status.code() {
        tonic::Code::NotFound => failure(Kind::NotFound, text),
        tonic::Code::InvalidArgument | tonic::Code::AlreadyExists => failure(Kind::Invalid, text),
        tonic::Code::Unavailable => failure(Kind::Unreachable, text),
        _ => anyhow::anyhow!("{text}"),
    }
}

async fn submit(admin: &mut AdminClient<Channel>, path: &Path, id: Option<String>, set: &[String], json: bool) -> Result<()> {
    let text = std::fs::read_to_string(path).map_err(|e| cli::invalid(format!("{}: {e}", path.display())))?;
    let spec = if set.is_empty() {
        RunSpec::from_toml(&text)
    } else {
        toml::from_str::<toml::Table>(&text).map_err(|e| tessera_common::spec::SpecError::Syntax(e.to_string())).and_then(
            |mut table| {
                set.iter().try_for_each(|s| tessera_common::spec::set_key(&mut table, s))?;
                RunSpec::from_table(&table)
            },
        )
    };
    let spec = spec.map_err(|e| cli::invalid(format!("{}: {e}", path.display())))?;
    let request = SubmitRunRequest { spec_toml: spec.to_toml(), run: id.unwrap_or_default() };
    let run = admin.submit_run(request).await.map_err(status)?.into_inner().run;
    if json {
        print(json!({ "run": run }));
    } else {
        print(&run);
    }
    Ok(())
}

fn digest_text(bytes: &[u8]) -> String {
    Digest::try_from(bytes).map(|d| d.to_string()).unwrap_or_default()
}

fn summary_json(s: &RunSummary) -> serde_json::Value {
    json!({
        "run": s.run, "name": s.name, "strategy": s.strategy, "phase": s.phase, "round": s.round, "rounds": s.rounds,
        "reason": s.reason, "global": digest_text(&s.global), "statistics": digest_text(&s.statistics),
        "bytes": { "up": s.bytes_up, "down": s.bytes_down }, "answered": s.answered, "awaited": s.awaited,
    })
}

async fn list(admin: &mut AdminClient<Channel>, json: bool) -> Result<()> {
    let runs = admin.list_runs(ListRunsRequest {}).await.map_err(status)?.into_inner().runs;
    if json {
        print(serde_json::Value::Array(runs.iter().map(summary_json).collect()));
        return Ok(());
    }
    let mut table = Table::new(["run", "name", "strategy", "round", "phase", "answers", "model"]);
    for s in &runs {
        let answers = if s.awaited == 0 { String::new() } else { format!("{}/{}", s.answered, s.answered + s.awaited) };
        let model = digest_text(&s.global).get(..12).unwrap_or_default().to_owned();
        let round = format!("{}/{}", s.round, s.rounds);
        table.row([s.run.clone(), s.name.clone(), s.strategy.clone(), round, s.phase.clone(), answers, model]);
    }
    print(table);
    Ok(())
}

async fn show(admin: &mut AdminClient<Channel>, run: String, json: bool) -> Result<()> {
    let shown = admin.show_run(ShowRunRequest { run }).await.map_err(status)?.into_inner();
    let Some(s) = shown.summary else { anyhow::bail!("the coordinator sent no summary") };
    let value = |m: &tessera_proto::v1::Metric| if m.count > 0.0 { m.sum / m.count } else { f64::NAN };
    if json {
        let metrics: serde_json::Map<String, serde_json::Value> =
            shown.metrics.iter().map(|(n, m)| (n.clone(), json!(value(m)))).collect();
        let mut all = summary_json(&s);
        all["metrics"] = metrics.into();
        all["evaluated_round"] = shown.evaluated_round.into();
        all["waiting"] = json!(shown.waiting);
        all["spec"] = shown.spec_toml.into();
        print(all);
        return Ok(());
    }
    print(format_args!("{} ({}), {}, round {} of {}: {}", s.run, s.name, s.strategy, s.round, s.rounds, s.phase));
    if !s.reason.is_empty() {
        print(format_args!("reason: {}", s.reason));
    }
    print(format_args!("model {}", digest_text(&s.global)));
    print(format_args!("{} bytes up, {} bytes down", s.bytes_up, s.bytes_down));
    if let Some(t) = shown.tally {
        print(format_args!(
            "assignments: {} given, {} accepted, {} rejected, {} dropped, {} expired",
            t.given, t.accepted, t.rejected, t.dropped, t.expired
        ));
    }
    if !shown.waiting.is_empty() {
        print(format_args!("waiting for {}", shown.waiting.join(", ")));
    }
    if !shown.metrics.is_empty() {
        print(format_args!("metrics after round {}:", shown.evaluated_round));
        shown.metrics.iter().for_each(|(name, m)| print(format_args!("  {name} {:.4}", value(m))));
    }
    Ok(())
}
