//! Who comes in: the accept loop, the limits before a session, and the end.

use crate::enrolment;
use crate::error::Result;
use crate::hub::Hub;
use crate::session;
use crate::storage::seconds;
use protocol::connection::{Arrival, Close, Connection, Listener};
use protocol::identity::NodeKey;
use protocol::tls::Purpose;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long sessions may take to bring in order what they have when the server stops.
const STOPPING_MAX: Duration = Duration::from_secs(60);

pub fn bind(hub: &Arc<Hub>, key: &NodeKey) -> Result<Listener> {
    let roll = hub.registry.roll();
    Ok(Listener::bind(hub.settings.listen, key, Arc::new(move |client| roll.admits(client, seconds())))?)
}

/// Serves until `stop` is done; then tells who is connected, and waits until what arrived is durable.
pub async fn run(hub: Arc<Hub>, listener: Listener, stop: impl Future<Output = ()>) {
    let mut sessions = JoinSet::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            arrival = listener.accept() => match arrival {
                // Handshakes are bounded in number by the listener, and in time each.
                Some(arrival) => { sessions.spawn(admit(Arc::clone(&hub), arrival)); }
                None => break,
            },
            Some(_) = sessions.join_next() => {}
        }
    }
    tracing::info!(sessions = hub.sessions(), "stopping");
    let _ = timeout(Duration::from_secs(5), listener.close(Close::Stopping, "the server stops; come back later")).await;
    let all_done = async { while sessions.join_next().await.is_some() {} };
    if timeout(STOPPING_MAX, all_done).await.is_err() {
        tracing::warn!("some sessions did not end in time");
    }
    hub.storage.close();
}

async fn admit(hub: Arc<Hub>, arrival: Arrival) {
    let address = arrival.address();
    match arrival.admit().await {
        Ok(connection) => serve(&hub, connection).await,
        Err(error) => tracing::debug!(%address, %error, "a handshake failed"),
    }
}

async fn serve(hub: &Arc<Hub>, connection: Connection) {
    let Some(_presence) = hub.enter(&connection) else {
        tracing::warn!(client = %connection.peer(), address = %connection.address(), "too many connections");
        connection.close(Close::Busy, "there are too many connections; come back later");
        return;
    };
    match connection.purpose() {
        Purpose::Enrol => enrolment::serve(hub, &connection).await,
        Purpose::Work => session::serve(hub, &connection).await,
    }
}
