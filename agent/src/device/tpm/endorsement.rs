//! The endorsement key, its certificate, and the attestation key under it.
//!
//! Both keys live at persistent handles. What is found at a handle is taken only when it is the
//! key that would have been put there; a handle that holds something else is an error, and nothing
//! is ever overwritten or evicted.

use rat_engine::crypto::digest;
use rat_engine::hash::HashAlg;
use rat_engine::tpm::Public as PublicArea;
use rat_engine::tpm::attributes::{check_attestation_key, check_endorsement_key};
use rat_engine::tpm::public::PublicKey;
use tss_esapi::abstraction::AsymmetricAlgorithmSelection;
use tss_esapi::abstraction::ek::create_ek_public_from_default_template_2;
use tss_esapi::abstraction::nv;
use tss_esapi::attributes::ObjectAttributesBuilder;
use tss_esapi::handles::{
    KeyHandle, NvIndexTpmHandle, ObjectHandle, PersistentTpmHandle, TpmHandle,
};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::dynamic_handles::Persistent;
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::interface_types::resource_handles::{Hierarchy, NvAuth, Provision};
use tss_esapi::structures::{
    EccPoint, EccScheme, HashScheme, KeyDerivationFunctionScheme, Public, PublicBuilder,
    PublicEccParametersBuilder, PublicKeyRsa, PublicRsaParametersBuilder, RsaExponent, RsaScheme,
    SymmetricDefinitionObject,
};
use tss_esapi::traits::Marshall;
use tss_esapi::{Context, Error as TssError};

use super::connection::Connection;
use super::{Holds, TpmError};
use crate::device::{DeviceError, KeyKind};

/// A key in the TPM, ready to be used, and its `TPMT_PUBLIC`.
pub(super) struct LoadedKey {
    pub(super) handle: KeyHandle,
    pub(super) public: Vec<u8>,
    /// The name that depends on all ancestors too.
    qualified_name: Vec<u8>,
}

impl LoadedKey {
    fn read(connection: &mut Connection, handle: KeyHandle) -> Result<Self, TpmError> {
        let (public, _, qualified_name) =
            connection.run("TPM2_ReadPublic", |context| context.read_public(handle))?;
        let public = public.marshall().map_err(|source| TpmError::Command {
            command: "TPM2_ReadPublic",
            source,
        })?;
        Ok(Self {
            handle,
            public,
            qualified_name: qualified_name.value().to_vec(),
        })
    }

    fn is_of(&self, kind: KeyKind) -> bool {
        PublicArea::parse(&self.public).is_ok_and(|public| match public.key {
            PublicKey::Rsa { key_bits, .. } => kind == KeyKind::Rsa && key_bits == 2048,
            PublicKey::Ecc { curve, .. } => kind == KeyKind::Ecc && curve == 3,
        })
    }
}

/// The endorsement key at `handle`, made there when the handle is free.
pub(super) fn endorsement_key(
    connection: &mut Connection,
    kind: KeyKind,
    handle: PersistentTpmHandle,
) -> Result<LoadedKey, DeviceError> {
    if !connection.is_defined(handle.into())? {
        let transient = create_endorsement_key(connection, kind)?;
        persist(connection, transient.into(), handle)?;
    }
    endorsement_key_at(connection, kind, handle)
}

/// `TPMT_PUBLIC` of the key that [`endorsement_key`] gives. Where the handle is free it stays so:
/// the key is made from the TPM's seed, the same each time, and flushed.
pub(super) fn endorsement_public(
    connection: &mut Connection,
    kind: KeyKind,
    handle: PersistentTpmHandle,
) -> Result<Vec<u8>, DeviceError> {
    if connection.is_defined(handle.into())? {
        return Ok(endorsement_key_at(connection, kind, handle)?.public);
    }
    let transient = create_endorsement_key(connection, kind)?;
    let key = LoadedKey::read(connection, transient);
    flush(connection, transient.into())?;
    Ok(key?.public)
}

fn create_endorsement_key(
    connection: &mut Connection,
    kind: KeyKind,
) -> Result<KeyHandle, TpmError> {
    let template = endorsement_template(kind)?;
    let created = connection.run_with_password("TPM2_CreatePrimary", |context| {
        context.create_primary(
            Hierarchy::Endorsement,
            template.clone(),
            None,
            None,
            None,
            None,
        )
    })?;
    Ok(created.key_handle)
}

