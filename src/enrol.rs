//! `tessera enrol`: a one-time token with which a site, an observer or an admin gets a certificate.

use crate::cli::{self, invalid, print, say};
use crate::run::{self, Target};
use anyhow::{Result, anyhow};
use serde_json::json;
use std::process::ExitCode;
use std::time::Duration;
use tessera_common::access::{Role, Token};
use tessera_common::id::MemberName;
use tessera_proto::v1::CreateTokenRequest;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: Target,
    /// Name of the identity, and of the member that it serves.
    name: MemberName,
    /// What it may do: member trains and evaluates, evaluator only evaluates, observer only reads, admin does all that an
    /// operator does.
    #[arg(long, default_value_t = Role::Member)]
    role: Role,
    /// Modalities that it may have, separated by commas; any if not given.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    modalities: Vec<String>,
    /// A label, by which runs may admit members; repeatable.
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,
    /// One more member that it serves; ward-* stands for all that begin so. Repeatable.
    #[arg(long, value_name = "PATTERN")]
    serves: Vec<String>,
    /// How long the token can be used, with a unit.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = cli::duration)]
    valid: Duration,
    /// Where the site finds the coordinator; what the coordinator thinks if not given.
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
}

pub(crate) fn main(arguments: Arguments) -> Result<ExitCode> {
    if let Some(address) = arguments.address.as_deref().filter(|text| !run::is_address(text)) {
        return Err(invalid(format!("--address {address:?} is not host:port, such as coordinator.example.org:7443")));
    }
    let json = arguments.target.json;
    let role = arguments.role;
    let answer = cli::runtime()?.block_on(async {
        let mut admin = arguments.target.connect().await?;
        Ok::<_, anyhow::Error>(admin.create_token(request(&arguments)).await.map_err(run::status)?.into_inner())
    })?;
    let token: Token = answer
        .token
        .parse()
        .map_err(|_| anyhow!("the coordinator's answer is no token; is it of another version? `tessera doctor` says"))?;
    // the token is data and alone on its line, so that it can be piped
    if json {
        print(token_json(&token, role, &answer.token));
    } else {
        print(&answer.token);
        say(hint(&token, role));
    }
    Ok(ExitCode::SUCCESS)
}

fn request(arguments: &Arguments) -> CreateTokenRequest {
    CreateTokenRequest {
        name: arguments.name.to_string(),
        role: arguments.role.to_string(),
        labels: arguments.labels.clone(),
        modalities: arguments.modalities.clone(),
        serves: arguments.serves.clone(),
        valid_ms: u64::try_from(arguments.valid.as_millis()).unwrap_or(u64::MAX),
        address: arguments.address.clone().unwrap_or_default(),
    }
}

fn token_json(token: &Token, role: Role, text: &str) -> serde_json::Value {
    json!({
        "name": token.name, "role": role.name(), "address": token.address, "authority": cli::hex(&token.authority),
        "expires_ms": token.expires, "token": text,
    })
}

/// What to do with a token, for people.
fn hint(token: &Token, role: Role) -> String {
    let Token { name, address, expires, .. } = token;
    let (whose, command) = match role {
        Role::Member | Role::Evaluator => ("At the site", "tessera client --token TOKEN --data DIR"),
        Role::Observer | Role::Admin => ("On the other machine", "tessera join TOKEN --identity DIR"),
    };
    format!(
        "{whose}, which reaches the coordinator at {address}: {command}\n\
         The token makes its holder {name} ({role}), once, until {}; hand it over as you would a password.",
        cli::time(*expires)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(line: &[&str]) -> Result<Arguments, String> {
        let words = std::iter::once("enrol").chain(line.iter().copied());
        Line::try_parse_from(words).map(|l| l.arguments).map_err(|e| e.to_string())
    }

    fn token() -> Token {
        let (name, address) = ("north".parse().unwrap(), "c.example.org:7443".to_owned());
        Token { name, address, authority: [7; 32], secret: [9; 32], expires: 1_800_000_000_000 }
    }

    #[test]
    fn what_is_asked_for_is_sent() {
        let plain = request(&parse(&["north"]).unwrap());
        let expected = CreateTokenRequest {
            name: "north".into(),
            role: "member".into(),
            valid_ms: 86_400_000,
            ..CreateTokenRequest::default()
        };
        assert_eq!(plain, expected);
        let words = "hospital --role evaluator --modalities mor,zer --label eu --label adults --serves ward-* --valid 90m \
                     --address c.example.org:7443";
        let full = request(&parse(&words.split(' ').filter(|w| !w.is_empty()).collect::<Vec<_>>()).unwrap());
        assert_eq!((full.role.as_str(), full.valid_ms, full.address.as_str()), ("evaluator", 5_400_000, "c.example.org:7443"));
        assert_eq!(
            (full.modalities, full.labels, full.serves),
            (vec!["mor".to_owned(), "zer".to_owned()], vec!["eu".to_owned(), "adults".to_owned()], vec!["ward-*".to_owned()],)
        );
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_flag() {
        assert!(parse(&["north", "--role", "root"]).unwrap_err().contains("member, evaluator, observer, admin"));
        assert!(parse(&["north", "--valid", "24"]).unwrap_err().contains("such as"));
        assert!(parse(&["../x"]).unwrap_err().contains("is not valid"));
        let bad = main(parse(&["north", "--address", "c.example.org"]).unwrap()).unwrap_err();
        assert!(bad.to_string().contains("--address") && cli::exit_code_of(&bad) == ExitCode::from(4), "{bad}");
    }

    #[test]
    fn a_hint_says_what_to_do_and_keeps_the_secret() {
        let text = hint(&token(), Role::Member);
        assert!(text.contains("tessera client --token TOKEN --data DIR") && text.contains("2027-01-15 08:00:00 UTC"), "{text}");
        assert!(!text.contains(&token().reveal()));
        assert!(hint(&token(), Role::Admin).contains("tessera join TOKEN --identity DIR"));
        let json = token_json(&token(), Role::Observer, "t");
        assert_eq!((json["role"].as_str(), json["authority"].as_str().map(str::len)), (Some("observer"), Some(64)));
    }
}
