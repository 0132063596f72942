//! What operators do: put versions into slots, let machines in, move agents, look through lists.

use rat_engine::agent_id::AgentId;
use rat_engine::hash::HashAlg;
use rat_store::{
    AgentFilter, GroupSettings, NewGroup, NewPolicy, NewWaiting, PolicyStanding, Precondition,
    RecordChange, RolledBack, Slot, Store, StoreError, Waiting, limits,
};
use rat_tests::fleet::{self, GROUP};

use super::Fixture;

async fn versions(store: &Store, group: &str, count: u64) {
    for number in 1..=count {
        let text = format!("{{\"{number}\":1}}");
        let policy = NewPolicy {
            group,
            text: text.as_bytes(),
            name: "policy",
            origin: "test",
            actor: "ann",
            now_unix_ms: number,
        };
        store.put_policy(policy).await.unwrap();
    }
}

async fn enforce(store: &Store, version: u64) {
    let (slot, always) = (Slot::Enforced, Precondition::Always);
    let enforcing = store.activate_policy(GROUP, version, slot, always, "ann", 9);
    assert!(enforcing.await.unwrap());
}

async fn enforced(store: &Store) -> Option<u64> {
    let group = store.group(GROUP).await.unwrap().unwrap();
    group.enforced.map(|enforced| enforced.version)
}

async fn other_group(store: &Store) {
    let group = NewGroup {
        slug: "other".to_owned(),
        hex_id: "1f".to_owned(),
        settings: GroupSettings::default(),
    };
    store.create_group(&group, "test", 1).await.unwrap();
}

#[tokio::test]
async fn a_rollback_enforces_what_was_enforced_before() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    versions(store, GROUP, 3).await;
    let roll_back = async || store.roll_back_policy(GROUP, "ann", 10).await.unwrap();
    assert_eq!(roll_back().await, RolledBack::NothingBefore);
    enforce(store, 1).await;
    // The same again is no version before.
    enforce(store, 1).await;
    assert_eq!(roll_back().await, RolledBack::NothingBefore);
    assert_eq!(enforced(store).await, Some(1));
    enforce(store, 3).await;
    assert_eq!(roll_back().await, RolledBack::To(1));
    assert_eq!(roll_back().await, RolledBack::To(3));
    // What the shadow slot held was never enforced.
    let (slot, always) = (Slot::Shadow, Precondition::Always);
    let watching = store.activate_policy(GROUP, 2, slot, always, "ann", 11);
    assert!(watching.await.unwrap());
    assert_eq!(roll_back().await, RolledBack::To(1));
    assert!(
        store
            .deactivate_policy(GROUP, Slot::Enforced, "ann", 12)
            .await
            .unwrap()
    );
    assert_eq!(roll_back().await, RolledBack::To(1));
    let missing = store.roll_back_policy("none", "ann", 13).await;
    assert!(matches!(missing, Err(StoreError::Missing(_))));
    let entries = store.audit_entries(0, 1000).await.unwrap();
    let rolled_back = entries
        .iter()
        .filter(|entry| entry.action == "policy.rollback");
    assert_eq!(rolled_back.count(), 4);
    assert!(store.verify_audit().await.unwrap().is_ok());
}

#[tokio::test]
async fn versions_say_how_they_stand_and_come_newest_first() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    other_group(store).await;
    versions(store, GROUP, 4).await;
    versions(store, "other", 2).await;
    enforce(store, 1).await;
    enforce(store, 2).await;
    let (slot, always) = (Slot::Shadow, Precondition::Always);
    let watching = store.activate_policy(GROUP, 3, slot, always, "ann", 9);
    assert!(watching.await.unwrap());
    let listed = store.newest_policies(Some(GROUP), None, 100).await.unwrap();
    let standings: Vec<_> = listed.iter().map(|it| (it.version, it.standing)).collect();
    assert_eq!(
        standings,
        [
            (4, PolicyStanding::Inactive),
            (3, PolicyStanding::Shadow),
            (2, PolicyStanding::Enforced),
            (1, PolicyStanding::Superseded),
        ]
    );
    let all = store.newest_policies(None, None, 100).await.unwrap();
    assert_eq!(all.len(), 6);
    assert!(
        all.windows(2)
            .all(|pair| pair[0].created_unix_ms >= pair[1].created_unix_ms)
    );
    let mut paged = Vec::new();
    loop {
        let page = store.newest_policies(None, paged.last(), 2).await.unwrap();
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, all);
    let one = store.policy(GROUP, 3).await.unwrap().unwrap();
    let digest = one.digest;
    assert_eq!(
        store.policy_of_digest(GROUP, &digest).await.unwrap(),
        Some(one)
    );
    assert_eq!(store.policy(GROUP, 9).await.unwrap(), None);
}

