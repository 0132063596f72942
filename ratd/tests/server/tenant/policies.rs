//! Policies under names.

use anyhow::Result;
use rat_tests::evidence::policy_json;
use rat_tests::pull_tpm::TpmMachine;
use serde_json::json;

use super::World;

#[test]
#[ignore = "needs Keylime from PyPI: make interop"]
fn the_real_tenant_keeps_policies_under_names() -> Result<()> {
    let world = World::start(&TpmMachine::manufacture()?);
    let digest = ["0".repeat(64), "1".repeat(64)];
    let [first, second] = digest.each_ref().map(|digest| {
        let text = policy_json(json!({"/usr/bin/bash": [digest]}), &["/tmp/.*"]);
        world.file(&format!("{}.json", &digest[..1]), &text)
    });
    let named = ["--runtime-policy-name", "web"];
    let with = |file| [&named[..], &["--runtime-policy", file]].concat();
    world
        .tenant("listruntimepolicy", &[])
        .ok()
        .has("'runtimepolicy names': []");
    world.tenant("showruntimepolicy", &named).fails().has("404");
    world.tenant("updateruntimepolicy", &with(&first)).fails();
    world
        .tenant("addruntimepolicy", &with(&first))
        .ok()
        .has("'code': 201");
    world
        .tenant("addruntimepolicy", &with(&first))
        .fails()
        .has("409");
    let shown = world.tenant("showruntimepolicy", &named).ok();
    shown.has("response: 200");
    shown.has(&digest[0]);
    world.tenant("updateruntimepolicy", &with(&second)).ok();
    world
        .tenant("showruntimepolicy", &named)
        .ok()
        .has(&digest[1]);
    world.tenant("listruntimepolicy", &[]).ok().has("['web']");
    world.tenant("deleteruntimepolicy", &named).ok();
    world.tenant("deleteruntimepolicy", &named).fails();
    world
        .tenant("listruntimepolicy", &[])
        .ok()
        .has("'runtimepolicy names': []");

    let named = ["--mb-policy-name", "boot"];
    let empty = world.file("empty.json", "{}");
    let with = [&named[..], &["--mb-policy", &empty]].concat();
    world.tenant("updatembpolicy", &with).fails().has("409");
    world.tenant("addmbpolicy", &with).ok().has("'code': 201");
    world.tenant("addmbpolicy", &with).fails().has("409");
    let shown = world.tenant("showmbpolicy", &named).ok();
    shown.has("'mb_policy': '{}'");
    world.tenant("updatembpolicy", &with).ok();
    world.tenant("listmbpolicy", &[]).ok().has("['boot']");
    world.tenant("deletembpolicy", &named).ok();
    world.tenant("showmbpolicy", &named).fails().has("404");
    assert!(world.ratd.stop().success());
    Ok(())
}
