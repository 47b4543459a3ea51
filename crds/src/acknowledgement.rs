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

/// Something unusual that a person accepts, after which retention goes on. Exactly one of `loss`, `size` and `removal`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule("(has(self.loss) ? 1 : 0) + (has(self.size) ? 1 : 0) + (has(self.removal) ? 1 : 0) == 1",
        "found none or several of loss, size and removal; name exactly one, and add an entry for each other")
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

impl Acknowledgement {
    /// As the keeper knows it; none where nothing, or no digest or name, is there, which the schema rules out.
    pub fn acceptance(&self) -> Option<Acceptance> {
        match (&self.loss, &self.size, &self.removal) {
            (Some(loss), None, None) => Some(Acceptance::Loss {
                set: loss.set.parse::<Sha256>().ok()?,
            }),
            (None, Some(size), None) => Some(Acceptance::Size {
                run: Label::new("run", size.run.as_str()).ok()?,
            }),
            (None, None, Some(removal)) => Some(Acceptance::Removal {
                set: removal.set.parse::<Sha256>().ok()?,
            }),
            _ => None,
        }
    }
}
