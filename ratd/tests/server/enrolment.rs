//! Enrolment over HTTPS: R10, R4, R5, activation, and everything that is refused.

use openssl::x509::X509;
use rat_store::{Precondition, Slot, Store, StoredGroup, StoredPolicy, StoredToken};
use rat_tests::http_client::Client;
use serde_json::json;

use crate::machine::{Asked, Machine};
use crate::process::{Home, Ratd, metric};

/// A server that knows these machines' TPMs, with the group `fleet`.
struct World {
    home: Home,
    ratd: Ratd,
    client: Client,
}

impl World {
    fn knowing(machines: &[&Machine]) -> Self {
        let home = Home::new();
        let lines: Vec<String> = machines.iter().map(|machine| machine.listed()).collect();
        let list = home.path("ek-list");
        std::fs::write(&list, lines.join("\n")).unwrap();
        let mut set = Vec::new();
        // A list that names nothing is refused.
        if !machines.is_empty() {
            set.push(format!("identity.ek_list={:?}", [list]));
        }
        home.ok(&["group", "create", "fleet"]);
        let set: Vec<&str> = set.iter().map(String::as_str).collect();
        let ratd = home.start(&set);
        let client = ratd.client();
        Self { home, ratd, client }
    }

    fn token(&self) -> String {
        self.home.ok(&["token", "create", "--group", "fleet"])
    }

    fn baseline_token(&self) -> String {
        self.home
            .ok(&["token", "create", "--group", "fleet", "--baseline"])
    }

    fn agents(&self) -> serde_json::Value {
        let answer = self.client.get("/agents/", Some(&self.ratd.admin()));
        assert_eq!(answer.status, 200);
        answer.json()
    }

    fn enrolments(&self, step: &str, result: &str) -> f64 {
        let text = self.client.get("/metrics", None).body;
        let text = String::from_utf8(text).unwrap();
        let labels = [format!("step=\"{step}\""), format!("result=\"{result}\"")];
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        metric(&text, "attest_enrolments_total", &labels)
    }
}

/// A list of three entries, as kernels write it.
pub(crate) fn list() -> String {
    ["boot_aggregate", "/usr/bin/a", "/usr/bin/b"]
        .map(line)
        .concat()
}

fn line(path: &str) -> String {
    let file = openssl::sha::sha256(path.as_bytes());
    let digest = [&b"sha256:\0"[..], &file].concat();
    let name = [path.as_bytes(), b"\0"].concat();
    let mut data = Vec::new();
    for field in [&digest, &name] {
        data.extend((field.len() as u32).to_le_bytes());
        data.extend(field);
    }
    let hash = hex::encode(openssl::sha::sha1(&data));
    format!("10 {hash} ima-ng sha256:{} {path}\n", hex::encode(file))
}

