//! What ties a quote to its challenge, channel and machine, and an activation to its enrolment:
//! Q15, N11.
//!
//! The constants were computed with Python's standard library, from the layouts that the functions
//! document and nothing of this code:
//!
//! ```python
//! import hashlib, hmac, string, struct
//! sha256 = lambda data: hashlib.sha256(data).digest()
//! nonce, id, ak_name = bytes(range(0x80, 0xa0)), bytes(range(16)), bytes.fromhex("000b") + b"\x11" * 32
//! def challenge(from_entry, boot_log):
//!     return sha256(b"ratd challenge v1\0" + id + nonce + bytes([1]) + struct.pack(">HI", 0x000b, 0x07ff)
//!         + bytes([from_entry is not None]) + struct.pack(">Q", from_entry or 0)
//!         + bytes([boot_log]) + struct.pack(">I", 5000))
//! prefixed = lambda fields: b"".join(struct.pack(">I", len(field)) + field for field in fields)
//! def quote(mode):
//!     return sha256(b"ratd quote v1\0" + bytes([mode]) + prefixed([nonce, id, b"\x22" * 32, ak_name,
//!         b"web-1.example", challenge(0x0102030405060708, True)]))
//! digits = string.digits + string.ascii_uppercase + string.ascii_lowercase
//! def base62(half):
//!     number = int.from_bytes(half, "big")
//!     return "".join(digits[number // 62**at % 62] for at in range(10))
//! quote(3)[:16], base62(quote(4)[:16]) + base62(quote(4)[16:])
//! def activation():
//!     return hmac.digest(bytes(range(32)), b"ratd activation v1\0" + prefixed([b"web-1.example",
//!         b"activation-7", b"\x33" * 32, ak_name, b"\x44" * 32, b"web", b"\x55" * 32]), "sha256")
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    reason = "a panic is how a test fails"
)]

use proptest::prelude::*;
use rat_engine::agent_id::AgentId;
use rat_engine::evidence::{
    Binding, Challenge, ChallengeId, Enrolling, Nonce, PreimageParties, activation_proof,
    extra_data, pull_nonce, push_challenge, qualifying_data, qualifying_preimage,
};
use rat_engine::hash::HashAlg;
use rat_engine::pcr::PcrSet;
use rat_engine::tpm::PcrSelection;

fn challenge() -> Challenge {
    let pcrs = PcrSet::from_bits(0x07ff).unwrap();
    Challenge {
        id: ChallengeId(std::array::from_fn(|at| at as u8)),
        nonce: Nonce(std::array::from_fn(|at| 0x80 + at as u8)),
        selection: PcrSelection::new([(HashAlg::Sha256, pcrs)]).unwrap(),
        ima_from_entry: Some(0x0102_0304_0506_0708),
        boot_log: true,
        deadline_ms: 5_000,
    }
}

fn ak_name() -> Vec<u8> {
    [&[0, 0x0b][..], &[0x11; 32]].concat()
}

fn agent() -> AgentId {
    AgentId::parse("web-1.example").unwrap()
}

#[test]
fn q15_golden_digests_of_challenges() {
    let bare = Challenge {
        ima_from_entry: None,
        boot_log: false,
        ..challenge()
    };
    assert_eq!(
        hex::encode(challenge().digest()),
        "68a97c7ba7caccb67bd0e80bb207d69c35de91c5933e732699842a9c036e1ec1"
    );
    assert_eq!(
        hex::encode(bare.digest()),
        "41bd28955f494da619ecc1a32d437b0d3783ca0a564fbf5828da78401921c4df"
    );
}

#[test]
fn q15_golden_qualifying_data_of_both_modes() {
    let of = |binding| {
        hex::encode(qualifying_data(
            &challenge(),
            &binding,
            &ak_name(),
            &agent(),
        ))
    };
    assert_eq!(
        of(Binding::Channel([0x22; 32])),
        "e47fe56e6e04b8ff06393cb46faa41e7fde578e5dc572f87ded44c47e00133d6"
    );
    assert_eq!(
        of(Binding::Relay([0x22; 32])),
        "4804448b5ac078422735b21a2670247b9f1eaaeaa61fce99ea451941c94440f2"
    );
}

