//! Who may begin a handshake, and the handshake itself.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quinn::{Connecting, Connection, Endpoint, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::options::ServerLimits;
use super::{Shared, session};
use crate::measures;

/// Counts of what is open.
#[derive(Debug)]
pub(super) struct Admission {
    connections: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    handshakes_max: usize,
    handshakes_unvalidated_max: usize,
    networks: Arc<Mutex<HashMap<IpAddr, usize>>>,
    per_network_max: usize,
}

/// A place among the open connections, until this is dropped.
#[derive(Debug)]
struct Place {
    _connection: OwnedSemaphorePermit,
    network: IpAddr,
    networks: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = networks.get_mut(&self.network) {
            *open = open.saturating_sub(1);
            if *open == 0 {
                networks.remove(&self.network);
            }
        }
        measures::connections(-1.0);
    }
}

impl Admission {
    pub(super) fn new(limits: &ServerLimits) -> Self {
        let semaphore = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        Self {
            connections: semaphore(limits.connections_max),
            handshakes: semaphore(limits.handshakes_max),
            handshakes_max: limits.handshakes_max.min(Semaphore::MAX_PERMITS),
            handshakes_unvalidated_max: limits.handshakes_unvalidated_max,
            networks: Arc::default(),
            per_network_max: limits.connections_per_address_max,
        }
    }

    /// Whether so many handshakes are open that peers must first show that they receive at the
    /// address they send from. (X06)
    fn validates_addresses(&self) -> bool {
        let free = self.handshakes.available_permits();
        self.handshakes_max.saturating_sub(free) >= self.handshakes_unvalidated_max
    }

    /// A place for one more connection from this address, or the limit that stands against it.
    fn place(&self, address: IpAddr) -> Result<(Place, OwnedSemaphorePermit), &'static str> {
        let handshake = Arc::clone(&self.handshakes).try_acquire_owned();
        let handshake = handshake.map_err(|_| "HANDSHAKES_MAX")?;
        let connection = Arc::clone(&self.connections).try_acquire_owned();
        let connection = connection.map_err(|_| "CONNECTIONS_MAX")?;
        let network = network(address);
        let mut networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        let open = networks.entry(network).or_insert(0);
        if *open >= self.per_network_max {
            return Err("CONNECTIONS_PER_ADDRESS_MAX");
        }
        *open = open.saturating_add(1);
        drop(networks);
        measures::connections(1.0);
        let place = Place {
            _connection: connection,
            network,
            networks: Arc::clone(&self.networks),
        };
        Ok((place, handshake))
    }
}

/// An IPv4 address, or the /64 network that a single machine usually has.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        canonical @ IpAddr::V4(_) => canonical,
    }
}

/// Takes connections until the endpoint is closed. Nothing in here waits for a peer. (X05)
pub(super) async fn accept(shared: Arc<Shared>, endpoint: Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        admit(&shared, incoming);
    }
}

fn admit(shared: &Arc<Shared>, incoming: Incoming) {
    let admission = &shared.admission;
    if !incoming.remote_address_validated() && admission.validates_addresses() {
        measures::count(measures::RETRIES, 1);
        if let Err(error) = incoming.retry() {
            error.into_incoming().refuse();
        }
        return;
    }
    let (place, handshake) = match admission.place(incoming.remote_address().ip()) {
        Ok(admitted) => admitted,
        Err(limit) => {
            measures::limit(limit);
            measures::handshake("refused");
            incoming.refuse();
            return;
        }
    };
    let Ok(connecting) = incoming.accept() else {
        measures::handshake("failed");
        return;
    };
    let shared = Arc::clone(shared);
    shared.tasks.clone().spawn(async move {
        let connection = handshaken(&shared, connecting).await;
        drop(handshake);
        if let Some(connection) = connection {
            session::run(&shared, connection).await;
        }
        drop(place);
    });
}

async fn handshaken(shared: &Shared, connecting: Connecting) -> Option<Connection> {
    let limit = Duration::from_millis(shared.limits.handshake_ms_max);
    match tokio::time::timeout(limit, connecting).await {
        Ok(Ok(connection)) => {
            measures::handshake("done");
            Some(connection)
        }
        Ok(Err(error)) => {
            measures::handshake("failed");
            tracing::debug!(%error, "a handshake failed");
            None
        }
        Err(_) => {
            measures::handshake("timeout");
            measures::limit("HANDSHAKE_MS_MAX");
            None
        }
    }
}
