//! `verifiermain`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rat_engine::agent_id::AgentId;
use rat_engine::shard::{AgentPath, AgentRecord, KEYLIME_GROUP};
use rat_engine::tpm::Public;
use rat_identity::keylime::certificate_of;
use rat_store::{
    Conflict, ImportMode, Imported, KeylimeFacts, KeylimeKind, NewKeylimeAgent, NewKeylimePolicy,
    PolicyOfAgent, SourceRow, Store,
};

use super::registrations::{host, port};
use super::report::Found;
use super::standing::Standing;
use super::{Kept, Known, Migration, MigrationError, name_of, now, of_row};
use crate::keylime::verifier::add::{EMPTY_POLICY, OTHER_KEY, machine, machine_of_key, sha256};
use crate::keylime::verifier::asked::{ak_public_of, are_admitted, first_bank, path};

const V_BYTES: usize = 32;
/// Where Keylime's verifier is, where a row does not say it.
const VERIFIER_PORT: u16 = 8_881;

/// An agent, read and checked.
struct Brought {
    id: AgentId,
    path: AgentPath,
    ak_public: Vec<u8>,
    facts: KeylimeFacts,
    /// The names of its policies; `None` where Keylime judges it by none.
    runtime_policy: Option<String>,
    mb_policy: Option<String>,
    standing: Standing,
    notes: Vec<String>,
}

impl Brought {
    fn policy_names(&self) -> [&str; 2] {
        let id = self.id.as_str();
        let runtime = self.runtime_policy.as_deref();
        let boot = self.mb_policy.as_deref();
        [runtime.unwrap_or(id), boot.unwrap_or(id)]
    }
}