#[test]
fn q15_golden_challenges_of_keylimes_agents() {
    let of = |binding: Binding| {
        let data = qualifying_data(&challenge(), &binding, &ak_name(), &agent());
        let expected = extra_data(&binding, data).as_bytes().to_vec();
        let preimage = qualifying_preimage(&challenge(), &binding, &ak_name(), &agent());
        let parties = PreimageParties::read(&preimage).unwrap();
        assert_eq!(parties.extra_data(&preimage).as_bytes(), expected);
        (data, expected)
    };
    let (data, pushed) = of(Binding::KeylimePush([0x22; 32]));
    assert_eq!(hex::encode(&pushed), "66e8ca0476d27f33181244a2c7e95217");
    assert_eq!(pushed, push_challenge(&data));
    let (data, polled) = of(Binding::KeylimePull([0x22; 32]));
    assert_eq!(polled, b"9fislPV7onK1iImdQNCd");
    assert_eq!(polled, pull_nonce(&data));
    // Our agents sign all of it.
    let (data, whole) = of(Binding::Channel([0x22; 32]));
    assert_eq!(whole, data);
}

#[test]
fn n11_golden_answer_to_an_activation() {
    let agent = agent();
    let enrolling = Enrolling {
        agent: &agent,
        activation_id: "activation-7",
        ek_sha256: &[0x33; 32],
        ak_name: &ak_name(),
        token_sha256: &[0x44; 32],
        group: "web",
        client_key_sha256: &[0x55; 32],
    };
    let secret: [u8; 32] = std::array::from_fn(|at| at as u8);
    assert_eq!(
        hex::encode(activation_proof(&secret, &enrolling)),
        "1cb6a5a6fe4d74afb3d6884463fd814df67b8bc6da5b4d00495a9774567142ec"
    );
}

#[derive(Debug, Clone, PartialEq)]
struct Tied {
    challenge: Challenge,
    binding: Binding,
    ak_name: Vec<u8>,
    agent: AgentId,
}

impl Tied {
    fn data(&self) -> [u8; 32] {
        qualifying_data(&self.challenge, &self.binding, &self.ak_name, &self.agent)
    }

    fn preimage(&self) -> Vec<u8> {
        qualifying_preimage(&self.challenge, &self.binding, &self.ak_name, &self.agent)
    }
}

prop_compose! {
    fn any_challenge()(
        id in any::<[u8; 16]>(),
        nonce in any::<[u8; 32]>(),
        banks in prop::sample::subsequence(HashAlg::ALL.to_vec(), 1..=HashAlg::ALL.len()),
        bits in 1_u32..0x00ff_ffff,
        ima_from_entry in any::<Option<u64>>(),
        boot_log in any::<bool>(),
        deadline_ms in any::<u32>(),
    ) -> Challenge {
        let pcrs = PcrSet::from_bits(bits).unwrap();
        Challenge {
            id: ChallengeId(id),
            nonce: Nonce(nonce),
            selection: PcrSelection::new(banks.into_iter().map(|bank| (bank, pcrs))).unwrap(),
            ima_from_entry,
            boot_log,
            deadline_ms,
        }
    }
}

fn any_id() -> impl Strategy<Value = AgentId> {
    "[a-z0-9]{1,40}".prop_filter_map("reserved", |text| AgentId::parse(&text).ok())
}

prop_compose! {
    fn any_tied()(
        challenge in any_challenge(),
        bytes in any::<[u8; 32]>(),
        mode in prop::sample::select(MODES.to_vec()),
        ak_name in prop::collection::vec(any::<u8>(), 0..70),
        agent in any_id(),
    ) -> Tied {
        Tied { challenge, binding: mode(bytes), ak_name, agent }
    }
}

/// Every mode of a binding, in the order of the numbers that they are hashed with.
const MODES: [fn([u8; 32]) -> Binding; 4] = [
    Binding::Channel,
    Binding::Relay,
    Binding::KeylimePush,
    Binding::KeylimePull,
];

fn mode_of(binding: &Binding) -> usize {
    let bytes = *binding.bytes();
    MODES
        .iter()
        .position(|mode| mode(bytes) == *binding)
        .unwrap()
}

