//! A tenant of a store of the cluster, with the bucket policy as the manual prints it: what is in its folders is its own, and nothing else is.

use super::*;
use holdfast_agent::store::s3::S3Config;
use jiff::{SignedDuration, Timestamp};

const MANUAL: &str = include_str!("../../../docs/stores.md");
const HOLDER: &str = "ClusterBackupStore/vault";

fn printed(which: &str) -> serde_json::Value {
    let (_, rest) = MANUAL.split_once(&format!("<!-- policy: {which} -->\n```json\n")).unwrap();
    let (printed, _) = rest.split_once("```").unwrap();
    serde_json::from_str(&printed.replace("arn:aws:iam::111122223333:user/holdfast-", "")).unwrap()
}

/// The policies of the four roles and of the tenant, in one; the writer of maintenance only probes and owns, as the manual says.
fn policy() -> String {
    let mut policy = printed("roles");
    let statements = policy["Statement"].as_array_mut().unwrap();
    let writer = statements.iter_mut().find(|statement| statement["Sid"] == "WriterObjects").unwrap();
    writer["Resource"] = serde_json::json!(["arn:aws:s3:::backups/prod-eu/probe/*", "arn:aws:s3:::backups/prod-eu/owner/*"]);
    statements.extend(printed("tenant")["Statement"].as_array().unwrap().iter().cloned());
    policy.to_string()
}

struct Place {
    gateway: Gateway,
}

impl Place {
    async fn new() -> Self {
        let gateway = Gateway::locked().await;
        gateway.put("?policy=", &policy(), &[]).await;
        Self { gateway }
    }

    fn of(&self, account: &str) -> Store {
        store(S3Config {
            prefix: "prod-eu".to_owned(),
            ..self.gateway.config_of(account)
        })
        .unwrap()
    }
}

#[expect(clippy::needless_pass_by_value, reason = "what was tried is of no further use")]
fn denied<T: std::fmt::Debug>(what: &str, tried: Result<T, StoreError>) {
    assert!(matches!(tried, Err(StoreError::Denied { status: 403, .. })), "{what}: {tried:?}");
}

fn given_up(namespace: &str, run: &str) -> Outcome {
    Outcome {
        run: RunPath::new(namespace, "db", run).unwrap(),
        nonce: format!("{namespace}-{run}"),
        by: Label::new("pod uid", "pod").unwrap(),
        at: Timestamp::now(),
        decision: Decision::Abandoned(Abandonment {
            reason: "DumpFailed".to_owned(),
            message: String::new(),
        }),
    }
}

#[tokio::test]
async fn a_tenant_commits_in_its_own_folders_and_reaches_no_other() {
    let place = Place::new().await;
    let (maintenance, writer, reader) = (place.of("writer"), place.of("shop-writer"), place.of("shop-reader"));
    // Nobody but maintenance makes the place theirs.
    assert!(writer.claim("cluster", HOLDER).await.is_err(), "a tenant cannot own the place");
    let probe = Probe {
        store: HOLDER.to_owned(),
        roles: Roles {
            reader: Some(place.of("reader")),
            keeper: Some(place.of("keeper")),
            pruner: Some(place.of("pruner")),
        },
        ..probe_of("cluster")
    };
    let verdict = maintenance.probe(&probe).await;
    assert_eq!(verdict.reason, Reason::StoreReady, "{verdict:#?}");
    let pinned = writer.claim("cluster", HOLDER).await.unwrap();

    // What a backup and a restore do.
    let not_after = Timestamp::now() + SignedDuration::from_mins(10);
    assert!(
        writer.outcome(&given_up("shop", "run-1").run).await.unwrap().is_none(),
        "an empty register is not a refusal"
    );
    writer.commit(&given_up("shop", "run-1"), &pinned, not_after).await.unwrap();
    let part = write(&writer, "data/shop/db/run-1/p/s/1", &three_pieces()).await.unwrap();
    let (_, body) = reader.open(&part.path, None, part.version.as_deref()).await.unwrap();
    assert_eq!(body.try_collect::<Vec<_>>().await.unwrap().concat(), three_pieces().concat());
    assert!(reader.outcome(&given_up("shop", "run-1").run).await.unwrap().is_some());
    assert_eq!(writer.list(&path("catalog/shop/db"), 10).await.unwrap().len(), 1);

    // Another tenant's, also one whose name begins alike; the records of maintenance; the owner.
    let root = store(S3Config {
        prefix: "prod-eu".to_owned(),
        ..place.gateway.config()
    })
    .unwrap();
    for other in ["mail", "shop2"] {
        for at in [
            format!("catalog/{other}/db/run-1/outcome.json"),
            format!("data/{other}/db/run-1/p/s/1"),
        ] {
            root.create(&path(&at), "theirs".into()).await.unwrap();
            for (account, tenant) in [("writer", &writer), ("reader", &reader)] {
                denied(&format!("{account} reads {at}"), tenant.read(&path(&at), 100).await);
                denied(
                    &format!("{account} lists {at}"),
                    tenant.list(&path(at.rsplit_once('/').unwrap().0), 10).await,
                );
                denied(&format!("{account} lists versions of {at}"), tenant.versions_of(&path(&at)).await);
            }
            let beside = format!("{at}-more");
            denied(&beside, writer.create(&path(&beside), "x".into()).await);
            let (status, _) = place
                .gateway
                .put_as("shop-writer", "shop-writer", &format!("/prod-eu/{at}"), "forged", &[])
                .await;
            assert_eq!(status, 403, "{at} is overwritten");
        }
    }
    for at in ["owner/2.json", "holds/h/record.json", "probe/u/x", "catalog/x", "data/x"] {
        denied(at, writer.create(&path(at), "x".into()).await);
    }
    // Not even its own is deleted, and the reader writes nothing.
    let register = path("catalog/shop/db/run-1/outcome.json");
    for tenant in [&writer, &reader] {
        denied("delete", tenant.backend().delete(register.as_str()).await);
        denied(
            "delete a version",
            tenant.backend().delete_version(part.path.as_str(), part.version.as_deref()).await,
        );
    }
    denied("the reader writes", reader.create(&path("catalog/shop/x"), "x".into()).await);
    // Maintenance has no hand in what tenants write.
    denied(
        "the prober writes a copy",
        maintenance.create(&path("catalog/shop/x"), "x".into()).await,
    );
    let keeper = place.of("keeper");
    let record = path("catalog/shop/db/run-1/01ARZ3NDEKTSV4RRFFQ69G5FAV-retain.json");
    assert!(matches!(keeper.create(&record, "x".into()).await, Ok(Created::Ours(_))));
}
