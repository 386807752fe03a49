//! A small TCP proxy whose links a test cuts, slows down, or lets go silent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp};
use tokio::sync::watch;

/// What the links do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Forward.
    Open,
    /// Forward so many bytes a second.
    Slow(u64),
    /// Keep the connections, forward nothing, and say nothing: as a router does that lost its power.
    Silent,
    /// End every connection, take no new one.
    Cut,
}

pub struct Proxy {
    pub address: SocketAddr,
    link: Arc<watch::Sender<Link>>,
}

impl Proxy {
    /// A proxy in front of `target`.
    pub async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let link = Arc::new(watch::Sender::new(Link::Open));
        let state = link.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if *state.borrow() == Link::Cut {
                    continue;
                }
                let (state, target) = (state.subscribe(), target.clone());
                tokio::spawn(async move {
                    if let Ok(far) = TcpStream::connect(target).await {
                        join(near, far, state).await;
                    }
                });
            }
        });
        Self { address, link }
    }

    pub fn set(&self, link: Link) {
        self.link.send_replace(link);
    }
}

async fn join(near: TcpStream, far: TcpStream, state: watch::Receiver<Link>) {
    // the transport turns Nagle's delay off; so must whoever stands in between
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
    tokio::select! {
        () = pump(from_near, to_far, state.clone()) => {}
        () = pump(from_far, to_near, state) => {}
    }
}

/// Forwards one direction until an end closes or the link is cut.
async fn pump(mut from: tcp::OwnedReadHalf, mut to: tcp::OwnedWriteHalf, mut state: watch::Receiver<Link>) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let link = *state.borrow_and_update();
        let room = match link {
            Link::Open => buffer.len(),
            Link::Slow(rate) => (rate as usize / 20).clamp(1, buffer.len()),
            Link::Silent => {
                if state.changed().await.is_err() {
                    return;
                }
                continue;
            }
            Link::Cut => return,
        };
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            read = from.read(&mut buffer[..room]) => match read {
                Ok(n) if n > 0 => {
                    if let Link::Slow(rate) = link {
                        // this is the link's speed, not a wait for something
                        tokio::time::sleep(Duration::from_micros(n as u64 * 1_000_000 / rate)).await;
                    }
                    if to.write_all(&buffer[..n]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
        }
    }
}
