//! Who may begin a handshake, and the handshake itself.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quinn::{Connecting, Connection, Endpoint, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::options::ServerLimits;
use super::{Shared, session};
use crate::limits;
use crate::measures;

/// Counts of what is open.
#[derive(Debug)]
pub(super) struct Admission {
    connections: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    handshakes_max: usize,
    handshakes_unvalidated_max: usize,
    networks: Arc<Networks>,
}

/// What is open from each network, and what may be.
#[derive(Debug)]
struct Networks {
    open: Mutex<HashMap<IpAddr, Open>>,
    connections_max: usize,
    handshakes_max: usize,
    handshakes_unvalidated_max: usize,
}

/// What is open from one network. A handshake is a connection, too.
#[derive(Debug, Default)]
struct Open {
    connections: usize,
    handshakes: usize,
}

/// A place among the open connections, until this is dropped.
#[derive(Debug)]
struct Place {
    _connection: OwnedSemaphorePermit,
    network: IpAddr,
    networks: Arc<Networks>,
}

/// A place among the open handshakes, until this is dropped.
#[derive(Debug)]
struct Handshake {
    _handshake: OwnedSemaphorePermit,
    network: IpAddr,
    networks: Arc<Networks>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.networks.leave(self.network, |open| {
            open.connections = open.connections.saturating_sub(1);
        });
        measures::connections(-1.0);
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.networks.leave(self.network, |open| {
            open.handshakes = open.handshakes.saturating_sub(1);
        });
    }
}

impl Networks {
    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection that begins with its handshake, or names the limit against it.
    fn enter(&self, network: IpAddr) -> Result<(), &'static str> {
        let mut networks = self.open();
        let (connections, handshakes) = networks
            .get(&network)
            .map_or((0, 0), |open| (open.connections, open.handshakes));
        if connections >= self.connections_max {
            return Err("CONNECTIONS_PER_ADDRESS_MAX");
        }
        if handshakes >= self.handshakes_max {
            return Err("HANDSHAKES_PER_ADDRESS_MAX");
        }
        let open = Open {
            connections: connections.saturating_add(1),
            handshakes: handshakes.saturating_add(1),
        };
        networks.insert(network, open);
        Ok(())
    }

    /// Takes something off the counts, and forgets a network of which nothing is open.
    fn leave(&self, network: IpAddr, take_off: impl FnOnce(&mut Open)) {
        let mut networks = self.open();
        if let Some(open) = networks.get_mut(&network) {
            take_off(open);
            if open.connections == 0 && open.handshakes == 0 {
                networks.remove(&network);
            }
        }
    }

    fn validates(&self, network: IpAddr) -> bool {
        let networks = self.open();
        let handshakes = networks.get(&network).map_or(0, |open| open.handshakes);
        handshakes >= self.handshakes_unvalidated_max
    }
}

impl Admission {
    pub(super) fn new(limits: &ServerLimits) -> Self {
        let semaphore = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        let handshakes_per_network = limits.handshakes_per_address_max;
        Self {
            connections: semaphore(limits.connections_max),
            handshakes: semaphore(limits.handshakes_max),
            handshakes_max: limits.handshakes_max.min(Semaphore::MAX_PERMITS),
            handshakes_unvalidated_max: limits.handshakes_unvalidated_max,
            networks: Arc::new(Networks {
                open: Mutex::default(),
                connections_max: limits.connections_per_address_max,
                handshakes_max: handshakes_per_network,
                // However small the share is, forged addresses leave half of it.
                handshakes_unvalidated_max: limits::HANDSHAKES_UNVALIDATED_PER_ADDRESS_MAX
                    .min(handshakes_per_network.wrapping_div(2)),
            }),
        }
    }

    /// Whether so many handshakes are open, of all peers or of this one's network, that it must
    /// first show that it receives at the address it sends from. (X06)
    ///
    /// Until then the address may be forged: without the second condition a stranger could use up
    /// the share of a network that is not its own.
    fn validates(&self, address: IpAddr) -> bool {
        let free = self.handshakes.available_permits();
        let open = self.handshakes_max.saturating_sub(free);
        open >= self.handshakes_unvalidated_max || self.networks.validates(network(address))
    }

    /// A place for one more connection from this address, or the limit that stands against it.
    fn place(&self, address: IpAddr) -> Result<(Place, Handshake), &'static str> {
        let handshake = Arc::clone(&self.handshakes).try_acquire_owned();
        let handshake = handshake.map_err(|_| "HANDSHAKES_MAX")?;
        let connection = Arc::clone(&self.connections).try_acquire_owned();
        let connection = connection.map_err(|_| "CONNECTIONS_MAX")?;
        let network = network(address);
        self.networks.enter(network)?;
        measures::connections(1.0);
        let place = Place {
            _connection: connection,
            network,
            networks: Arc::clone(&self.networks),
        };
        let handshake = Handshake {
            _handshake: handshake,
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
    let address = incoming.remote_address().ip();
    if !incoming.remote_address_validated() && admission.validates(address) {
        measures::count(measures::RETRIES, 1);
        if let Err(error) = incoming.retry() {
            error.into_incoming().refuse();
        }
        return;
    }
    let (place, handshake) = match admission.place(address) {
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
