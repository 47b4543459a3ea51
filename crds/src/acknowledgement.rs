//! What a person says about a source: that its protection ends, and that something unusual is as it should be.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    document::{Acceptance, Label, Sha256},
    rule::rule,
};

/// The end of a source's protection, on purpose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retirement {
    /// Who says so: must be the user name of who writes it. It is shown and recorded.
    #[schemars(length(min = 1, max = 256))]
    pub by: String,
    /// Why.
    #[schemars(length(min = 1, max = 512))]
    pub reason: String,
}

/// Something unusual that a person accepts, after which retention goes on. Exactly one of `loss`, `size`, `removal` and `server`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule("(has(self.loss) ? 1 : 0) + (has(self.size) ? 1 : 0) + (has(self.removal) ? 1 : 0) + (has(self.server) ? 1 : 0) == 1",
        "found none or several of loss, size, removal and server; name exactly one, and add an entry for each other")
]))]
pub struct Acknowledgement {
    /// Who accepts it: must be the user name of who writes it. It is shown and recorded.
    #[schemars(length(min = 1, max = 256))]
    pub by: String,
    /// Why.
    #[schemars(length(min = 1, max = 512))]
    pub reason: String,
    /// Copies that were there are gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<AcceptedLoss>,
    /// The newest copy is unlike those before it in size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<AcceptedSize>,
    /// More goes at once than was foreseen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removal: Option<AcceptedRemoval>,
    /// The copies come from another server than before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<AcceptedServer>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AcceptedLoss {
    /// The digest of what was there and what is left of it, as `status.stores[].blocked.message` names it. Another loss has another.
    #[schemars(length(min = 64, max = 64), regex(pattern = "^[0-9a-f]{64}$"))]
    pub set: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AcceptedSize {
    /// The run whose copy it is.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub run: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AcceptedRemoval {
    /// The digest of the set of copies, as `status.stores[].blocked.message` names it.
    #[schemars(length(min = 64, max = 64), regex(pattern = "^[0-9a-f]{64}$"))]
    pub set: String,
}

/// A server that took the place of another: an upgrade, a database that was created again, or the end of a mistake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AcceptedServer {
    /// What told the former server from all others (PostgreSQL: its system identifier), as the message of `IdentityChanged` names it.
    #[schemars(length(min = 1, max = 128))]
    pub was: String,
    /// … and the one that the source is now.
    #[schemars(length(min = 1, max = 128))]
    pub is: String,
}

impl Acknowledgement {
    /// As the keeper knows it; none where nothing, or no digest or name, is there, which the schema rules out.
    pub fn acceptance(&self) -> Option<Acceptance> {
        match (&self.loss, &self.size, &self.removal, &self.server) {
            (Some(loss), None, None, None) => Some(Acceptance::Loss {
                set: loss.set.parse::<Sha256>().ok()?,
            }),
            (None, Some(size), None, None) => Some(Acceptance::Size {
                run: Label::new("run", size.run.as_str()).ok()?,
            }),
            (None, None, Some(removal), None) => Some(Acceptance::Removal {
                set: removal.set.parse::<Sha256>().ok()?,
            }),
            (None, None, None, Some(server)) => Some(Acceptance::Server {
                was: server.was.clone(),
                is: server.is.clone(),
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_accepts_one_thing() {
        let entry = |fields: serde_json::Value| {
            let mut entry = serde_json::json!({"by": "ann", "reason": "upgraded"});
            entry.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            serde_json::from_value::<Acknowledgement>(entry).unwrap().acceptance()
        };
        let server = serde_json::json!({"server": {"was": "7", "is": "8"}});
        let (was, is) = ("7".to_owned(), "8".to_owned());
        assert_eq!(entry(server), Some(Acceptance::Server { was, is }));
        assert_eq!(
            entry(serde_json::json!({"server": {"was": "7", "is": "8"}, "size": {"run": "a"}})),
            None
        );
        assert_eq!(entry(serde_json::json!({})), None);
    }
}
