//! When two store objects are for one place.

use crate::{BackupStoreSpec, ClusterBackupStoreSpec, S3Location};

impl BackupStoreSpec {
    /// Equal for stores of one cluster only where they are for the same folder of the same bucket or volume. `namespace` is that of the store.
    pub fn place(&self, namespace: &str) -> String {
        match (&self.s3, &self.volume) {
            (Some(s3), _) => s3.place(namespace),
            (None, Some(volume)) => format!("{namespace} {} {}", volume.claim_name, volume.path.as_deref().unwrap_or_default()),
            (None, None) => String::new(),
        }
    }
}

impl ClusterBackupStoreSpec {
    /// As [`BackupStoreSpec::place`].
    pub fn place(&self) -> String {
        self.s3.place(&self.maintenance.namespace)
    }
}

impl S3Location {
    /// A bucket's name is unique on AWS, and on a server elsewhere. A name with less than two dots in it may be another server in each namespace: pods look
    /// for it in their own first.
    fn place(&self, namespace: &str) -> String {
        let server = self.endpoint.as_deref().unwrap_or_default().to_ascii_lowercase();
        let port = if server.starts_with("https") { ":443" } else { ":80" };
        let server = server.strip_suffix(port).unwrap_or(&server);
        let near = if self.endpoint.is_some() && server.matches('.').count() < 2 {
            namespace
        } else {
            ""
        };
        format!("{server} {near} {} {}", self.bucket, self.prefix.as_deref().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn place(namespace: &str, location: &Value) -> String {
        let kind = if location.get("bucket").is_some() { "s3" } else { "volume" };
        let spec: BackupStoreSpec = serde_json::from_value(json!({kind: location, "encryption": {"none": {}}})).unwrap();
        spec.place(namespace)
    }

    #[test]
    fn one_place_has_one_name() {
        let aws = json!({"bucket": "backups", "prefix": "eu"});
        let far = json!({"bucket": "backups", "endpoint": "https://s3.example.org"});
        for (one, other) in [
            (
                ("shop", &aws),
                ("mail", &json!({"bucket": "backups", "prefix": "eu", "region": "eu-west-1"})),
            ),
            (
                ("shop", &far),
                ("mail", &json!({"bucket": "backups", "endpoint": "https://S3.example.org:443"})),
            ),
            (
                ("shop", &json!({"claimName": "disk"})),
                ("shop", &json!({"claimName": "disk", "runAsUser": 1})),
            ),
        ] {
            assert_eq!(place(one.0, one.1), place(other.0, other.1), "{one:?} {other:?}");
        }
    }

    #[test]
    fn what_may_be_another_place_has_another_name() {
        let near = json!({"bucket": "backups", "endpoint": "http://s3:7070"});
        let volume = json!({"claimName": "disk", "path": "a"});
        let places = [
            place("shop", &json!({"bucket": "backups"})),
            place("shop", &json!({"bucket": "backups", "prefix": "eu"})),
            place("shop", &json!({"bucket": "backups", "prefix": "eu/a"})),
            place("shop", &json!({"bucket": "other"})),
            place("shop", &json!({"bucket": "backups", "endpoint": "https://s3.example.org"})),
            place("shop", &json!({"bucket": "backups", "endpoint": "https://s3.example.org:9000"})),
            place("shop", &near),
            place("mail", &near),
            place("shop", &volume),
            place("mail", &volume),
            place("shop", &json!({"claimName": "disk"})),
        ];
        let different: std::collections::BTreeSet<_> = places.iter().collect();
        assert_eq!(different.len(), places.len(), "{places:#?}");
    }
}
