//! Keylime's agents that a server polls by itself once it is started.

use rat_engine::agent_id::AgentId;
use rat_store::Store;
use rat_tests::evidence::Machine;
use rat_tests::pull_agent::{Device, PullAgent};
use rat_tests::pulled::{add, clients, make_group, v_key};

use crate::process::{Home, eventually, metric};
use crate::road::status;

/// A certificate as tenants name it.
fn pem(der: &[u8]) -> String {
    let certificate = openssl::x509::X509::from_der(der).unwrap();
    String::from_utf8(certificate.to_pem().unwrap()).unwrap()
}

#[test]
fn an_agent_with_an_address_is_polled_from_the_start() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let home = Home::new();
    assert!(home.start(&[]).stop().success());
    let (ca, certificate, key) = clients();
    let machine = Machine::valid();
    let device = Device::Software(Box::new(machine.clone()), 7);
    let agent = runtime.block_on(PullAgent::of_ca(device, ca));
    runtime.block_on(async {
        let store = Store::open(&home.data()).await.unwrap();
        make_group(&store).await;
        let id = AgentId::parse("polled-1").unwrap();
        let (ak, policy) = (machine.ak.public(), machine.keylime_policy());
        add(&store, &id, &ak, &policy, |facts| {
            facts.port = Some(agent.address.port());
            facts.mtls_cert = Some(pem(&agent.certificate));
            facts.v = Some(v_key().0.to_vec());
            facts.accept_tpm_encryption_algs = vec!["ecc".to_owned()];
            facts.accept_tpm_signing_algs = vec!["ecdsa".to_owned()];
        })
        .await;
        store.close().await;
    });
    let [certificate, key] = [
        ("client-cert.crt", certificate),
        ("client-private.pem", key),
    ]
    .map(|(name, text)| {
        std::fs::write(home.path(name), text).unwrap();
        home.path(name).display().to_string()
    });
    let ratd = home.start(&[
        &format!("keylime.pull.certificate={certificate}"),
        &format!("keylime.pull.key={key}"),
    ]);
    eventually("the agent is trusted", || {
        status(&ratd, "polled-1") == "trusted"
    });
    eventually("it has its V key", || !agent.v_keys().is_empty());
    assert_eq!(agent.v_keys(), [v_key().0.to_vec()]);
    let metrics = ratd.client().get("/metrics", Some(&ratd.admin())).body;
    let metrics = String::from_utf8(metrics).unwrap();
    let polls = metric(
        &metrics,
        "attest_pull_polls_total",
        &["result=\"evidence\""],
    );
    assert!(polls >= 1.0);
    assert!((metric(&metrics, "attest_pull_agents", &[]) - 1.0).abs() < 0.1);
    assert!(ratd.stop().success());
}

#[test]
fn a_certificate_for_agents_that_cannot_be_used_keeps_the_server_from_starting() {
    let home = Home::new();
    std::fs::write(home.path("empty.pem"), "").unwrap();
    let empty = home.path("empty.pem").display().to_string();
    let said = home.fails(
        3,
        &[
            "--set",
            "core.listen=127.0.0.1:0",
            "--set",
            "evidence.listen=127.0.0.1:0",
            "--set",
            &format!("keylime.pull.certificate={empty}"),
            "--set",
            &format!("keylime.pull.key={empty}"),
        ],
    );
    assert!(said.contains("keylime.pull.certificate"), "{said}");
    let alone = format!("keylime.pull.key={empty}");
    let said = home.fails(3, &["--set", &alone]);
    assert!(said.contains("must be named together"), "{said}");
}

/// Agents of the store. Nobody listens where they are.
const AGENTS: usize = 40;

#[test]
fn the_store_is_read_by_the_page_and_not_by_the_agent() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let home = Home::new();
    assert!(home.start(&[]).stop().success());
    let device = Device::Software(Box::new(Machine::valid()), 7);
    let certificate = pem(&runtime.block_on(PullAgent::start(device)).certificate);
    runtime.block_on(async {
        let store = Store::open(&home.data()).await.unwrap();
        make_group(&store).await;
        for nth in 0..AGENTS {
            let id = AgentId::parse(&format!("listed-{nth}")).unwrap();
            let machine = Machine::valid();
            let (ak, policy) = (machine.ak.public(), machine.keylime_policy());
            add(&store, &id, &ak, &policy, |facts| {
                facts.port = Some(9);
                facts.mtls_cert = Some(certificate.clone());
            })
            .await;
        }
        store.close().await;
    });
    let ratd = home.start(&[
        "keylime.verifier.listen=127.0.0.1:0",
        "log.level=info,sqlx::query=debug",
    ]);
    let reads = |of: &str| ratd.log().matches(of).count();
    // The shards, the poller and the watch of revocations: a page, and one that is empty.
    let pages = || reads("FROM keylime_agent k");
    eventually("all have read", || pages() >= 6);
    assert!(
        ratd.log().contains(&format!("count={AGENTS}")),
        "{}",
        ratd.log()
    );
    std::thread::sleep(std::time::Duration::from_secs(1));
    let all = pages() + reads("FROM keylime_standing");
    assert!(all <= 12, "{all} reads for {AGENTS} agents");
    assert!(ratd.stop().success());
}
