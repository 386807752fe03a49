//! `tessera join`: a certificate for an observer or an admin who is not on the coordinator's machine.

use crate::cli::{self, Kind, failure, invalid, print, say};
use anyhow::{Context, Result};
use serde_json::json;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tessera_client::identity::{self, Identity, IdentityError};
use tessera_common::access::{MAX_TOKEN, Role, Token};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The token that `tessera enrol` printed. Other users of this machine see it while this runs: --token-file hides it.
    #[arg(required_unless_present = "token_file", conflicts_with = "token_file")]
    token: Option<Secret>,
    /// File with the token; - for standard input.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Folder for the key and the certificate; made if it is not there.
    #[arg(long, value_name = "DIR", env = "TESSERA_IDENTITY")]
    identity: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Text of a token, which is never shown.
#[derive(Clone)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(a token)")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Secret(text)
    }
}

pub(crate) fn main(arguments: Arguments) -> Result<ExitCode> {
    let Arguments { token, token_file, identity: dir, json } = arguments;
    let text = match (token, token_file) {
        (Some(Secret(text)), _) => text,
        (None, Some(file)) => read(&file)?,
        (None, None) => return Err(invalid("give a token, or --token-file")),
    };
    let token: Token = text.parse().map_err(invalid)?;
    check_folder(&dir, &token)?;
    let identity = cli::runtime()?.block_on(identity::enrol(&token, &dir)).map_err(refused)?;
    if json {
        print(json!({
            "name": identity.name(), "role": identity.role().name(), "coordinator": identity.coordinator(),
            "certificate_expires_ms": identity.expires(), "identity": dir.display().to_string(),
        }));
    } else {
        print(format_args!("{}: {} ({}) at {}", dir.display(), identity.name(), identity.role(), identity.coordinator()));
        say(hint(identity.role(), &dir, identity.expires()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Text of a file with a token.
pub(crate) fn read(file: &Path) -> Result<String> {
    let mut text = String::new();
    // a line feed is behind it, at most
    let most = MAX_TOKEN as u64 + 2;
    let outcome = match file == Path::new("-") {
        true => io::stdin().take(most).read_to_string(&mut text),
        false => File::open(file).and_then(|file| file.take(most).read_to_string(&mut text)),
    };
    outcome.with_context(|| format!("--token-file {}: cannot read it", file.display()))?;
    Ok(text)
}

/// Refuses a folder that is somebody else's.
fn check_folder(dir: &Path, token: &Token) -> Result<()> {
    match Identity::load(dir) {
        Ok(Some(old)) if old.name() != token.name => Err(invalid(format!(
            "--identity {} is that of {}, and the token is for {}: name another folder",
            dir.display(),
            old.name(),
            token.name
        ))),
        // one of the same name is replaced, and one that is damaged too
        Ok(_) | Err(_) => Ok(()),
    }
}

fn refused(error: IdentityError) -> anyhow::Error {
    match error {
        IdentityError::Unreachable { .. } => failure(Kind::Unreachable, error.to_string()),
        IdentityError::Tls(_)
        | IdentityError::Refused { .. }
        | IdentityError::Answer { .. }
        | IdentityError::Store { .. }
        | IdentityError::Damaged { .. } => anyhow::Error::new(error),
    }
}

fn hint(role: Role, dir: &Path, expires: u64) -> String {
    let shown = dir.display();
    match role {
        Role::Observer | Role::Admin => format!(
            "Use it with --identity {shown}, as in `tessera run list --identity {shown}`. The certificate ends {}; commands renew it \
             before.",
            cli::time(expires)
        ),
        Role::Member | Role::Evaluator => format!(
            "This identity is for an agent: it belongs into the folder `identity` of its state folder. `tessera client --token` puts \
             it there by itself; a token works once, so move {shown}, or make another token."
        ),
    }
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
        let words = std::iter::once("join").chain(line.iter().copied());
        Line::try_parse_from(words).map(|l| l.arguments).map_err(|e| e.to_string())
    }

    #[test]
    fn a_token_comes_from_one_place_and_is_never_shown() {
        let arguments = parse(&["tessera1.abc", "--identity", "d"]).unwrap();
        assert!(!format!("{arguments:?}").contains("abc"));
        let error = main(arguments).unwrap_err();
        assert!(error.to_string().contains("damaged") && !error.to_string().contains("abc"), "{error}");
        assert_eq!(cli::exit_code_of(&error), ExitCode::from(4));
        assert!(parse(&["--identity", "d"]).unwrap_err().contains("TOKEN"));
        assert!(parse(&["t", "--token-file", "f", "--identity", "d"]).unwrap_err().contains("cannot be used with"));
    }

    #[test]
    fn a_token_is_read_from_a_file_that_may_be_endless() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "tessera1.abc\n").unwrap();
        assert_eq!(read(&file).unwrap(), "tessera1.abc\n");
        std::fs::write(&file, "x".repeat(10 * MAX_TOKEN)).unwrap();
        assert_eq!(read(&file).unwrap().len(), MAX_TOKEN + 2);
        assert!(read(&dir.path().join("none")).unwrap_err().to_string().starts_with("--token-file"));
    }

    #[test]
    fn a_hint_depends_on_the_role() {
        assert!(hint(Role::Admin, Path::new("d"), 0).contains("tessera run list --identity d"));
        assert!(hint(Role::Member, Path::new("d"), 0).contains("tessera client --token"));
    }
}
