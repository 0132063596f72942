//! What agents answer, and what their shard says of it.

use std::sync::{Arc, Mutex};

use rat_engine::shard::EffectiveStatus;
use rat_engine::verdict::Code;
use rat_tests::booted;
use rat_tests::evidence::{Machine, policy_of};
use rat_tests::measured::Measured;
use rat_tests::pull_agent::{Device, PullAgent, Reply};
use rat_tests::pull_tpm::TpmMachine;

use super::world::World;

fn machine_of(device: &mut Device) -> &mut Machine {
    match device {
        Device::Software(machine, _) => machine,
        Device::Tpm(_) => panic!("it is not in software"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_trusted_and_then_asked_for_what_is_new() {
    let world = World::new().await;
    let (_, id, agent) = world.machine("first").await;
    let view = world.until(&id, EffectiveStatus::Trusted).await;
    assert!(view.is_connected);
    world.more_quotes(&agent, 3).await;
    let asked = agent.quotes_asked();
    assert!(
        asked[0].starts_with("/v2.6/quotes/integrity?nonce="),
        "{asked:?}"
    );
    // Without a V key nobody asks for the key.
    assert!(
        asked[0].ends_with("&mask=0x400&partial=1&ima_ml_entry=0"),
        "{asked:?}"
    );
    assert!(
        asked.last().unwrap().ends_with("&ima_ml_entry=4"),
        "{asked:?}"
    );
    // Nonces are never the same.
    let mut nonces: Vec<_> = asked.iter().map(|it| it.split('&').next()).collect();
    nonces.sort_unstable();
    nonces.dedup();
    assert_eq!(nonces.len(), asked.len());
    let nonce = asked[0].split(['=', '&']).nth(1).unwrap();
    assert_eq!(nonce.len(), 20);
    assert!(nonce.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    assert_eq!(agent.asked()[0], "/version");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_the_policy_does_not_list_fails_the_agent() {
    let world = World::new().await;
    let (_, id, agent) = world.machine("bad-file").await;
    world.until(&id, EffectiveStatus::Trusted).await;
    agent.change(|device| {
        machine_of(device)
            .list
            .push(Measured::file("/tmp/evil", b"evil"));
    });
    world.until(&id, EffectiveStatus::Untrusted).await;
    assert_eq!(world.last_code(&id).await, Some("ima.path_not_listed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn i02_a_list_that_was_tampered_with_fails_the_agent() {
    let world = World::new().await;
    let tampered = |_: &Machine, _: &str, reply: Reply| {
        reply.changed(|results| {
            let list = results["ima_measurement_list"].as_str().unwrap();
            let lines: Vec<_> = list.lines().filter(|it| !it.contains("bash")).collect();
            results["ima_measurement_list"] = format!("{}\n", lines.join("\n")).into();
        })
    };
    let (id, _agent) = world.bent("tampered", tampered).await;
    world.until(&id, EffectiveStatus::Untrusted).await;
    assert_eq!(world.last_code(&id).await, Some("ima.pcr_mismatch"));
}

#[tokio::test(flavor = "multi_thread")]
async fn t02_a_boot_between_two_polls_starts_the_list_anew() {
    let world = World::new().await;
    let (_, id, agent) = world.machine("boots").await;
    world.until(&id, EffectiveStatus::Trusted).await;
    agent.change(|device| {
        machine_of(device).list.truncate(2);
        let Device::Software(_, boot) = device else {
            panic!("it is not in software");
        };
        *boot += 1;
    });
    world
        .driven
        .until_view(&id, |view| {
            view.state.boot.is_some_and(|boot| boot.reset_count == 8)
                && view.status == EffectiveStatus::Trusted
        })
        .await;
    // As many entries as before: only the quote shows that the boot is another one.
    agent.change(|device| {
        let Device::Software(_, boot) = device else {
            panic!("it is not in software");
        };
        *boot += 1;
    });
    world
        .driven
        .until_view(&id, |view| {
            view.state.boot.is_some_and(|boot| boot.reset_count == 9)
                && view.status == EffectiveStatus::Trusted
        })
        .await;
    assert_eq!(world.last_code(&id).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn t01_a_boot_that_is_over_fails_the_agent() {
    let world = World::new().await;
    let (_, id, agent) = world.machine("goes-back").await;
    world.until(&id, EffectiveStatus::Trusted).await;
    agent.change(|device| {
        let Device::Software(_, boot) = device else {
            panic!("it is not in software");
        };
        *boot -= 1;
    });
    world.until(&id, EffectiveStatus::Untrusted).await;
    assert_eq!(world.last_code(&id).await, Some("time.rollback"));
}

#[tokio::test(flavor = "multi_thread")]
async fn q01_a_quote_of_another_nonce_is_never_trust() {
    let world = World::new().await;
    let other_nonce = |machine: &Machine, _: &str, reply: Reply| {
        let quote = quoted(machine, "AAAAAAAAAAAAAAAAAAAA", 0x400);
        reply.changed(|results| results["quote"] = quote.into())
    };
    let (id, agent) = world.bent("other-nonce", other_nonce).await;
    world.until_turned_away(&id, Code::QuoteNonceMismatch).await;
    world.more_quotes(&agent, 4).await;
    assert_eq!(world.status(&id).await, EffectiveStatus::Pending);
}

/// A quote of a machine in software, over the PCRs of this mask and 16.
fn quoted(machine: &Machine, nonce: &str, mask: u32) -> String {
    Device::Software(Box::new(machine.clone()), 7).quote(nonce, mask, "no key")
}

#[tokio::test(flavor = "multi_thread")]
async fn q02_an_answer_that_was_given_before_is_never_trust() {
    let world = World::new().await;
    let (_, id, agent) = world.machine("replays").await;
    world.until(&id, EffectiveStatus::Trusted).await;
    let first = Arc::new(Mutex::new(None));
    agent.bend(move |target, reply| match target.contains("/quotes/") {
        false => reply,
        true => first.lock().unwrap().get_or_insert(reply).clone(),
    });
    // The first of these is an honest one.
    world.until_turned_away(&id, Code::QuoteNonceMismatch).await;
    world.until(&id, EffectiveStatus::Overdue).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn q05_evidence_of_another_agent_is_never_trust() {
    let world = World::new().await;
    let (_, good, _agent) = world.machine("good").await;
    // The same machine answers under another id, whose key is another one.
    let other = Machine::valid();
    let machine = Machine::valid();
    let agent = PullAgent::start(Device::Software(Box::new(machine.clone()), 7)).await;
    let bad = world
        .add("bad", &agent, &other.ak.public(), &machine.keylime_policy())
        .await;
    world.until(&good, EffectiveStatus::Trusted).await;
    world.until_turned_away(&bad, Code::QuoteSignature).await;
    assert_eq!(world.status(&bad).await, EffectiveStatus::Pending);
    assert_eq!(world.status(&good).await, EffectiveStatus::Trusted);
}

#[tokio::test(flavor = "multi_thread")]
async fn p01_a_quote_without_the_pcrs_that_were_asked_for_is_never_trust() {
    let world = World::new().await;
    let fewer_pcrs = |machine: &Machine, target: &str, reply: Reply| {
        let nonce = target.split(['=', '&']).nth(1).unwrap();
        let quote = quoted(machine, nonce, 0x3ff);
        reply.changed(|results| results["quote"] = quote.into())
    };
    let (id, _agent) = world.bent("fewer-pcrs", fewer_pcrs).await;
    world
        .until_turned_away(&id, Code::PcrSelectionMismatch)
        .await;
    assert_eq!(world.status(&id).await, EffectiveStatus::Pending);
}

#[tokio::test(flavor = "multi_thread")]
async fn i17_a_long_list_is_judged_piece_by_piece() {
    let world = World::new().await;
    let machine = Machine::valid().with(|machine| {
        for nth in 0..3_000 {
            let name = format!("/usr/bin/program-{nth}");
            machine.list.push(Measured::file(&name, name.as_bytes()));
        }
    });
    let agent = PullAgent::start(Device::Software(Box::new(machine.clone()), 7)).await;
    let id = world
        .add(
            "long",
            &agent,
            &machine.ak.public(),
            &machine.keylime_policy(),
        )
        .await;
    let view = world.until(&id, EffectiveStatus::Trusted).await;
    assert_eq!(view.state.ima.unwrap().position(), 3_004);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_with_a_tpm_is_trusted_until_it_runs_what_is_not_listed() {
    let world = World::new().await;
    let mut machine = TpmMachine::boot().unwrap();
    machine
        .measure(Measured::file("/usr/bin/sh", b"sh"))
        .unwrap();
    let policy = policy_of(&machine.list);
    let ak_public = machine.ak_public().unwrap();
    let agent = PullAgent::start(Device::Tpm(Box::new(machine))).await;
    let id = world
        .add_with("with-tpm", &agent, &ak_public, &policy, |contact| {
            contact.v_key = Some(rat_tests::pulled::v_key());
        })
        .await;
    world.until(&id, EffectiveStatus::Trusted).await;
    rat_tests::driven::until(|| !agent.v_keys().is_empty()).await;
    assert_eq!(agent.v_keys()[0], rat_tests::pulled::v_key().0);
    agent.change(|device| {
        let Device::Tpm(machine) = device else {
            panic!("it has a TPM");
        };
        machine
            .measure(Measured::file("/tmp/evil", b"evil"))
            .unwrap();
    });
    world.until(&id, EffectiveStatus::Untrusted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t02_a_boot_log_is_asked_for_until_it_holds_what_the_reference_state_demands() {
    let world = World::new().await;
    let machine = booted::machine(&booted::log(), booted::PCRS);
    let agent = PullAgent::start(Device::Software(Box::new(machine.clone()), 7)).await;
    let (ak, policy) = (machine.ak.public(), machine.keylime_policy());
    let id = world.add("booted", &agent, &ak, &policy).await;
    world.until(&id, EffectiveStatus::Trusted).await;
    assert!(agent.quotes_asked()[0].contains("&mask=0x400&"));
    let mut other = booted::refstate();
    other["scrtm_and_bios"][0]["scrtm"]["sha256"] = format!("0x{}", "ab".repeat(32)).into();
    world.demand_boot(&id, &other.to_string()).await;
    world.until(&id, EffectiveStatus::Untrusted).await;
    assert_eq!(world.last_code(&id).await, Some("uefi.policy_firmware"));
    world
        .demand_boot(&id, &booted::refstate().to_string())
        .await;
    world.until(&id, EffectiveStatus::Trusted).await;
}
