//! A02: the gate itself, for connections that a test cannot make: from elsewhere than this machine.

use axum::http::{HeaderMap, header};
use rat_api::auth::{
    Admitted, Caller, CallerCredential, ClientCertificate, Gate, Link, Peer, Permission,
};
use rat_api::clock::unix_ms;
use rat_api::error::ApiError;
use rustls::pki_types::CertificateDer;

use crate::world::{HOUR_MS, Served, World};

fn peer(address: &str) -> Peer {
    Peer {
        address: address.parse().unwrap(),
        certificate: None,
        link: Link::Tls,
    }
}

fn with(value: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.append(header::AUTHORIZATION, value.parse().unwrap());
    headers
}

const METRICS: Permission = Permission::LoopbackOrOperator("metrics:view");

#[test]
fn a02_loopback_is_the_connections_address_not_a_headers() {
    let world = World::new(Served::Accounts);
    let gate = Gate::new(world.store.clone());
    let admit = |peer: &Peer, headers: &HeaderMap| {
        let admitted = world.run(gate.admit(METRICS, peer, headers));
        admitted.map(Admitted::caller)
    };
    let none = HeaderMap::new();
    for loopback in ["127.0.0.1:9", "[::1]:9", "[::ffff:127.0.0.1]:9"] {
        assert_eq!(admit(&peer(loopback), &none), Ok(None), "{loopback}");
    }
    let mut forged = HeaderMap::new();
    forged.append("x-forwarded-for", "127.0.0.1".parse().unwrap());
    forged.append("forwarded", "for=127.0.0.1".parse().unwrap());
    let remote = peer("192.0.2.1:9");
    assert_eq!(admit(&remote, &forged), Err(ApiError::NotAuthenticated));
    let token = world.token("viewer", None, unix_ms() + HOUR_MS);
    let caller = admit(&remote, &with(&format!("Bearer {token}"))).unwrap();
    let id = token[4..20].to_owned();
    let caller = caller.unwrap();
    assert_eq!(
        caller.credential(),
        &CallerCredential::ApiToken { id: id.clone() }
    );
    assert_eq!(caller.actor(), format!("api-token:{id}"));
    assert!(caller.may("metrics:view") && !caller.may("audit:view"));
}

#[test]
fn a02_the_schemes_name_has_no_case_and_a_certificate_takes_away() {
    let world = World::new(Served::Accounts);
    let gate = Gate::new(world.store.clone());
    let view = Permission::Operator("agents:view");
    let remote = peer("192.0.2.1:9");
    let user = world.user("Alice", &["viewer"]);
    let session = world.session(&user, unix_ms() + HOUR_MS);
    let admit = |peer: &Peer, value: &str| {
        let admitted = world.run(gate.admit(view, peer, &with(value)));
        admitted.map(Admitted::caller)
    };
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let caller: Option<Caller> = admit(&remote, &format!("{scheme} {session}")).unwrap();
        assert_eq!(caller.unwrap().actor(), "Alice");
    }
    for refused in [
        session.clone(),
        format!("Bearer {session} {session}"),
        format!("Bearer {session},"),
        format!("Token {session}"),
        "Bearer".to_owned(),
    ] {
        assert_eq!(
            admit(&remote, &refused),
            Err(ApiError::NotAuthenticated),
            "{refused}"
        );
    }
    let with_certificate = Peer {
        certificate: Some(ClientCertificate::new(CertificateDer::from(vec![0]))),
        ..remote
    };
    let refused = admit(&with_certificate, &format!("Bearer {session}"));
    assert_eq!(refused, Err(ApiError::NotPermitted("agents:view")));
}

#[test]
fn a03_an_address_that_guesses_tokens_is_held_back_whatever_it_presents() {
    let world = World::new(Served::Accounts);
    let gate = Gate::new(world.store.clone());
    let view = Permission::Operator("agents:view");
    let (guessing, other) = (peer("192.0.2.1:9"), peer("198.51.100.7:9"));
    let right = with(&format!(
        "Bearer {}",
        world.token("admin", None, unix_ms() + HOUR_MS)
    ));
    let mut held = None;
    for guess in 0..100 {
        let headers = with(&format!("Bearer rat_{guess:080}"));
        match world.run(gate.admit(view, &guessing, &headers)) {
            Err(ApiError::NotAuthenticated) => {}
            Err(refused) => {
                held = Some((guess, refused));
                break;
            }
            Ok(_) => panic!("guess {guess} was right"),
        }
    }
    let (guesses, refused) = held.expect("never held back");
    assert!(guesses <= 30, "{guesses}");
    assert_eq!(refused.status(), 429);
    let also = world.run(gate.admit(view, &guessing, &right)).unwrap_err();
    assert_eq!(
        also.status(),
        429,
        "a right guess is answered like a wrong one"
    );
    assert!(world.run(gate.admit(view, &other, &right)).is_ok());
}
