//! Evidence of failures that no quote led to.

use rat_engine::shard::{Failure, Retention};
use rat_store::{StoredEvidence, limits};
use rat_tests::fleet;

use super::Fixture;
use super::logs::{bytes_of, fails_again, kept, with_log};

/// After a restart nothing of the last pass is in memory: the newest that is stored goes with the
/// failure, and stays as long as it.
#[tokio::test]
async fn s18_l07_a_failure_without_a_quote_keeps_the_newest_pass_that_is_stored() {
    let fixture = Fixture::with_agents(1..2).await;
    let max = u64::from(limits::EVIDENCE_PER_REASON_MAX);
    let agent = fleet::agent(1);
    let mut first = with_log(1, 1, fleet::whole_log(0, 10, b"ten entries"));
    first.kept = vec![kept(Retention::FirstPass, 1, 10)];
    fixture.commit(vec![first]).await;
    let more = with_log(1, 2, fleet::whole_log(10, 12, b" and two"));
    fixture.commit(vec![more]).await;
    let denied = |attestation| {
        let mut denied = fleet::outcome(1, attestation);
        denied.evidence_sha256 = [0; 32];
        let failure = Failure {
            at_unix_ms: denied.at_unix_ms,
            ..fleet::failure()
        };
        denied.state.failure = Some(failure.into());
        denied
    };
    let outcome = denied(3);
    let failure = outcome.state.failure.clone();
    fixture.commit(vec![outcome]).await;
    let stored = fixture.store.evidence(&agent, None, 10).await.unwrap();
    assert_eq!(stored.len(), 2);
    assert_eq!(stored[0].evidence, kept(Retention::BeforeFailure, 1, 10));
    let list = fixture.store.read_log(stored[0].log.unwrap());
    assert_eq!(bytes_of(list).await, b"ten entries and two");
    for attestation in 4..=max + 4 {
        fails_again(&fixture, attestation, failure.as_deref().cloned()).await;
    }
    let stored = fixture.store.evidence(&agent, None, 100).await.unwrap();
    let is_it = |stored: &StoredEvidence| {
        let expected = kept(Retention::BeforeFailure, 1, 10);
        stored.evidence == expected
    };
    assert_eq!(stored.iter().filter(|it| is_it(it)).count(), 1);
    // Of a machine of which nothing is stored nothing is made up.
    let fixture = Fixture::with_agents(1..2).await;
    fixture.commit(vec![denied(1)]).await;
    let stored = fixture.store.evidence(&agent, None, 10).await.unwrap();
    assert_eq!(stored, []);
}
