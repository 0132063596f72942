//! Webhooks: each change of an agent's status, posted to receivers that the operator names.
//!
//! ```text
//!  runtime's events ──▶ listen ──▶ note ──▶ store ──▶ deliver ──▶ client ──▶ receiver
//!                                   ▲       noted status,
//!      shards' views ───────────────┘       queue of each webhook
//! ```
//!
//! A change and the messages about it are written in one transaction ([`Store::note_statuses`]);
//! from then on they are delivered at least once, under one id, however often the process ends.
//! Before that, nothing needs to be kept: at each start, and whenever events were missed, every
//! agent's status is compared with the one that was noted last. So no agent's newest status is ever
//! lost, and memory is bounded however many agents change at once.
//!
//! Messages about one agent go out one after the other; those about several, at once. A receiver
//! that fails is tried by one message at a time, with growing pauses; what is not taken for too long
//! becomes a dead letter, and what comes after it goes on.
//!
//! # Security
//! A receiver knows the server by an HMAC over time and body ([`SIGNATURE_HEADER`]); the server
//! knows the receiver by TLS. An address is judged after its name was resolved, and connected to as
//! it was judged; redirects are never followed. (A05) Nothing that a receiver writes is shown, but
//! its status.

mod address;
mod client;
mod deliver;
mod endpoint;
mod fleet;
mod listen;
mod measures;
mod message;
mod note;
mod pace;
mod recipient;
mod settings;
mod signature;
mod standing;
mod trust;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rat_runtime::{Clock, EventStream};
use rat_store::{Store, StoreError, WebhookStanding};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use address::{Network, NetworkError};
pub use client::Failure;
pub use fleet::{Answer, Fleet, FleetUnavailable};
pub(crate) use message::new_id;
pub use recipient::{Carried, Channel, Unavailable};
pub use settings::{
    ATTEMPTS, Content, Fault, GIVE_UP_AFTER_HOURS, Given, Span, TIMEOUT_MS, Target, Webhook,
};
pub use signature::{SECRET_BYTES_MIN, SIGNATURE_HEADER, Secret, SecretTooShort};
pub use standing::Health;
pub use trust::{Roots, RootsError};

use client::Client;
use deliver::Deliverer;
use listen::Missed;
use note::Notes;
use pace::Pace;
use recipient::{Carrier, Recipient};
use standing::Standing;

use crate::limits::WEBHOOK_CHANGES_WAITING_MAX;

/// Who the audit log names for what a changed configuration leads to.
const CONFIGURATION: &str = "configuration";
/// How long tasks may take to end when they wait for nothing any more.
const ENDING: Duration = Duration::from_secs(1);

/// What webhooks work with.
pub struct Parts {
    /// The webhooks, by different names.
    pub webhooks: Vec<Webhook>,
    /// What is delivered to as to a webhook, by names that no webhook has.
    pub channels: Vec<Arc<dyn Channel>>,
    /// The records.
    pub store: Store,
    /// How agents stand now.
    pub fleet: Arc<dyn Fleet>,
    /// How they change. It ends when the runtime does.
    pub events: EventStream,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Why webhooks do not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Roots(#[from] RootsError),
}

/// A webhook as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its name.
    pub name: String,
    /// Where it is, without its query.
    pub url: String,
    /// Whether messages arrive.
    pub health: Health,
    /// How it stands.
    pub standing: WebhookStanding,
}

/// The webhooks, for whoever looks at them. Clones are the same ones.
#[derive(Clone)]
pub struct Webhooks {
    recipients: Arc<[Arc<Recipient>]>,
    clock: Arc<dyn Clock>,
}

/// The work of delivering. Dropping it ends the work at once; end it with [`drain`](Self::drain).
pub struct Delivery {
    webhooks: Webhooks,
    noting: JoinSet<()>,
    delivering: JoinSet<()>,
    stops: CancellationToken,
    gives_up: CancellationToken,
}

