//! Where webhooks are joined to the server: what they listen to, and how the API shows them.

use std::sync::Arc;

use anyhow::Context;
use rat_api::core::webhooks::{ShownWebhook, Test, WebhookState, Webhooks as Described};
use rat_ops::webhook::{Channel, Delivery, Health, Parts, Shown, Tester, Webhook, Webhooks};
use rat_runtime::SystemClock;
use rat_store::Store;

use super::shards::Shards;
use crate::failure::{Exit, Failure, Means};

/// Begins to deliver what the shards tell.
pub(super) async fn start(
    webhooks: Vec<Webhook>,
    channels: Vec<Arc<dyn Channel>>,
    store: &Store,
    shards: &Shards,
) -> Result<Delivery, Failure> {
    let events = shards
        .events()
        .context("the shards ended")
        .means(Exit::Failed)?;
    let parts = Parts {
        webhooks,
        channels,
        store: store.clone(),
        fleet: Arc::new(shards.clone()),
        events,
        clock: Arc::new(SystemClock::start()),
    };
    Webhooks::start(parts)
        .await
        .context("webhooks cannot be served")
        .means(Exit::Unusable)
}

/// The webhooks as the API describes them.
pub(super) struct Told(pub(super) Webhooks);

impl Described for Told {
    fn shown(&self) -> Vec<ShownWebhook> {
        self.0.shown().into_iter().map(shown).collect()
    }

    fn queued(&self, name: &str) {
        self.0.queued(name);
    }

    fn test(&self, name: &str) -> Option<Test<'_>> {
        let tester = self.0.tester(name)?;
        Some(Box::pin(tested(tester)))
    }
}

async fn tested(tester: Tester) -> Option<(String, Result<(), String>)> {
    let (id, result) = tester.send().await?;
    Some((id, result.map_err(|failure| failure.to_string())))
}

fn shown(shown: Shown) -> ShownWebhook {
    ShownWebhook {
        name: shown.name,
        url: shown.url,
        state: match shown.health {
            Health::Idle => WebhookState::Idle,
            Health::Delivering => WebhookState::Delivering,
            Health::Failing => WebhookState::Failing,
        },
        standing: shown.standing,
    }
}
