//! `tessera certificates`: those of the coordinator.

use crate::cli::{self, print};
use crate::run::{self, Target};
use anyhow::Result;
use serde_json::json;
use std::process::ExitCode;
use tessera_proto::v1::{GetStatusRequest, RotateCertificatesRequest};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// The fingerprint of the coordinator's authority, and when its certificate ends; the same as no verb.
    Show,
    /// Make a new certificate for the coordinator now. Connections stay.
    Rotate {
        /// Make a new authority too. Sites learn it when they renew; the old one is trusted until it ends.
        #[arg(long)]
        authority: bool,
    },
}

pub(crate) fn main(arguments: Arguments) -> Result<ExitCode> {
    let Arguments { target, verb } = arguments;
    let (authority, expires) = cli::runtime()?.block_on(async {
        let mut admin = target.connect().await?;
        Ok::<_, anyhow::Error>(match verb.unwrap_or(Verb::Show) {
            Verb::Show => {
                let status = admin.get_status(GetStatusRequest {}).await.map_err(run::status)?.into_inner();
                (status.authority, status.certificate_expires_ms)
            }
            Verb::Rotate { authority } => {
                let request = RotateCertificatesRequest { authority };
                let rotated = admin.rotate_certificates(request).await.map_err(run::status)?.into_inner();
                (rotated.authority, rotated.certificate_expires_ms)
            }
        })
    })?;
    if target.json {
        print(json!({ "authority": authority, "certificate_expires_ms": expires }))
    } else {
        lines(&authority, expires).into_iter().for_each(print)
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(authority: &str, expires_ms: u64) -> Vec<String> {
    if expires_ms == 0 {
        return vec!["none: agents connect in plaintext".to_owned()];
    }
    let authority = match authority {
        "" => "authority    not its own: that of --tls-cert".to_owned(),
        hash => format!("authority    SHA-256 {}", cli::one_line(hash)),
    };
    vec![authority, format!("certificate  ends {}", cli::time(expires_ms))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_told_apart() {
        assert_eq!(lines("", 0), ["none: agents connect in plaintext"]);
        assert_eq!(lines("ab", 1000), ["authority    SHA-256 ab", "certificate  ends 1970-01-01 00:00:01 UTC"]);
        assert!(lines("", 1000)[0].contains("--tls-cert"));
    }
}
