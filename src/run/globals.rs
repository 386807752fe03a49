//! The models of a run that are still kept.

use super::admin::status;
use super::show::digest_text;
use crate::cli::{self, Kind, failure, size};
use crate::table::Table;
use anyhow::Result;
use serde_json::json;
use tessera_common::id::{Digest, Round};
use tessera_proto::v1::admin_client::AdminClient;
use tessera_proto::v1::{KeptGlobal, ListGlobalsRequest};
use tonic::transport::Channel;

/// The globals of a run that are kept, in order of round.
///
/// # Errors
/// If there is no such run, or nobody answers.
pub(crate) async fn kept(admin: &mut AdminClient<Channel>, run: &str) -> Result<Vec<KeptGlobal>> {
    Ok(admin.list_globals(ListGlobalsRequest { run: run.to_owned() }).await.map_err(status)?.into_inner().globals)
}

/// Says that a round's model is not there, and which ones are.
pub(crate) fn not_kept(run: &str, round: Round, globals: &[KeptGlobal]) -> anyhow::Error {
    let rounds: Vec<String> = globals.iter().map(|g| g.round.to_string()).collect();
    let kept = match &rounds[..] {
        [] => "it has published none yet".to_owned(),
        rounds => format!("it keeps those of rounds {} (keep.globals in its spec says how many)", rounds.join(", ")),
    };
    failure(Kind::NotFound, format!("run {run} has no model of round {round}: {kept}"))
}

/// Prints them.
pub(super) fn print(globals: &[KeptGlobal], json: bool) {
    if json {
        let all = globals.iter().map(|g| json!({ "round": g.round, "digest": digest_text(&g.digest), "bytes": g.bytes }));
        return cli::print(serde_json::Value::Array(all.collect()));
    }
    if globals.is_empty() { cli::print("no model is published yet") } else { cli::print(table(globals)) }
}

fn table(globals: &[KeptGlobal]) -> Table {
    let mut table = Table::new(["round", "model", "size"]);
    for g in globals {
        let model = Digest::try_from(&g.digest[..]).map(|d| d.short()).unwrap_or_default();
        table.row([g.round.to_string(), model, size(g.bytes)]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global(round: u32) -> KeptGlobal {
        KeptGlobal { round, digest: Digest::of(&round.to_le_bytes()).as_bytes().to_vec().into(), bytes: 2048 }
    }

    #[test]
    fn a_round_that_is_gone_names_those_that_are_there() {
        let error = not_kept("first", 3, &[global(8), global(9)]);
        assert!(error.to_string().starts_with("run first has no model of round 3: it keeps those of rounds 8, 9 ("), "{error}");
        assert_eq!(cli::exit_code_of(&error), std::process::ExitCode::from(3));
        assert!(not_kept("first", 3, &[]).to_string().contains("none yet"));
    }

    #[test]
    fn a_table_has_a_line_for_each() {
        let text = table(&[global(8), global(9)]).to_string();
        assert_eq!(text.lines().count(), 4);
        assert!(text.contains("2.00 KiB") && text.contains(&Digest::of(&8u32.to_le_bytes()).short()), "{text}");
    }
}