#[test]
fn a_machine_enrols_and_gets_a_certificate_of_its_name() {
    let machine = Machine::new("D432FBB3-D2F1-4A97-9EF7-75BD81C00000");
    let world = World::knowing(&[&machine]);
    let token = world.token();
    let config = world
        .client
        .post("/tokens/validate", &json!({ "token": token }));
    assert_eq!(config.status, 200);
    assert_eq!(
        config.json(),
        json!({
            "registrar_ip": "127.0.0.1",
            "verifier_ip": "127.0.0.1",
            "core_url": format!("https://{}", world.ratd.core),
            "is_baseline": false,
            "group_id": "fleet",
        })
    );
    let enrolled = world.client.post("/agents/enroll", &machine.claims(&token));
    assert_eq!(enrolled.status, 200, "{}", enrolled.json());
    assert_eq!(enrolled.json()["status"], "success");
    assert_eq!(enrolled.json()["verifier_ip"], "127.0.0.1");
    assert_eq!(enrolled.json()["verifier_port"], world.ratd.evidence.port());
    assert_eq!(world.agents(), json!([]), "nothing before the proof");
    let asked = machine.release(&token, "fleet", &enrolled);
    let activated = machine.activate(&world.client, &asked);
    assert_eq!(activated.status, 200, "{}", activated.json());
    let body = activated.json();
    let leaf = X509::from_pem(body["certificate"].as_str().unwrap().as_bytes()).unwrap();
    let ca = X509::from_pem(body["ca"][0].as_str().unwrap().as_bytes()).unwrap();
    assert!(leaf.verify(&ca.public_key().unwrap()).unwrap());
    // The token named this CA, before anything was sent. (N14)
    let fingerprint = openssl::sha::sha256(&ca.to_der().unwrap());
    assert!(token.ends_with(&hex::encode(fingerprint)));
    let names = leaf.subject_alt_names().unwrap();
    assert_eq!(
        names[0].uri().unwrap(),
        "urn:ratd:agent:d432fbb3-d2f1-4a97-9ef7-75bd81c00000"
    );
    let evidence = world.ratd.evidence.to_string();
    assert_eq!(body["evidence"]["addresses"], json!([evidence]));
    assert_eq!(body["evidence"]["server_name"], "127.0.0.1");
    assert_eq!(
        body["settings"],
        json!({"interval_ms": 10_000, "mode": "stay"})
    );
    let agents = world.agents();
    let agent = &agents[0];
    assert_eq!(agent["id"], "d432fbb3-d2f1-4a97-9ef7-75bd81c00000");
    assert_eq!(agent["hostname"], "web-1.example.com");
    assert_eq!(agent["ip_address"], "127.0.0.1");
    assert_eq!(agent["policy_group_id"], "fleet");
    assert_eq!(agent["last_checkin"], json!(null));
    assert!(agent["registered_at"].as_str().unwrap().ends_with('Z'));
    assert_ne!(agent["status"], "active", "nothing was attested");
    assert_eq!(world.enrolments("activate", "done"), 1.0);
    // Used up.
    assert_eq!(machine.activate(&world.client, &asked).status, 404);
    // It survives a restart.
    let World { home, ratd, .. } = world;
    assert!(ratd.stop().success());
    let ratd = home.start(&[]);
    let again = ratd.client().get("/agents", Some(&ratd.admin())).json();
    assert_eq!(again[0]["id"], agent["id"]);
}