#[tokio::test]
async fn what_was_enforced_before_the_history_was_kept_is_taken_into_it() {
    let fixture = Fixture::new().await;
    versions(&fixture.store, GROUP, 2).await;
    enforce(&fixture.store, 1).await;
    let mut vandal = fixture.vandal().await;
    // The schema as it was at its second step, with the data of then.
    sqlx::raw_sql(
        "DROP TABLE policy_activation; DROP TABLE waiting; DROP INDEX policy_version_by_age;
         DROP INDEX agent_by_hostname;
         DROP TABLE noted_status; DROP TABLE webhook_message; DROP TABLE dead_letter;
         DROP TABLE webhook_standing; DROP TABLE relay; DROP TABLE keylime_registration;
         DROP TABLE keylime_standing; DROP TABLE keylime_agent; DROP TABLE keylime_policy;
         ALTER TABLE policy_group DROP COLUMN interval_ms;
         ALTER TABLE policy_group DROP COLUMN allow_sha1;
         ALTER TABLE policy_group DROP COLUMN require_valid_ima_sig;
         DELETE FROM schema_step WHERE version >= 3;",
    )
    .execute(&mut vandal)
    .await
    .unwrap();
    drop(vandal);
    let fixture = fixture.reopen().await;
    let store = &fixture.store;
    enforce(store, 2).await;
    let first = store.policy(GROUP, 1).await.unwrap().unwrap();
    assert_eq!(first.standing, PolicyStanding::Superseded);
    let rolled_back = store.roll_back_policy(GROUP, "ann", 10).await.unwrap();
    assert_eq!(rolled_back, RolledBack::To(1));
}

#[tokio::test]
async fn a_change_of_a_group_that_somebody_else_changed_is_not_made() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let group = store.group(GROUP).await.unwrap().unwrap();
    let blocked = GroupSettings {
        block: true,
        ..group.settings.clone()
    };
    let change = async |version, settings| {
        store
            .update_group_at(GROUP, version, settings, "ann", 6)
            .await
            .unwrap()
    };
    assert!(change(group.row_version, &blocked).await);
    assert!(!change(group.row_version, &group.settings).await);
    let changed = store.group(GROUP).await.unwrap().unwrap();
    assert!(changed.settings.block);
    assert!(change(changed.row_version, &group.settings).await);
    let missing = store.update_group_at("none", 1, &blocked, "ann", 6).await;
    assert!(matches!(missing, Err(StoreError::Missing(_))));
}

/// A machine of this EK asks to be let in under this id.
async fn wait(
    store: &Store,
    group: &str,
    ek_sha256: &[u8; 32],
    agent: &str,
    now_unix_ms: u64,
) -> Result<(), StoreError> {
    let waiting = NewWaiting {
        group,
        ek_sha256,
        agent: &AgentId::parse(agent).unwrap(),
        hostname: "host",
        ip: "192.0.2.1",
    };
    store.put_waiting(waiting, now_unix_ms).await
}