impl Migration<'_> {
    pub(super) async fn agent(
        &self,
        row: &SourceRow,
        known: &mut Known,
    ) -> Result<Found, MigrationError> {
        let brought = match self.read_agent(row, known) {
            Ok(brought) => brought,
            Err(found) => return Ok(found),
        };
        if let Some(store) = self.store
            && let Some(found) = present(store, &brought).await?
        {
            return Ok(found);
        }
        let ek_sha256 = match self.machine(&brought, known).await? {
            Ok(ek_sha256) => ek_sha256,
            Err(found) => return Ok(found),
        };
        let id = brought.id.as_str().to_owned();
        if let Some(other) = known.machines.get(&ek_sha256) {
            let detail = format!("the same machine is agent {other}: one machine has one id here");
            return Ok(Found::left("ek.taken", detail));
        }
        let found = match self.store {
            Some(store) => self.keep_agent(store, &brought, ek_sha256).await?,
            None => Found::imported(Vec::new()),
        };
        if found.why.is_some() {
            return Ok(found);
        }
        known.machines.insert(ek_sha256, id);
        Ok(Found::imported(brought.notes))
    }

    async fn keep_agent(
        &self,
        store: &Store,
        brought: &Brought,
        ek_sha256: [u8; 32],
    ) -> Result<Found, MigrationError> {
        let now = now();
        let record = AgentRecord {
            id: brought.id.clone(),
            group: KEYLIME_GROUP.to_owned(),
            path: brought.path,
            ak_public: brought.ak_public.clone(),
            ak_epoch: 1,
            ek_sha256,
            client_key_sha256: sha256(&brought.ak_public),
            relay_key_sha256: None,
            baseline: None,
            enrolled_unix_ms: now,
        };
        let id = brought.id.as_str();
        let kept = (&brought.runtime_policy, &brought.mb_policy);
        let new = NewKeylimeAgent {
            record: &record,
            facts: &brought.facts,
            runtime_policy: self.judged_by(KeylimeKind::Runtime, kept.0.as_deref(), id),
            mb_policy: self.judged_by(KeylimeKind::MeasuredBoot, kept.1.as_deref(), id),
            actor: self.actor,
        };
        let imported = Imported {
            failure: brought.standing.failure.as_ref(),
            told: brought.standing.told.as_ref(),
            is_stopped: brought.standing.is_stopped,
            detail: &brought.standing.detail,
            mode: self.mode,
        };
        let added = store.import_keylime_agent(new, imported, now).await;
        Ok(match of_row(added)? {
            Ok(Ok(())) => Found::imported(Vec::new()),
            Ok(Err(conflict)) => {
                let code = match &conflict {
                    Conflict::IdTaken => "id.taken",
                    Conflict::EkEnrolled(_) => "ek.taken",
                    Conflict::OtherPath => "id.other_path",
                    Conflict::OtherGroup => "ek.other_group",
                    _ => "id.refused",
                };
                Found::left(code, conflict.to_string())
            }
            Err(found) => found,
        })
    }

    /// One that Keylime judges by none is judged by the one that says so.
    fn judged_by<'a>(
        &self,
        kind: KeylimeKind,
        name: Option<&'a str>,
        id: &'a str,
    ) -> PolicyOfAgent<'a> {
        let demands_nothing = |name| {
            PolicyOfAgent::NewUnlessKept(NewKeylimePolicy {
                kind,
                name,
                text: match kind {
                    KeylimeKind::Runtime => EMPTY_POLICY,
                    KeylimeKind::MeasuredBoot => b"",
                },
                judges: None,
            })
        };
        match (name, self.mode) {
            (Some(name), ImportMode::Write) => PolicyOfAgent::Kept(name),
            // Its policy would be there by now. Nothing of this stays.
            (Some(name), ImportMode::Rehearse) => demands_nothing(name),
            (None, _) => demands_nothing(id),
        }
    }

    /// The machine that an agent is, by what was registered.
    async fn machine(
        &self,
        brought: &Brought,
        known: &Known,
    ) -> Result<Result<[u8; 32], Found>, MigrationError> {
        let other_key = || Found::of_column("ak_tpm", "ak.not_registered", OTHER_KEY);
        let id = brought.id.as_str();
        if let Some((ak_name, ek_sha256)) = known.registered.get(id) {
            let name = Public::parse(&brought.ak_public).map(|public| public.name().to_bytes());
            let is_same = name.is_ok_and(|name| name == *ak_name);
            return Ok(is_same.then_some(*ek_sha256).ok_or_else(other_key));
        }
        if known.left.contains(id) {
            let detail = "its registration was left, so nothing says which machine it is";
            return Ok(Err(Found::left("registration.left", detail)));
        }
        let Some(store) = self.store else {
            return Ok(Ok(machine_of_key(&brought.ak_public)));
        };
        let found = of_row(machine(store, &brought.id, &brought.ak_public).await)?;
        Ok(found.and_then(|found| found.map_err(|_| other_key())))
    }

    fn read_agent(&self, row: &SourceRow, known: &Known) -> Result<Brought, Found> {
        let text = row.needed("agent_id")?;
        let id = AgentId::parse(text)
            .map_err(|error| Found::of_column("agent_id", "id.malformed", error.to_string()))?;
        let mut standing = Standing::read(row)?;
        if standing.is_leaving {
            let detail = "Keylime is removing it";
            return Err(Found::of_column(
                "operational_state",
                "agent.leaving",
                detail,
            ));
        }
        let runtime_policy = policy(row, "ima_policy_id", KeylimeKind::Runtime, known)?;
        let mb_policy = policy(row, "mb_policy_id", KeylimeKind::MeasuredBoot, known)?;
        let ak_public = ak_public_of(row.needed("ak_tpm")?)
            .map_err(|refused| Found::of_column("ak_tpm", "ak.refused", refused.1))?;
        let (facts, path) = self.facts(row)?;
        if path != AgentPath::KeylimePull {
            standing.settle_of_push();
        }
        let mut notes = standing.notes.clone();
        if runtime_policy.is_none() {
            notes.push("judged by no runtime policy: authentic, and not trusted".to_owned());
        }
        if path == AgentPath::KeylimePush && row.text("ip")?.is_some_and(|ip| !ip.is_empty()) {
            let why = "it has an address but no certificate, or all agents push here";
            notes.push(format!("{why}: it is not polled"));
        }
        if id.as_str() != text {
            notes.push(format!(
                "its id is {id} here, not {}",
                name_of(row, "agent_id")
            ));
        }
        Ok(Brought {
            id,
            path,
            ak_public,
            facts,
            runtime_policy,
            mb_policy,
            standing,
            notes,
        })
    }

    /// What its tenant had said.
    fn facts(&self, row: &SourceRow) -> Result<(KeylimeFacts, AgentPath), Found> {
        let owned = |column| Ok::<_, Found>(row.text(column)?.unwrap_or_default().to_owned());
        let (ip, port) = (host(row)?, port(row)?);
        let mtls_cert = row.text("mtls_cert")?.filter(|text| !text.is_empty());
        let path = path(self.path, ip.as_deref(), port, mtls_cert);
        let is_polled = path == AgentPath::KeylimePull;
        if let Some(certificate) = mtls_cert.filter(|_| is_polled) {
            certificate_of(certificate)
                .map_err(|error| Found::of_column("mtls_cert", error.code(), error.to_string()))?;
        }
        let accept_tpm_hash_algs = row.list("accept_tpm_hash_algs")?;
        let bank = first_bank(&accept_tpm_hash_algs).map_err(|refused| {
            Found::of_column("accept_tpm_hash_algs", "column.refused", refused.1)
        })?;
        let verifier_port = row.number("verifier_port", 65_535)?;
        let facts = KeylimeFacts {
            v: v_key(row)?,
            ip: ip.filter(|_| is_polled),
            port: port.filter(|_| is_polled),
            tpm_policy: row.json("tpm_policy")?.unwrap_or_else(|| "{}".to_owned()),
            metadata: owned("meta_data")?,
            ima_sign_verification_keys: owned("ima_sign_verification_keys")?,
            revocation_key: owned("revocation_key")?,
            accept_tpm_hash_algs,
            accept_tpm_encryption_algs: row.list("accept_tpm_encryption_algs")?,
            accept_tpm_signing_algs: row.list("accept_tpm_signing_algs")?,
            mtls_cert: mtls_cert.map(str::to_owned),
            supported_version: owned("supported_version")?,
            verifier_ip: owned("verifier_ip")?,
            verifier_port: verifier_port
                .and_then(|port| u16::try_from(port).ok())
                .unwrap_or(VERIFIER_PORT),
            bank,
        };
        are_admitted(&facts).map_err(|refused| {
            let columns = ["ima_sign_verification_keys", "revocation_key"];
            let mut columns = columns.into_iter();
            let column = columns.find(|column| refused.1.starts_with(column));
            let column = column.unwrap_or("tpm_policy");
            Found::of_column(column, "column.refused", refused.1)
        })?;
        Ok((facts, path))
    }
}

