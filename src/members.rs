//! `tessera members`: whom a coordinator knows, and who is cut off.

use crate::cli::{self, Kind, failure, one_line, print};
use crate::run::{self, Target};
use crate::table::Table;
use anyhow::Result;
use serde_json::json;
use std::process::ExitCode;
use tessera_common::id::MemberName;
use tessera_proto::v1::admin_client::AdminClient;
use tessera_proto::v1::{Enrolled, ListMembersRequest, MemberStatus, RevokeMemberRequest, UnrevokeMemberRequest};
use tonic::transport::Channel;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// All members that were ever seen or enrolled, connected or not; the same as no verb.
    List,
    /// One of them.
    Show {
        /// Its name.
        name: MemberName,
    },
    /// Cut it off at once, and refuse it until it is unrevoked.
    Revoke {
        /// Its name.
        name: MemberName,
        /// Why, for whoever looks.
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Let it in again, with the certificate that it has.
    Unrevoke {
        /// Its name.
        name: MemberName,
    },
}

pub(crate) fn main(arguments: Arguments) -> Result<ExitCode> {
    let Arguments { target, verb } = arguments;
    cli::runtime()?.block_on(async {
        let mut admin = target.connect().await?;
        match verb.unwrap_or(Verb::List) {
            Verb::List => {
                let members = all(&mut admin).await?;
                if target.json {
                    print(serde_json::Value::Array(members.iter().map(member_json).collect()))
                } else {
                    print(table(&members))
                }
            }
            Verb::Show { name } => {
                let members = all(&mut admin).await?;
                let found = members.iter().find(|m| m.member.as_ref().is_some_and(|m| m.name == name.as_str()));
                let found = found.ok_or_else(|| failure(Kind::NotFound, format!("there is no member {name}")))?;
                if target.json { print(member_json(found)) } else { lines(found).into_iter().for_each(print) }
            }
            Verb::Revoke { name, reason } => {
                let request = RevokeMemberRequest { name: name.to_string(), reason };
                admin.revoke_member(request).await.map_err(run::status)?;
                said(&name, true, target.json);
            }
            Verb::Unrevoke { name } => {
                let request = UnrevokeMemberRequest { name: name.to_string() };
                admin.unrevoke_member(request).await.map_err(run::status)?;
                said(&name, false, target.json);
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn all(admin: &mut AdminClient<Channel>) -> Result<Vec<MemberStatus>> {
    Ok(admin.list_members(ListMembersRequest {}).await.map_err(run::status)?.into_inner().members)
}

fn said(name: &MemberName, revoked: bool, json: bool) {
    if json {
        print(json!({ "member": name, "revoked": revoked }))
    } else {
        print(format_args!("{name} {}", if revoked { "revoked" } else { "unrevoked" }))
    }
}

fn member_json(status: &MemberStatus) -> serde_json::Value {
    let member = status.member.clone().unwrap_or_default();
    let enrolled = status.enrolled.as_ref().map(|e| {
        json!({
            "role": e.role, "labels": e.labels, "modalities": e.modalities, "serves": e.serves, "revoked": e.revoked,
            "revoked_reason": e.revoked_reason, "certificate_expires_ms": e.certificate_expires_ms,
            "token_expires_ms": e.token_expires_ms,
        })
    });
    json!({
        "member": member.name, "online": status.online, "agent": status.agent, "modalities": member.modalities,
        "trains": member.trains, "evaluates": member.evaluates, "enrolled": enrolled,
    })
}

/// Where an identity stands, in a few words.
fn standing(enrolled: &Enrolled, now: u64) -> String {
    let certificate = enrolled.certificate_expires_ms;
    match enrolled {
        Enrolled { revoked: true, revoked_reason, .. } if revoked_reason.is_empty() => "revoked".to_owned(),
        Enrolled { revoked: true, revoked_reason, .. } => format!("revoked: {revoked_reason}"),
        // a name of another authority has no dates here
        _ if certificate == 0 && enrolled.token_expires_ms == 0 => "no certificate from here".to_owned(),
        _ if certificate == 0 && enrolled.token_expires_ms < now => "its token ended unused".to_owned(),
        _ if certificate == 0 => format!("its token waits until {}", cli::time(enrolled.token_expires_ms)),
        _ if certificate < now => format!("certificate ended {}", cli::time(certificate)),
        _ => format!("certificate until {}", cli::time(certificate)),
    }
}

fn does(status: &MemberStatus) -> &'static str {
    let (trains, evaluates) = status.member.as_ref().map_or((false, false), |m| (m.trains, m.evaluates));
    let role = status.enrolled.as_ref().map_or("", |e| e.role.as_str());
    match (trains, evaluates, role) {
        (true, true, _) => "trains, evaluates",
        (true, false, _) => "trains",
        (false, true, _) => "evaluates",
        (false, false, "admin") => "operates",
        (false, false, "observer") => "reads",
        (false, false, _) if status.enrolled.is_some() && !status.online => "nothing so far",
        (false, false, _) => "nothing: it has no data",
    }
}

fn table(members: &[MemberStatus]) -> Table {
    let mut table = Table::new(["member", "role", "online", "agent", "modalities", "labels", "does", "standing"]);
    let now = cli::now_ms();
    for status in members {
        let member = status.member.clone().unwrap_or_default();
        let online = if status.online { "yes" } else { "no" };
        let (role, labels, standing) = match &status.enrolled {
            Some(e) => (e.role.clone(), e.labels.join(", "), standing(e, now)),
            None => Default::default(),
        };
        let does = does(status).to_owned();
        let modalities = member.modalities.join(", ");
        let cells = [member.name, role, online.to_owned(), status.agent.clone(), modalities, labels, does, standing];
        table.row(cells.iter().map(|cell| one_line(cell)));
    }
    table
}

/// Everything about one of them, for people.
fn lines(status: &MemberStatus) -> Vec<String> {
    let member = status.member.clone().unwrap_or_default();
    let online = if status.online { "yes, " } else { "no" };
    let mut pairs = vec![
        ("member", member.name),
        ("online", if status.online { format!("{online}by {}", status.agent) } else { online.to_owned() }),
        ("does", does(status).to_owned()),
        ("modalities", member.modalities.join(", ")),
    ];
    if let Some(e) = &status.enrolled {
        let may = if e.modalities.is_empty() { "any".to_owned() } else { e.modalities.join(", ") };
        pairs.extend([
            ("role", e.role.clone()),
            ("labels", e.labels.join(", ")),
            ("may have", may),
            ("serves", std::iter::once("its own name").chain(e.serves.iter().map(String::as_str)).collect::<Vec<_>>().join(", ")),
            ("standing", standing(e, cli::now_ms())),
        ]);
        if e.token_expires_ms > 0 && e.certificate_expires_ms > 0 {
            pairs.push(("token", format!("one is open until {}", cli::time(e.token_expires_ms))));
        }
    }
    pairs.retain(|(_, value)| !value.is_empty());
    pairs.into_iter().map(|(key, value)| format!("{key:10}  {}", one_line(&value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tessera_proto::v1::Member;

    fn status(name: &str, trains: bool, evaluates: bool, online: bool) -> MemberStatus {
        let member = Member { name: name.into(), trains, evaluates, modalities: vec!["mor".into(), "zer".into()] };
        MemberStatus { member: Some(member), online, agent: "site".into(), enrolled: None }
    }

    fn enrolled() -> Enrolled {
        Enrolled {
            role: "member".into(),
            labels: vec!["eu".into()],
            serves: vec!["ward-*".into()],
            certificate_expires_ms: u64::try_from(i64::MAX / 1_000_000).unwrap(),
            ..Enrolled::default()
        }
    }

    #[test]
    fn a_member_has_a_line_and_an_object() {
        let known = MemberStatus { enrolled: Some(enrolled()), ..status("west", true, false, true) };
        let members = [status("north", true, true, true), status("test", false, true, false), known];
        let text = table(&members).to_string();
        let row = |name: &str| text.lines().find(|l| l.contains(name)).unwrap().split('|').map(str::trim).collect::<Vec<_>>();
        assert_eq!(row("north"), ["north", "", "yes", "site", "mor, zer", "", "trains, evaluates", ""]);
        assert_eq!(row("test"), ["test", "", "no", "site", "mor, zer", "", "evaluates", ""]);
        assert_eq!(row("west")[..7], ["west", "member", "yes", "site", "mor, zer", "eu", "trains"]);
        assert!(row("west")[7].starts_with("certificate until 22"), "{text}");
        let expected = json!({
            "member": "test", "online": false, "agent": "site", "modalities": ["mor", "zer"], "trains": false, "evaluates": true,
            "enrolled": null,
        });
        assert_eq!(member_json(&members[1]), expected);
        assert_eq!(member_json(&members[2])["enrolled"]["labels"], json!(["eu"]));
    }

    #[test]
    fn standings_are_told_apart() {
        let of = |change: &dyn Fn(&mut Enrolled)| {
            let mut e = enrolled();
            change(&mut e);
            standing(&e, 5000)
        };
        assert_eq!(of(&|e| e.certificate_expires_ms = 4000), "certificate ended 1970-01-01 00:00:04 UTC");
        assert_eq!(of(&|e| e.certificate_expires_ms = 0), "no certificate from here");
        assert_eq!(of(&|e| (e.certificate_expires_ms, e.token_expires_ms) = (0, 4000)), "its token ended unused");
        assert_eq!(
            of(&|e| (e.certificate_expires_ms, e.token_expires_ms) = (0, 9000)),
            "its token waits until 1970-01-01 00:00:09 UTC"
        );
        assert_eq!(of(&|e| e.revoked = true), "revoked");
        let why = |e: &mut Enrolled| (e.revoked, e.revoked_reason) = (true, "stolen".into());
        assert_eq!(of(&why), "revoked: stolen");
    }

    #[test]
    fn one_is_shown_with_all_that_is_known() {
        let known = MemberStatus { enrolled: Some(enrolled()), ..status("west", true, false, true) };
        let text = lines(&known).join("\n");
        for part in
            ["online      yes, by site", "serves      its own name, ward-*", "may have    any", "standing    certificate until"]
        {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("token"), "{text}");
        assert_eq!(lines(&status("a", false, false, false)).len(), 4);
        let admin = Enrolled { role: "admin".into(), ..enrolled() };
        let named = MemberStatus { enrolled: Some(admin), ..MemberStatus::default() };
        assert_eq!(does(&named), "operates");
    }
}