/// The same with one thing changed, for each thing there is.
fn each_changed(tied: &Tied) -> Vec<Tied> {
    let mut changed = Vec::new();
    let mut change = |with: &dyn Fn(&mut Tied)| {
        let mut other = tied.clone();
        with(&mut other);
        changed.push(other);
    };
    change(&|it| it.challenge.id.0[3] ^= 1);
    change(&|it| it.challenge.nonce.0[5] ^= 1);
    change(&|it| {
        let pcrs = PcrSet::from_bits(0x00ff_ffff).unwrap();
        it.challenge.selection = PcrSelection::new([(HashAlg::Sha384, pcrs)]).unwrap();
    });
    change(&|it| {
        it.challenge.ima_from_entry = match it.challenge.ima_from_entry {
            // Not asked for, and from the beginning, are two things.
            None => Some(0),
            Some(from) => Some(from ^ 1),
        }
    });
    change(&|it| it.challenge.boot_log ^= true);
    change(&|it| it.challenge.deadline_ms ^= 1);
    change(&|it| {
        let next = (mode_of(&it.binding) + 1) % MODES.len();
        it.binding = MODES[next](*it.binding.bytes());
    });
    change(&|it| {
        let mut bytes = *it.binding.bytes();
        bytes[7] ^= 1;
        it.binding = MODES[mode_of(&it.binding)](bytes);
    });
    change(&|it| it.ak_name.push(0));
    change(&|it| it.agent = AgentId::parse(&format!("{}x", it.agent)).unwrap());
    // Fields of one length change places, and bytes move over the border between two fields.
    change(&|it| {
        let bytes = *it.binding.bytes();
        it.binding = MODES[mode_of(&it.binding)](it.challenge.nonce.0);
        it.challenge.nonce = Nonce(bytes);
    });
    change(&|it| {
        let id = it.agent.as_str().to_owned();
        it.ak_name.extend_from_slice(&id.as_bytes()[..1]);
        let rest = AgentId::parse(&id[1..]);
        it.agent = rest.unwrap_or_else(|_| it.agent.clone());
    });
    changed.retain(|other| other != tied);
    changed
}

/// The six fields of a preimage, read by their lengths: what is there is there in one way.
fn fields(preimage: &[u8]) -> (u8, Vec<Vec<u8>>) {
    let rest = preimage.strip_prefix(b"ratd quote v1\0").unwrap();
    let (mode, mut rest) = rest.split_first().unwrap();
    let mut fields = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk() {
        let (field, after) = after.split_at(u32::from_be_bytes(*length) as usize);
        fields.push(field.to_vec());
        rest = after;
    }
    assert!(rest.is_empty());
    (*mode, fields)
}

type Claims = (
    AgentId,
    String,
    [u8; 32],
    Vec<u8>,
    [u8; 32],
    String,
    [u8; 32],
);

fn proof(claims: &Claims) -> [u8; 32] {
    let (agent, activation_id, ek_sha256, ak_name, token_sha256, group, client_key_sha256) = claims;
    let enrolling = Enrolling {
        agent,
        activation_id,
        ek_sha256,
        ak_name,
        token_sha256,
        group,
        client_key_sha256,
    };
    activation_proof(b"secret", &enrolling)
}

proptest! {
    #[test]
    fn q15_no_field_of_a_quotes_binding_can_be_dropped_or_swapped(tied in any_tied()) {
        let changed = each_changed(&tied);
        prop_assert!(changed.len() >= 10);
        for other in &changed {
            prop_assert_ne!(tied.data(), other.data(), "{:?}", other);
        }
        let (mode, fields) = fields(&tied.preimage());
        prop_assert_eq!(usize::from(mode), 1 + mode_of(&tied.binding));
        let expected: [&[u8]; 6] = [
            &tied.challenge.nonce.0,
            &tied.challenge.id.0,
            tied.binding.bytes(),
            &tied.ak_name,
            tied.agent.as_str().as_bytes(),
            &tied.challenge.digest(),
        ];
        prop_assert_eq!(fields, expected.map(<[u8]>::to_vec).to_vec());
    }

    #[test]
    fn q15_no_field_of_a_challenge_can_be_dropped(one in any_challenge(), other in any_challenge()) {
        prop_assert_eq!(one.digest() == other.digest(), one == other);
    }

    #[test]
    fn n11_no_field_of_an_activation_can_be_dropped_or_swapped(
        agent in any_id(),
        activation in "[a-z0-9]{1,20}",
        group in "[a-z0-9]{1,20}",
        ak_name in prop::collection::vec(any::<u8>(), 1..70),
        keys in any::<[[u8; 32]; 3]>(),
    ) {
        let [ek, token, client] = keys;
        let claims: Claims = (agent, activation, ek, ak_name, token, group, client);
        let mut changed = vec![claims.clone(); 11];
        changed[0].0 = AgentId::parse(&format!("{}x", claims.0)).unwrap();
        changed[1].1.push('x');
        changed[2].2[0] ^= 1;
        changed[3].3.push(0);
        changed[4].4[0] ^= 1;
        changed[5].5.push('x');
        changed[6].6[0] ^= 1;
        // Fields of one kind change places; bytes move over the border between two fields.
        (changed[7].2, changed[7].4) = (token, ek);
        (changed[8].4, changed[8].6) = (client, token);
        (changed[9].1, changed[9].5) = (claims.5.clone(), claims.1.clone());
        let moved = changed[10].3.remove(0);
        changed[10].2.rotate_left(1);
        changed[10].2[31] = moved;
        for other in changed.iter().filter(|other| **other != claims) {
            prop_assert_ne!(proof(&claims), proof(other), "{:?}", other);
        }
    }
}
