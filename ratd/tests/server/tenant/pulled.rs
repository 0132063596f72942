//! An agent that is polled, from its registration to its end.

use anyhow::Result;
use openssl::x509::X509;
use rat_tests::measured::Measured;
use rat_tests::pull_agent::{Device, PullAgent};
use rat_tests::pull_tpm::TpmMachine;
use serde_json::{Value, json};

use super::{World, policy};

const ID: &str = "d432fbb3-d2f1-4a97-9ef7-75bd81c00000";

/// What a machine tells, whatever it is behind.
fn on<T>(agent: &PullAgent, tell: impl FnOnce(&mut TpmMachine) -> T) -> T {
    let mut told = None;
    agent.change(|device| {
        if let Device::Tpm(machine) = device {
            told = Some(tell(machine));
        }
    });
    told.unwrap()
}

/// A world with an agent that takes clients of its CA alone, and is registered.
fn registered(runtime: &tokio::runtime::Runtime) -> Result<(World, PullAgent)> {
    let mut machine = TpmMachine::manufacture()?;
    machine.measure(Measured::file("/usr/bin/bash", b"bash"))?;
    let world = World::start(&machine);
    let ca = std::fs::read(world.keylime().join("cv_ca/cacert.crt"))?;
    let ca = X509::from_pem(&ca)?.to_der()?;
    let agent = runtime.block_on(PullAgent::of_ca(Device::Tpm(Box::new(machine)), ca));
    let certificate = X509::from_der(&agent.certificate)?.to_pem()?;
    let more = json!({
        "ip": "127.0.0.1",
        "port": agent.address.port(),
        "mtls_cert": String::from_utf8(certificate)?,
    });
    on(&agent, |machine| world.register(ID, machine, more))?;
    Ok((world, agent))
}

fn listed(world: &World) -> Value {
    world.tenant("cvlist", &[]).ok().about("uuids")
}

#[test]
#[ignore = "needs Keylime from PyPI: make interop"]
fn the_real_tenant_adds_watches_updates_reactivates_and_deletes_an_agent_that_is_polled()
-> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let (world, agent) = registered(&runtime)?;
    let of = |command: &str, more: &[&str]| world.tenant_of(ID, command, more);
    assert_eq!(
        world.tenant("reglist", &[]).ok().about("uuids"),
        json!([ID])
    );
    let found = of("regstatus", &[]).ok().about(ID);
    assert_eq!(found["operational_state"], "Registered");
    assert_eq!(found["port"], agent.address.port());
    of("cvstatus", &[]).fails().has("does not exist");

    // The tenant has the agent quote its key, sends it U and a certificate, and waits for K.
    let allowed = world.file("policy.json", &on(&agent, |machine| policy(machine)));
    let with = ["--runtime-policy", &allowed];
    let added = of(
        "add",
        &[&with[..], &["--cert", "default", "--verify"]].concat(),
    )
    .ok();
    added.has("Successful key derivation");
    let given = agent.given().unwrap();
    let v_keys = agent.v_keys();
    assert!(given.belongs_to(v_keys.last().unwrap(), ID));
    assert!(given.payload.is_some());
    of("add", &with).fails().has("conflict");

    world.until(ID, "operational_state", 3);
    let shown = of("cvstatus", &[]).ok().about(ID);
    assert_eq!(shown["operational_state"], "Get Quote");
    assert_eq!(shown["attestation_status"], "PASS");
    assert_eq!(shown["has_runtime_policy"], 1);
    let shown = of("status", &[]).ok().about(ID);
    assert_eq!(shown["operational_state"], "Get Quote");
    assert_eq!(listed(&world), json!([[ID]]));
    let all = world.tenant("bulkinfo", &[]).ok().about(ID);
    assert_eq!(all["operational_state"], "Get Quote");

    // A file that its policy does not list.
    on(&agent, |machine| {
        machine.measure(Measured::file("/tmp/evil", b"evil"))
    })?;
    world.until(ID, "operational_state", 9);
    let shown = of("cvstatus", &[]).ok().about(ID);
    assert_eq!(shown["operational_state"], "Invalid Quote");
    assert_eq!(shown["attestation_status"], "FAIL");
    assert_eq!(
        shown["last_event_id"],
        "ima.validation.ima-ng.not_in_allowlist"
    );
    // Taken up again, it fails again.
    of("reactivate", &[]).ok().has("re-activated");
    world.until(ID, "operational_state", 9);
    // Deleted and added with a policy that lists it, it passes.
    let allowed = world.file("wider.json", &on(&agent, |machine| policy(machine)));
    of("update", &["--runtime-policy", &allowed]).ok();
    world.until(ID, "attestation_status", "PASS");

    of("delete", &[]).ok().has("deleted from the CV");
    of("cvstatus", &[]).fails().has("does not exist");
    assert_eq!(listed(&world), json!([]));
    of("regdelete", &[]).ok();
    of("regstatus", &[]).fails().has("does not exist on");
    assert!(world.ratd.stop().success());
    Ok(())
}

#[test]
#[ignore = "needs Keylime from PyPI: make interop"]
fn q11_the_real_tenant_sees_a_list_that_was_tampered_with_and_reactivates_its_agent() -> Result<()>
{
    let runtime = tokio::runtime::Runtime::new()?;
    let (world, agent) = registered(&runtime)?;
    let of = |command: &str, more: &[&str]| world.tenant_of(ID, command, more);
    // A named policy, kept on its own.
    let allowed = world.file("policy.json", &on(&agent, |machine| policy(machine)));
    let named = ["--runtime-policy-name", "web"];
    let kept = [&named[..], &["--runtime-policy", &allowed]].concat();
    world.tenant("addruntimepolicy", &kept).ok();
    // What PCR 22 holds before anybody launches anything.
    let pcrs = json!({"22": ["f".repeat(64)]}).to_string();
    of("add", &[&named[..], &["--tpm_policy", &pcrs]].concat()).ok();
    world.until(ID, "attestation_status", "PASS");
    let delete = world.tenant("deleteruntimepolicy", &named).fails();
    delete.has("currently in use by agent");

    // Another digest in a list that its TPM signed for.
    agent.bend(|target, reply| match target.contains("/quotes/integrity") {
        false => reply,
        true => reply.changed(|results| {
            let list = results["ima_measurement_list"].as_str().unwrap_or_default();
            let tampered = list.replace("/usr/bin/bash", "/usr/bin/dash");
            results["ima_measurement_list"] = tampered.into();
        }),
    });
    on(&agent, |machine| {
        machine.measure(Measured::file("/usr/bin/bash", b"bash"))
    })?;
    world.until(ID, "operational_state", 9);
    let shown = of("cvstatus", &[]).ok().about(ID);
    assert_eq!(shown["operational_state"], "Invalid Quote");
    assert_eq!(shown["attestation_status"], "FAIL");
    agent.straighten();
    of("reactivate", &[]).ok();
    world.until(ID, "operational_state", 3);
    let shown = of("cvstatus", &[]).ok().about(ID);
    assert_eq!(shown["attestation_status"], "PASS");

    // An agent that is gone is not accused; its tenant removes it all the same.
    let mut agent = agent;
    runtime.block_on(agent.pause());
    world.until(ID, "operational_state", 4);
    let shown = of("cvstatus", &[]).ok().about(ID);
    assert_eq!(shown["operational_state"], "Get Quote (retry)");
    assert_ne!(shown["attestation_status"], "FAIL");
    of("delete", &[]).ok();
    world.tenant("deleteruntimepolicy", &named).ok();
    Ok(())
}