fn endorsement_key_at(
    connection: &mut Connection,
    kind: KeyKind,
    handle: PersistentTpmHandle,
) -> Result<LoadedKey, DeviceError> {
    let object = connection.persistent(handle)?;
    let key = LoadedKey::read(connection, object.into())?;
    let fits = key.is_of(kind)
        && PublicArea::parse(&key.public)
            .is_ok_and(|public| check_endorsement_key(&public).is_ok());
    if fits {
        Ok(key)
    } else {
        Err(occupied(handle, Holds::NoEndorsementKey(kind)))
    }
}

/// The attestation key at `handle`, made there when the handle is free.
///
/// # Security
/// That a key found there is a child of this very endorsement key follows from its qualified
/// name, which the TPM computes over the whole ancestry.
pub(super) fn attestation_key(
    connection: &mut Connection,
    kind: KeyKind,
    endorsement: &LoadedKey,
    handle: PersistentTpmHandle,
) -> Result<LoadedKey, DeviceError> {
    if !connection.is_defined(handle.into())? {
        let transient = create_attestation_key(connection, kind, endorsement.handle)?;
        persist(connection, transient.into(), handle)?;
    }
    let object = connection.persistent(handle)?;
    let key = LoadedKey::read(connection, object.into())?;
    let public = PublicArea::parse(&key.public);
    let is_ours = public.is_ok_and(|public| {
        check_attestation_key(&public, false).is_ok()
            && key.qualified_name == child_name(&endorsement.qualified_name, &public)
    });
    if is_ours && key.is_of(kind) {
        Ok(key)
    } else {
        Err(occupied(handle, Holds::NoAttestationKey(kind)))
    }
}

/// The vendor's certificate in DER, if the TPM holds one.
// TCG EK Credential Profile 2.5, 2.2.1.4: indices of the low range.
pub(super) fn certificate(
    connection: &mut Connection,
    kind: KeyKind,
) -> Result<Option<Vec<u8>>, TpmError> {
    let number = match kind {
        KeyKind::Rsa => 0x01c0_0002,
        KeyKind::Ecc => 0x01c0_000a,
    };
    const COMMAND: &str = "TPM2_NV_Read";
    let failed = |source| TpmError::Command {
        command: COMMAND,
        source,
    };
    let index = NvIndexTpmHandle::new(number).map_err(failed)?;
    if !connection.is_defined(TpmHandle::NvIndex(index))? {
        return Ok(None);
    }
    let read = connection.run_with_password(COMMAND, |context| {
        let object =
            context.execute_without_session(|context| context.tr_from_tpm_public(index.into()))?;
        nv::read_full(context, NvAuth::NvIndex(object.into()), index)
    })?;
    Ok(without_padding(read))
}

/// Vendors define indices larger than the certificate and leave 0x00 or 0xff after it. An index
/// that does not begin with a DER sequence is handed over as it is, for the server to refuse.
fn without_padding(mut read: Vec<u8>) -> Option<Vec<u8>> {
    if read.iter().all(|byte| matches!(byte, 0 | 0xff)) {
        return None;
    }
    if let [0x30, 0x82, high, low, ..] = read.as_slice() {
        let length = usize::from(u16::from_be_bytes([*high, *low])).saturating_add(4);
        let padding = read.get(length..).unwrap_or(&[]);
        if padding.iter().all(|byte| matches!(byte, 0 | 0xff)) {
            read.truncate(length);
        }
    }
    Some(read)
}

/// Name of a child whose parent has the qualified name `parent`.
// TPM 2.0 Part 1, 16 "Names": QN = nameAlg ‖ H(QN of the parent ‖ Name)
fn child_name(parent: &[u8], child: &PublicArea<'_>) -> Vec<u8> {
    let message = [parent, &child.name().to_bytes()].concat();
    let hashed = digest(child.name_alg, &message);
    [
        &child.name_alg.tpm_id().to_be_bytes()[..],
        hashed.as_bytes(),
    ]
    .concat()
}

