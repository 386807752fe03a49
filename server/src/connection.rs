//! A connection as the services see it: any byte stream, who is at its other end, and when it must end.

use crate::identity::Peer;
use crate::places::{Leave, Place, told};
use crate::sync::lock;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tessera_common::id::MemberName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// What the other end has shown.
#[derive(Debug, Clone)]
pub(crate) enum Shown {
    /// Nothing is asked of it: plaintext, a socket of this machine, or this process.
    Local,
    /// No certificate.
    Nothing,
    /// A certificate of a known authority that cannot be used, and why.
    Unusable(Arc<str>),
    /// A certificate of a known authority.
    Certificate(Arc<Peer>),
}

/// What it counts among: those that have not asked for anything yet, those without a certificate, or those of one name.
pub(crate) type Kind = Option<MemberName>;

/// Where a connection comes from. Every request on it carries this.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) shown: Shown,
    pub(crate) addr: Option<SocketAddr>,
    /// Its place among the connections that have said nothing, if there is a bound on those.
    silent: Arc<Mutex<Option<Place<Kind>>>>,
}

impl Origin {
    pub(crate) fn new(shown: Shown, addr: Option<SocketAddr>, silent: Option<Place<Kind>>) -> Self {
        Self { shown, addr, silent: Arc::new(Mutex::new(silent)) }
    }

    /// It asked for something: it makes no room for newcomers any more.
    pub(crate) fn spoke(&self) {
        drop(lock(&self.silent).take());
    }

    /// For logs: the name in its certificate, or its address.
    pub(crate) fn who(&self) -> String {
        match (&self.shown, self.addr) {
            (Shown::Certificate(peer), _) => peer.name.to_string(),
            (_, Some(addr)) => addr.to_string(),
            (_, None) => "local".to_owned(),
        }
    }
}

trait Io: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Io for T {}

type End = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Any byte stream as a connection.
pub(crate) struct Connection {
    io: Pin<Box<dyn Io>>,
    origin: Origin,
    /// Ready once it must end.
    end: Option<End>,
    /// Whatever it holds as long as it lives.
    held: Vec<Box<dyn Send>>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl Connection {
    /// One from this machine, of which nothing is asked.
    pub(crate) fn local(io: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        Self::new(io, Origin::new(Shown::Local, None, None))
    }

    pub(crate) fn new(io: impl AsyncRead + AsyncWrite + Send + 'static, origin: Origin) -> Self {
        Self { io: Box::pin(io), origin, end: None, held: Vec::new() }
    }

    /// Ends it when told to.
    pub(crate) fn until_told(self, leave: Leave) -> Self {
        self.until(told(leave))
    }

    /// Ends it when `end` is ready.
    pub(crate) fn until(mut self, end: impl Future<Output = ()> + Send + 'static) -> Self {
        self.end = Some(match self.end.take() {
            None => Box::pin(end),
            Some(earlier) => Box::pin(async move {
                tokio::select! {
                    () = earlier => {}
                    () = end => {}
                }
            }),
        });
        self
    }

    /// Holds something as long as it lives.
    pub(crate) fn holding(mut self, thing: impl Send + 'static) -> Self {
        self.held.push(Box::new(thing));
        self
    }

    /// True once it must end.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let over = self.end.as_mut().is_some_and(|end| end.as_mut().poll(cx).is_ready());
        if over {
            self.end = Some(Box::pin(std::future::ready(())));
        }
        over
    }
}

fn over() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the coordinator ended this connection")
}

// The transport always has a read waiting, so the end of a connection is noticed there.
impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_over(cx) {
            return Poll::Ready(Err(over()));
        }
        self.io.as_mut().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.io.as_mut().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.io.as_mut().poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl Connected for Connection {
    type ConnectInfo = Origin;
    fn connect_info(&self) -> Origin {
        self.origin.clone()
    }
}
