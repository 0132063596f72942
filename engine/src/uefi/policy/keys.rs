//! Key databases: what PK, KEK, db, dbx and vendor_db hold, against what they may or must hold.

use std::collections::BTreeSet;

use super::breach::{Breach, BreachRule, Breaches};
use super::seen::Seen;
use super::{Guid, Keys};
use crate::uefi::decode::signature_list::{Signature, SignatureList, parse};

/// An owner in both orders of its bytes: reference states that were made with old tools have the
/// wrong one.
fn owner_forms(owner: Guid) -> [Guid; 2] {
    [owner, owner.swapped()]
}

impl Keys {
    /// Every (owner, content) that counts as listed.
    fn listed(&self) -> BTreeSet<(Guid, &[u8])> {
        self.iter()
            .flat_map(|(owner, data)| owner_forms(*owner).map(|owner| (owner, &**data)))
            .collect()
    }

    /// Every signature of these lists must be listed, and every list be of one of these types.
    pub(super) fn allow(
        &self,
        types: &[Guid],
        value: &[u8],
        event: &Seen<'_>,
        breaches: &mut Breaches,
    ) {
        let Some(lists) = lists(value, event, BreachRule::Keys, breaches) else {
            return;
        };
        let listed = self.listed();
        for list in &lists {
            if !types.contains(&list.signature_type) {
                let found = format!("a signature list of type {}", list.signature_type);
                let wanted = "certificates, or digests where the variable may hold them";
                breaches.push(Breach::of_event(BreachRule::Keys, event, &found, wanted));
                continue;
            }
            for signature in &list.signatures {
                self.allow_one(&listed, signature, event, breaches);
            }
        }
    }

    /// One `EFI_SIGNATURE_DATA`, as shim measures the entry that verified an image.
    pub(super) fn allow_single(&self, value: &[u8], event: &Seen<'_>, breaches: &mut Breaches) {
        let Some((owner, data)) = value.split_first_chunk::<16>() else {
            let wanted = "an owner and a certificate";
            breaches.push(Breach::of_event(
                BreachRule::Keys,
                event,
                "too few bytes",
                wanted,
            ));
            return;
        };
        let owner = Guid::from_bytes(*owner);
        self.allow_one(&self.listed(), &Signature { owner, data }, event, breaches);
    }

    fn allow_one(
        &self,
        listed: &BTreeSet<(Guid, &[u8])>,
        signature: &Signature<'_>,
        event: &Seen<'_>,
        breaches: &mut Breaches,
    ) {
        if !listed.contains(&(signature.owner, signature.data)) {
            let found = signature_text(signature.owner, signature.data);
            let wanted = format!("one of {} keys that are listed", self.0.len());
            breaches.push(Breach::of_event(BreachRule::Keys, event, &found, &wanted));
        }
    }

    /// There must be exactly one list, of this type, and everything that is listed must be in it.
    pub(super) fn require(
        &self,
        signature_type: Guid,
        value: &[u8],
        event: &Seen<'_>,
        breaches: &mut Breaches,
    ) {
        let rule = BreachRule::Dbx;
        let Some(lists) = lists(value, event, rule, breaches) else {
            return;
        };
        let [list] = &*lists else {
            let found = format!("{} signature lists", lists.len());
            breaches.push(Breach::of_event(
                rule,
                event,
                &found,
                "one list of SHA-256 digests",
            ));
            return;
        };
        if list.signature_type != signature_type {
            let found = format!("a signature list of type {}", list.signature_type);
            breaches.push(Breach::of_event(rule, event, &found, "SHA-256 digests"));
            return;
        }
        let held: BTreeSet<_> = list
            .signatures
            .iter()
            .map(|it| (it.owner, it.data))
            .collect();
        for (owner, data) in self.iter() {
            let is_held = owner_forms(*owner)
                .iter()
                .any(|owner| held.contains(&(*owner, data)));
            if !is_held {
                let wanted = format!("{} in it", signature_text(*owner, data));
                let found = "a dbx that lacks an entry";
                breaches.push(Breach::of_event(rule, event, found, &wanted));
            }
        }
    }
}

/// The lists of a variable; one without content holds none, and is as wrong as one that cannot be
/// read.
fn lists<'a>(
    value: &'a [u8],
    event: &Seen<'_>,
    rule: BreachRule,
    breaches: &mut Breaches,
) -> Option<Vec<SignatureList<'a>>> {
    match parse(value) {
        Ok(lists) if !lists.is_empty() => Some(lists),
        read => {
            let found = read.map_or_else(
                |error| error.to_string(),
                |_| "an empty variable".to_owned(),
            );
            breaches.push(Breach::of_event(rule, event, &found, "signature lists"));
            None
        }
    }
}

/// Digests in full; of certificates, whose names are the sender's text, the beginning.
fn signature_text(owner: Guid, data: &[u8]) -> String {
    let head = data.get(..data.len().min(32)).unwrap_or_default();
    let rest = data.len().saturating_sub(head.len());
    let more = if rest == 0 {
        String::new()
    } else {
        format!(" and {rest} bytes more")
    };
    format!("{}{more} of owner {owner}", hex::encode(head))
}
