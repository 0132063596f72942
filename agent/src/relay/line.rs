//! The connection to the server: made again whenever it breaks.

use std::sync::Arc;
use std::time::Duration;

use rat_transport::quic::client::{
    AboutAgent, Batch, Client, ClientError, LineReceiver, LineSender, RelayWelcome, Sockets,
};
use rat_transport::quic::server::Server;
use tokio::net::lookup_host;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::identity::Identity;
use super::roster::Roster;
use super::{RelayError, tls};
use crate::explain;
use crate::run::{Backoff, SystemDice};
use crate::unix_ms;

/// The longest pause before the server is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Agents that wait for a line longer than this are sent away.
const PATIENCE: Duration = Duration::from_secs(60);
/// Hellos go out in portions, so many times a second.
const HELLOS_EVERY: Duration = Duration::from_millis(100);
const PORTIONS_PER_SECOND: u32 = 10;
/// How long to wait before a renewal that failed is tried again, and at most between two looks.
const RENEWAL_RETRY: Duration = Duration::from_secs(600);
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// The relay's end of it.
pub(super) struct Line {
    identity: Identity,
    roster: Arc<Roster>,
    /// Where agents are, and where a renewed certificate is shown.
    server: Arc<Server>,
    sockets: Sockets,
    stopped: watch::Receiver<bool>,
}

/// Why a line ended.
enum Ended {
    Stopped,
    Broken(ClientError),
}

impl Line {
    pub(super) fn new(
        identity: Identity,
        roster: Arc<Roster>,
        server: Arc<Server>,
        stopped: watch::Receiver<bool>,
    ) -> Result<Self, RelayError> {
        let sockets = Sockets::default();
        // What cannot be used is said at once, and not at the first try.
        Client::sharing(sockets.clone(), identity.client()?)?;
        Ok(Self {
            identity,
            roster,
            server,
            sockets,
            stopped,
        })
    }

