//! Talking to the admin interface of a coordinator: on this machine, or elsewhere with a certificate.

use super::address::{Place, place};
use crate::cli::{Kind, failure};
use anyhow::Result;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tessera_proto::MAX_MESSAGE_BYTES;
use tessera_proto::v1::admin_client::AdminClient;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

/// Longest that a connection to the admin interface may take: it is on this machine.
const CONNECT: Duration = Duration::from_secs(5);

/// The admin socket of a coordinator with the default folder, started in this folder.
pub(crate) const DEFAULT_ADMIN: &str = "tessera-data/admin.sock";

/// Where the admin interface is, and how to print.
#[derive(Debug, clap::Args)]
pub(crate) struct Target {
    /// The coordinator's admin socket, or host:port of its admin interface on loopback; with --identity, where agents
    /// connect, if not where the identity comes from [default: tessera-data/admin.sock].
    #[arg(long, global = true, value_name = "PATH|ADDRESS", env = "TESSERA_ADMIN")]
    admin: Option<String>,
    /// Folder with the certificate of an observer or an admin, as `tessera join` makes it: for coordinators elsewhere.
    #[arg(long, global = true, value_name = "DIR", env = "TESSERA_IDENTITY")]
    identity: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl Target {
    /// Connects to the admin interface: on this machine, or with a certificate.
    pub(crate) async fn connect(&self) -> Result<AdminClient<Channel>> {
        match &self.identity {
            None => connect(self.admin.as_deref().unwrap_or(DEFAULT_ADMIN)).await,
            Some(dir) => elsewhere(dir, self.admin.as_deref()).await,
        }
    }
}

#[cfg(feature = "client")]
async fn elsewhere(identity: &Path, admin: Option<&str>) -> Result<AdminClient<Channel>> {
    super::elsewhere::connect(identity, admin).await
}

#[cfg(not(feature = "client"))]
async fn elsewhere(_: &Path, _: Option<&str>) -> Result<AdminClient<Channel>> {
    Err(crate::cli::invalid("--identity: this build has no client; use one with the feature `client`"))
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
        Place::Socket(_) => {
            return Err(crate::cli::invalid(format!("--admin {address:?} is not an address such as 127.0.0.1:7444")));
        }
    };
    let channel = channel.map_err(|why| {
        let text = format!("no coordinator answers at {address} ({why}); start one, or name its admin interface with --admin");
        failure(Kind::Unreachable, text)
    })?;
    Ok(client(channel))
}

pub(super) fn client(channel: Channel) -> AdminClient<Channel> {
    AdminClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
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
    use crate::cli;
    use std::process::ExitCode;
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
