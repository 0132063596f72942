//! `registrarmain`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rat_engine::agent_id::AgentId;
use rat_identity::keylime::{Checked, Claims, Device, Vouch, certificate_of, check};
use rat_store::{
    KeylimeConflict, KeylimeDetails, KeylimeDevice, KeylimeMtlsCertificate, KeylimeRegistration,
    KeylimeStanding, KeylimeVouch, SourceRow,
};

use super::report::Found;
use super::{Known, Migration, MigrationError, name_of, now, of_row};
use crate::keylime::registrar::asked::is_host;
use crate::keylime::registrar::register::stored;

/// A registration, read and checked.
struct Brought {
    registration: KeylimeRegistration,
    ak_name: Vec<u8>,
    notes: Vec<String>,
}

impl Migration<'_> {
    pub(super) async fn registration(
        &self,
        row: &SourceRow,
        known: &mut Known,
    ) -> Result<Found, MigrationError> {
        let found = match self.read_registration(row) {
            Ok(brought) => self.keep_registration(brought, known).await?,
            Err(found) => found,
        };
        if found.why.is_some() {
            let id = row.text("agent_id").ok().flatten();
            let id = id.and_then(|id| AgentId::parse(id).ok());
            known.left.extend(id.map(|id| id.as_str().to_owned()));
        }
        Ok(found)
    }

    async fn keep_registration(
        &self,
        brought: Brought,
        known: &mut Known,
    ) -> Result<Found, MigrationError> {
        let registration = &brought.registration;
        let id = registration.id.as_str().to_owned();
        let (ak_name, ek_sha256) = (brought.ak_name, registration.ek_sha256);
        let registered = |known: &mut Known| {
            known.registered_machines.insert(ek_sha256);
            known
                .registered
                .insert(id.clone(), (ak_name.clone(), ek_sha256));
        };
        if known.registered_machines.contains(&ek_sha256) && !self.shares_ek {
            let detail =
                "another row before has the same TPM; keylime.registrar.shared_ek allows it";
            return Ok(Found::of_column("ek_tpm", "ek.taken", detail));
        }
        let Some(store) = self.store else {
            registered(known);
            return Ok(Found::imported(brought.notes));
        };
        let present = store.keylime_registration(&registration.id, now()).await;
        if let Some((present, _)) = match of_row(present)? {
            Ok(present) => present,
            Err(found) => return Ok(found),
        } {
            if !is_same(&present, registration) {
                let detail = "this id is registered here with other keys or details";
                return Ok(Found::left("id.taken", detail));
            }
            registered(known);
            return Ok(Found::already_there());
        }
        let mode = (self.mode, now());
        let kept =
            store.import_keylime_registration(registration, self.shares_ek, self.actor, mode);
        match of_row(kept.await)? {
            Ok(Ok(())) => {
                registered(known);
                Ok(Found::imported(brought.notes))
            }
            Ok(Err(conflict)) => {
                let code = match conflict {
                    KeylimeConflict::EkTaken(_) => "ek.taken",
                    KeylimeConflict::OtherPath => "id.other_path",
                    KeylimeConflict::Changed | KeylimeConflict::TooMany { .. } => "id.taken",
                };
                Ok(Found::left(code, conflict.to_string()))
            }
            Err(found) => Ok(found),
        }
    }

    /// Checks keys and certificates as those of an agent that registers.
    fn check(
        &self,
        id: &str,
        (ek_public, ak_public): (&[u8], &[u8]),
        details: &KeylimeDetails,
    ) -> Result<Checked, Found> {
        let claims = Claims {
            ek_public,
            ek_certificate: details.ek_certificate.as_deref(),
            ak_public,
            device: details.device.as_ref().map(|device| Device {
                iak_public: &device.iak_public,
                iak_certificate: &device.iak_certificate,
                idevid_public: &device.idevid_public,
                idevid_certificate: &device.idevid_certificate,
                // Keylime's registrar has seen that.
                certified: None,
            }),
        };
        let checked = check(self.trust, self.policy, id, &claims, now());
        checked.map_err(|error| {
            let code = error.code();
            Found::of_column(column_of(code), code, error.to_string())
        })
    }

    fn read_registration(&self, row: &SourceRow) -> Result<Brought, Found> {
        let text = row.needed("agent_id")?;
        let id = AgentId::parse(text)
            .map_err(|error| Found::of_column("agent_id", "id.malformed", error.to_string()))?;
        if row.flag("active")? != Some(true) {
            let detail =
                "its TPM has proven nothing to Keylime; the agent registers anew by itself";
            return Err(Found::of_column(
                "active",
                "registration.not_active",
                detail,
            ));
        }
        let (ek_public, ak_public) = (needed_bytes(row, "ek_tpm")?, needed_bytes(row, "aik_tpm")?);
        let mut notes = Vec::new();
        let mut details = KeylimeDetails {
            ek_certificate: certificate(row, "ekcert")?,
            vouch: KeylimeVouch::Unchecked,
            device: device(row)?,
            ip: host(row)?,
            port: port(row)?,
            mtls_cert: mtls_cert(row)?,
        };
        let Checked {
            ek_sha256,
            ak_name,
            vouch,
        } = self.check(text, (&ek_public, &ak_public), &details)?;
        match &vouch {
            Vouch::Unchecked => notes.push("nobody looked who vouches for its TPM".to_owned()),
            Vouch::Unknown(error) => notes.push(format!("nobody vouches for its TPM: {error}")),
            Vouch::Chain(_) | Vouch::List | Vouch::Device => {}
        }
        details.vouch = stored(vouch);
        if row.flag("virtual")? == Some(true) {
            notes.push("it is a virtual TPM of old; its provider_keys are not taken".to_owned());
        }
        if id.as_str() != text {
            notes.push(format!(
                "its id is {id} here, not {}",
                name_of(row, "agent_id")
            ));
        }
        let registration = KeylimeRegistration {
            id,
            ek_sha256,
            ek_public,
            ak_public,
            details,
            regcount: row
                .number("regcount", u64::from(u32::MAX))?
                .unwrap_or(1)
                .max(1),
            standing: KeylimeStanding::Active,
            challenge: None,
            proposed: None,
            registered_unix_ms: now(),
        };
        Ok(Brought {
            registration,
            ak_name,
            notes,
        })
    }
}

