//! Versions, certificates of ours, restarts, and agents that are stopped and put back.

use rat_engine::shard::EffectiveStatus;
use rat_tests::driven::Driven;
use rat_tests::evidence::Machine;
use rat_tests::pull_agent::{Device, PullAgent};
use rat_tests::pulled::{self, enrol};
use rat_transport::pull::{AgentVersion, ClientIdentity, ContactError, News, Settings, Standing};

use super::world::{World, contact_of, polling, settings, start};

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_common_version_is_spoken_and_asked_again_when_it_is_gone() {
    let world = World::new().await;
    let machine = Machine::valid();
    let agent = PullAgent::start(Device::Software(Box::new(machine.clone()), 7)).await;
    agent.serve_versions(&["1.0", "2.1", "2.3", "9.0"]);
    let (ak, policy) = (machine.ak.public(), machine.keylime_policy());
    let id = world.add("versions", &agent, &ak, &policy).await;
    let spoken = AgentVersion::V2_3;
    world
        .until_told(&id, |news| *news == News::Attested(spoken))
        .await;
    world.until(&id, EffectiveStatus::Trusted).await;
    // The agent was updated.
    agent.serve_versions(&["2.6"]);
    let newer = AgentVersion::V2_6;
    world
        .until_told(&id, |news| *news == News::Speaks(newer))
        .await;
    let silent = |news: &News| matches!(news, News::Silent { .. });
    assert!(!world.news(&id).iter().any(silent), "{:?}", world.news(&id));
    world.more_quotes(&agent, 2).await;
    assert!(agent.quotes_asked().last().unwrap().starts_with("/v2.6/"));
    // Somebody would like an older one.
    agent.serve_versions(&["2.1"]);
    world.until_silent(&id, "downgrade").await;
    world.until(&id, EffectiveStatus::Overdue).await;
    assert!(!agent.asked().iter().any(|it| it.starts_with("/v2.1/")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_by_which_an_agent_attested_is_remembered_over_a_restart() {
    let world = World::new().await;
    let machine = Machine::valid();
    let agent = PullAgent::start(Device::Software(Box::new(machine.clone()), 7)).await;
    agent.serve_versions(&["2.1"]);
    let (ak, policy) = (machine.ak.public(), machine.keylime_policy());
    let id = world
        .add_with("older", &agent, &ak, &policy, |contact| {
            contact.attested_by = Some(AgentVersion::V2_2);
        })
        .await;
    world.until_silent(&id, "downgrade").await;
    assert!(agent.quotes_asked().is_empty());
}

/// A CA of clients, and a client of it.
fn clients() -> (Vec<u8>, ClientIdentity) {
    let (ca, certificate, key) = pulled::clients();
    let identity = ClientIdentity::of_pem(certificate.as_bytes(), key.as_bytes());
    (ca, identity.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_shown_the_certificate_that_they_demand() {
    let (ca, ours) = clients();
    let (_, of_another_ca) = clients();
    let world = World::with(polling(), Some(of_another_ca)).await;
    let machine = Machine::valid();
    let device = Device::Software(Box::new(machine.clone()), 7);
    let agent = PullAgent::of_ca(device, ca).await;
    let (ak, policy) = (machine.ak.public(), machine.keylime_policy());
    let id = world.add("demanding", &agent, &ak, &policy).await;
    world.until_silent(&id, "tls").await;
    assert!(agent.asked().is_empty());
    world.poller.set_identity(Some(ours)).unwrap();
    world.until(&id, EffectiveStatus::Trusted).await;
    let useless = ClientIdentity::new(vec![vec![0x30]], vec![0x30]);
    world.poller.set_identity(Some(useless)).unwrap_err();
    world.more_quotes(&agent, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_shown_where_a_connection_was_kept() {
    let (ca, ours) = clients();
    let (_, of_another_ca) = clients();
    let settings = Settings {
        interval_ms: 400,
        ..polling()
    };
    let world = World::with(settings, Some(ours)).await;
    let machine = Machine::valid();
    let device = Device::Software(Box::new(machine.clone()), 7);
    let agent = PullAgent::of_ca(device, ca).await;
    let (ak, policy) = (machine.ak.public(), machine.keylime_policy());
    let id = world.add("renewed", &agent, &ak, &policy).await;
    world.until(&id, EffectiveStatus::Trusted).await;
    world.more_quotes(&agent, 3).await;
    assert_eq!(agent.connections(), 1);
    // One that the agent refuses, so that it is seen which was shown.
    world.poller.set_identity(Some(of_another_ca)).unwrap();
    world.until_silent(&id, "tls").await;
    assert!(agent.connections() > 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn s08_every_agent_is_polled_again_after_a_restart() {
    let world = World::new().await;
    let mut agents = Vec::new();
    for nth in 0..8 {
        let (_, id, agent) = world.machine(&format!("stays-{nth}")).await;
        agents.push((id, agent));
    }
    for (id, _) in &agents {
        world.until(id, EffectiveStatus::Trusted).await;
    }
    let World {
        driven,
        poller,
        contacts,
        ..
    } = world;
    poller.shutdown(std::time::Duration::from_secs(5)).await;
    let asked: Vec<usize> = agents
        .iter()
        .map(|(_, it)| it.quotes_asked().len())
        .collect();
    let driven: Driven = driven.restart(settings()).await;
    for ((_, agent), asked) in agents.iter().zip(&asked) {
        assert_eq!(
            agent.quotes_asked().len(),
            *asked,
            "nobody asks after the end"
        );
    }
    let (poller, _told) = start(&driven, polling(), None);
    for contact in contacts.into_inner().unwrap() {
        poller.put(contact).unwrap();
    }
    for ((id, agent), asked) in agents.iter().zip(asked) {
        rat_tests::driven::until(|| agent.quotes_asked().len() > asked + 1).await;
        driven
            .until_view(id, |view| view.status == EffectiveStatus::Trusted)
            .await;
        // What was proven before the restart is not sent again.
        let first = agent.quotes_asked()[asked].clone();
        assert!(first.ends_with("&ima_ml_entry=4"), "{first}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_stopped_is_not_polled_until_it_is_put_back() {
    let world = World::new().await;
    let (_, id, agent) = world.machine("stops").await;
    world.until(&id, EffectiveStatus::Trusted).await;
    assert!(world.poller.remove(&id));
    assert!(!world.poller.remove(&id));
    assert_eq!(world.poller.standing(&id), None);
    world
        .driven
        .until_view(&id, |view| !view.is_connected)
        .await;
    let asked = agent.asked().len();
    world.until(&id, EffectiveStatus::Overdue).await;
    assert!(agent.asked().len() <= asked + 1);
    let contact = world.contacts.lock().unwrap()[0].clone();
    world.poller.put(contact.clone()).unwrap();
    world.until(&id, EffectiveStatus::Trusted).await;
    // Putting it twice leaves one.
    world.poller.put(contact).unwrap();
    world
        .until_standing(&id, |it| it == Standing::Answers)
        .await;
    world.more_quotes(&agent, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_not_enrolled_or_on_another_path_is_asked_for_no_evidence() {
    let world = World::new().await;
    let machine = Machine::valid();
    let agent = PullAgent::start(Device::Software(Box::new(machine.clone()), 7)).await;
    let stranger = rat_engine::agent_id::AgentId::parse("stranger").unwrap();
    let ak = machine.ak.public();
    world
        .poller
        .put(contact_of(&stranger, &agent, &ak))
        .unwrap();
    let native = rat_engine::agent_id::AgentId::parse("native").unwrap();
    world.driven.enrol(&machine, &native).await;
    world.poller.put(contact_of(&native, &agent, &ak)).unwrap();
    let (_, honest, other) = world.machine("honest").await;
    world.until(&honest, EffectiveStatus::Trusted).await;
    world.more_quotes(&other, 2).await;
    assert!(agent.quotes_asked().is_empty(), "{:?}", agent.asked());
    // Enrolled with another attestation key than the one it is polled by.
    let policy = machine.keylime_policy();
    let another = rat_engine::agent_id::AgentId::parse("another-key").unwrap();
    enrol(
        &world.driven,
        &another,
        &Machine::valid().ak.public(),
        &policy,
    )
    .await;
    world.poller.put(contact_of(&another, &agent, &ak)).unwrap();
    world.more_quotes(&other, 2).await;
    assert!(agent.quotes_asked().is_empty(), "{:?}", agent.asked());
}

#[tokio::test(flavor = "multi_thread")]
async fn contacts_that_cannot_be_polled_are_refused_and_change_nothing() {
    let world = World::new().await;
    let (_, id, agent) = world.machine("kept").await;
    world.until(&id, EffectiveStatus::Trusted).await;
    let good = world.contacts.lock().unwrap()[0].clone();
    for host in ["", "a b", "a\r\nHost: b", "a/b", "user@host"] {
        let mut contact = good.clone();
        contact.host = host.to_owned();
        assert_eq!(world.poller.put(contact), Err(ContactError::Host), "{host}");
    }
    let mut contact = good;
    contact.ak_public = vec![0; 3];
    assert!(matches!(
        world.poller.put(contact),
        Err(ContactError::Key(_))
    ));
    world.more_quotes(&agent, 2).await;
    world.until(&id, EffectiveStatus::Trusted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_used_again_while_agents_keep_them() {
    for (interval_ms, reuses) in [(400, true), (10_000, false)] {
        // The poller is told of another interval than the shard has, to compare the two.
        let settings = Settings {
            interval_ms,
            ..polling()
        };
        let world = World::with(settings, None).await;
        let (_, id, agent) = world.machine("kept-open").await;
        world.until(&id, EffectiveStatus::Trusted).await;
        world.more_quotes(&agent, 6).await;
        let connections = agent.connections();
        assert_eq!(connections == 1, reuses, "{connections}");
    }
}
