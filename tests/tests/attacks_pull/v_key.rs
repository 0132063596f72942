//! V keys: who is given one, and who is not.

use rat_engine::shard::EffectiveStatus;
use rat_tests::driven::until;
use rat_tests::evidence::{Machine, policy_json};
use rat_tests::pull_agent::{Device, PullAgent};
use rat_tests::pulled::v_key;
use rat_transport::pull::{Contact, News};
use serde_json::json;

use super::world::World;

fn with_v_key(contact: &mut Contact) {
    contact.v_key = Some(v_key());
}

async fn software(world: &World, id: &str) -> (rat_engine::agent_id::AgentId, PullAgent) {
    let machine = Machine::valid();
    let agent = PullAgent::start(Device::Software(Box::new(machine.clone()), 7)).await;
    let (ak, policy) = (machine.ak.public(), machine.keylime_policy());
    let id = world.add_with(id, &agent, &ak, &policy, with_v_key).await;
    (id, agent)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_passed_is_given_its_v_key_once() {
    let world = World::new().await;
    let (id, agent) = software(&world, "takes").await;
    world.until_told(&id, |news| *news == News::HasVKey).await;
    assert_eq!(world.status(&id).await, EffectiveStatus::Trusted);
    world.more_quotes(&agent, 3).await;
    assert_eq!(agent.v_keys(), [v_key().0.to_vec()]);
    let asked = agent.quotes_asked();
    assert!(asked[0].contains("&partial=0&"), "{asked:?}");
    assert!(asked.last().unwrap().contains("&partial=1&"), "{asked:?}");
    let order = agent.asked();
    let at = |what: &str| order.iter().position(|it| it.contains(what)).unwrap();
    assert!(at("/keys/vkey") > at("/quotes/integrity"), "{order:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn q11_an_agent_that_failed_is_given_no_v_key() {
    let world = World::new().await;
    let machine = Machine::valid();
    let agent = PullAgent::start(Device::Software(Box::new(machine.clone()), 7)).await;
    let nothing = policy_json(json!({}), &[]);
    let ak = machine.ak.public();
    let id = world
        .add_with("fails", &agent, &ak, &nothing, with_v_key)
        .await;
    world.until(&id, EffectiveStatus::Untrusted).await;
    world
        .until_told(&id, |news| matches!(news, News::Speaks(_)))
        .await;
    tokio::time::sleep(super::world::INTERVAL).await;
    assert!(agent.v_keys().is_empty());
    assert!(!agent.asked().iter().any(|it| it.contains("/keys/")));
}

#[tokio::test(flavor = "multi_thread")]
async fn q11_a_key_that_the_tpm_does_not_show_is_given_no_v_key() {
    let world = World::new().await;
    let machine = Machine::valid();
    let agent = PullAgent::start(Device::Software(Box::new(machine.clone()), 7)).await;
    let theirs = openssl::rsa::Rsa::generate(2048).unwrap();
    let theirs = String::from_utf8(theirs.public_key_to_pem().unwrap()).unwrap();
    agent.bend(move |target, reply| match target.contains("/quotes/") {
        false => reply,
        true => reply.changed(|results| results["pubkey"] = theirs.clone().into()),
    });
    let (ak, policy) = (machine.ak.public(), machine.keylime_policy());
    let id = world
        .add_with("unbound", &agent, &ak, &policy, with_v_key)
        .await;
    // What the machine runs is as it was, so that it is trusted; the key is not its own.
    world.until(&id, EffectiveStatus::Trusted).await;
    world
        .until_told(&id, |news| *news == News::KeyNotBound)
        .await;
    world.more_quotes(&agent, 2).await;
    assert!(!agent.asked().iter().any(|it| it.contains("/keys/")));
    agent.straighten();
    until(|| !agent.v_keys().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_does_not_take_its_v_key_is_trusted_and_given_it_again() {
    let world = World::new().await;
    let machine = Machine::valid();
    let agent = PullAgent::start(Device::Software(Box::new(machine.clone()), 7)).await;
    agent.bend(|target, mut reply| {
        if target.contains("/keys/") {
            reply.status = 500;
        }
        reply
    });
    let (ak, policy) = (machine.ak.public(), machine.keylime_policy());
    let id = world
        .add_with("refuses", &agent, &ak, &policy, with_v_key)
        .await;
    world
        .until_told(&id, |news| matches!(news, News::NoVKey(_)))
        .await;
    assert_eq!(world.status(&id).await, EffectiveStatus::Trusted);
    agent.straighten();
    world.until_told(&id, |news| *news == News::HasVKey).await;
}
