//! Several stores of one run or schedule: which is written to first, and whether they can be filled from one another. Pure.

use holdfast_crds::{AgeEncryption, BackupStoreSpec, Encryption, FrozenStore, PassphraseEncryption, Reason, StoreReference};

use super::store::{down, refusal};
use crate::{
    store::{Store, Unusable},
    watch::Caches,
};

/// The most age recipients that one key is sealed to, as the schema has it.
const RECIPIENTS: usize = 16;

/// The first of these stores that is not known to be down, or the first that may be used at all, with the age recipients of all of them.
/// An error where none may be used, or where they cannot be filled from one another.
pub fn choose(caches: &Caches, namespace: &str, stores: &[StoreReference]) -> Result<FrozenStore, (Reason, String)> {
    let found: Vec<Result<Store, Unusable>> = stores.iter().map(|reference| caches.store(namespace, reference)).collect();
    let known: Vec<(&Store, FrozenStore)> = found.iter().flatten().map(|store| (store, store.frozen())).collect();
    let encryption = agreed(known.iter().map(|(_, frozen)| frozen))?;
    let mut usable = known.iter().filter(|(store, _)| refusal(store).is_none());
    let chosen = usable.clone().find(|(store, _)| down(store).is_none()).or_else(|| usable.next());
    if let (Some((_, frozen)), Some(encryption)) = (chosen, encryption) {
        let spec = BackupStoreSpec {
            encryption,
            ..frozen.spec.clone()
        };
        return Ok(FrozenStore { spec, ..frozen.clone() });
    }
    // The first tells why.
    Err(match found.into_iter().next() {
        Some(Ok(store)) => refusal(&store).unwrap_or((Reason::StoreNotProbed, "the store was not tried yet".to_owned())),
        Some(Err(Unusable { reason, message })) => (reason, message),
        None => (Reason::InvalidSpec, "found none; name one".to_owned()),
    })
}

/// Why a store cannot be written to, if so.
pub fn unusable(caches: &Caches, namespace: &str, store: &StoreReference) -> Option<(Reason, String)> {
    match caches.store(namespace, store) {
        Ok(found) => refusal(&found),
        Err(Unusable { reason, message }) => Some((reason, message)),
    }
}

/// How the copies of stores are encrypted that are filled from one another: with age to the recipients of all of them. None of no stores.
pub fn agreed<'a>(mut stores: impl Iterator<Item = &'a FrozenStore>) -> Result<Option<Encryption>, (Reason, String)> {
    let Some(first) = stores.next() else {
        return Ok(None);
    };
    let mut agreed = first.spec.encryption.clone();
    let first = first.reference();
    for store in stores {
        let other = store.reference();
        match (&mut agreed, &store.spec.encryption) {
            (Encryption::None(_), Encryption::None(_)) => {}
            (Encryption::Age(AgeEncryption { recipients, .. }), Encryption::Age(more)) => {
                let more = more
                    .recipients
                    .iter()
                    .filter(|one| !recipients.contains(one))
                    .cloned()
                    .collect::<Vec<_>>();
                recipients.extend(more);
                if recipients.len() > RECIPIENTS {
                    let message = format!(
                        "found {} different age recipients in all the stores together, at most {RECIPIENTS} are possible; take some out",
                        recipients.len()
                    );
                    return Err((Reason::StoresDisagree, message));
                }
            }
            (Encryption::Passphrase(PassphraseEncryption { secret_name }), Encryption::Passphrase(other_secret)) => {
                if *secret_name != other_secret.secret_name {
                    let message = format!(
                        "found the passphrase of Secret {secret_name} in {first} and that of Secret {} in {other}; a copy is the same byte for \
                         byte in all its stores: name the same Secret in both, or use age",
                        other_secret.secret_name
                    );
                    return Err((Reason::StoresDisagree, message));
                }
            }
            (agreed, found) => {
                let message = format!(
                    "found {} in {first} and {} in {other}; a copy is the same byte for byte in all its stores: encrypt all of them in one \
                     way, or give each its own schedule",
                    word(agreed),
                    word(found)
                );
                return Err((Reason::StoresDisagree, message));
            }
        }
    }
    Ok(Some(agreed))
}

const fn word(encryption: &Encryption) -> &'static str {
    match encryption {
        Encryption::Age(_) => "encryption to age recipients",
        Encryption::Passphrase(_) => "encryption with a passphrase",
        Encryption::None(_) => "no encryption",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn together(encryptions: &[Value]) -> Result<Option<Encryption>, (Reason, String)> {
        let store = |(number, encryption): (usize, &Value)| -> FrozenStore {
            let spec = json!({"volume": {"claimName": "c"}, "encryption": encryption});
            serde_json::from_value(json!({"name": format!("s{number}"), "uid": "", "spec": spec})).unwrap()
        };
        let stores: Vec<_> = encryptions.iter().enumerate().map(store).collect();
        agreed(stores.iter())
    }

    #[test]
    fn keys_are_sealed_to_the_recipients_of_all_stores() {
        let both = together(&[
            json!({"age": {"recipients": ["a", "b"], "identitySecretName": "mine"}}),
            json!({"age": {"recipients": ["b", "c"], "identitySecretName": "theirs"}}),
        ]);
        let Some(Encryption::Age(age)) = both.unwrap() else {
            panic!("it is age")
        };
        assert_eq!(age.recipients, ["a", "b", "c"]);
        assert_eq!(age.identity_secret_name.as_deref(), Some("mine"));
    }

    #[test]
    fn stores_that_are_not_encrypted_in_the_same_way_are_refused() {
        let many = |from: u32| -> Vec<String> { (from..from + 9).map(|number| number.to_string()).collect() };
        for (stores, says) in [
            (
                [json!({"none": {}}), json!({"age": {"recipients": ["a"]}})],
                "no encryption in BackupStore s0",
            ),
            (
                [json!({"passphrase": {"secretName": "a"}}), json!({"age": {"recipients": ["a"]}})],
                "with a passphrase in BackupStore s0",
            ),
            (
                [
                    json!({"passphrase": {"secretName": "a"}}),
                    json!({"passphrase": {"secretName": "b"}}),
                ],
                "Secret b in BackupStore s1",
            ),
            (
                [json!({"age": {"recipients": many(0)}}), json!({"age": {"recipients": many(9)}})],
                "found 18 different age recipients",
            ),
        ] {
            let (reason, message) = together(&stores).unwrap_err();
            assert_eq!(reason, Reason::StoresDisagree);
            assert!(message.contains(says), "{message}");
        }
        let same = [
            json!({"passphrase": {"secretName": "a"}}),
            json!({"passphrase": {"secretName": "a"}}),
        ];
        together(&same).unwrap();
        together(&[json!({"none": {}}), json!({"none": {}})]).unwrap();
        assert_eq!(together(&[]).unwrap(), None);
    }
}
