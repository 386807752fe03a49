//! `tessera members`: whom a coordinator knows.

use crate::cli::{self, one_line, print};
use crate::run::{self, Target, connect};
use crate::table::Table;
use anyhow::Result;
use serde_json::json;
use std::process::ExitCode;
use tessera_proto::v1::{ListMembersRequest, MemberStatus};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// All members that were ever seen, connected or not; the same as no verb.
    List,
}

pub(crate) fn main(arguments: Arguments) -> Result<ExitCode> {
    let Verb::List = arguments.verb.unwrap_or(Verb::List);
    let target = arguments.target;
    let members = cli::runtime()?.block_on(async {
        let mut admin = connect(&target.admin).await?;
        Ok::<_, anyhow::Error>(admin.list_members(ListMembersRequest {}).await.map_err(run::status)?.into_inner().members)
    })?;
    if target.json {
        print(serde_json::Value::Array(members.iter().map(member_json).collect()))
    } else {
        print(table(&members))
    }
    Ok(ExitCode::SUCCESS)
}

fn member_json(status: &MemberStatus) -> serde_json::Value {
    let member = status.member.clone().unwrap_or_default();
    json!({
        "member": member.name, "online": status.online, "agent": status.agent, "modalities": member.modalities,
        "trains": member.trains, "evaluates": member.evaluates,
    })
}

fn table(members: &[MemberStatus]) -> Table {
    let mut table = Table::new(["member", "online", "agent", "modalities", "does"]);
    for status in members {
        let member = status.member.clone().unwrap_or_default();
        let online = if status.online { "yes" } else { "no" };
        let does = match (member.trains, member.evaluates) {
            (true, true) => "trains, evaluates",
            (true, false) => "trains",
            (false, true) => "evaluates",
            (false, false) => "nothing: it has no data",
        };
        let cells = [member.name, online.to_owned(), status.agent.clone(), member.modalities.join(", "), does.to_owned()];
        table.row(cells.iter().map(|cell| one_line(cell)));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use tessera_proto::v1::Member;

    fn status(name: &str, trains: bool, evaluates: bool, online: bool) -> MemberStatus {
        let member = Member { name: name.into(), trains, evaluates, modalities: vec!["mor".into(), "zer".into()] };
        MemberStatus { member: Some(member), online, agent: "site".into() }
    }

    #[test]
    fn a_member_has_a_line_and_an_object() {
        let members = [status("north", true, true, true), status("test", false, true, false)];
        let text = table(&members).to_string();
        let row = |name: &str| text.lines().find(|l| l.contains(name)).unwrap().split('|').map(str::trim).collect::<Vec<_>>();
        assert_eq!(row("north"), ["north", "yes", "site", "mor, zer", "trains, evaluates"]);
        assert_eq!(row("test"), ["test", "no", "site", "mor, zer", "evaluates"]);
        let expected = json!({
            "member": "test", "online": false, "agent": "site", "modalities": ["mor", "zer"], "trains": false, "evaluates": true,
        });
        assert_eq!(member_json(&members[1]), expected);
    }
}
