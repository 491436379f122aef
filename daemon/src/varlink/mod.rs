//! varlink: a strict server for any interface, and the supervisor's interface on it.

pub mod call;
mod events;
pub mod server;
mod service;
mod socket;
pub mod supervisor;

use std::convert::Infallible;

use tokio::net::UnixListener;

use crate::supervisor::handle::Handle;

/// Serve `org.rootlessd.Supervisor` on `listener`, until the future is dropped.
///
/// To be run in a [`LocalSet`](tokio::task::LocalSet).
pub async fn serve(listener: UnixListener, handle: Handle) -> Infallible {
    server::serve(listener, supervisor::Supervisor::new(handle), server::Limits::default()).await
}