#[test]
fn l08_a_baseline_is_a_candidate_and_spends_its_token_once() {
    let machine = Machine::new("admin");
    let world = World::knowing(&[&machine]);
    let token = world.baseline_token();
    let broken = [line("boot_aggregate"), "10 nonsense\n".to_owned()].concat();
    let zero = "0".repeat(40);
    let violation = format!("{}10 {zero} ima-ng sha256:{} /x\n", list(), "0".repeat(64));
    for (list, reason) in [
        (broken.as_str(), "member `ima_log`: line 2"),
        (&violation, "line 4: a violation"),
        ("", "the list is empty"),
    ] {
        let answer = world
            .client
            .post("/agents/enroll-baseline", &machine.baseline(&token, list));
        assert_eq!(answer.status, 422, "{}", answer.json());
        assert!(answer.detail().contains(reason), "{}", answer.detail());
    }
    // None of these spent the token.
    let answer = world.client.post(
        "/agents/enroll-baseline",
        &machine.baseline(&token, &list()),
    );
    assert_eq!(answer.status, 200, "{}", answer.json());
    assert_eq!(answer.json()["status"], "baseline_established");
    assert_eq!(answer.json()["policy_id"], "p-fleet-001");
    let asked = machine.release(&token, "fleet", &answer);
    assert_eq!(machine.activate(&world.client, &asked).status, 200);
    let again = world.client.post(
        "/agents/enroll-baseline",
        &machine.baseline(&token, &list()),
    );
    assert_eq!(again.status, 401);
    // A machine chooses nobody's name in the audit log: the token says who let it in. (S12)
    let actor = format!("token {}", &token[6..22]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = runtime
        .block_on(Store::open_shared(&world.home.data()))
        .unwrap();
    let entries = runtime.block_on(store.audit_entries(0, 100)).unwrap();
    for action in ["policy.create", "agent.enrol"] {
        let entry = entries.iter().find(|entry| entry.action == action);
        assert_eq!(entry.unwrap().actor, actor, "{action}");
    }
    let policies = runtime.block_on(store.policies("fleet", 0, 9)).unwrap();
    assert_eq!(policies[0].created_by, actor);
    // A candidate enforces nothing.
    let group = world.home.ok(&["group", "show", "fleet"]);
    let group: serde_json::Value = serde_json::from_str(&group).unwrap();
    assert_eq!(group["enforced_version"], json!(null));
    let evidence = world
        .client
        .get("/agents/admin/evidence", Some(&world.ratd.admin()));
    assert_eq!(evidence.status, 200);
    assert_eq!(evidence.json()["policy"], json!(null));
    assert_eq!(evidence.json()["agent"]["id"], "admin");
}

/// What the store says of the group, its versions, and a baseline token.
async fn recorded(store: &Store, token: &str) -> (StoredGroup, Vec<StoredPolicy>, StoredToken) {
    let id = token.strip_prefix("esp_b_").unwrap();
    (
        store.group("fleet").await.unwrap().unwrap(),
        store.policies("fleet", 0, 100).await.unwrap(),
        store.token(&id[..16]).await.unwrap().unwrap(),
    )
}

#[test]
fn l08_a_baseline_for_a_group_with_an_active_policy_is_409_and_changes_nothing() {
    let (golden, second) = (Machine::new("golden"), Machine::new("second"));
    let world = World::knowing(&[&golden, &second]);
    let baseline = |machine: &Machine, token: &str, list: &str| {
        let body = machine.baseline(token, list);
        world.client.post("/agents/enroll-baseline", &body)
    };
    let token = world.baseline_token();
    assert_eq!(baseline(&golden, &token, &list()).status, 200);
    // Somebody makes the candidate the group's policy while the server runs.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = runtime
        .block_on(Store::open_shared(&world.home.data()))
        .unwrap();
    let (slot, only) = (Slot::Enforced, Precondition::OnlyIfNone);
    let activating = store.activate_policy("fleet", 1, slot, only, "test", 1);
    assert!(runtime.block_on(activating).unwrap());
    let token = world.baseline_token();
    let before = runtime.block_on(recorded(&store, &token));
    assert_eq!(before.0.enforced.map(|version| version.version), Some(1));
    assert_eq!((before.1.len(), before.2.uses), (1, 0));
    let longer = [list(), line("/usr/bin/c")].concat();
    for list in [&list(), &longer, &"no list at all".to_owned()] {
        let refused = baseline(&second, &token, list);
        assert_eq!(refused.status, 409, "{}", refused.json());
        assert_eq!(
            refused.detail(),
            "this group has an active policy: a baseline never replaces one"
        );
    }
    assert_eq!(world.enrolments("baseline", "conflict"), 3.0);
    assert_eq!(runtime.block_on(recorded(&store, &token)), before);
    assert_eq!(world.agents(), json!([]));
    // The machine enrols as any other does.
    let enrolled = second.enrol(&world.client, &world.token(), "fleet");
    assert_eq!(enrolled.status, 200);
}

#[test]
fn a03_a_token_of_the_other_kind_is_403_and_not_spent() {
    let machine = Machine::new("a");
    let world = World::knowing(&[&machine]);
    let (standard, baseline) = (world.token(), world.baseline_token());
    let answer = world
        .client
        .post("/agents/enroll", &machine.claims(&baseline));
    assert_eq!(answer.status, 403);
    let answer = world.client.post(
        "/agents/enroll-baseline",
        &machine.baseline(&standard, &list()),
    );
    assert_eq!(answer.status, 403);
    let answer = world.client.post(
        "/agents/enroll-baseline",
        &machine.baseline(&baseline, &list()),
    );
    assert_eq!(answer.status, 200);
}

#[test]
fn x08_unknown_wrong_revoked_and_used_tokens_have_one_answer() {
    let machine = Machine::new("a");
    let world = World::knowing(&[&machine]);
    let token = world.token();
    let once = world
        .home
        .ok(&["token", "create", "--group", "fleet", "--max-uses", "1"]);
    assert_eq!(machine.enrol(&world.client, &once, "fleet").status, 200);
    let revoked = world.token();
    world.home.ok(&["token", "revoke", &revoked[4..20]]);
    let wrong_secret = format!("{}{}{}", &token[..20], "0".repeat(32), &token[52..]);
    let wrong_ca = format!("{}{}", &token[..52], "0".repeat(64));
    let other_kind = token.replace("esp_", "esp_b_");
    let unknown = format!("esp_{}", "0".repeat(112));
    let long = "x".repeat(200);
    let mut answers = Vec::new();
    for refused in [
        &once,
        &revoked,
        &wrong_secret,
        &wrong_ca,
        &other_kind,
        &unknown,
        &long,
        &String::new(),
    ] {
        let answer = world
            .client
            .post("/tokens/validate", &json!({ "token": refused }));
        assert_eq!(answer.status, 401, "{refused}");
        answers.push(answer.detail());
        let answer = world
            .client
            .post("/agents/enroll", &machine.claims(refused));
        assert_eq!(answer.status, 401, "{refused}");
        answers.push(answer.detail());
    }
    answers.dedup();
    assert_eq!(answers, ["the token is not valid"]);
    let log = world.ratd.log();
    for secret in [&token, &once, &revoked] {
        assert!(!log.contains(&secret[20..52]), "a secret is in the log");
    }
}

#[test]
fn a03_an_address_that_guesses_is_made_to_wait() {
    let world = World::knowing(&[]);
    let token = world.token();
    let validate = |token: &str| {
        world
            .client
            .post("/tokens/validate", &json!({ "token": token }))
    };
    let mut guesses = 0;
    while validate(&format!("esp_{guesses:0112x}")).status == 401 {
        guesses += 1;
        assert!(guesses < 1000, "nobody counts");
    }
    assert!(guesses >= 20, "{guesses}");
    let right = validate(&token);
    assert_eq!(right.status, 429, "a right guess looks like a wrong one");
    assert!(right.header("retry-after").unwrap().parse::<u64>().unwrap() > 0);
}

#[test]
fn n05_five_wrong_proofs_drop_the_activation() {
    let machine = Machine::new("a");
    let world = World::knowing(&[&machine]);
    let token = world.token();
    let answer = world.client.post("/agents/enroll", &machine.claims(&token));
    let asked = machine.release(&token, "fleet", &answer);
    for length in [0, 31, 32, 32, 32] {
        let wrong = Asked {
            proof: vec![7; length],
            ..asked.clone()
        };
        let answer = machine.activate(&world.client, &wrong);
        assert_eq!(answer.status, 403, "{}", answer.json());
        assert!(answer.detail().starts_with("activation.proof_wrong"));
    }
    assert_eq!(machine.activate(&world.client, &asked).status, 404);
    assert_eq!(world.agents(), json!([]));
    assert_eq!(world.enrolments("activate", "activation.proof_wrong"), 5.0);
    // Four wrong ones do not.
    let answer = world.client.post("/agents/enroll", &machine.claims(&token));
    let asked = machine.release(&token, "fleet", &answer);
    for _ in 0..4 {
        let wrong = Asked {
            proof: vec![7; 32],
            ..asked.clone()
        };
        assert_eq!(machine.activate(&world.client, &wrong).status, 403);
    }
    assert_eq!(machine.activate(&world.client, &asked).status, 200);
}

#[test]
fn n11_an_answer_serves_one_enrolment_of_one_agent() {
    let (one, other) = (Machine::new("one"), Machine::new("other"));
    let world = World::knowing(&[&one, &other]);
    let token = world.token();
    let enrol = |machine: &Machine| {
        let answer = world.client.post("/agents/enroll", &machine.claims(&token));
        machine.release(&token, "fleet", &answer)
    };
    let (first, second, others) = (enrol(&one), enrol(&one), enrol(&other));
    // The proof of one enrolment for another, and one agent's activation under another's name.
    let crossed = Asked {
        proof: second.proof.clone(),
        ..first.clone()
    };
    assert_eq!(one.activate(&world.client, &crossed).status, 403);
    assert_eq!(other.activate(&world.client, &first).status, 404);
    assert_eq!(world.agents(), json!([]));
    // Each of them stands by itself.
    assert_eq!(other.activate(&world.client, &others).status, 200);
    assert_eq!(one.activate(&world.client, &second).status, 200);
    assert_eq!(
        one.activate(&world.client, &first).status,
        200,
        "the same again"
    );
}

#[test]
fn n06_an_id_and_a_tpm_belong_to_each_other() {
    let (one, other) = (Machine::new("web-1"), Machine::new("web-2"));
    let world = World::knowing(&[&one, &other]);
    let token = world.token();
    // Both begin before either is enrolled: the transaction decides. (N07)
    let stolen = other.named("web-1");
    let answer = world.client.post("/agents/enroll", &stolen.claims(&token));
    let early = stolen.release(&token, "fleet", &answer);
    let alias = one.named("web-3");
    let answer = world.client.post("/agents/enroll", &alias.claims(&token));
    let early_alias = alias.release(&token, "fleet", &answer);
    assert_eq!(one.enrol(&world.client, &token, "fleet").status, 200);
    assert_eq!(stolen.activate(&world.client, &early).status, 409);
    let answer = alias.activate(&world.client, &early_alias);
    assert_eq!(answer.status, 409);
    assert!(!answer.detail().contains("web-1"), "{}", answer.detail());
    // Later it is refused at once.
    let answer = world.client.post("/agents/enroll", &stolen.claims(&token));
    assert_eq!(answer.status, 409);
    // Another attestation key of the same TPM waits for an operator.
    let renewed = Machine {
        ek: one.ek.clone(),
        ..Machine::new("web-1")
    };
    let answer = renewed.enrol(&world.client, &token, "fleet");
    assert_eq!(answer.status, 409);
    assert!(answer.detail().contains("operator"), "{}", answer.detail());
    let agents = world.agents();
    assert_eq!(agents.as_array().unwrap().len(), 1);
    assert_eq!(agents[0]["id"], "web-1");
}

#[test]
fn s16_a_token_of_another_group_is_409_and_moves_nothing() {
    let machine = Machine::new("web-1");
    let world = World::knowing(&[&machine]);
    let token = world.token();
    world.home.ok(&["group", "create", "other"]);
    let elsewhere = world.home.ok(&["token", "create", "--group", "other"]);
    // It begins before the machine belongs to a group: the transaction decides.
    let claims = machine.claims(&elsewhere);
    let answer = world.client.post("/agents/enroll", &claims);
    let early = machine.release(&elsewhere, "other", &answer);
    assert_eq!(machine.enrol(&world.client, &token, "fleet").status, 200);
    let before = world.agents();
    let at_once = world.client.post("/agents/enroll", &claims);
    for refused in [machine.activate(&world.client, &early), at_once] {
        assert_eq!(refused.status, 409, "{}", refused.detail());
        let expected = "agent.other_group: this machine belongs to another group: an operator \
            must move the agent";
        assert_eq!(refused.detail(), expected);
    }
    assert_eq!(world.agents(), before);
}

#[test]
fn n06_ids_and_names_have_one_form() {
    let machine = Machine::new("a");
    let world = World::knowing(&[&machine]);
    let token = world.token();
    for id in [
        "",
        " a",
        "a\n",
        "{a}",
        "\u{e4}",
        "..",
        "pending",
        "a/b",
        &"x".repeat(81),
    ] {
        let mut claims = machine.claims(&token);
        claims["agent_uuid"] = id.into();
        let answer = world.client.post("/agents/enroll", &claims);
        assert_eq!(answer.status, 422, "{id:?}");
        assert!(answer.detail().starts_with("member `agent_uuid`"), "{id:?}");
    }
    for hostname in [
        "",
        "a b",
        "<script>",
        "a\u{1b}[2J",
        "a\r\nb",
        &"x".repeat(254),
    ] {
        let mut claims = machine.claims(&token);
        claims["hostname"] = hostname.into();
        let answer = world.client.post("/agents/enroll", &claims);
        assert_eq!(answer.status, 422, "{hostname:?}");
        assert!(answer.detail().chars().all(|c| !c.is_control() && c != '<'));
    }
    assert_eq!(world.agents(), json!([]));
}

#[test]
fn n09_nothing_is_trusted_that_the_operator_did_not_name() {
    let machine = Machine::new("a");
    let world = World::knowing(&[]);
    let token = world.token();
    let answer = world.client.post("/agents/enroll", &machine.claims(&token));
    assert_eq!(answer.status, 403);
    assert!(answer.detail().starts_with("ek.certificate_missing"));
    assert_eq!(world.enrolments("enrol", "ek.certificate_missing"), 1.0);
    assert_eq!(world.agents(), json!([]));
}

#[test]
fn n12_a_group_decides_whom_it_takes() {
    let machine = Machine::new("a");
    let world = World::knowing(&[&machine]);
    let token = world.token();
    world
        .home
        .ok(&["group", "set", "fleet", "--approval", "manual"]);
    let answer = world.client.post("/agents/enroll", &machine.claims(&token));
    assert_eq!(answer.status, 403);
    assert!(answer.detail().starts_with("ek.not_approved"));
    assert!(answer.detail().contains(&machine.listed()));
    // Being let into one group says nothing about another.
    world.home.ok(&["group", "create", "other"]);
    let ek = machine.listed();
    world.home.ok(&["ek", "approve", &ek, "--group", "other"]);
    let answer = world.client.post("/agents/enroll", &machine.claims(&token));
    assert_eq!(answer.status, 403);
    world.home.ok(&["ek", "approve", &ek, "--group", "fleet"]);
    let answer = world.client.post("/agents/enroll", &machine.claims(&token));
    assert_eq!(answer.status, 200, "{}", answer.json());
    let asked = machine.release(&token, "fleet", &answer);
    assert_eq!(machine.activate(&world.client, &asked).status, 200);
    world
        .home
        .ok(&["group", "set", "fleet", "--approval", "list"]);
    assert_eq!(machine.enrol(&world.client, &token, "fleet").status, 200);
}

#[test]
fn n13_keys_that_do_more_than_they_should_are_refused() {
    let machine = Machine::new("a");
    let world = World::knowing(&[&machine]);
    let token = world.token();
    let refused = |name: &str, value: &str, status: u16, code: &str| {
        let mut claims = machine.claims(&token);
        claims[name] = value.into();
        let answer = world.client.post("/agents/enroll", &claims);
        assert_eq!(answer.status, status, "{name}: {}", answer.json());
        assert!(answer.detail().starts_with(code), "{}", answer.detail());
    };
    let claims = machine.claims(&token);
    let text = |name: &str| claims[name].as_str().unwrap().to_owned();
    refused("ak_public", &text("ek_public"), 403, "ak.attributes");
    refused("ek_public", &text("ak_public"), 403, "ek.attributes");
    refused("ak_public", "AAAA", 422, "ak.malformed");
    refused("ek_public", "AAAA", 422, "ek.malformed");
    refused("csr", "AAAA", 422, "csr.malformed");
    refused("csr", "!", 422, "member `csr`");
    refused("ek_cert", "AAAA", 403, "ek.chain_invalid");
    assert_eq!(world.agents(), json!([]));
}

#[test]
fn n08_a_token_revoked_while_an_activation_is_pending_is_dead() {
    let machine = Machine::new("a");
    let world = World::knowing(&[&machine]);
    let token = world.token();
    let answer = world.client.post("/agents/enroll", &machine.claims(&token));
    let asked = machine.release(&token, "fleet", &answer);
    world.home.ok(&["token", "revoke", &token[4..20]]);
    assert_eq!(machine.activate(&world.client, &asked).status, 401);
    assert_eq!(world.agents(), json!([]));
}

#[test]
fn the_documented_shape_without_keys_is_said_to_be_missing() {
    let world = World::knowing(&[]);
    let token = world.token();
    let body = json!({"token": token, "hostname": "h", "agent_uuid": "a"});
    let answer = world.client.post("/agents/enroll", &body);
    assert_eq!(answer.status, 501);
    assert!(answer.detail().starts_with("not supported"));
    for missing in [
        "token",
        "hostname",
        "agent_uuid",
        "ek_public",
        "ak_public",
        "csr",
    ] {
        let mut claims = Machine::new("a").claims(&token);
        claims.as_object_mut().unwrap().remove(missing);
        let answer = world.client.post("/agents/enroll", &claims);
        assert_eq!(answer.status, 422);
        assert_eq!(answer.detail(), format!("member `{missing}`: is missing"));
    }
}