fn v_key(row: &SourceRow) -> Result<Option<Vec<u8>>, Found> {
    let text = row.text("v")?.filter(|text| !text.is_empty());
    let bytes = text.map(|text| BASE64.decode(text)).transpose();
    match bytes {
        Ok(bytes) if bytes.as_ref().is_none_or(|bytes| bytes.len() == V_BYTES) => Ok(bytes),
        _ => Err(Found::of_column(
            "v",
            "column.base64",
            "v is not 32 bytes in base64",
        )),
    }
}

/// The policy that a row names, as it is here; `None` where it names none.
fn policy(
    row: &SourceRow,
    column: &'static str,
    kind: KeylimeKind,
    known: &Known,
) -> Result<Option<String>, Found> {
    let Some(number) = row.text(column)? else {
        return Ok(None);
    };
    match known.policies.get(&(kind, number.to_owned())) {
        Some(Kept::Here(name)) => Ok(Some(name.clone())),
        Some(Kept::Left(why)) => {
            let detail = format!("its policy is not here: {why}");
            Err(Found::of_column(column, "policy.left", detail))
        }
        None => {
            let detail = "it names a policy that is not in the database";
            Err(Found::of_column(column, "policy.missing", detail))
        }
    }
}

/// What is to be said of an agent whose id is known here.
async fn present(store: &Store, brought: &Brought) -> Result<Option<Found>, MigrationError> {
    let record = match of_row(store.agent(&brought.id).await)? {
        Ok(record) => record,
        Err(found) => return Ok(Some(found)),
    };
    let Some(record) = record else {
        return Ok(None);
    };
    let agent = match of_row(store.keylime_agent(&brought.id).await)? {
        Ok(agent) => agent,
        Err(found) => return Ok(Some(found)),
    };
    let is_same = agent.is_some_and(|agent| {
        // Which bank it has, an agent says itself.
        let facts = KeylimeFacts {
            bank: agent.facts.bank,
            ..brought.facts.clone()
        };
        agent.facts == facts
            && [&*agent.runtime_policy.name, &*agent.mb_policy.name] == brought.policy_names()
            && record.record.ak_public == brought.ak_public
    });
    Ok(Some(match is_same {
        true => Found::already_there(),
        false => Found::left(
            "id.taken",
            "this id is enrolled here with other keys, policies or facts",
        ),
    }))
}