#[tokio::test]
async fn n12_machines_wait_until_they_are_let_in_or_forgotten() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let (one, other) = (fleet::hash("ek", 1), fleet::hash("ek", 2));
    wait(store, GROUP, &one, "a", 100).await.unwrap();
    wait(store, GROUP, &one, "b", 200).await.unwrap();
    wait(store, GROUP, &other, "b", 300).await.unwrap();
    wait(store, GROUP, &one, "a", 300).await.unwrap();
    let agent = |text| AgentId::parse(text).unwrap();
    let [first] = &store.waiting_as(&agent("a"), 300).await.unwrap()[..] else {
        panic!("it waits under two ids, each on its own");
    };
    assert_eq!(
        (
            first.first_seen_unix_ms,
            first.last_seen_unix_ms,
            first.tries
        ),
        (100, 300, 2)
    );
    let both = store.waiting_as(&agent("b"), 300).await.unwrap();
    assert_eq!(both.len(), 2);
    let mut paged = Vec::new();
    loop {
        let last = paged.last();
        let last = last.map(|it: &Waiting| (&*it.group, &it.ek_sha256, &*it.agent));
        let page = store.waiting(last, 1, 300).await.unwrap();
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, store.waiting(None, 10, 300).await.unwrap());
    assert_eq!(paged.len(), 3);
    assert!(store.approve_ek(GROUP, &one, "ann", 400).await.unwrap());
    assert_eq!(store.waiting(None, 10, 400).await.unwrap().len(), 1);
    let approved = store.approved_eks(GROUP, None, 10).await.unwrap();
    assert_eq!((approved.len(), approved[0].ek_sha256), (1, one));
    assert!(
        store
            .approved_eks(GROUP, Some(&one), 10)
            .await
            .unwrap()
            .is_empty()
    );
    // Whoever does not ask again is forgotten.
    let later = 300 + limits::WAITING_TTL_MS;
    assert!(store.waiting(None, 10, later).await.unwrap().is_empty());
    wait(store, GROUP, &one, "a", later).await.unwrap();
    assert_eq!(store.waiting(None, 10, later).await.unwrap().len(), 1);
    let missing = wait(store, "none", &one, "a", later).await;
    assert!(matches!(missing, Err(StoreError::Missing(_))));
}

#[tokio::test]
async fn n12_no_number_of_machines_fills_the_store() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    for number in 0..limits::WAITING_PER_GROUP_MAX {
        let ek = fleet::hash("ek", number as u64);
        wait(store, GROUP, &ek, "a", 100).await.unwrap();
    }
    let ek = fleet::hash("other", 1);
    let refused = wait(store, GROUP, &ek, "a", 101).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })));
    // One machine waits under few ids, so that nobody fills a group in its name.
    let several = fleet::hash("several", 1);
    other_group(store).await;
    for number in 0..limits::WAITING_PER_MACHINE_MAX {
        let id = format!("a{number}");
        wait(store, "other", &several, &id, 101).await.unwrap();
    }
    let refused = wait(store, "other", &several, "one-more", 101).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })));
    wait(store, "other", &several, "a0", 102).await.unwrap();
    // Those who wait can ask again, and other groups are not affected.
    wait(store, GROUP, &fleet::hash("ek", 1), "a", 102)
        .await
        .unwrap();
    wait(store, "other", &ek, "a", 103).await.unwrap();
}

#[tokio::test]
async fn s16_a_failure_that_moves_stays_one_of_the_group_that_it_was_in() {
    let fixture = Fixture::with_agents(1..3).await;
    let mut failed = fleet::failed_outcome(1, 4);
    let policy = rat_engine::crypto::digest(HashAlg::Sha256, b"policy");
    failed.state.failure.as_mut().unwrap().under_policy = Some(policy);
    fixture.commit(vec![failed]).await;
    let store = &fixture.store;
    other_group(store).await;
    let agent = fleet::agent(1);
    let before = store.enrolled_agent(&agent).await.unwrap().unwrap();
    let change = |group: &str| RecordChange::Group(group.to_owned());
    store
        .change_agent(&agent, change("other"), "ann", 6)
        .await
        .unwrap();
    let moved = store.enrolled_agent(&agent).await.unwrap().unwrap();
    assert_eq!(moved.record.group, "other");
    assert_eq!(moved.state, before.state);
    let failure = moved.state.failure.unwrap();
    assert_eq!(failure.group.as_deref(), Some(GROUP));
    let of_other = AgentFilter {
        group: Some("other"),
        hostname: Some("HOST"),
    };
    let listed = store.agents_of(of_other, "", 10).await.unwrap();
    assert_eq!(listed.len(), 1);
    let nobody = AgentFilter {
        hostname: Some("hos"),
        ..of_other
    };
    assert!(store.agents_of(nobody, "", 10).await.unwrap().is_empty());
    assert_eq!(store.agents("", 10).await.unwrap().len(), 2);
}