    /// Connects, and connects again, until told to stop.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::up_to(LONGEST_PAUSE);
        let mut without_since = Instant::now();
        let mut stopped = self.stopped.clone();
        loop {
            let ended = tokio::select! {
                ended = self.serve(&mut backoff) => ended,
                _ = stopped.wait_for(|stopped| *stopped) => return,
            };
            let now = Instant::now();
            match ended {
                Ok(Ended::Stopped) => return,
                Ok(Ended::Broken(error)) => {
                    without_since = now;
                    tracing::warn!("the line to the server is gone: {}", explain(&error));
                }
                Err(error) => tracing::warn!("no line to the server: {}", explain(&error)),
            }
            if now.saturating_duration_since(without_since) > PATIENCE {
                self.roster.dismiss();
            }
            let pause = backoff.after_failure(Duration::ZERO, &mut SystemDice);
            tokio::select! {
                () = sleep(pause) => {}
                _ = stopped.wait_for(|stopped| *stopped) => return,
            }
        }
    }

    /// One line, from its begin to its end.
    async fn serve(&mut self, backoff: &mut Backoff) -> Result<Ended, RelayError> {
        let client = Client::sharing(self.sockets.clone(), self.identity.client()?)?;
        let connection = self.connect(&client).await?;
        let line = connection.relay_hello().await?;
        backoff.reset();
        tracing::info!(relay = %self.identity.installed.name, agents = self.roster.len(), "the line to the server is there");
        self.roster.line_begins(&line.welcome);
        let roster = Arc::clone(&self.roster);
        let (renewed, renewals) = mpsc::channel(1);
        let mut stopped = self.stopped.clone();
        let ended = tokio::select! {
            error = receive(&roster, line.receiver, renewed) => Ended::Broken(error),
            error = self.send(&line.welcome, line.sender, renewals) => Ended::Broken(error),
            _ = stopped.wait_for(|stopped| *stopped) => Ended::Stopped,
        };
        self.roster.line_ends();
        connection.close();
        client.finish().await;
        Ok(ended)
    }

    async fn connect(
        &self,
        client: &Client,
    ) -> Result<rat_transport::quic::client::Connection, RelayError> {
        let evidence = &self.identity.installed.evidence;
        let mut last = RelayError::Client(ClientError::Unreachable);
        for address in &evidence.addresses {
            let resolved = match lookup_host(address.as_str()).await {
                Ok(resolved) => resolved,
                Err(source) => {
                    let path = address.clone();
                    last = RelayError::File { path, source };
                    continue;
                }
            };
            for resolved in resolved {
                match client.connect(resolved, &evidence.server_name).await {
                    Ok(connection) => return Ok(connection),
                    Err(error) => last = error.into(),
                }
            }
        }
        Err(last)
    }

    /// Sends what waits, as much at once as there is, and Hellos at the server's rate.
    async fn send(
        &mut self,
        welcome: &RelayWelcome,
        mut sender: LineSender,
        mut renewals: mpsc::Receiver<Renewal>,
    ) -> ClientError {
        let portion = welcome.hellos_per_second_max.div_ceil(PORTIONS_PER_SECOND);
        // A portion fewer each second than are taken, for clocks that differ.
        let portion = portion
            .saturating_sub(portion.div_ceil(PORTIONS_PER_SECOND))
            .max(1);
        let portion = usize::try_from(portion).unwrap_or(1);
        let mut left = portion;
        let mut portions = interval(HELLOS_EVERY);
        portions.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut renewal = Instant::now();
        let mut batch = Batch::default();
        loop {
            let waits_for_portion = left == 0 && self.roster.has_hellos();
            tokio::select! {
                () = self.roster.came() => {}
                _ = portions.tick(), if waits_for_portion || left < portion => left = portion,
                Some(answer) = renewals.recv() => self.renewed(answer),
                () = sleep_until(renewal) => {
                    renewal = from_now(self.ask_renewal(&mut batch));
                }
            }
            loop {
                left = left.saturating_sub(self.roster.fill(&mut batch, left));
                if batch.is_empty() {
                    break;
                }
                if let Err(error) = sender.send(&mut batch).await {
                    return error;
                }
            }
        }
    }

    /// Asks for a new certificate when two thirds of this one's life are over; gives the time to
    /// look again.
    fn ask_renewal(&self, batch: &mut Batch) -> Duration {
        let due = self.identity.validity();
        let due = due.map_or(0, |validity| validity.renewal_unix_ms());
        let left = Duration::from_millis(due.saturating_sub(unix_ms()));
        if !left.is_zero() {
            return left.min(LONGEST_SLEEP);
        }
        let asked = self.identity.key.relay_request();
        match asked.map(|csr| batch.add_own_renewal(csr)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "no renewal can be asked for"),
            Err(error) => tracing::warn!(%error, "no renewal can be asked for"),
        }
        RENEWAL_RETRY
    }

    fn renewed(&mut self, answer: Renewal) {
        let taken = match answer {
            Ok(chain) => self.identity.renewed(&chain).and_then(|()| {
                let tls = tls(&self.identity)?;
                self.server
                    .set_tls(&tls)
                    .map_err(|error| RelayError::Bind(error.into()))
            }),
            Err(reason) => return tracing::warn!(%reason, "the certificate was not renewed"),
        };
        match taken {
            Ok(()) => tracing::info!("certificate renewed"),
            Err(error) => tracing::warn!("the renewed certificate: {}", explain(&error)),
        }
    }
}

/// The answer to the relay's own request.
type Renewal = Result<Vec<Vec<u8>>, rat_transport::quic::Reason>;

/// Passes on what the server says, until the line breaks.
async fn receive(
    roster: &Roster,
    mut receiver: LineReceiver,
    renewed: mpsc::Sender<Renewal>,
) -> ClientError {
    loop {
        match receiver.next().await {
            Ok((0, AboutAgent::Renewed(answer))) => {
                let answer = answer.map_err(|refused| refused.reason);
                if renewed.try_send(answer).is_err() {
                    tracing::warn!("a certificate came that was not waited for");
                }
            }
            Ok((number, about)) => roster.hear(number, about),
            Err(error) => return error,
        }
    }
}

fn from_now(left: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(left).unwrap_or(now)
}
