//! Every copy is restored with stock tools alone: the very lines of docs/restore-without-holdfast.md.

use std::io::Write;

use super::*;

const PAGE: &str = include_str!("../../../docs/restore-without-holdfast.md");
const SCRIPT: &str = include_str!("../../../e2e/demo/restore-without-holdfast.sh");
const WORDS: &str = "correct horse battery staple";

/// The lines of a block of the page.
fn block(name: &str) -> String {
    let (_, after) = PAGE.split_once(&format!("<!-- test: {name} -->\n\n")).unwrap();
    let lines = after.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
    let lines = lines.map(|line| format!("{}\n", line.get(4..).unwrap_or_default()));
    lines.collect::<String>().trim_end().to_owned() + "\n"
}

/// A pod whose store has this encryption, and a copy `shop/shop/run-1` of a database in it.
fn copied(server: &TestServer, database: &str, encryption: &Value) -> Pod {
    let pod = Pod::new();
    server.create(
        database,
        "CREATE TABLE t AS SELECT generate_series(1, 1000) AS id; SELECT lo_create(0)",
    );
    pod.write("identity/passphrase", WORDS);
    let mut backup = pod.backup(server, "run-1", &[database]);
    let store = std::fs::read_to_string(pod.path("store.yaml")).unwrap();
    let mut store: Value = serde_json::from_str(&store).unwrap();
    store["spec"]["encryption"] = encryption.clone();
    pod.write("store.yaml", &store.to_string());
    let output = done(&mut backup);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    pod
}

/// Runs lines of the page in the pod's folder, with what they leave open filled in, at a terminal where `typed` is typed once it is asked for.
fn follow(pod: &Pod, server: &TestServer, database: &str, lines: &str, typed: &str) -> (bool, String) {
    let lines = lines
        .replace("remote:bucket/prefix", "volume")
        .replace("NAMESPACE/SOURCE", "shop/shop")
        .replace("RUN", "run-1")
        .replace("DATABASE", database);
    let lines = pod.write("lines.sh", &format!("set -euo pipefail\nPATH={}:$PATH\n{lines}", tools()));
    let mut shell = Command::new("script")
        .args(["-qec", &format!("bash {}", lines.display()), "/dev/null"])
        .current_dir(pod.0.path())
        .env("RCLONE_CONFIG", "/dev/null")
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", server.port().to_string())
        .env("PGUSER", "postgres")
        .env("PGPASSWORD", PASSWORD)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut terminal, mut keyboard) = (shell.stdout.take().unwrap(), shell.stdin.take());
    let (mut shown, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = terminal.read(&mut buffer) {
        shown.extend_from_slice(&buffer[..count]);
        if String::from_utf8_lossy(&shown).contains("Enter passphrase")
            && let Some(mut keyboard) = keyboard.take()
        {
            keyboard.write_all(format!("{typed}\n").as_bytes()).unwrap();
            // It stays open: its end would be the terminal's.
            std::mem::forget(keyboard);
        }
    }
    (shell.wait().unwrap().success(), String::from_utf8_lossy(&shown).into_owned())
}

fn identity(pod: &Pod) -> String {
    let made = Command::new("age-keygen").output().unwrap();
    let text = String::from_utf8(made.stdout).unwrap();
    pod.write("identity.txt", &text);
    text.lines()
        .find_map(|line| line.strip_prefix("# public key: "))
        .unwrap()
        .to_owned()
}

#[test]
fn the_page_is_the_script() {
    assert!(block("script") == SCRIPT, "docs/restore-without-holdfast.md shows another script");
}

#[test]
fn stock_tools_restore_every_copy_as_the_page_says() {
    let server = TestServer::shared();
    let outside = Pod::new();
    let recipient = identity(&outside);
    for (database, encryption) in [
        ("stock_identity", json!({"age": {"recipients": [recipient]}})),
        ("stock_passphrase", json!({"passphrase": {"secretName": "words"}})),
        ("stock_plain", json!({"none": {}})),
        ("stock_rekeyed", json!({"age": {"recipients": [recipient]}})),
    ] {
        let pod = copied(server, database, &encryption);
        let mine = std::fs::read_to_string(outside.path("identity.txt")).unwrap();
        pod.write("identity.txt", &mine);
        if database == "stock_rekeyed" {
            std::fs::create_dir(pod.path("mine")).unwrap();
            pod.write("mine/identity", &mine);
            // From here on another identity lies there.
            let other = identity(&pod);
            let mut rekey = Command::new(env!("CARGO_BIN_EXE_holdfast-agent"));
            rekey
                .args([
                    "rekey",
                    "shop/shop",
                    "--store",
                    "store.yaml",
                    "--store-volume",
                    "volume",
                    "--identity",
                    "mine",
                ])
                .args(["--recipient", &other])
                .current_dir(pod.0.path());
            assert!(done(&mut rekey).status.success());
        }
        pod.write("restore-without-holdfast.sh", &block("script"));
        let (found, shown) = follow(&pod, server, database, &block("find"), "");
        assert!(found && shown.contains("run-1/") && shown.contains(database), "{database}: {shown}");
        let (got, shown) = follow(&pod, server, database, &block("get"), WORDS);
        assert!(got, "{database}: {shown}");
        assert_eq!(shown.contains("Enter passphrase"), database == "stock_passphrase", "{shown}");
        assert!(!pod.path("out/key.txt").exists() && !pod.path("out/part").exists(), "{database}");
        let restored = format!("{database}_restored");
        server.sql("postgres", &format!("DROP DATABASE IF EXISTS {restored}"));
        let (done, shown) = follow(&pod, server, database, &block("restore"), "");
        assert!(done && shown.contains("TABLE DATA public t"), "{database}: {shown}");
        assert_eq!(
            server.sql(
                &restored,
                "SELECT count(*), sum(id), (SELECT count(*) FROM pg_largeobject_metadata) FROM t"
            ),
            "1000|500500|1"
        );
        let globals = std::fs::read_to_string(pod.path("out/globals.sql")).unwrap();
        assert!(globals.contains("CREATE ROLE postgres"), "{globals}");
    }
}

#[test]
fn stock_tools_refuse_a_damaged_part_and_wrong_words() {
    let server = TestServer::shared();
    let pod = copied(server, "stock_damaged", &json!({"passphrase": {"secretName": "words"}}));
    pod.write("restore-without-holdfast.sh", SCRIPT);
    let (got, shown) = follow(&pod, server, "stock_damaged", &block("get"), "other words");
    assert!(!got && shown.contains("incorrect passphrase"), "{shown}");
    let mut parts = Command::new("find");
    parts.arg(pod.path("volume/data")).args(["-name", "00001.*"]);
    for part in String::from_utf8(parts.output().unwrap().stdout).unwrap().lines() {
        let mut bytes = std::fs::read(part).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::set_permissions(part, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(part, bytes).unwrap();
    }
    let (got, shown) = follow(&pod, server, "stock_damaged", &block("get"), WORDS);
    assert!(!got && shown.contains("out/part: FAILED"), "{shown}");
}
