//! Does one stage of verification again and again on recorded evidence, for a tool that counts
//! instructions: `work STAGE TIMES FOLDER`. `benches/instructions` runs it.
//!
//! Signatures are left out: what counts instructions has no AVX-512.
#![allow(missing_docs, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::{env, fs};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rat_engine::hash::HashAlg;
use rat_engine::ima::boot_aggregate::BootAggregates;
use rat_engine::ima::judge::Judge;
use rat_engine::ima::{ImaAppraiser, ImaOptions, LogFormat, Start};
use rat_engine::policy::RuntimePolicy;
use rat_engine::quote::Quote;
use rat_engine::tpm::pcr_values::parse_pcr_blob;
use rat_engine::tpm::{Signature, pcr_digest};
use rat_engine::uefi::EventLog;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// The same places in every table, so that runs do the same.
const SEED: u64 = 1;

/// A recorded quote and its logs.
struct Evidence {
    message: Vec<u8>,
    signature: Vec<u8>,
    pcr_blob: Vec<u8>,
    list: Vec<u8>,
    boot_log: Vec<u8>,
    policy: Vec<u8>,
}

impl Evidence {
    fn read(folder: &Path) -> Outcome<Self> {
        let quote: serde_json::Value =
            serde_json::from_slice(&fs::read(folder.join("quote.json"))?)?;
        let text = |name: &str| {
            quote
                .get(name)
                .and_then(|it| it.as_str())
                .ok_or("quote.json")
        };
        let list = fs::read_to_string(folder.join("ima_log.ascii"))?;
        Ok(Self {
            message: hex::decode(text("message_hex")?)?,
            signature: hex::decode(text("signature_tpmt_hex")?)?,
            pcr_blob: STANDARD.decode(text("pcr_blob_b64")?)?,
            policy: policy_of(&list)?,
            list: list.into_bytes(),
            boot_log: fs::read(folder.join("boot_log.bin"))?,
        })
    }

    /// The list against its quoted values, and against the policy if there is a judge.
    fn replay(&self, judge: Option<&Arc<Judge>>) -> Outcome<u64> {
        let (_, quoted) = parse_pcr_blob(&self.pcr_blob)?;
        let options = ImaOptions {
            format: LogFormat::Ascii,
            ..ImaOptions::default()
        };
        let boot = BootAggregates::from_quoted(&quoted);
        let judge = judge.map(Arc::clone);
        let mut appraiser = ImaAppraiser::new(&quoted, options, Start::First, boot, judge)?;
        appraiser.feed(&self.list);
        let entries = appraiser.entries();
        let outcome = appraiser.finish()?;
        black_box(outcome);
        Ok(entries)
    }

    fn judge(&self) -> Outcome<Arc<Judge>> {
        let policy = RuntimePolicy::parse_seeded(&self.policy, SEED)?;
        Ok(Arc::new(Judge::new(policy.into())?))
    }
}

/// Allows what the list measured.
fn policy_of(list: &str) -> Outcome<Vec<u8>> {
    let mut digests = BTreeMap::<&str, Vec<&str>>::new();
    for line in list.lines() {
        let mut fields = line.splitn(5, ' ').skip(3);
        if let (Some(digest), Some(path)) = (fields.next(), fields.next()) {
            let digest = digest.split_once(':').map_or(digest, |(_, digest)| digest);
            digests.entry(path).or_default().push(digest);
        }
    }
    let policy = serde_json::json!({
        "meta": {"version": 1, "generator": 0},
        "release": 0,
        "digests": digests,
        "excludes": ["/tmp/.*", "/var/lib/docker/.*"],
        "keyrings": {},
        "ima": {"ignored_keyrings": [], "log_hash_alg": "sha1", "dm_policy": null},
        "ima-buf": {},
        "verification-keys": "",
    });
    Ok(serde_json::to_vec(&policy)?)
}

fn main() -> Outcome<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [stage, times, folder] = arguments.as_slice() else {
        return Err("work STAGE TIMES FOLDER".into());
    };
    let evidence = Evidence::read(Path::new(folder))?;
    let judge = evidence.judge()?;
    // What one time does, so that a figure can be told for one.
    let mut units = 1;
    for _ in 0..times.parse::<u32>()? {
        match stage.as_str() {
            "parse" => {
                black_box(Quote::parse(black_box(&evidence.message))?);
                black_box(Signature::parse(black_box(&evidence.signature))?);
            }
            "pcrs" => {
                let (selection, values) = parse_pcr_blob(black_box(&evidence.pcr_blob))?;
                black_box(pcr_digest(HashAlg::Sha256, &selection, &values)?);
            }
            "ima" => units = evidence.replay(None)?,
            "ima-judged" => units = evidence.replay(Some(&judge))?,
            "policy" => {
                black_box(evidence.judge()?);
            }
            "uefi" => {
                let log = EventLog::parse(black_box(&evidence.boot_log))?;
                black_box(log.replay(HashAlg::Sha256)?);
            }
            other => return Err(format!("no stage {other}").into()),
        }
    }
    println!("{units}");
    Ok(())
}
