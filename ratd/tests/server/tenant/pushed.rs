//! An agent that pushes, from its registration to its end.

use anyhow::Result;
use rat_tests::measured::Measured;
use rat_tests::pull_tpm::TpmMachine;
use rat_tests::push_tpm::TpmPusher;
use serde_json::{Value, json};

use super::{World, policy};

const ID: &str = "d432fbb3-d2f1-4a97-9ef7-75bd81c00001";
const PUSHES: &str = "--push-model";

#[test]
#[ignore = "needs Keylime from PyPI: make interop"]
fn the_real_tenant_adds_watches_updates_and_deletes_an_agent_that_pushes() -> Result<()> {
    let mut machine = TpmMachine::manufacture()?;
    machine.measure(Measured::file("/usr/bin/bash", b"bash"))?;
    let world = World::start(&machine);
    let of = |command: &str, more: &[&str]| {
        world.tenant_of(ID, command, &[&[PUSHES][..], more].concat())
    };
    world.register(ID, &machine, json!({"ip": null, "port": null}))?;
    let allowed = world.file("policy.json", &policy(&machine));
    let mut agent = TpmPusher::new(ID, machine, world.verifier());
    // Nobody has added it yet.
    assert_eq!(agent.open()?["evaluation"], "fail");
    of("add", &["--runtime-policy", &allowed]).ok();
    let shown = world.tenant_of(ID, "cvstatus", &[]).ok().about(ID);
    assert_eq!(shown["operational_state"], Value::Null);
    assert_eq!(shown["attestation_status"], "PENDING");
    assert_eq!((&shown["ip"], &shown["port"]), (&Value::Null, &Value::Null));

    assert_eq!(agent.open()?["evaluation"], "pass");
    assert_eq!(agent.attest()?.status, 202);
    world.until(ID, "attestation_status", "PASS");
    assert_eq!(of("status", &[]).ok().about(ID)["attestation_count"], 1);
    let all = world.tenant("bulkinfo", &[]).ok().about(ID);
    assert_eq!(all["attestation_status"], "PASS");

    agent.measure(Measured::file("/tmp/evil", b"evil"))?;
    assert_eq!(agent.attest()?.status, 202);
    world.until(ID, "attestation_status", "FAIL");
    let shown = of("cvstatus", &[]).ok().about(ID);
    assert_eq!(
        shown["last_event_id"],
        "ima.validation.ima-ng.not_in_allowlist"
    );

    // Deleted and added; its session lives on, or it opens another one.
    let allowed = world.file("wider.json", &policy(&agent.machine));
    of("update", &["--runtime-policy", &allowed]).ok();
    let mut answered = agent.attest()?;
    if answered.status == 401 {
        assert_eq!(agent.open()?["evaluation"], "pass");
        answered = agent.attest()?;
    }
    assert_eq!(answered.status, 202);
    world.until(ID, "attestation_status", "PASS");

    of("reactivate", &[]).ok().has("re-activated");
    of("delete", &[]).ok().has("deleted from the CV");
    of("cvstatus", &[]).fails().has("does not exist");
    world.tenant_of(ID, "regdelete", &[]).ok();
    assert_eq!(agent.open()?["evaluation"], "fail");
    assert!(world.ratd.stop().success());
    Ok(())
}
