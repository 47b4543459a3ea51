//! The S3 store against a real server (versitygw), with a proxy between them that misbehaves. The codes are those of the faults that must be survived.

#![allow(clippy::cast_precision_loss, clippy::panic, clippy::unwrap_used, reason = "tests")]

mod gateway;
mod proxy;

use bytes::Bytes;
use futures::TryStreamExt;
use gateway::{BUCKET, Gateway, KEY, PATIENCE, SECRET, Sts, config, free_port, store, write_file, write_keys};
use holdfast_agent::store::{
    Confirmed, Created, Store, StoreError, StorePath, Stored,
    backend::Versioning,
    probe::Probe,
    s3::{Credentials, S3, WebIdentityConfig},
};
use holdfast_crds::{
    Reason,
    document::{Abandonment, Decision, Label, Outcome, RunPath},
};
use proxy::{Act, Proxy, Seen, error};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

const PIECE: usize = 5 << 20;

fn path(text: &str) -> StorePath {
    text.parse().unwrap()
}

/// Bytes that repeat nowhere in a way that hides a swap.
fn noise(length: usize, seed: u64) -> Bytes {
    let mut state = seed | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out.into()
}

fn three_pieces() -> Vec<Bytes> {
    vec![noise(PIECE, 1), noise(PIECE + 3, 2), noise(1000, 3)]
}

async fn write(store: &Store, at: &str, pieces: &[Bytes]) -> Result<Stored, StoreError> {
    let mut part = store.write_part(path(at));
    for piece in pieces {
        part.write(piece.clone()).await?;
    }
    part.finish().await
}

async fn read_all(store: &Store, at: &str) -> Result<Vec<u8>, StoreError> {
    let (_, body) = store.open(&path(at), None, None).await?;
    Ok(body.try_collect::<Vec<_>>().await?.concat())
}