/// Whether a registration says what the row says. How its TPM is known may have changed.
fn is_same(present: &KeylimeRegistration, brought: &KeylimeRegistration) -> bool {
    let details = KeylimeDetails {
        vouch: present.details.vouch,
        ..brought.details.clone()
    };
    present.standing == KeylimeStanding::Active
        && present.ek_public == brought.ek_public
        && present.ak_public == brought.ak_public
        && present.details == details
}

/// The column that an error of the checks is about.
fn column_of(code: &str) -> &'static str {
    match code {
        _ if code.starts_with("ak.") => "aik_tpm",
        _ if code.starts_with("device.") => "iak_cert",
        "ek.malformed" => "ek_tpm",
        _ => "ekcert",
    }
}

fn bytes(row: &SourceRow, column: &'static str) -> Result<Option<Vec<u8>>, Found> {
    let text = row.text(column)?.filter(|text| !text.is_empty());
    let decoded = text.map(|text| BASE64.decode(text)).transpose();
    decoded.map_err(|_| Found::of_column(column, "column.base64", format!("{column} is no base64")))
}

fn needed_bytes(row: &SourceRow, column: &'static str) -> Result<Vec<u8>, Found> {
    row.needed(column)?;
    Ok(bytes(row, column)?.unwrap_or_default())
}

fn certificate(row: &SourceRow, column: &'static str) -> Result<Option<Vec<u8>>, Found> {
    let text = row.text(column)?.filter(|text| !text.is_empty());
    let read = text.map(certificate_of).transpose();
    read.map_err(|error| Found::of_column(column, error.code(), format!("{column}: {error}")))
}

/// IAK and IDevID: both with their certificates, or nothing of it.
fn device(row: &SourceRow) -> Result<Option<KeylimeDevice>, Found> {
    let parts = (
        bytes(row, "iak_tpm")?,
        certificate(row, "iak_cert")?,
        bytes(row, "idevid_tpm")?,
        certificate(row, "idevid_cert")?,
    );
    match parts {
        (None, None, None, None) => Ok(None),
        (
            Some(iak_public),
            Some(iak_certificate),
            Some(idevid_public),
            Some(idevid_certificate),
        ) => Ok(Some(KeylimeDevice {
            iak_public,
            iak_certificate,
            idevid_public,
            idevid_certificate,
        })),
        _ => {
            let detail = "iak_tpm, iak_cert, idevid_tpm and idevid_cert belong together";
            Err(Found::of_column("iak_tpm", "device.missing", detail))
        }
    }
}

/// Where an agent is reached.
pub(super) fn host(row: &SourceRow) -> Result<Option<String>, Found> {
    let text = row.text("ip")?.filter(|text| !text.is_empty());
    match text {
        Some(text) if !is_host(text) => {
            let detail = "ip is neither an address nor a name";
            Err(Found::of_column("ip", "ip.malformed", detail))
        }
        text => Ok(text.map(str::to_owned)),
    }
}

pub(super) fn port(row: &SourceRow) -> Result<Option<u16>, Found> {
    let port = row.number("port", 65_535)?.filter(|port| *port > 0);
    Ok(port.and_then(|port| u16::try_from(port).ok()))
}

fn mtls_cert(row: &SourceRow) -> Result<KeylimeMtlsCertificate, Found> {
    if row.text("mtls_cert")? == Some("disabled") {
        return Ok(KeylimeMtlsCertificate::Disabled);
    }
    Ok(match certificate(row, "mtls_cert")? {
        Some(der) => KeylimeMtlsCertificate::Certificate(der),
        None => KeylimeMtlsCertificate::Absent,
    })
}
