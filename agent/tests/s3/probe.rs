//! The probe and the register, with servers that lie and pods that race.

use super::*;

#[tokio::test]
async fn the_probe_finds_a_real_server_ready() {
    for versions in [false, true] {
        let gateway = if versions { Gateway::versioned() } else { Gateway::start() };
        if versions {
            gateway.enable_versions().await;
        }
        let verdict = gateway.store().probe(&probe_of("a")).await;
        assert_eq!(verdict.reason, Reason::StoreReady, "{verdict:#?}");
        assert_eq!(verdict.report.versioning, Some(versions));
        let said = |name: &str| {
            verdict
                .report
                .checks
                .iter()
                .find(|check| check.name == name)
                .unwrap()
                .message
                .clone()
        };
        assert_eq!(said("Upload"), "the store confirms parts by SHA-256");
        assert_eq!(said("CreateIfAbsent"), "8 creates at once, one won");
        assert_eq!(
            said("CreateAfterDelete"),
            "a name is free after its object was deleted, and is taken once"
        );
        assert!(said("WriterDeletes").starts_with("it may delete"), "{}", said("WriterDeletes"));
        let left = gateway.store().list(&path("probe"), 10).await.unwrap();
        assert_eq!((left.len(), uploads(&gateway).await), (0, 0));
        let foreign = gateway.store().probe(&probe_of("b")).await;
        assert_eq!(foreign.reason, Reason::StoreForeign, "{foreign:#?}");
    }
}

#[tokio::test]
async fn the_probe_tells_what_is_wrong() {
    let gateway = Gateway::start();
    let (reason, text) = probed(&store(config_with(&gateway, KEY, "wrong")).unwrap()).await;
    assert_eq!(reason, Reason::StoreAccessDenied, "{text}");
    let mut nowhere = gateway.config();
    nowhere.bucket = "no-such-bucket".into();
    assert_eq!(probed(&store(nowhere).unwrap()).await.0, Reason::BucketNotFound);
    let quick = holdfast_agent::store::Patience {
        total: Duration::from_millis(200),
        ..PATIENCE
    };
    let away = S3::new(config(gateway.directory.path(), &format!("http://{}", free_port()))).unwrap();
    assert_eq!(probed(&Store::new(away, quick, 1)).await.0, Reason::StoreUnreachable);
    let (store, _proxy) = behind(&gateway, |seen: &Seen| {
        if seen.is_put() {
            Act::Answer(403, error("AccessDenied"))
        } else {
            Act::Pass
        }
    })
    .await;
    assert_eq!(probed(&store).await.0, Reason::StoreAccessDenied);
    let (store, _proxy) = behind(&gateway, |_| Act::Date("Fri, 20 Nov 2026 22:10:00 GMT".into())).await;
    assert_eq!(probed(&store).await.0, Reason::ClockSkew);
}

#[tokio::test]
async fn f43_create_if_absent_ignored() {
    // A server that ignores the condition: what has the name is gone by the time the put arrives.
    let gateway = Gateway::start();
    let buckets = gateway.directory.path().join("buckets");
    let (store, _proxy) = behind(&gateway, move |seen: &Seen| {
        if seen.is_put() && seen.headers.contains_key("if-none-match") {
            let _ = std::fs::remove_file(buckets.join(seen.path.trim_start_matches('/')));
        }
        Act::Pass
    })
    .await;
    let (reason, text) = probed(&store).await;
    assert_eq!(reason, Reason::StoreUnsafe, "{text}");
    assert!(text.contains("ignores If-None-Match"), "{text}");
    // One that does not know it.
    let (store, _proxy) = behind(&gateway, |seen: &Seen| {
        if seen.headers.contains_key("if-none-match") {
            Act::Answer(501, error("NotImplemented"))
        } else {
            Act::Pass
        }
    })
    .await;
    let (reason, text) = probed(&store).await;
    assert_eq!(reason, Reason::StoreUnsafe, "{text}");
}

/// Eight pods of one run at once, each with its own connection, half of them behind a network that loses their first put's answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_run_has_one_outcome() {
    let gateway = Gateway::start();
    let pinned = gateway.store().claim("a", "shop/offsite").await.unwrap();
    for round in 0..5 {
        let run = RunPath::new("shop", "db", &format!("run-{round}")).unwrap();
        let pods = (0..8).map(|pod| {
            let (direct, directory, address) = (gateway.store(), gateway.directory.path().to_owned(), gateway.address);
            let (run, pinned) = (run.clone(), pinned.clone());
            tokio::spawn(async move {
                let proxy = Proxy::start(address, first(1, Seen::is_put, Act::LoseAnswer)).await;
                let store = if pod % 2 == 0 {
                    direct
                } else {
                    store(config(&directory, &proxy.endpoint())).unwrap()
                };
                let now = store.now().unwrap_or_else(jiff::Timestamp::now);
                let outcome = Outcome {
                    run,
                    nonce: format!("nonce of {pod}"),
                    by: Label::new("pod", format!("pod-{pod}")).unwrap(),
                    at: now,
                    decision: Decision::Abandoned(Abandonment {
                        reason: "DumpFailed".into(),
                        message: String::new(),
                    }),
                };
                (pod, store.commit(&outcome, &pinned, now + Duration::from_secs(60)).await.unwrap())
            })
        });
        let decided: Vec<_> = futures::future::try_join_all(pods.collect::<Vec<_>>()).await.unwrap();
        let held = gateway.store().outcome(&run).await.unwrap().unwrap().outcome;
        assert!(decided.iter().all(|(_, decided)| decided.outcome == held), "all were told the same");
        let winners: Vec<_> = decided
            .iter()
            .filter(|(_, decided)| decided.ours)
            .map(|(pod, _)| format!("pod-{pod}"))
            .collect();
        assert_eq!(
            winners,
            [held.by.as_str()],
            "round {round}: exactly the one whose bytes lie there was told that they are its own"
        );
    }
}

#[tokio::test]
async fn f44_delete_refused() {
    // A writer has no right to delete: nothing that it does needs one.
    let gateway = Gateway::start();
    let (store, proxy) = behind(&gateway, |seen: &Seen| {
        let abort = seen.query.contains("uploadId=");
        if seen.method == "DELETE" && !abort {
            Act::Answer(403, error("AccessDenied"))
        } else {
            Act::Pass
        }
    })
    .await;
    write(&store, "data/p", &three_pieces()).await.unwrap();
    store.create(&path("catalog/a"), "x".into()).await.unwrap();
    let mut part = store.write_part(path("data/q"));
    part.write(noise(PIECE, 1)).await.unwrap();
    part.write(noise(PIECE, 2)).await.unwrap();
    assert!(part.abort().await);
    assert!(!proxy.seen().iter().any(|seen| seen.method == "DELETE" && seen.query.is_empty()));
    let (reason, text) = probed(&store).await;
    assert_eq!(reason, Reason::StoreReady, "{text}");
    assert!(
        proxy.seen().iter().any(|seen| seen.method == "DELETE" && seen.query.is_empty()),
        "the probe cleans up where it may"
    );
}
