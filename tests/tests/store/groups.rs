//! Groups, policies and the audit log.

use rat_engine::hash::HashAlg;
use rat_store::limits::{INTERVAL_MS_MAX, INTERVAL_MS_MIN};
use rat_store::{
    Approval, AuditEntry, GroupFault, GroupSettings, NewGroup, NewPolicy, Precondition, Slot,
    StoreError,
};
use rat_tests::fleet::GROUP;

use super::Fixture;

fn policy(text: &[u8]) -> NewPolicy<'_> {
    NewPolicy {
        group: GROUP,
        text,
        name: "policy",
        origin: "test",
        actor: "ann",
        now_unix_ms: 5,
    }
}

#[tokio::test]
async fn groups_enforce_unless_told_otherwise_and_keep_what_they_are_told() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let made = store.group(GROUP).await.unwrap().unwrap();
    assert!(made.settings.protected);
    assert!(!made.settings.bypass && !made.settings.block && !made.settings.accept_violations);
    assert!(!made.settings.allow_sha1 && !made.settings.require_valid_ima_sig);
    assert_eq!(made.settings.interval_ms, None);
    assert_eq!((made.enforced, made.shadow), (None, None));
    assert_eq!(store.group_by_hex_id("0f").await.unwrap().unwrap(), made);

    let settings = GroupSettings {
        name: "all machines".to_owned(),
        protected: false,
        bypass: true,
        block: true,
        bank: HashAlg::Sha384,
        require_boot_log: true,
        accept_violations: true,
        auto_recover: true,
        approval: Approval::Manual,
        pcr_policy: Some("{}".to_owned()),
        interval_ms: Some(60_000),
        allow_sha1: true,
        require_valid_ima_sig: true,
    };
    store
        .update_group(GROUP, &settings, "ann", 6)
        .await
        .unwrap();
    let changed = store.group(GROUP).await.unwrap().unwrap();
    assert_eq!(changed.settings, settings);
    assert_eq!(changed.row_version, made.row_version + 1);
    let missing = store.update_group("none", &settings, "ann", 6).await;
    assert!(matches!(missing, Err(StoreError::Missing(_))));

    for (slug, hex_id) in [(GROUP, "1f"), ("other", "0f")] {
        let group = NewGroup {
            slug: slug.to_owned(),
            hex_id: hex_id.to_owned(),
            settings: GroupSettings::default(),
        };
        let taken = store.create_group(&group, "ann", 7).await;
        assert!(matches!(taken, Err(StoreError::Exists(_))));
    }
    assert_eq!(store.groups().await.unwrap(), [changed]);
}

#[tokio::test]
async fn q09_settings_that_no_group_can_have_are_refused_and_change_nothing() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let before = store.group(GROUP).await.unwrap().unwrap();
    let of = |change: fn(&mut GroupSettings)| {
        let mut settings = before.settings.clone();
        change(&mut settings);
        settings
    };
    let short = GroupFault::Interval { interval_ms: 999 };
    let long = GroupFault::Interval {
        interval_ms: INTERVAL_MS_MAX + 1,
    };
    for (settings, fault) in [
        (of(|it| it.bank = HashAlg::Sha1), GroupFault::Sha1Bank),
        (of(|it| it.interval_ms = Some(INTERVAL_MS_MIN - 1)), short),
        (of(|it| it.interval_ms = Some(INTERVAL_MS_MAX + 1)), long),
    ] {
        let changed = store.update_group(GROUP, &settings, "ann", 6).await;
        assert!(matches!(changed, Err(StoreError::Group(it)) if it == fault));
        let version = before.row_version;
        let changed = store.update_group_at(GROUP, version, &settings, "ann", 6);
        assert!(matches!(changed.await, Err(StoreError::Group(it)) if it == fault));
        let group = NewGroup {
            slug: "other".to_owned(),
            hex_id: "1f".to_owned(),
            settings,
        };
        let made = store.create_group(&group, "ann", 6).await;
        assert!(matches!(made, Err(StoreError::Group(it)) if it == fault));
        assert_eq!(store.groups().await.unwrap(), std::slice::from_ref(&before));
    }
    for settings in [
        of(|it| (it.bank, it.allow_sha1) = (HashAlg::Sha1, true)),
        of(|it| it.interval_ms = Some(INTERVAL_MS_MIN)),
        of(|it| it.interval_ms = Some(INTERVAL_MS_MAX)),
    ] {
        let changed = store.update_group(GROUP, &settings, "ann", 6).await;
        changed.unwrap();
        let changed = store.group(GROUP).await.unwrap().unwrap();
        assert_eq!(changed.settings, settings);
    }
}

