use rat_engine::agent_id::AgentId;

use super::*;

fn nothing() -> Asked {
    Asked {
        ek_public: Given::Absent,
        ek_certificate: Given::Absent,
        ak_public: Given::Absent,
        iak_public: Given::Absent,
        iak_certificate: Given::Absent,
        idevid_public: Given::Absent,
        idevid_certificate: Given::Absent,
        iak_attest: None,
        iak_sign: None,
        ip: Given::Absent,
        port: Given::Absent,
        mtls_cert: Given::Absent,
    }
}

fn keys() -> Asked {
    Asked {
        ek_public: Given::Value(vec![1]),
        ak_public: Given::Value(vec![2]),
        ip: Given::Value("192.0.2.1".to_owned()),
        ..nothing()
    }
}

fn of(wanted: Wanted) -> KeylimeRegistration {
    KeylimeRegistration {
        id: AgentId::parse("a").unwrap(),
        ek_sha256: [1; 32],
        ek_public: wanted.ek_public,
        ak_public: wanted.ak_public,
        details: wanted.details,
        regcount: 1,
        standing: KeylimeStanding::Pending { expires_unix_ms: 0 },
        challenge: None,
        proposed: None,
        registered_unix_ms: 5,
    }
}

fn question(answer: u8) -> Question {
    Question {
        answer_sha256: [answer; 32],
        expires_unix_ms: 9,
    }
}

fn active() -> KeylimeRegistration {
    let new = registered(None, of(merge(None, &keys()).unwrap()), question(1));
    KeylimeRegistration {
        standing: KeylimeStanding::Active,
        challenge: None,
        ..new
    }
}

#[test]
fn n06_what_identifies_a_machine_stays_once_it_is_set() {
    let mut present = active();
    present.details.ek_certificate = Some(vec![3]);
    type Change = fn(&mut Asked);
    let changes: [(&str, Change); 6] = [
        ("ek_tpm", |asked| asked.ek_public = Given::Value(vec![9])),
        ("ek_tpm", |asked| asked.ek_public = Given::Null),
        ("aik_tpm", |asked| asked.ak_public = Given::Value(vec![9])),
        ("aik_tpm", |asked| asked.ak_public = Given::Null),
        ("ekcert", |asked| {
            asked.ek_certificate = Given::Value(vec![9])
        }),
        ("ekcert", |asked| asked.ek_certificate = Given::Null),
    ];
    for (name, change) in changes {
        let mut asked = keys();
        change(&mut asked);
        let refused = merge(Some(&present), &asked);
        assert_eq!(refused, Err(Refused::Identity(name)));
    }
    // What is not said, and what is said again, changes nothing; what was empty can be filled.
    assert_eq!(
        merge(Some(&present), &nothing()).unwrap().details,
        present.details
    );
    let mut asked = keys();
    asked.ek_certificate = Given::Value(vec![3]);
    assert_eq!(
        merge(Some(&present), &asked).unwrap().details,
        present.details
    );
    let filled = merge(Some(&active()), &asked).unwrap();
    assert_eq!(filled.details.ek_certificate, Some(vec![3]));
}

#[test]
fn keys_are_needed_and_initial_keys_come_with_their_certificates() {
    let mut asked = keys();
    asked.ak_public = Given::Null;
    assert!(matches!(merge(None, &asked), Err(Refused::Invalid(_))));
    let mut asked = keys();
    asked.iak_public = Given::Value(vec![4]);
    let Err(Refused::Invalid(fault)) = merge(None, &asked) else {
        panic!("a part is no device");
    };
    assert_eq!(fault.code, "device.missing");
    asked.iak_certificate = Given::Value(vec![5]);
    asked.idevid_public = Given::Value(vec![6]);
    asked.idevid_certificate = Given::Value(vec![7]);
    let wanted = merge(None, &asked).unwrap();
    assert!(wanted.needs_certified);
    let mut present = active();
    present.details = wanted.details;
    // The same device needs no new proof; another one does, also for the same attestation key.
    assert!(!merge(Some(&present), &asked).unwrap().needs_certified);
    asked.iak_public = Given::Value(vec![8]);
    assert!(merge(Some(&present), &asked).unwrap().needs_certified);
    // Agents without such keys say so with null.
    let mut without = keys();
    without.iak_certificate = Given::Null;
    without.idevid_certificate = Given::Null;
    assert_eq!(
        merge(Some(&present), &without).unwrap().details.device,
        None
    );
}

#[test]
fn n10_of_an_active_registration_nothing_changes_but_the_question() {
    let present = active();
    let mut asked = keys();
    asked.ip = Given::Value("192.0.2.66".to_owned());
    asked.mtls_cert = Given::Value(KeylimeMtlsCertificate::Certificate(vec![6]));
    let wanted = merge(Some(&present), &asked).unwrap();
    let after = registered(Some(&present), of(wanted.clone()), question(2));
    let challenge = after.challenge.clone().unwrap();
    assert_eq!(challenge.staged, Some(wanted.details));
    assert_eq!(
        KeylimeRegistration {
            challenge: None,
            ..after
        },
        present
    );
    // Its own registration stages nothing, and takes away what somebody else had staged.
    let same = merge(Some(&present), &keys()).unwrap();
    let mut details = same.details.clone();
    details.vouch = KeylimeVouch::List;
    let after = registered(Some(&present), of(Wanted { details, ..same }), question(3));
    assert_eq!(after.challenge.unwrap().staged, None);
}

#[test]
fn what_was_never_active_takes_everything_and_counts_what_identifies() {
    let first = registered(None, of(merge(None, &keys()).unwrap()), question(1));
    assert_eq!(first.regcount, 1);
    let again = merge(Some(&first), &keys()).unwrap();
    let again = registered(Some(&first), of(again), question(2));
    assert_eq!((again.regcount, again.registered_unix_ms), (1, 5));
    let mut asked = keys();
    asked.ek_certificate = Given::Value(vec![3]);
    let filled = merge(Some(&again), &asked).unwrap();
    assert_eq!(
        registered(Some(&again), of(filled), question(3)).regcount,
        2
    );
}
