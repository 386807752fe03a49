//! `tessera client`: the agent.

use crate::cli;
use anyhow::Result;
use std::path::PathBuf;
use std::process::ExitCode;
use tessera_client::config::AgentConfig;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Settings: name, coordinator, tables `tls` and `member`; see docs/deployment.md.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// End when standard input ends.
    #[arg(long, hide = true)]
    with_parent: bool,
}

pub(crate) fn main(arguments: Arguments) -> Result<ExitCode> {
    let config = AgentConfig::load(&arguments.config).map_err(cli::invalid)?;
    let agent = config.prepare().map_err(cli::invalid)?;
    tracing::info!(agent = %agent.name, members = agent.members.len(), "data loaded");
    cli::runtime()?.block_on(tessera_client::session::run(agent, cli::shutdown(arguments.with_parent)))?;
    Ok(ExitCode::SUCCESS)
}
