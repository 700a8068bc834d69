//! The server side: listening, one task for each connection, and the end of the process.

pub mod budget;
pub mod connection;
pub mod connections;
pub mod guard;
pub mod routes;

use crate::config::Server as Settings;
use crate::limits::{ACCEPT_REST_TIME, CONNECTIONS_MAX};
use crate::net::conn::Plain;
use crate::net::deadline::sleep_until;
use crate::proxy::State;
use async_io::Async;
use budget::Budget;
use connections::Connections;
use futures_lite::future::poll_once;
use smol::Executor;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

/// Descriptors that are no connections: standard streams, the reactor, listeners, files.
const DESCRIPTORS_RESERVED: usize = 32;

/// What all connections share.
pub struct Shared {
    state: RwLock<Arc<State>>,
    /// Memory for request bodies.
    pub bodies: Arc<Budget>,
    /// The open connections.
    pub connections: Arc<Connections>,
}

impl Shared {
    /// `descriptors` is how many this process may have open.
    pub fn new(state: Arc<State>, descriptors: usize) -> Arc<Self> {
        let settings = &state.config.server;
        // Each client connection may need one to a provider.
        let affordable = descriptors.saturating_sub(DESCRIPTORS_RESERVED) / 2;
        let max = settings.max_connections.unwrap_or(CONNECTIONS_MAX).min(affordable.max(1));
        Arc::new(Self {
            bodies: Budget::new(settings.body_memory),
            connections: Connections::new(max),
            state: RwLock::new(state),
        })
    }

    /// The configuration that new requests use.
    pub fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another configuration in force; running requests end with the one they began with.
    pub fn replace_state(&self, state: Arc<State>) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

/// An open listener.
pub enum Listener {
    /// On an address.
    Tcp(Async<TcpListener>),
    /// On a path.
    Unix(Async<UnixListener>),
}

impl Listener {
    /// Opens what the config names: a unix socket if there is one, and the address.
    pub fn open(settings: &Settings) -> Result<Vec<Self>, String> {
        let mut listeners = Vec::new();
        if let Some(path) = &settings.socket {
            let listener =
                bind_unix(path).map_err(|e| format!("cannot listen on {}: {e}", path.display()))?;
            listeners.push(Self::Unix(listener));
        }
        let (host, port) = (settings.host.as_str(), settings.port);
        let tcp = bind_tcp(host, port).map_err(|e| match e.kind() {
            io::ErrorKind::AddrInUse => {
                format!("cannot listen on {host}:{port}: the port is in use; choose another with --port")
            }
            _ => format!("cannot listen on {host}:{port}: {e}"),
        })?;
        listeners.push(Self::Tcp(tcp));
        Ok(listeners)
    }

    /// Where it listens, for people.
    pub fn describe(&self) -> String {
        match self {
            Self::Tcp(listener) => match listener.get_ref().local_addr() {
                Ok(address) => format!("http://{address}"),
                Err(_) => "an address".into(),
            },
            Self::Unix(listener) => match listener.get_ref().local_addr() {
                Ok(address) => format!("unix:{}", address.as_pathname().unwrap_or(Path::new("?")).display()),
                Err(_) => "a socket".into(),
            },
        }
    }

    async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => listener.readable().await,
            Self::Unix(listener) => listener.readable().await,
        }
    }

    async fn accept(&self) -> io::Result<Plain> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _): (Async<TcpStream>, SocketAddr) = listener.accept().await?;
                Ok(Plain::tcp(stream))
            }
            Self::Unix(listener) => {
                let (stream, _): (Async<UnixStream>, _) = listener.accept().await?;
                Ok(Plain::unix(stream))
            }
        }
    }
}

fn bind_tcp(host: &str, port: u16) -> io::Result<Async<TcpListener>> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match Async::<TcpListener>::bind(address) {
            Ok(listener) => return Ok(listener),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// A socket file left behind by a process that is gone is replaced; one that answers, or another file, is not.
fn bind_unix(path: &Path) -> io::Result<Async<UnixListener>> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket && UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused) {
        std::fs::remove_file(path)?;
    }
    Async::<UnixListener>::bind(path)
}

/// Accepts connections for ever. Ends only by being dropped.
pub async fn accept_all(shared: Arc<Shared>, listener: Arc<Listener>, executor: &'static Executor<'static>) {
    // One line for each shortage, not ten a second.
    let mut told = false;
    loop {
        // First somebody has to knock: room made for nobody would cost somebody's connection.
        let knock = listener.readable().await;
        shared.connections.room().await;
        let accepted = match knock {
            Ok(()) => listener.accept().await,
            Err(e) => Err(e),
        };
        match accepted {
            Ok(io) => {
                told = false;
                begin(&shared, io, executor);
            }
            Err(e) if is_peer_fault(&e) => {}
            Err(e) => {
                // Out of descriptors, mostly. To ask again at once would spin; idle connections give some back.
                if !std::mem::replace(&mut told, true) {
                    log::warn!("cannot accept connections for a moment: {e}");
                }
                shared.connections.shed_one();
                sleep_until(Instant::now() + ACCEPT_REST_TIME).await;
            }
        }
    }
}

/// Accepts those who wait already. To close the listener would reset them, with what they have sent.
pub async fn accept_waiting(shared: &Arc<Shared>, listener: &Listener, executor: &'static Executor<'static>) {
    // Bounded, as more may come all the while.
    for _ in 0..CONNECTIONS_MAX {
        let next = async {
            shared.connections.room().await;
            listener.accept().await
        };
        let Some(Ok(io)) = poll_once(next).await else { break };
        begin(shared, io, executor);
    }
}

fn begin(shared: &Arc<Shared>, io: Plain, executor: &'static Executor<'static>) {
    let slot = shared.connections.open();
    executor.spawn(connection::serve(Arc::clone(shared), slot, io)).detach();
}

/// The peer gave up before it was accepted.
fn is_peer_fault(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
