//! Getting in: addresses, certificates, keys, and what is said when one of them is wrong.

use super::*;

#[derive(Debug)]
struct Loopback;

impl reqwest::dns::Resolve for Loopback {
    fn resolve(&self, host: reqwest::dns::Name) -> reqwest::dns::Resolving {
        assert_eq!(host.as_str(), "backups.s3.test");
        let addresses: reqwest::dns::Addrs = Box::new(std::iter::once((std::net::Ipv4Addr::LOCALHOST, 0).into()));
        Box::pin(async { Ok(addresses) })
    }
}

#[tokio::test]
async fn the_bucket_may_stand_in_the_hosts_name() {
    let gateway = Gateway::with(&["--virtual-domain", "s3.test"], &[]);
    let mut config = gateway.config();
    config.virtual_host = true;
    config.endpoint = Some(format!("http://s3.test:{}", gateway.address.port()));
    let store = Store::new(S3::with_resolver(config, Some(Arc::new(Loopback))).unwrap(), PATIENCE, 4);
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

/// What a pod's `job.proxy` becomes. Nothing else knows the name of this store.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_reached_through_the_proxy_of_the_environment() {
    let gateway = Gateway::start();
    let proxy = Proxy::start(gateway.address, |_| Act::Pass).await;
    let directory = tempfile::tempdir().unwrap();
    let keys = gateway.config();
    let store = serde_json::json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupStore", "metadata": {"name": "far", "namespace": "shop"},
        "spec": {"s3": {"bucket": keys.bucket, "prefix": "prod/eu", "endpoint": "http://store.invalid:9000"}, "credentials": {"secretName": "s3"},
            "encryption": {"none": {}}}});
    write_file(&directory.path().join("store.yaml"), &store.to_string());
    let mut agent = tokio::process::Command::new(env!("CARGO_BIN_EXE_holdfast-agent"));
    agent
        .args(["probe", "--store", "store.yaml", "--result", "-", "--store-secret"])
        .arg(gateway.directory.path().join("keys"))
        .current_dir(directory.path())
        .env_clear()
        .envs([("HTTP_PROXY", proxy.endpoint()), ("HTTPS_PROXY", proxy.endpoint())]);
    let output = agent.output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let seen = proxy.seen();
    assert!(seen.len() > 5, "{seen:?}");
    assert!(
        seen.iter().all(|seen| seen.path.starts_with("http://store.invalid:9000/backups")),
        "{seen:?}"
    );
}
