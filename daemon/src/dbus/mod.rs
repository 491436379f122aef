//! `org.rootlessd.Supervisor1` on the session bus, whenever there is one.

mod announce;
mod bus;
mod engine;
mod events;
mod gate;
#[cfg(test)]
mod introspection;
mod job;
mod ports;
mod values;

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use rootlessd_api::names::{BUS_NAME, OBJECT_PATH};
use tokio::sync::broadcast::error::RecvError;
use tracing::{info, warn};
use zbus::{
    Address, Connection,
    connection::Builder,
    fdo::{DBusProxy, RequestNameFlags, RequestNameReply},
};

use self::{announce::Announcer, engine::Engine, events::Events, gate::Gate, ports::Ports};
use crate::supervisor::handle::Handle;

/// Serve the supervisor on the bus at `address`, until the future is dropped. A bus that is not
/// there, or goes, is waited for; the other front end does not notice.
pub async fn run(handle: Handle, address: Address) -> Infallible {
    // One gate for all connections: there is one supervisor.
    let gate = Gate::new(handle.clone());
    loop {
        let announcer = Arc::new(Announcer::new(handle.clone(), gate.clone()));
        let connection = bus::connect(&address, async || {
            let engine = Engine::new(gate.clone(), announcer.clone());
            let ports = Ports::new(gate.clone());
            Builder::address(address.clone())
                .serve_at(OBJECT_PATH, engine)
                .serve_at(OBJECT_PATH, ports)
                .serve_at(OBJECT_PATH, Events::new(gate.clone()))
                .build()
                .await
        })
        .await;
        let begin = Instant::now();
        match serve(&connection, &handle, &announcer).await {
            Ok(()) => warn!("the session bus has gone; waiting for it to come back"),
            Err(error) => warn!("the session bus failed; trying again: {error}"),
        }
        drop(connection);
        // A bus that throws everybody out at once must not keep us busy.
        if begin.elapsed() < Duration::from_millis(100) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Serve one connection until it ends.
async fn serve(
    connection: &Connection,
    handle: &Handle,
    announcer: &Announcer,
) -> zbus::Result<()> {
    let mut status = handle.watch();
    let mut jobs = handle.watch_jobs();
    let mut events = handle.events().follow();
    let bus = DBusProxy::new(connection).await?;
    let mut owners = bus.receive_name_owner_changed_with_args(&[(0, BUS_NAME)]).await?;

    // The objects are complete before anybody can find them by name.
    announcer.begin(connection).await?;
    request_name(connection, &bus).await?;
    announcer.status(connection).await?;

    loop {
        // In this order, a job's beginning is told before what it brings about; and so is that
        // before its end, which the announcer sees to.
        tokio::select! {
            biased;
            () = connection.closed() => return Ok(()),
            job = jobs.recv() => match job {
                Ok(job) => {
                    announcer.job(connection, &job).await?;
                    announcer.sync(connection).await?;
                }
                Err(RecvError::Lagged(_)) => announcer.sync(connection).await?,
                // The supervisor has ended, and ends us.
                Err(RecvError::Closed) => connection.closed().await,
            },
            Ok(()) = status.changed() => announcer.status(connection).await?,
            Some(events) = events.next() => announcer.events(connection, &events).await?,
            Some(change) = owners.next() => {
                let change = change.args()?;
                let ours = connection.unique_name().map(|name| name.as_str());
                match change.new_owner.as_ref().map(|name| name.as_str()) {
                    owner if owner == ours => info!("the name {BUS_NAME} is ours"),
                    Some(owner) => warn!("the name {BUS_NAME} is {owner}'s now"),
                    None => {}
                }
            }
        }
    }
}

/// Take the name, or stand in line for it: whoever has it may end.
async fn request_name(connection: &Connection, bus: &DBusProxy<'_>) -> zbus::Result<()> {
    let reply = connection.request_name_with_flags(BUS_NAME, RequestNameFlags::empty()).await?;
    if reply == RequestNameReply::InQueue {
        let owner = match bus.get_connection_unix_process_id(BUS_NAME.try_into()?).await {
            Ok(pid) => format!("process {pid}"),
            Err(_) => "somebody".into(),
        };
        warn!(
            "{owner} has the name {BUS_NAME} on the session bus already; until it gives it up, this \
             rootlessd is reached by its varlink socket only"
        );
    }
    Ok(())
}
