//! The unix socket for operators.

use crate::connection::Connection;
use crate::error::Error;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use tokio::net::UnixListener;
use tokio::sync::mpsc;

/// Listens at `path`, which only its owner may open. A socket that nobody listens at any more is replaced.
///
/// # Errors
/// If somebody listens there, or `path` is something else than a socket, or it cannot be made.
pub(crate) fn bind(path: &Path) -> Result<UnixListener, Error> {
    let fault = |error: io::Error| Error::Listen { flag: "--admin", at: path.display().to_string(), error };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(fault(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(fault(io::Error::new(io::ErrorKind::AlreadyExists, "it is there and no socket")));
        }
        Ok(_) => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(fault(io::Error::new(io::ErrorKind::AddrInUse, "another coordinator listens there")));
            }
        }
    }
    // Made where nobody else can reach it, and moved into place with its permissions set.
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let private = tempfile::Builder::new().prefix(".s").rand_bytes(4).tempdir_in(parent).map_err(fault)?;
    let made = private.path().join("s");
    let listener = UnixListener::bind(&made).map_err(fault)?;
    fs::set_permissions(&made, fs::Permissions::from_mode(0o600)).map_err(fault)?;
    fs::rename(&made, path).map_err(fault)?;
    Ok(listener)
}

/// Accepts connections.
pub(crate) async fn accept(listener: UnixListener, ready: mpsc::Sender<Connection>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if ready.send(Connection::local(stream)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "an operator's connection cannot be accepted");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}