impl Webhooks {
    /// Forgets webhooks that are not named any more, and begins to deliver to the others.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(parts: Parts) -> Result<Delivery, StartError> {
        let names = parts.webhooks.iter().map(|it| it.target.name());
        let channels = parts.channels.iter().map(|it| it.name());
        let names: Vec<&str> = names.chain(channels).collect();
        let now = parts.clock.now().unix_ms;
        let mut targets = parts.webhooks.iter().map(|it| it.target.content);
        let are_told = targets.any(|content| content == Content::Status);
        let keeping = parts
            .store
            .keep_webhooks(&names, are_told, CONFIGURATION, now);
        let dropped = keeping.await?;
        if dropped > 0 {
            tracing::warn!(
                messages = dropped,
                "messages of removed webhooks are dropped"
            );
        }
        let mut carriers = Vec::new();
        for webhook in parts.webhooks {
            carriers.push(Carrier::Webhook(Box::new(Client::new(webhook)?)));
        }
        carriers.extend(parts.channels.into_iter().map(Carrier::Channel));
        let mut recipients = Vec::with_capacity(carriers.len());
        for carrier in carriers {
            let name = carrier.name().to_owned();
            let stored = parts.store.webhook_standing(&name).await?;
            recipients.push(Arc::new(Recipient {
                carrier,
                standing: Standing::new(&name, stored),
            }));
        }
        let mut delivery = Delivery {
            webhooks: Self {
                recipients: recipients.into(),
                clock: parts.clock,
            },
            noting: JoinSet::new(),
            delivering: JoinSet::new(),
            stops: CancellationToken::new(),
            gives_up: CancellationToken::new(),
        };
        delivery.deliver(&parts.store);
        if are_told {
            delivery
                .note(parts.store, parts.fleet, parts.events)
                .await?;
        }
        Ok(delivery)
    }

    /// Every webhook, in the order of the configuration.
    pub fn shown(&self) -> Vec<Shown> {
        let recipients = self.recipients.iter();
        let shown = |recipient: &Arc<Recipient>| Shown {
            name: recipient.name().to_owned(),
            url: recipient.place(),
            health: recipient.standing.health(),
            standing: recipient.standing.shown(),
        };
        recipients.map(shown).collect()
    }

    /// Says that a message was put into a webhook's queue by somebody else.
    pub fn queued(&self, name: &str) {
        let mut recipients = self.recipients.iter();
        if let Some(found) = recipients.find(|it| it.name() == name) {
            found.standing.queue(1);
        }
    }

    /// The names of those that are told of revocations.
    pub fn told_of_revocations(&self) -> Vec<String> {
        let recipients = self.recipients.iter();
        let told = recipients.filter(|it| it.content() == Content::Revocation);
        told.map(|it| it.name().to_owned()).collect()
    }

    /// A test message for a webhook; `None` when there is no such webhook.
    pub fn tester(&self, name: &str) -> Option<Tester> {
        let mut recipients = self.recipients.iter();
        let found = recipients.find(|it| it.name() == name && it.client().is_some())?;
        Some(Tester {
            recipient: Arc::clone(found),
            clock: Arc::clone(&self.clock),
        })
    }
}

impl Delivery {
    async fn note(
        &mut self,
        store: Store,
        fleet: Arc<dyn Fleet>,
        events: EventStream,
    ) -> Result<(), StoreError> {
        let (sender, changes) = mpsc::channel(WEBHOOK_CHANGES_WAITING_MAX);
        let missed = Arc::new(Missed::default());
        let (recipients, clock) = (&self.webhooks.recipients, &self.webhooks.clock);
        let notes = Notes {
            is_complete: store.are_statuses_noted().await?,
            store: store.clone(),
            clock: Arc::clone(clock),
            fleet,
            recipients: Arc::clone(recipients),
            missed: Arc::clone(&missed),
            gives_up: self.gives_up.clone(),
        };
        self.noting.spawn(listen::listen(events, sender, missed));
        self.noting.spawn(notes.run(changes));
        Ok(())
    }

    fn deliver(&mut self, store: &Store) {
        for recipient in self.webhooks.recipients.iter() {
            let deliverer = Deliverer {
                store: store.clone(),
                clock: Arc::clone(&self.webhooks.clock),
                recipient: Arc::clone(recipient),
                stops: self.stops.clone(),
                gives_up: self.gives_up.clone(),
                pace: Pace::default(),
                under_way: HashMap::new(),
            };
            self.delivering.spawn(deliverer.run());
        }
    }

    /// The webhooks.
    pub fn webhooks(&self) -> Webhooks {
        self.webhooks.clone()
    }

    /// Stops: what the runtime told is written down, and attempts under way end. Call it after the
    /// runtime has ended. Whether both came before the deadline; what did not is done after the next
    /// start.
    pub async fn drain(mut self, deadline: Duration) -> bool {
        self.stops.cancel();
        let is_done = timeout(deadline, self.ended()).await.is_ok();
        self.gives_up.cancel();
        if !is_done {
            // What goes on after this is aborted.
            let _ = timeout(ENDING, self.ended()).await;
        }
        is_done
    }

    async fn ended(&mut self) {
        tokio::join!(ended(&mut self.noting), ended(&mut self.delivering));
    }
}

async fn ended(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if ended.is_err_and(|error| error.is_panic()) {
            tracing::error!("a task of the webhooks panicked");
        }
    }
}

/// Sends one signed message that is about no agent.
pub struct Tester {
    recipient: Arc<Recipient>,
    clock: Arc<dyn Clock>,
}

impl Tester {
    /// Sends it, past the queue. Its id, and why it was not taken; `None` when there are no random
    /// numbers for an id.
    pub async fn send(&self) -> Option<(String, Result<(), Failure>)> {
        let client = self.recipient.client()?;
        let name = &client.webhook.target.name;
        let id = message::new_id()?;
        let now = self.clock.now().unix_ms;
        let body = message::test(&id, name, now);
        let result = client.post(&id, &body, now).await.result;
        measures::attempt(name, result);
        Some((id, result))
    }
}
