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
        let other_type = lists
            .iter()
            .find(|list| !types.contains(&list.signature_type));
        if let Some(list) = other_type {
            let found = format!("a signature list of type {}", list.signature_type);
            let wanted = "certificates, or digests where the variable may hold them";
            breaches.push(Breach::of_event(BreachRule::Keys, event, &found, wanted));
        }
        let signatures = lists
            .iter()
            .flat_map(|list| list.signatures.iter().copied());
        self.allow_all(signatures, event, breaches);
    }

    /// One `EFI_SIGNATURE_DATA`, as shim measures the entry that verified an image.
    pub(super) fn allow_single(&self, value: &[u8], event: &Seen<'_>, breaches: &mut Breaches) {
        let Some((owner, data)) = value.split_first_chunk::<16>() else {
            let wanted = "an owner and a certificate";
            let rule = BreachRule::Keys;
            return breaches.push(Breach::of_event(rule, event, "too few bytes", wanted));
        };
        let owner = Guid::from_bytes(*owner);
        self.allow_all([Signature { owner, data }], event, breaches);
    }

    /// Tells the first one that is not listed, and counts the others.
    fn allow_all<'a>(
        &self,
        signatures: impl IntoIterator<Item = Signature<'a>>,
        event: &Seen<'_>,
        breaches: &mut Breaches,
    ) {
        let listed = self.listed();
        let mut others = signatures
            .into_iter()
            .filter(|it| !listed.contains(&(it.owner, it.data)));
        let Some(first) = others.next() else {
            return;
        };
        let found = signature_text(first.owner, first.data, others.count());
        let wanted = format!("one of {} keys that are listed", self.0.len());
        breaches.push(Breach::of_event(BreachRule::Keys, event, &found, &wanted));
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
            let wanted = "one list of SHA-256 digests";
            return breaches.push(Breach::of_event(rule, event, &found, wanted));
        };
        if list.signature_type != signature_type {
            let found = format!("a signature list of type {}", list.signature_type);
            return breaches.push(Breach::of_event(rule, event, &found, "SHA-256 digests"));
        }
        let signatures = list.signatures.iter();
        let held: BTreeSet<_> = signatures.map(|it| (it.owner, it.data)).collect();
        let is_held = |(owner, data): &&(Guid, Box<[u8]>)| {
            let forms = owner_forms(*owner);
            forms.iter().any(|owner| held.contains(&(*owner, data)))
        };
        let mut missing = self.iter().filter(|it| !is_held(it));
        let Some((owner, data)) = missing.next() else {
            return;
        };
        let wanted = signature_text(*owner, data, missing.count());
        let found = "a dbx that lacks entries";
        breaches.push(Breach::of_event(rule, event, found, &wanted));
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
fn signature_text(owner: Guid, data: &[u8], others: usize) -> String {
    let head = data.get(..data.len().min(32)).unwrap_or_default();
    let cut = if head.len() < data.len() { "…" } else { "" };
    let mut text = format!("{}{cut} of owner {owner}", hex::encode(head));
    if others > 0 {
        text.push_str(&format!(" and {others} more"));
    }
    text
}