fn create_attestation_key(
    connection: &mut Connection,
    kind: KeyKind,
    endorsement: KeyHandle,
) -> Result<KeyHandle, TpmError> {
    let template = attestation_template(kind).map_err(|source| TpmError::Command {
        command: "TPM2_Create",
        source,
    })?;
    // Each use of the endorsement key needs a policy session of its own.
    let session = connection.endorsement_policy()?;
    let created = connection.run("TPM2_Create", |context| {
        context.execute_with_session(Some(session), |context| {
            context.create(endorsement, template.clone(), None, None, None, None)
        })
    })?;
    let session = connection.endorsement_policy()?;
    connection.run("TPM2_Load", |context| {
        context.execute_with_session(Some(session), |context: &mut Context| {
            context.load(
                endorsement,
                created.out_private.clone(),
                created.out_public.clone(),
            )
        })
    })
}

fn persist(
    connection: &mut Connection,
    object: ObjectHandle,
    handle: PersistentTpmHandle,
) -> Result<(), TpmError> {
    connection.run_with_password("TPM2_EvictControl", |context| {
        context.evict_control(Provision::Owner, object, Persistent::Persistent(handle))
    })?;
    // The transient copy is not needed, and a TPM without a resource manager has few places.
    flush(connection, object)
}

fn flush(connection: &mut Connection, object: ObjectHandle) -> Result<(), TpmError> {
    connection.run("TPM2_FlushContext", |context| context.flush_context(object))
}

fn occupied(handle: PersistentTpmHandle, holds: Holds) -> DeviceError {
    let handle = u32::from(TpmHandle::Persistent(handle));
    TpmError::Occupied { handle, holds }.into()
}

fn endorsement_template(kind: KeyKind) -> Result<Public, TpmError> {
    let algorithm = match kind {
        KeyKind::Rsa => AsymmetricAlgorithmSelection::Rsa(RsaKeyBits::Rsa2048),
        KeyKind::Ecc => AsymmetricAlgorithmSelection::Ecc(EccCurve::NistP256),
    };
    create_ek_public_from_default_template_2(algorithm, None).map_err(|source| TpmError::Command {
        command: "TPM2_CreatePrimary",
        source,
    })
}

fn attestation_template(kind: KeyKind) -> Result<Public, TssError> {
    let attributes = ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_sign_encrypt(true)
        .build()?;
    let builder = PublicBuilder::new()
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes);
    match kind {
        KeyKind::Rsa => builder
            .with_public_algorithm(PublicAlgorithm::Rsa)
            .with_rsa_parameters(
                PublicRsaParametersBuilder::new()
                    .with_symmetric(SymmetricDefinitionObject::Null)
                    .with_scheme(RsaScheme::RsaSsa(HashScheme::new(HashingAlgorithm::Sha256)))
                    .with_key_bits(RsaKeyBits::Rsa2048)
                    .with_exponent(RsaExponent::default())
                    .with_is_signing_key(true)
                    .with_restricted(true)
                    .build()?,
            )
            .with_rsa_unique_identifier(PublicKeyRsa::default())
            .build(),
        KeyKind::Ecc => builder
            .with_public_algorithm(PublicAlgorithm::Ecc)
            .with_ecc_parameters(
                PublicEccParametersBuilder::new()
                    .with_symmetric(SymmetricDefinitionObject::Null)
                    .with_ecc_scheme(EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256)))
                    .with_curve(EccCurve::NistP256)
                    .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
                    .with_is_signing_key(true)
                    .with_restricted(true)
                    .build()?,
            )
            .with_ecc_unique_identifier(EccPoint::default())
            .build(),
    }
}

/// The hash of both attestation keys' schemes.
pub(super) const SCHEME_HASH: HashAlg = HashAlg::Sha256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_after_a_certificate_is_cut_off() {
        let mut der = vec![0x30, 0x82, 0x01, 0x00];
        der.extend([7; 256]);
        for padding in [0x00, 0xff] {
            let padded = [&der[..], &[padding; 40]].concat();
            assert_eq!(without_padding(padded), Some(der.clone()));
        }
        assert_eq!(without_padding(der.clone()), Some(der.clone()));
        // What is no padding stays, so that the server sees and refuses it.
        let followed = [&der[..], &[1, 2, 3]].concat();
        assert_eq!(without_padding(followed.clone()), Some(followed));
        assert_eq!(without_padding(vec![0xff; 800]), None);
        assert_eq!(without_padding(Vec::new()), None);
        let cut = der[..100].to_vec();
        assert_eq!(without_padding(cut.clone()), Some(cut));
    }
}