#[tokio::test]
async fn policies_are_numbered_texts_that_never_change() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let long = "{\"meta\":1}".repeat(100);
    let first = store.put_policy(policy(b"{}")).await.unwrap();
    let second = store.put_policy(policy(long.as_bytes())).await.unwrap();
    let same = store.put_policy(policy(b"{}")).await.unwrap();
    assert_eq!([first.version, second.version, same.version], [1, 2, 3]);
    assert_eq!(first.digest, same.digest);
    let text = store.policy_text(&second.digest).await.unwrap().unwrap();
    assert_eq!(text, long.as_bytes());
    let listed = store.policies(GROUP, 1, 10).await.unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0].text_bytes, long.len() as u64);

    let other = NewPolicy {
        group: "none",
        ..policy(b"{}")
    };
    let missing = store.put_policy(other).await;
    assert!(matches!(missing, Err(StoreError::Missing(_))));
    let mut vandal = fixture.vandal().await;
    let edit = sqlx::query("UPDATE policy_blob SET packed = x'00'");
    assert!(edit.execute(&mut vandal).await.is_err());
    // Even a vandal who removes the guard gives nobody another text.
    sqlx::raw_sql(
        "DROP TRIGGER policy_blob_is_immutable;
         UPDATE policy_blob SET packed = (SELECT packed FROM policy_blob WHERE text_bytes = 2)",
    )
    .execute(&mut vandal)
    .await
    .unwrap();
    let swapped = store.policy_text(&second.digest).await;
    assert!(matches!(swapped, Err(StoreError::Unreadable { .. })));
}

#[tokio::test]
async fn l08_a_baseline_is_activated_only_where_nothing_is() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let first = store.put_policy(policy(b"{}")).await.unwrap();
    let second = store.put_policy(policy(b"{ }")).await.unwrap();
    use Precondition::{Always, OnlyIfNone};
    let activate =
        |version, slot, condition| store.activate_policy(GROUP, version, slot, condition, "ann", 8);
    assert!(activate(1, Slot::Enforced, OnlyIfNone).await.unwrap());
    assert!(!activate(2, Slot::Enforced, OnlyIfNone).await.unwrap());
    let group = store.group(GROUP).await.unwrap().unwrap();
    assert_eq!(group.enforced, Some(first));
    assert!(activate(2, Slot::Enforced, Always).await.unwrap());
    assert!(activate(1, Slot::Shadow, OnlyIfNone).await.unwrap());
    let group = store.group(GROUP).await.unwrap().unwrap();
    assert_eq!((group.enforced, group.shadow), (Some(second), Some(first)));
    let missing = activate(3, Slot::Enforced, Always).await;
    assert!(matches!(missing, Err(StoreError::Missing(_))));
    assert!(
        store
            .deactivate_policy(GROUP, Slot::Shadow, "ann", 9)
            .await
            .unwrap()
    );
    assert!(
        !store
            .deactivate_policy(GROUP, Slot::Shadow, "ann", 9)
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn s12_an_edited_reordered_or_dropped_audit_entry_is_found() {
    let edits = [
        "UPDATE audit SET actor = 'bob' WHERE seq = 3",
        "UPDATE audit SET at_unix_ms = 1 WHERE seq = 3",
        "UPDATE audit SET head = zeroblob(32) WHERE seq = 3",
        "DELETE FROM audit WHERE seq = 3",
        "UPDATE audit SET seq = CASE seq WHEN 3 THEN -4 WHEN 4 THEN -3 END WHERE seq IN (3, 4);
         UPDATE audit SET seq = -seq WHERE seq < 0",
    ];
    for edit in edits {
        let fixture = Fixture::new().await;
        for at_unix_ms in 10..15 {
            let entry = AuditEntry {
                at_unix_ms,
                actor: "ann",
                action: "agent.clear",
                target: "a",
                detail: "",
            };
            fixture.store.audit(entry).await.unwrap();
        }
        let (entries, _) = fixture.store.verify_audit().await.unwrap().unwrap();
        assert_eq!(entries, 6);
        let mut vandal = fixture.vandal().await;
        let refused = sqlx::raw_sql(edit).execute(&mut vandal).await;
        assert!(refused.is_err(), "{edit}");
        let guards = "DROP TRIGGER audit_is_append_only; DROP TRIGGER audit_keeps_all";
        for sql in [guards, edit] {
            sqlx::raw_sql(sql).execute(&mut vandal).await.unwrap();
        }
        let broken = fixture.store.verify_audit().await.unwrap();
        assert_eq!(broken, Err(3), "{edit}");
    }
}
