//! Seals: what is read back and signed, what is not, and that stock tools agree.

use std::path::Path;
use std::process::Command;

use holdfast_crds::Reason;

use super::*;
use crate::seal::{KEY_FILE, PublicKey, SealKey, look};
use crate::store::faulty::{CallKind, Fault, Faulty};

/// Puts a new key into the place of the Secret.
fn new_key(scene: &Scene) -> PublicKey {
    let directory = scene.places().seal;
    std::fs::create_dir_all(&directory).unwrap();
    openssl(
        Command::new("openssl")
            .args(["genpkey", "-algorithm", "ed25519", "-out"])
            .arg(directory.join(KEY_FILE)),
    );
    SealKey::read(&directory).unwrap().public()
}

fn openssl(command: &mut Command) {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

fn sealing() -> Scene {
    let mut scene = Scene::new(Memory::new());
    scene.spec["seal"] = serde_json::json!({"secretName": "seal"});
    scene
}

fn sealed(said: &Said) -> (i64, Vec<&str>) {
    let lines = said.lines.iter().filter_map(|line| match line {
        KeepLine::Sealed(sealed) => Some(sealed.run.as_str()),
        _ => None,
    });
    (said.result.kept.as_ref().unwrap().sealed, lines.collect())
}

fn keep() -> KeepTask {
    task(|r| r.keep_within = Some("90d".parse().unwrap()))
}

#[tokio::test]
async fn what_is_whole_is_sealed_once_and_told() {
    let scene = sealing();
    let runs = days(&scene, "2026-03-01T02:00:00Z", 3).await;
    let key = new_key(&scene);
    let first = scene.pass(&keep()).await;
    assert_eq!(
        sealed(&first),
        (3, vec![runs[2].run.as_str(), runs[1].run.as_str(), runs[0].run.as_str()]),
        "the newest first"
    );
    assert_eq!(first.result.kept.as_ref().unwrap().seal_key, Some(key.to_string()));
    assert!(scene.what(&runs[0]).ends_with(&["verified", "seal"]), "{:?}", scene.what(&runs[0]));
    let second = scene.pass(&keep()).await;
    assert_eq!((sealed(&second), second.source().sealed), ((3, vec![]), 3));
    assert!(second.source().newest_copies.iter().all(|copy| copy.sealed));
    assert_eq!(second.findings(), [] as [&StoreFinding; 0]);
    // Without spec.seal nothing is said of seals.
    let mut scene = scene;
    scene.spec.as_object_mut().unwrap().remove("seal");
    let kept = scene.pass(&keep()).await.result.kept.unwrap();
    assert_eq!((kept.sealed, kept.seal_key), (0, None));
}

#[tokio::test]
async fn what_is_damaged_is_not_sealed_and_no_longer_good() {
    let scene = sealing();
    let runs = days(&scene, "2026-03-01T02:00:00Z", 2).await;
    new_key(&scene);
    let prefix = runs[0].data();
    // The same number of other bytes: no listing shows it.
    let flips = Faulty::new(scene.memory.clone(), move |call| {
        (call.kind == CallKind::Get && call.path.starts_with(&prefix)).then_some(Fault::Other)
    });
    let said = scene.pass_through(flips, &keep()).await.unwrap();
    assert_eq!(sealed(&said).0, 1);
    let corrupt = said
        .findings()
        .into_iter()
        .find(|finding| finding.reason == Reason::CopyCorrupt)
        .unwrap();
    assert_eq!(corrupt.place.as_deref(), Some(&*runs[0].to_string()));
    assert!(scene.what(&runs[0]).contains(&"verified") && !scene.what(&runs[0]).contains(&"seal"));
    let next = scene.pass(&keep()).await;
    assert_eq!(
        (next.source().good, sealed(&next)),
        (1, (1, vec![])),
        "it is not read again and again"
    );
}

#[tokio::test]
async fn a_seal_that_does_not_verify_is_a_finding_and_a_strangers_counts_for_nothing() {
    let scene = sealing();
    let runs = days(&scene, "2026-03-01T02:00:00Z", 2).await;
    let theirs = new_key(&scene);
    let stranger = SealKey::read(&scene.places().seal).unwrap();
    let manifest = manifest_of(&scene, &runs[0]);
    let plant = |fact: Fact| {
        let record = Record::new(
            runs[0].clone(),
            scene.store().ulid().unwrap(),
            label("thief"),
            scene.now(),
            Some(manifest),
            fact,
        );
        scene.memory.plant(&record.path().to_string(), record.to_bytes());
    };
    plant(stranger.seal(manifest));
    let key = new_key(&scene);
    let said = scene.pass(&keep()).await;
    assert_eq!(sealed(&said).0, 2, "the stranger's did not count: it was sealed again");
    assert_eq!(said.findings(), [] as [&StoreFinding; 0]);
    plant(Fact::Seal {
        key: key.to_string(),
        signature: "00".repeat(64),
    });
    let said = scene.pass(&keep()).await;
    let tampered = said
        .findings()
        .into_iter()
        .find(|finding| finding.reason == Reason::Tampered)
        .unwrap();
    assert!(tampered.message.contains("does not verify"), "{}", tampered.message);
    assert_eq!(sealed(&said).0, 2, "the good seal still counts");

    // A rotation: the old key's seals count while it is named, else all is sealed anew.
    let mut scene = scene;
    let newer = new_key(&scene);
    scene.spec["seal"]["publicKeys"] = serde_json::json!([key.to_string(), theirs.to_string()]);
    assert_eq!(sealed(&scene.pass(&keep()).await), (2, vec![]));
    scene.spec["seal"]["publicKeys"] = serde_json::json!([]);
    assert_eq!(sealed(&scene.pass(&keep()).await).1.len(), 2);
    let records = records_of(&scene, &runs[1]);
    assert_eq!(look(&records, manifest_of(&scene, &runs[1]), &[newer]).by, Some(newer));
}

#[tokio::test]
async fn without_the_private_key_no_pass_is_made_and_the_message_says_what_is_missing() {
    let scene = sealing();
    days(&scene, "2026-03-01T02:00:00Z", 1).await;
    let failure = scene.pass_through(scene.memory.clone(), &keep()).await.err().unwrap();
    assert_eq!(failure.reason, Reason::SecretKeyMissing);
    assert!(
        failure.message.contains("seal.pem") && failure.message.contains("openssl genpkey"),
        "{}",
        failure.message
    );
}

#[tokio::test]
async fn stock_tools_verify_a_seal_as_the_manual_says() {
    let scene = sealing();
    let run = days(&scene, "2026-03-01T02:00:00Z", 1).await.remove(0);
    new_key(&scene);
    scene.pass(&keep()).await;
    let (_, block) = include_str!("../../../../../docs/stores.md")
        .split_once("<!-- seal: verify -->\n```\n")
        .unwrap();
    let (commands, _) = block.split_once("```").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| std::fs::write(directory.path().join(name), bytes).unwrap();
    let objects = scene.memory.objects();
    file("outcome.json", &objects[&run.outcome().to_string()]);
    let seal = objects.iter().find(|(path, _)| path.ends_with("-seal.json")).unwrap().1;
    file("seal.json", seal);
    let private = scene.places().seal.join(KEY_FILE);
    openssl(
        Command::new("openssl")
            .args(["pkey", "-pubout", "-in"])
            .arg(private)
            .arg("-out")
            .arg(directory.path().join("seal.pub")),
    );
    let verify = |at: &Path| {
        Command::new("bash")
            .args(["-euo", "pipefail", "-c", commands])
            .current_dir(at)
            .output()
            .unwrap()
    };
    let verified = verify(directory.path());
    assert!(verified.status.success(), "{verified:?}");
    assert!(String::from_utf8_lossy(&verified.stdout).contains("Signature Verified Successfully"));
    // It can fail.
    let altered = String::from_utf8(objects[&run.outcome().to_string()].to_vec())
        .unwrap()
        .replace("db:5432", "eve:5432");
    file("outcome.json", altered.as_bytes());
    assert!(!verify(directory.path()).status.success());
}

#[tokio::test]
async fn verify_by_hand_demands_a_seal_by_a_key_that_it_is_given() {
    let scene = sealing();
    let run = days(&scene, "2026-03-01T02:00:00Z", 1).await.remove(0);
    let found = async || {
        let (copy, _) = crate::command::copy::find(&scene.store(), &run).await.unwrap();
        crate::command::copy::Found {
            store: scene.store(),
            run: run.clone(),
            copy,
        }
    };
    let key = new_key(&scene);
    let refused = crate::command::verify::sealed(&found().await, &[key]).await.unwrap_err();
    assert_eq!(refused.reason, Reason::Unsealed);
    scene.pass(&keep()).await;
    crate::command::verify::sealed(&found().await, &[key]).await.unwrap();
    let other = new_key(&scene);
    assert_eq!(
        crate::command::verify::sealed(&found().await, &[other]).await.unwrap_err().reason,
        Reason::Unsealed
    );
    crate::command::verify::sealed(&found().await, &[other, key]).await.unwrap();
    let forged = Fact::Seal {
        key: key.to_string(),
        signature: "00".repeat(64),
    };
    let record = Record::new(
        run.clone(),
        scene.store().ulid().unwrap(),
        label("thief"),
        scene.now(),
        None,
        forged,
    );
    scene.memory.plant(&record.path().to_string(), record.to_bytes());
    assert_eq!(
        crate::command::verify::sealed(&found().await, &[key]).await.unwrap_err().reason,
        Reason::Tampered
    );
}

fn records_of(scene: &Scene, run: &RunPath) -> Vec<Record> {
    let objects = scene.memory.objects();
    let records = objects.iter().filter_map(|(path, bytes)| match path.parse() {
        Ok(place @ ObjectPath::Record { .. }) => Record::from_bytes(&place, bytes).ok(),
        _ => None,
    });
    records.filter(|record| record.run_key == *run).collect()
}

fn manifest_of(scene: &Scene, run: &RunPath) -> Sha256 {
    let bytes = &scene.memory.objects()[&run.outcome().to_string()];
    Outcome::from_bytes(run, bytes).unwrap().committed().unwrap().manifest_sha256()
}
