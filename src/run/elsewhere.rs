//! The admin interface of a coordinator on another machine: TLS with the certificate of an observer or an admin.

use super::address::is_address;
use super::admin::client;
use crate::cli::{self, Kind, failure, invalid};
use anyhow::{Result, anyhow};
use hyper_util::rt::TokioIo;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;
use tessera_client::identity::{Current, Identity, Way, causes, explain_tls};
use tessera_proto::v1::admin_client::AdminClient;
use tessera_proto::{CONNECTION_WINDOW_BYTES, FRAME_BYTES, STREAM_WINDOW_BYTES};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::transport::{Channel, Endpoint};

/// Longest that a connection and its handshake may take.
const LIMIT: Duration = Duration::from_secs(10);
/// A coordinator that says nothing for so long is asked whether it lives: whoever follows a run waits for hours.
const ASK_AFTER: Duration = Duration::from_secs(20);

/// Connects with the identity in `dir` to `admin`, or to where the identity comes from. A certificate that ends soon is
/// renewed on the way.
pub(super) async fn connect(dir: &Path, admin: Option<&str>) -> Result<AdminClient<Channel>> {
    let identity = open(dir)?;
    let address = match admin {
        None => identity.coordinator(),
        Some(text) if is_address(text) => text.to_owned(),
        Some(text) => {
            let why = "with --identity it is host:port, where agents connect; leave it (and TESSERA_ADMIN) out for the \
                       coordinator that the identity comes from";
            return Err(invalid(format!("--admin {text:?} is no address: {why}")));
        }
    };
    let mut channel = channel(&address, &identity).await?;
    if renewed(&identity, &channel, dir).await {
        channel = self::channel(&address, &identity).await?;
    }
    Ok(client(channel))
}

fn open(dir: &Path) -> Result<Identity> {
    let identity = Identity::load(dir).map_err(invalid)?.ok_or_else(|| {
        let todo = "make a token at the coordinator with `tessera enrol NAME --role admin`, and give it with \
                    `tessera join TOKEN --identity DIR`";
        failure(Kind::NotFound, format!("--identity {}: there is no identity in it: {todo}", dir.display()))
    })?;
    let (expires, now) = (identity.expires(), cli::now_ms());
    if expires > now {
        return Ok(identity);
    }
    let (name, role, shown) = (identity.name(), identity.role(), dir.display());
    Err(invalid(format!(
        "the certificate of {name} in {shown} ended {}, and it is {} here: make a new token at the coordinator with `tessera enrol \
         {name} --role {role}`, and give it with `tessera join TOKEN --identity {shown}`",
        cli::time(expires),
        cli::time(now)
    )))
}

/// True if there is a new certificate. Without one, the old one goes on until it ends.
async fn renewed(identity: &Identity, channel: &Channel, dir: &Path) -> bool {
    if cli::now_ms() < identity.renew_at() {
        return false;
    }
    // two commands at once must not both do it
    let lock = match File::options().create(true).append(true).open(dir.join("lock")) {
        Ok(lock) if lock.try_lock().is_ok() => lock,
        _ => return false,
    };
    let outcome = identity.renew_if_due(channel).await;
    drop(lock);
    outcome.unwrap_or_else(|status| {
        tracing::warn!(error = causes(&status), ends = cli::time(identity.expires()), "the certificate is not renewed");
        false
    })
}

async fn channel(address: &str, identity: &Identity) -> Result<Channel> {
    let (host, _) = address.rsplit_once(':').ok_or_else(|| invalid(format!("{address:?} is not host:port")))?;
    let host = host.trim_matches(['[', ']']).to_owned();
    let current = identity.tls().now();
    let way = Way { address: address.to_owned(), host, own: current.own.clone() };
    let stream = match tokio::time::timeout(LIMIT, secured(&way, &current)).await {
        Ok(Ok(stream)) => stream,
        // what is wrong with certificates stays so
        Ok(Err(error)) => match explain_tls(&error, &way) {
            Some(why) => return Err(anyhow!(why)),
            None => return Err(unreachable(address, &causes(&error))),
        },
        Err(_) => return Err(unreachable(address, &format!("it takes longer than {LIMIT:?}"))),
    };
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = stream.take().ok_or_else(|| io::Error::other("the coordinator closed the connection"));
        async move { stream }
    });
    let endpoint = Endpoint::from_static("http://coordinator")
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .http2_keep_alive_interval(ASK_AFTER)
        .keep_alive_timeout(LIMIT)
        .keep_alive_while_idle(true);
    endpoint.connect_with_connector(connector).await.map_err(|e| unreachable(address, &causes(&e)))
}

async fn secured(way: &Way, current: &Current) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(way.host.clone()).map_err(io::Error::other)?;
    let stream = TcpStream::connect(&way.address).await?;
    stream.set_nodelay(true)?;
    TlsConnector::from(current.config.clone()).connect(name, stream).await
}

fn unreachable(address: &str, why: &str) -> anyhow::Error {
    failure(Kind::Unreachable, format!("no coordinator answers at {address} ({why}); name it with --admin HOST:PORT"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::ExitCode;

    #[tokio::test]
    async fn a_folder_without_an_identity_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let error = connect(dir.path(), None).await.unwrap_err();
        assert!(error.to_string().contains("tessera join TOKEN --identity"), "{error}");
        assert_eq!(cli::exit_code_of(&error), ExitCode::from(3));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is made");
    }
}
