//! Every TLS mode, for our own connections and for the tools.

use super::*;

/// A CA, a certificate for `localhost` and one for a client, by openssl.
fn certificates(directory: &Path) {
    let script = r#"
        set -e
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.crt
        cp ca.crt public.crt
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=other -keyout other.key -out other.crt
        mkdir -p client
        for name in server client; do
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$([ $name = client ] && echo certified || echo localhost)" -keyout $name.key -out $name.csr
            [ $name = server ] && echo subjectAltName=DNS:localhost > $name.ext || echo basicConstraints=CA:FALSE > $name.ext
            openssl x509 -req -in $name.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile $name.ext -out $name.crt
        done
        mv client.key client/tls.key; mv client.crt client/tls.crt
        chmod 644 *.crt *.key client/*
    "#;
    let output = Command::new("bash").args(["-c", script]).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn every_tls_mode_demands_what_it_says() {
    if std::env::var_os("HOLDFAST_POSTGRESQL").is_some()
        && TestServer::shared()
            .sql(
                "postgres",
                "SELECT setting FROM pg_config WHERE name = 'CONFIGURE' AND setting ~ 'ssl|openssl'",
            )
            .is_empty()
    {
        eprintln!("the build that HOLDFAST_POSTGRESQL names has no TLS: nothing was tried");
        return;
    }
    let pod = Pod::new();
    certificates(pod.directory.path());
    std::fs::set_permissions(pod.directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let server = TestServer::start(&[]);
    // The server wants a key that only it can read.
    let data = server.directory().join("data");
    for file in ["server.crt", "server.key", "ca.crt"] {
        let copy = data.join(file);
        std::fs::copy(pod.path(file), &copy).unwrap();
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o600)).unwrap();
        let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&data).unwrap());
        std::os::unix::fs::chown(&copy, Some(owner), None).unwrap();
    }
    server.sql(
        "postgres",
        "CREATE ROLE certified LOGIN PASSWORD 'p'; ALTER SYSTEM SET ssl = on; ALTER SYSTEM SET ssl_ca_file = 'ca.crt'; SELECT pg_reload_conf();",
    );
    let hba = data.join("pg_hba.conf");
    let rules = "hostssl all certified all scram-sha-256 clientcert=verify-full\nhostnossl all certified all reject\nhost all all all scram-sha-256\n";
    std::fs::write(&hba, rules).unwrap();
    server.sql("postgres", "SELECT pg_reload_conf()");
    let address = |host: &str| format!("{host}:{}", server.port());
    let (by_name, by_address) = (address("localhost"), address("127.0.0.1"));
    let secured = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let try_it = |host: String, tls: serde_json::Value| {
        let access = pod.access(&[&host], tls);
        async move {
            let session = access.connect(Wanted::Any).await?;
            session.row("look", secured).await.map(|row| row.flag(0))
        }
    };
    // The server may need a moment to take its new settings.
    while try_it(by_name.clone(), serde_json::json!({"mode": "Require"})).await.is_err() {
        tokio::task::yield_now().await;
    }
    let with_ca = |mode: &str| serde_json::json!({"mode": mode, "caSecretName": "ca"});
    assert!(!try_it(by_name.clone(), serde_json::json!({"mode": "Disable"})).await.unwrap());
    assert!(try_it(by_address.clone(), serde_json::json!({"mode": "Require"})).await.unwrap());
    assert!(try_it(by_address.clone(), with_ca("VerifyCa")).await.unwrap());
    assert!(try_it(by_name.clone(), with_ca("VerifyFull")).await.unwrap());
    assert!(
        try_it(by_name.clone(), serde_json::json!({})).await.unwrap(),
        "public roots are the default"
    );
    let (reason, message) = failed(try_it(by_address.clone(), with_ca("VerifyFull")).await);
    assert_eq!(reason, Reason::DatabaseTlsFailed, "{message}");
    std::fs::copy(pod.path("other.crt"), pod.path("ca.crt")).unwrap();
    for mode in ["VerifyCa", "VerifyFull"] {
        let (reason, message) = failed(try_it(by_name.clone(), with_ca(mode)).await);
        assert_eq!(reason, Reason::DatabaseTlsFailed, "{message}");
    }
    assert!(try_it(by_name.clone(), with_ca("Require")).await.unwrap());
    std::fs::copy(pod.path("public.crt"), pod.path("ca.crt")).unwrap();
    std::fs::remove_file(pod.path("public.crt")).unwrap();
    let (reason, message) = failed(try_it(by_name.clone(), serde_json::json!({})).await);
    assert_eq!(reason, Reason::SecretKeyMissing, "{message}");

    pod.login("certified", "p");
    let with_client = serde_json::json!({"mode": "VerifyFull", "caSecretName": "ca", "clientCertificateSecretName": "client"});
    assert!(try_it(by_name.clone(), with_client.clone()).await.unwrap());
    let (reason, _) = failed(try_it(by_name.clone(), with_ca("VerifyFull")).await);
    assert_eq!(reason, Reason::DatabaseLoginFailed);
    // And the tools through libpq.
    let tool = |tls: serde_json::Value| {
        let access = pod.access(&[&by_name], tls);
        let mut dump = Dump::of_database(&pod.tools(), &access, &access.hosts[0], "template1", Span::from_seconds(5)).unwrap();
        async move {
            let (mut stdout, _) = dump.take_stream().unwrap();
            tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await.unwrap();
            dump.finish().await
        }
    };
    tool(with_client).await.unwrap();
    let (reason, message) = failed(tool(with_ca("VerifyFull")).await);
    assert_eq!(reason, Reason::DatabaseLoginFailed, "{message}");
}