/// A store behind a proxy with this rule.
async fn behind(gateway: &Gateway, rule: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> (Store, Proxy) {
    let proxy = Proxy::start(gateway.address, rule).await;
    (store(config(gateway.directory.path(), &proxy.endpoint())).unwrap(), proxy)
}

/// The given act for the first `count` requests that match.
fn first(count: usize, matches: impl Fn(&Seen) -> bool + Send + Sync + 'static, act: Act) -> impl Fn(&Seen) -> Act + Send + Sync + 'static {
    let met = AtomicUsize::new(0);
    move |seen| {
        if matches(seen) && met.fetch_add(1, Ordering::SeqCst) < count {
            act.clone()
        } else {
            Act::Pass
        }
    }
}

/// Three pieces behind a proxy arrive whole, are confirmed by the server's checksum, and leave no upload behind.
async fn arrives_whole(rule: impl Fn(&Seen) -> Act + Send + Sync + 'static) -> Vec<Seen> {
    let gateway = Gateway::start();
    let (store, proxy) = behind(&gateway, rule).await;
    let pieces = three_pieces();
    let stored = write(&store, "data/p", &pieces).await.unwrap();
    assert_eq!(stored.confirmed, Confirmed::ByStore);
    assert_eq!(read_all(&gateway.store(), "data/p").await.unwrap(), pieces.concat());
    assert_eq!(uploads(&gateway).await, 0);
    proxy.seen()
}

/// Uploads that have begun and not ended.
async fn uploads(gateway: &Gateway) -> usize {
    gateway.store().backend().list_uploads("", None).await.unwrap().items.len()
}

#[tokio::test]
async fn documents_and_parts_on_a_real_server() {
    let gateway = Gateway::start();
    let store = gateway.store();
    assert_eq!(store.read(&path("catalog/a"), 10).await.unwrap(), None);
    assert!(matches!(store.create(&path("catalog/a"), "one".into()).await, Ok(Created::Ours(_))));
    assert!(matches!(store.create(&path("catalog/a"), "two".into()).await, Ok(Created::Theirs(held)) if held.bytes == "one"));
    assert!(gateway.file("prod/eu/catalog/a").is_file(), "it lies under the prefix");

    for (name, pieces) in [("empty", vec![]), ("one", vec![noise(1000, 9)]), ("three", three_pieces())] {
        let at = format!("data/{name}");
        let stored = write(&store, &at, &pieces).await.unwrap();
        assert_eq!(stored.confirmed, Confirmed::ByStore, "{name}");
        assert_eq!(read_all(&store, &at).await.unwrap(), pieces.concat(), "{name}");
    }
    let (meta, body) = store
        .open(&path("data/three"), Some(PIECE as u64 - 10..PIECE as u64 + 10), None)
        .await
        .unwrap();
    assert_eq!(meta.size, 2 * PIECE as u64 + 1003);
    assert_eq!(
        body.try_collect::<Vec<_>>().await.unwrap().concat(),
        three_pieces().concat()[PIECE - 10..PIECE + 10]
    );
    assert!(matches!(
        store.open(&path("data/one"), Some(0..1001), None).await,
        Err(StoreError::Mismatch { .. })
    ));
    let names: Vec<_> = store
        .list(&path("data"), 10)
        .await
        .unwrap()
        .into_iter()
        .map(|meta| (meta.path, meta.size))
        .collect();
    assert_eq!(
        names,
        [
            ("data/empty".into(), 0),
            ("data/one".into(), 1000),
            ("data/three".into(), 2 * PIECE as u64 + 1003)
        ]
    );
    let skew = store.now().unwrap().duration_since(jiff::Timestamp::now()).abs();
    assert!(skew.as_secs() <= 2, "the server's clock is this machine's: {skew:?}");
    assert_eq!(store.backend().versioning().await.unwrap(), Versioning::Disabled);
}

#[tokio::test]
async fn versions_are_read_by_their_id() {
    let gateway = Gateway::versioned();
    gateway.enable_versions().await;
    let store = gateway.store();
    assert_eq!(store.backend().versioning().await.unwrap(), Versioning::Enabled);
    let stored = write(&store, "data/p", &[noise(1000, 1)]).await.unwrap();
    let version = stored.version.unwrap();
    let Created::Ours(held) = store.create(&path("catalog/a"), "one".into()).await.unwrap() else {
        panic!("not ours")
    };
    assert!(held.meta.version.is_some());
    // Deleted by name only: the version stays, and is what we read.
    store.backend().delete("data/p").await.unwrap();
    assert!(matches!(
        store.open(&path("data/p"), None, None).await,
        Err(StoreError::NotFound { .. })
    ));
    let (_, body) = store.open(&path("data/p"), None, Some(&version)).await.unwrap();
    assert_eq!(body.try_collect::<Vec<_>>().await.unwrap().concat(), noise(1000, 1));
}

#[tokio::test]
async fn listings_go_over_pages() {
    let gateway = Gateway::start();
    let store = gateway.store();
    let put = |number: usize| {
        let store = store.clone();
        async move { store.create(&path(&format!("many/{number:04}")), "x".into()).await.map(drop) }
    };
    for chunk in (0..1050).collect::<Vec<_>>().chunks(50) {
        futures::future::try_join_all(chunk.iter().map(|number| put(*number)))
            .await
            .unwrap();
    }
    let all = store.list(&path("many"), 2000).await.unwrap();
    let expected: Vec<_> = (0..1050).map(|number| format!("many/{number:04}")).collect();
    assert_eq!(all.into_iter().map(|meta| meta.path).collect::<Vec<_>>(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_eight_racing_creates_wins() {
    let gateway = Gateway::start();
    for round in 0..10 {
        let racers = (0..8).map(|racer| {
            let (store, at) = (gateway.store(), path(&format!("race/{round}")));
            tokio::spawn(async move { store.create(&at, format!("racer {racer}").into()).await.unwrap() })
        });
        let created = futures::future::try_join_all(racers.collect::<Vec<_>>()).await.unwrap();
        assert_eq!(
            created.iter().filter(|created| matches!(created, Created::Ours(_))).count(),
            1,
            "round {round}"
        );
    }
}

#[derive(Debug)]
struct Loopback;

impl object_store::client::DnsResolver for Loopback {
    fn resolve(&self, host: &str) -> object_store::client::DnsFuture {
        assert_eq!(host, "backups.s3.test");
        Box::pin(async { Ok(vec![std::net::Ipv4Addr::LOCALHOST.into()]) })
    }
}

#[tokio::test]
async fn the_bucket_may_stand_in_the_hosts_name() {
    let gateway = Gateway::with(&["--virtual-domain", "s3.test"], &[]);
    let mut config = gateway.config();
    config.virtual_host = true;
    config.endpoint = Some(format!("http://s3.test:{}", gateway.address.port()));
    let options = object_store::ClientOptions::new().with_dns_resolver(Arc::new(Loopback));
    let store = Store::new(S3::with_options(config, options).unwrap(), PATIENCE, 4);
    write(&store, "data/p", &three_pieces()).await.unwrap();
    assert_eq!(store.list(&path("data"), 10).await.unwrap().len(), 1);
    assert!(gateway.file("prod/eu/data/p").is_file());
}

/// A CA of our own, and a certificate of it for 127.0.0.1.
fn certificates(directory: &std::path::Path) {
    let key = || rcgen::KeyPair::generate().unwrap();
    let (ca_key, server_key) = (key(), key());
    let mut ca = rcgen::CertificateParams::default();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.distinguished_name.push(rcgen::DnType::CommonName, "Holdfast test CA");
    let certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let server = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .unwrap()
        .signed_by(&server_key, &issuer)
        .unwrap();
    std::fs::write(directory.join("ca.crt"), certificate.pem()).unwrap();
    std::fs::write(directory.join("server.crt"), server.pem()).unwrap();
    std::fs::write(directory.join("server.key"), server_key.serialize_pem()).unwrap();
}

#[tokio::test]
async fn a_ca_of_ones_own_is_trusted_and_no_other() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    certificates(ours.path());
    certificates(theirs.path());
    let file = |name: &str| ours.path().join(name).display().to_string();
    let gateway = Gateway::with(&["--cert", &file("server.crt"), "--key", &file("server.key")], &[]);
    let with = |endpoint: &str, ca: Option<&tempfile::TempDir>| {
        let mut config = config(gateway.directory.path(), &format!("{endpoint}{}", gateway.address));
        config.ca_file = ca.map(|directory| directory.path().join("ca.crt"));
        let quick = holdfast_agent::store::Patience {
            total: Duration::from_millis(100),
            ..PATIENCE
        };
        Store::new(S3::new(config).unwrap(), quick, 2)
    };
    let trusted = with("https://", Some(&ours));
    write(&trusted, "data/p", &three_pieces()).await.unwrap();
    assert_eq!(probed(&trusted).await.0, Reason::StoreReady);
    for (name, store) in [
        ("another CA", with("https://", Some(&theirs))),
        ("the system's CAs", with("https://", None)),
    ] {
        let error = store.head(&path("data/p")).await.unwrap_err();
        assert_eq!(error.reason(), Reason::StoreTlsFailed, "{name}: {error}");
        assert!(error.to_string().contains("certificate"), "{name}: {error}");
    }
    assert!(
        with("http://", None).head(&path("data/p")).await.is_err(),
        "plain HTTP to a TLS port"
    );
}

#[tokio::test]
async fn parts_alone_get_the_storage_class() {
    let gateway = Gateway::start();
    let proxy = Proxy::start(gateway.address, |_| Act::Pass).await;
    let mut config = config(gateway.directory.path(), &proxy.endpoint());
    config.storage_class = Some("STANDARD_IA".into());
    let store = store(config).unwrap();
    store.create(&path("catalog/a"), "x".into()).await.unwrap();
    write(&store, "data/one", &[noise(10, 1)]).await.unwrap();
    write(&store, "data/three", &three_pieces()).await.unwrap();
    let classes: Vec<_> = proxy
        .seen()
        .iter()
        .filter(|seen| seen.is_put() || seen.query == "uploads=")
        .map(|seen| {
            (
                seen.path.rsplit('/').next().unwrap().to_owned(),
                seen.headers.get("x-amz-storage-class").cloned(),
            )
        })
        .collect();
    let class = Some("STANDARD_IA".to_owned());
    assert_eq!(
        classes,
        [("a".into(), None), ("one".into(), class.clone()), ("three".into(), class)]
    );
}

#[tokio::test]
async fn wrong_credentials_bucket_and_address_are_told_apart() {
    let gateway = Gateway::start();
    let reason = async |change: fn(&mut holdfast_agent::store::s3::S3Config)| {
        let mut config = gateway.config();
        change(&mut config);
        let store = store(config).unwrap();
        store.list(&path("catalog"), 1).await.unwrap_err()
    };
    let wrong = store(config_with(&gateway, KEY, "wrong"))
        .unwrap()
        .head(&path("a"))
        .await
        .unwrap_err();
    assert_eq!(wrong.reason(), Reason::StoreAccessDenied, "{wrong}");
    let unknown = store(config_with(&gateway, "nobody", SECRET))
        .unwrap()
        .list(&path("a"), 1)
        .await
        .unwrap_err();
    assert!(
        matches!(&unknown, StoreError::Credentials { code, .. } if code == "XAdminUserNotFound"),
        "{unknown}"
    );
    let bucket = reason(|config| config.bucket = "no-such-bucket".into()).await;
    assert_eq!(bucket.reason(), Reason::BucketNotFound, "{bucket}");
    let region = reason(|config| config.region = "eu-west-1".into()).await;
    assert!(region.to_string().contains("us-east-1"), "the right region is told: {region}");
}

fn config_with(gateway: &Gateway, key: &str, secret: &str) -> holdfast_agent::store::s3::S3Config {
    let config = gateway.config();
    write_keys(&gateway.directory.path().join("keys"), key, secret);
    config
}

#[tokio::test]
async fn secrets_stand_in_no_error_and_no_debug_output() {
    let gateway = Gateway::start();
    let config = config_with(&gateway, KEY, "v3ry-s3cret");
    let s3 = S3::new(config.clone()).unwrap();
    let store = Store::new(S3::new(config).unwrap(), PATIENCE, 4);
    let error = store.list(&path("a"), 1).await.unwrap_err();
    let text = format!("{error} {error:?} {store:?} {s3:?} {}", store.describe());
    assert!(!text.contains("v3ry-s3cret"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_rotated_in_flight_are_read_again() {
    let mut gateway = Gateway::start();
    let keys = gateway.directory.path().join("keys");
    let store = gateway.store();
    store.create(&path("catalog/a"), "x".into()).await.unwrap();
    // The server knows the new keys at once, the pod's files a little later.
    tokio::task::block_in_place(|| gateway.rotate("new-key", "new-secret"));
    let late = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        write_keys(&keys, "new-key", "new-secret");
    });
    write(&store, "data/p", &three_pieces()).await.unwrap();
    assert!(matches!(store.create(&path("catalog/b"), "x".into()).await, Ok(Created::Ours(_))));
    late.await.unwrap();
}

/// The server answers before it has read the body, and closes: the answer must not drown in the broken connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_piece_that_is_refused_is_told_apart() {
    let mut gateway = Gateway::start();
    let store = gateway.store();
    let mut part = store.write_part(path("data/p"));
    part.write(noise(PIECE, 1)).await.unwrap();
    part.write(noise(PIECE, 2)).await.unwrap();
    tokio::task::block_in_place(|| gateway.rotate("new-key", "new-secret"));
    let sent = async {
        for seed in 3..20 {
            part.write(noise(3 * PIECE, seed)).await?;
        }
        part.finish().await
    };
    let refused = sent.await.unwrap_err();
    assert_eq!(refused.reason(), Reason::StoreAccessDenied, "{refused}");

    let gateway = Gateway::start();
    let (store, proxy) = behind(&gateway, |seen: &Seen| {
        if seen.is_piece() {
            Act::EarlyAnswer(403, error("AccessDenied"))
        } else {
            Act::Pass
        }
    })
    .await;
    let refused = write(&store, "data/p", &three_pieces()).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::StoreAccessDenied, "{refused} {:?}", proxy.seen().len());
}

#[tokio::test]
async fn f30_slow_down_burst() {
    let count = AtomicUsize::new(0);
    let seen = arrives_whole(move |_| match count.fetch_add(1, Ordering::SeqCst) % 3 {
        0 => Act::Answer(503, error("SlowDown")),
        1 => Act::Answer(500, "<html>not even XML</html>"),
        _ => Act::Pass,
    })
    .await;
    assert!(seen.len() > 15, "each call was made three times");
}

#[tokio::test]
async fn f31_reset_in_mid_part() {
    let seen = arrives_whole(first(5, Seen::is_piece, Act::ResetAfter(PIECE / 2))).await;
    assert!(seen.iter().filter(|seen| seen.is_piece()).count() >= 8);
}

#[tokio::test]
async fn f32_complete_answers_200_with_an_error_in_its_body() {
    let seen = arrives_whole(first(2, Seen::is_complete, Act::Answer(200, error("InternalError")))).await;
    assert_eq!(seen.iter().filter(|seen| seen.is_complete()).count(), 3);
    // An empty 200 is no success either.
    let seen = arrives_whole(first(1, Seen::is_complete, Act::Answer(200, ""))).await;
    assert_eq!(seen.iter().filter(|seen| seen.is_complete()).count(), 2);
}

#[tokio::test]
async fn f33_piece_sent_twice_and_out_of_order() {
    let seen = arrives_whole(|seen| match () {
        () if seen.is_piece() && seen.query.contains("partNumber=1&") => Act::Delay(Duration::from_secs(1)),
        () if seen.is_piece() => Act::Twice,
        () => Act::Pass,
    })
    .await;
    assert_eq!(seen.iter().filter(|seen| seen.is_piece()).count(), 3);
}

#[tokio::test]
async fn f34_complete_succeeded_but_its_answer_was_lost() {
    let seen = arrives_whole(first(1, Seen::is_complete, Act::LoseAnswer)).await;
    assert_eq!(
        seen.iter().filter(|seen| seen.is_complete()).count(),
        2,
        "the second is refused as unknown, and what lies there is compared"
    );
    // The same for a single put and for a document.
    let gateway = Gateway::start();
    let (store, _proxy) = behind(
        &gateway,
        first(1, |seen| seen.is_put() && seen.path.contains("data"), Act::LoseAnswer),
    )
    .await;
    assert_eq!(
        write(&store, "data/p", &[noise(100, 1)]).await.unwrap().confirmed,
        Confirmed::ByStore
    );
    let (store, _proxy) = behind(
        &gateway,
        first(1, |seen| seen.is_put() && seen.path.contains("catalog"), Act::LoseAnswer),
    )
    .await;
    assert!(matches!(store.create(&path("catalog/a"), "x".into()).await, Ok(Created::Ours(_))));
}

#[tokio::test]
async fn f35_abandoned_uploads_are_found_and_aborted() {
    let gateway = Gateway::start();
    let store = gateway.store();
    for name in ["data/a/run/p", "data/b/run/p"] {
        let mut part = store.write_part(path(name));
        part.write(noise(PIECE, 1)).await.unwrap();
        part.write(noise(PIECE, 2)).await.unwrap();
        // As a killed process leaves it.
        std::mem::forget(part);
    }
    assert_eq!(uploads(&gateway).await, 2);
    let next = gateway.store();
    assert_eq!(
        next.abort_leftovers(&path("data/a"), Duration::from_secs(3600)).await.unwrap(),
        0,
        "too young"
    );
    assert_eq!(next.abort_leftovers(&path("data/a"), Duration::ZERO).await.unwrap(), 1);
    assert_eq!(uploads(&gateway).await, 1);
    // The process itself, told to stop, cleans up what it began.
    assert_eq!(store.abort_open().await, 0);
    assert_eq!(uploads(&gateway).await, 0);
}

#[tokio::test]
async fn a_part_that_is_given_up_leaves_no_upload() {
    let gateway = Gateway::start();
    let store = gateway.store();
    let mut part = store.write_part(path("data/p"));
    part.write(noise(PIECE, 1)).await.unwrap();
    part.write(noise(PIECE, 2)).await.unwrap();
    assert_eq!(uploads(&gateway).await, 1);
    assert!(part.abort().await);
    assert_eq!(uploads(&gateway).await, 0);
    assert_eq!(store.head(&path("data/p")).await.unwrap(), None);
}

/// A store whose keys come from an STS, behind a proxy that alone knows them: each exchange of a token gives other keys.
async fn with_web_identity(
    gateway: &Gateway,
    lifetime: Duration,
    valid: impl Fn(&Seen) -> bool + Send + Sync + 'static,
) -> (Store, Proxy, Proxy) {
    let proxy = Proxy::start(gateway.address, move |seen| match seen.headers.get("x-amz-security-token") {
        Some(token) if token.starts_with("session-") && valid(seen) => Act::Resign,
        _ => Act::Answer(400, error("ExpiredToken")),
    })
    .await;
    let exchanges = AtomicUsize::new(0);
    let sts = Proxy::start(gateway.address, move |seen| {
        let fields = ["Action=AssumeRoleWithWebIdentity", "RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fwriter", "WebIdentityToken=header.payload.signature"];
        assert!(seen.query.is_empty(), "tokens do not go into addresses, where logs keep them");
        if !fields.iter().all(|field| seen.body.contains(field)) {
            return Act::Answer(400, "<ErrorResponse><Error><Code>InvalidIdentityToken</Code><Message>no</Message></Error></ErrorResponse>");
        }
        let number = exchanges.fetch_add(1, Ordering::SeqCst) + 1;
        let end = jiff::Timestamp::now() + lifetime;
        let answer = format!(
            "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleWithWebIdentityResult><Audience>x</Audience>\
             <Credentials><AccessKeyId>ASIA{number}</AccessKeyId><SecretAccessKey>secret/{number}</SecretAccessKey><SessionToken>session-{number}</SessionToken>\
             <Expiration>{end}</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
        );
        Act::Answer(200, answer.leak())
    })
    .await;
    let mut config = config(gateway.directory.path(), &proxy.endpoint());
    config.credentials = web_identity(gateway, format!("http://{}/sts", sts.address));
    (store(config).unwrap(), proxy, sts)
}

fn web_identity(gateway: &Gateway, sts_endpoint: String) -> Credentials {
    let token_file = gateway.directory.path().join("token");
    write_file(&token_file, "header.payload.signature\n");
    Credentials::WebIdentity(WebIdentityConfig {
        token_file,
        role_arn: "arn:aws:iam::123456789012:role/writer".to_owned(),
        session_name: "holdfast".to_owned(),
        sts_endpoint: Some(sts_endpoint),
    })
}

#[tokio::test]
async fn f37_keys_expire_in_mid_upload() {
    let gateway = Gateway::start();
    // The first keys end before their time, after the first piece.
    let valid =
        |seen: &Seen| !(seen.headers["x-amz-security-token"] == "session-1" && seen.is_piece() && !seen.query.contains("partNumber=1&"));
    let (store, proxy, sts) = with_web_identity(&gateway, Duration::from_secs(3600), valid).await;
    let pieces = three_pieces();
    write(&store, "data/p", &pieces).await.unwrap();
    assert_eq!(read_all(&gateway.store(), "data/p").await.unwrap(), pieces.concat());
    assert_eq!(proxy.seen().last().unwrap().headers["x-amz-security-token"], "session-2");
    assert_eq!(
        (sts.seen().len(), sts.seen()[0].path.as_str()),
        (2, "/sts"),
        "two pieces were refused, the keys were renewed once"
    );
}

#[tokio::test]
async fn temporary_keys_are_renewed_before_they_end() {
    let gateway = Gateway::start();
    let (store, _proxy, sts) = with_web_identity(&gateway, Duration::from_secs(4), |_| true).await;
    let begun = Instant::now();
    while sts.seen().len() < 3 {
        store.head(&path("data/p")).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(
        begun.elapsed() > Duration::from_secs(5),
        "three sets of keys of four seconds: {:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_token_that_sts_refuses_is_told_apart() {
    let (gateway, sts) = (Gateway::start(), Sts::start());
    let mut config = gateway.config();
    config.credentials = web_identity(&gateway, format!("http://{}", sts.address));
    let refused = store(config.clone()).unwrap().head(&path("a")).await.unwrap_err();
    assert!(
        matches!(refused, StoreError::Credentials { call: "assume role", .. }),
        "{refused:?}"
    );
    assert_eq!(refused.reason(), Reason::StoreAccessDenied);
    assert!(!format!("{refused:?}").contains("payload.signature"));
    config.credentials = web_identity(&gateway, format!("http://{}", free_port()));
    let quick = holdfast_agent::store::Patience {
        total: Duration::from_millis(200),
        ..PATIENCE
    };
    let away = Store::new(S3::new(config).unwrap(), quick, 1).head(&path("a")).await.unwrap_err();
    assert_eq!(away.reason(), Reason::StoreUnreachable, "{away}");
}

#[tokio::test]
async fn f39_reads_that_break_go_on_and_damage_is_seen() {
    let gateway = Gateway::start();
    let bytes = noise(3 << 20, 5);
    write(&gateway.store(), "data/p", std::slice::from_ref(&bytes)).await.unwrap();
    let (store, proxy) = behind(&gateway, first(3, |seen| seen.method == "GET", Act::BreakAnswer(1 << 20))).await;
    assert_eq!(read_all(&store, "data/p").await.unwrap(), bytes);
    let ranges: Vec<_> = proxy
        .seen()
        .into_iter()
        .filter_map(|seen| seen.headers.get("range").cloned())
        .collect();
    assert!(
        !ranges.is_empty() && ranges.iter().all(|range| !range.starts_with("bytes=0-")),
        "{ranges:?}"
    );
    let (store, _proxy) = behind(&gateway, first(1, |seen| seen.method == "GET", Act::FlipAnswer)).await;
    assert_ne!(
        read_all(&store, "data/p").await.unwrap(),
        bytes,
        "the store hands on what it gets; digests are compared above it"
    );
}

#[tokio::test]
async fn f40_quota_full() {
    let gateway = Gateway::start();
    let (store, proxy) = behind(&gateway, |seen: &Seen| {
        if seen.is_piece() {
            Act::Answer(403, error("QuotaExceeded"))
        } else {
            Act::Pass
        }
    })
    .await;
    let error = write(&store, "data/p", &three_pieces()).await.unwrap_err();
    assert_eq!(error.reason(), Reason::StoreFull, "{error}");
    assert!(
        proxy.seen().iter().filter(|seen| seen.is_piece()).count() <= 3,
        "it is not tried again"
    );
    assert_eq!(store.abort_open().await, 0);
    assert_eq!(uploads(&gateway).await, 0);
}

#[tokio::test]
async fn f41_clock_skew() {
    let gateway = Gateway::start();
    let (store, _proxy) = behind(&gateway, |_| Act::Answer(403, error("RequestTimeTooSkewed"))).await;
    let refused = store.list(&path("catalog"), 1).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::ClockSkew, "{refused}");
    let (store, _proxy) = behind(&gateway, |_| Act::Date("Fri, 20 Nov 2026 22:10:00 GMT".into())).await;
    store.list(&path("catalog"), 1).await.unwrap();
    let now = store.now().unwrap();
    assert!(
        now.duration_since("2026-11-20T22:10:00Z".parse().unwrap()).as_secs() < 5,
        "the store's clock counts: {now}"
    );
}

#[tokio::test]
async fn f42_endpoint_unreachable_and_back() {
    let gateway = Gateway::start();
    let away = store(config(gateway.directory.path(), &format!("http://{}", free_port()))).unwrap();
    let quick = holdfast_agent::store::Patience {
        total: Duration::from_millis(200),
        ..PATIENCE
    };
    let error = Store::new(
        S3::new(config(gateway.directory.path(), &format!("http://{}", free_port()))).unwrap(),
        quick,
        1,
    )
    .create(&path("catalog/a"), "x".into())
    .await
    .unwrap_err();
    assert_eq!(error.reason(), Reason::StoreUnreachable, "{error}");
    assert!(!error.is_ambiguous(), "nothing was sent: {error:?}");
    drop(away);

    // Killed in mid-upload, and back three seconds later.
    let mut gateway = gateway;
    let store = gateway.store();
    let mut part = store.write_part(path("data/p"));
    part.write(noise(PIECE, 1)).await.unwrap();
    part.write(noise(PIECE, 2)).await.unwrap();
    gateway.kill();
    let back = tokio::task::spawn_blocking(move || {
        std::thread::sleep(Duration::from_secs(3));
        gateway.resume();
        gateway
    });
    part.write(noise(PIECE, 3)).await.unwrap();
    part.finish().await.unwrap();
    let gateway = back.await.unwrap();
    assert_eq!(
        read_all(&gateway.store(), "data/p").await.unwrap(),
        [noise(PIECE, 1), noise(PIECE, 2), noise(PIECE, 3)].concat()
    );
}

fn probe_of(cluster: &str) -> Probe {
    Probe {
        uid: Label::new("uid", "0a1b2c3d-0000-4000-8000-000000000001").unwrap(),
        cluster: cluster.to_owned(),
        store: "shop/offsite".to_owned(),
        not_before: None,
    }
}

async fn probed(store: &Store) -> (Reason, String) {
    let verdict = store.probe(&probe_of("a")).await;
    (verdict.reason, format!("{verdict:#?}"))
}

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

#[tokio::test]
async fn f45_ten_kilobytes_per_second() {
    let gateway = Gateway::start();
    let (store, proxy) = behind(
        &gateway,
        |seen: &Seen| if seen.is_put() { Act::Throttle(10_000) } else { Act::Pass },
    )
    .await;
    let begun = Instant::now();
    let stored = write(&store, "data/p", &[noise(360_000, 1)]).await.unwrap();
    assert_eq!(stored.size, 360_000);
    assert!(begun.elapsed() > Duration::from_secs(34), "it took {:?}", begun.elapsed());
    assert_eq!(proxy.seen().iter().filter(|seen| seen.is_put()).count(), 1, "it was sent once");
}

#[test]
fn addresses_that_cannot_be_used_are_refused_with_the_field() {
    let directory = tempfile::tempdir().unwrap();
    for endpoint in [
        "s3.example",
        "ftp://s3.example",
        "https://user:password@s3.example",
        "https://s3.example/path",
        "https://s3.example?x=1",
        "https://",
    ] {
        let error = S3::new(config(directory.path(), endpoint))
            .err()
            .unwrap_or_else(|| panic!("{endpoint} was accepted"))
            .to_string();
        assert!(
            error.contains("spec.s3.endpoint") && error.contains("expected https://host[:port]"),
            "{error}"
        );
    }
    let mut config = config(directory.path(), "https://s3.example");
    config.ca_file = Some(directory.path().join("none"));
    assert!(S3::new(config.clone()).unwrap_err().to_string().contains("spec.s3.caSecretName"));
    std::fs::write(directory.path().join("none"), "no PEM").unwrap();
    assert!(S3::new(config).unwrap_err().to_string().contains("holds no certificate"));
    assert_eq!(BUCKET, "backups");
}
