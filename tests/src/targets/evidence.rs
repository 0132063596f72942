//! A target of evidence that somebody sends to be verified.

use rat_api::keylime::{ApiVersion, Evaluate, Keylime, MeasuredBoot};
use rat_engine::uefi::policy::PolicyName;
use serde_json::{Value, json};

use crate::keylime::{Answered, answer};

/// The body of `POST /v2.6/verify/evidence`, and everything in it: whatever it is, the answer is one
/// of the API's, every version says the same of it, and what is valid is what was sent.
pub fn verify_evidence(data: &[u8]) {
    let settings = MeasuredBoot {
        policy_name: PolicyName::Example,
        evaluate: Evaluate::Always,
    };
    let keylime = Keylime::new(1, settings);
    let newest = answer(&keylime, ApiVersion::V2_6, data);
    is_an_answer(&newest);
    let before = answer(&keylime, ApiVersion::V2_5, data);
    assert_eq!((newest.status, &newest.body), (before.status, &before.body));
    let oldest = answer(&keylime, ApiVersion::V2_4, data);
    is_an_answer(&oldest);
    let results = &newest.body["results"];
    let is_valid = results["valid"] == true;
    if is_valid {
        let sent: Value = serde_json::from_slice(data).expect("two readers of JSON disagree");
        assert_eq!(sent["type"], "tpm");
        assert_eq!(results["claims"], sent["data"]);
        assert_eq!(results["failures"], json!([]));
        assert_eq!(oldest.body["results"], json!({"valid": 1, "failures": []}));
    } else if !results["valid"].is_null() {
        assert_eq!(results["claims"], json!({}));
        assert!(
            !newest.failures().is_empty(),
            "invalid, and nothing is wrong"
        );
        assert_eq!(oldest.failures(), newest.failures());
    }
}

fn is_an_answer(answered: &Answered) {
    assert!(
        [200, 400, 501].contains(&answered.status),
        "{}",
        answered.body
    );
    assert_eq!(answered.body["code"], answered.status);
    assert!(answered.body["status"].is_string() && answered.body["results"].is_object());
}
