//! New certificates over open connections.

use rat_transport::limits;
use rat_transport::measures;
use rat_transport::quic::client::ClientError;
use rat_transport::quic::wire::Frame;
use rat_transport::quic::{Advice, Reason, RenewRefused};

use super::world::{World, metric, parts, refusals, rejections};

fn reason(error: &ClientError) -> Reason {
    match error {
        ClientError::Refused { reason, .. } => *reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_renews_its_certificate_while_it_waits_for_challenges() {
    let world = World::new();
    let agent = world.agent("renews").await;
    let chain = vec![b"leaf".to_vec(), b"issuer".to_vec()];
    *world.renewal.lock().unwrap() = Ok(chain.clone());
    let (renewed, verdict) = tokio::join!(
        agent.connection.renew(b"request".to_vec()),
        agent.attest(&world.recorder, parts())
    );
    assert_eq!(renewed.unwrap(), chain);
    assert_eq!(verdict.detail, "taken");
    assert_eq!(metric(measures::RENEWALS, None), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_renewals_are_typed_limited_and_leave_the_connection() {
    let world = World::new();
    let agent = world.agent("asks").await;
    for (refused, stops) in [
        (RenewRefused::Malformed, true),
        (RenewRefused::KeyNotEnrolled, true),
        (RenewRefused::NotEnrolled, true),
        (RenewRefused::Unavailable, false),
    ] {
        *world.renewal.lock().unwrap() = Err(refused);
        let error = agent
            .connection
            .renew(b"request".to_vec())
            .await
            .unwrap_err();
        assert_eq!(reason(&error), Reason::Renew(refused));
        assert_eq!(error.advice() == Advice::Stop, stops);
        assert_eq!(refusals(Reason::Renew(refused)), 1.0);
    }
    // One more than the hour allows is turned down before the CA hears of it.
    *world.renewal.lock().unwrap() = Ok(vec![b"leaf".to_vec()]);
    let error = agent
        .connection
        .renew(b"request".to_vec())
        .await
        .unwrap_err();
    assert_eq!(reason(&error), Reason::Renew(RenewRefused::TooOften));
    let Advice::BackOff { after_ms } = error.advice() else {
        panic!("{error:?}")
    };
    assert!((3_000_000..=3_600_000).contains(&after_ms), "{after_ms}");
    assert_eq!(rejections("RENEWALS_PER_HOUR_MAX"), 1.0);
    assert_eq!(agent.attest(&world.recorder, parts()).await.detail, "taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s13_an_agent_that_comes_back_has_no_more_renewals_than_one_that_stays() {
    let world = World::new();
    *world.renewal.lock().unwrap() = Ok(vec![b"leaf".to_vec()]);
    for _ in 0..limits::RENEWALS_PER_HOUR_MAX {
        let agent = world.agent("returns").await;
        agent.connection.renew(b"request".to_vec()).await.unwrap();
        agent.connection.close();
        world.recorder.gone("returns").await;
    }
    let before = metric(measures::RENEWALS, None);
    let agent = world.agent("returns").await;
    let error = agent
        .connection
        .renew(b"request".to_vec())
        .await
        .unwrap_err();
    assert_eq!(reason(&error), Reason::Renew(RenewRefused::TooOften));
    assert_eq!(metric(measures::RENEWALS, None), before);
    assert_eq!(rejections("RENEWALS_PER_HOUR_MAX"), 1.0);
    assert_eq!(agent.attest(&world.recorder, parts()).await.detail, "taken");
    // Nobody else waits for it.
    let other = world.agent("other").await;
    other.connection.renew(b"request".to_vec()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_the_authority_is_unavailable_and_nothing_more() {
    let world = World::new();
    let agent = world.agent("survives").await;
    // The closure cannot take the lock of a thread that panicked.
    let renewal = std::sync::Arc::clone(&world.renewal);
    let poisoned = std::thread::spawn(move || {
        let _held = renewal.lock().unwrap();
        panic!("as the test wants");
    });
    assert!(poisoned.join().is_err());
    let error = agent
        .connection
        .renew(b"request".to_vec())
        .await
        .unwrap_err();
    assert_eq!(reason(&error), Reason::Renew(RenewRefused::Unavailable));
    assert_eq!(agent.attest(&world.recorder, parts()).await.detail, "taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_over_their_limit_are_not_sent_and_not_read() {
    let world = World::new();
    let agent = world.agent("verbose").await;
    let error = agent
        .connection
        .renew(vec![0; limits::CSR_BYTES_MAX + 1])
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Encode(_)), "{error:?}");
    let raw = world.raw("bare").await;
    raw.welcomed("bare").await;
    let (mut send, _receive) = raw.connection.open_bi().await.unwrap();
    let mut request = Frame::Renew(vec![0; 8]).encode().unwrap();
    request[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    send.write_all(&request).await.unwrap();
    raw.is_closed_for(Reason::Limit).await;
    world.recorder.gone("bare").await;
    assert_eq!(rejections("FRAME_BYTES_MAX"), 1.0);
    world.serves_others().await;
}
