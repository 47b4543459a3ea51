//! `verify` and `decrypt` as people run them: a store's manifest, a folder for each Secret, a path.

use std::{fs, sync::Arc};

use age::secrecy::ExposeSecret;
use bytes::Bytes;
use clap::Parser;
use holdfast_crds::AgentResult;
use holdfast_crds::document::{Abandonment, Confirmed, Encryption, Fact, Label, Outcome, Record, Sha256, StoredObject, StreamKind, Ulid};
use tempfile::TempDir;

use super::*;
use crate::command::{decrypt, rekey, replicate, verify};
use crate::pipeline::check::Opaque;
use crate::pipeline::key::{SealTo, seal_key};
use crate::pipeline::tests::{label, manifest_of, noise, pod};
use crate::pipeline::{Pipeline, Sealing};
use crate::store::volume::{Volume, VolumeConfig};

const GLOBALS: &[u8] = b"--\n-- PostgreSQL database cluster dump\n--\n\n--\n-- PostgreSQL database cluster dump complete\n--\n\n";

/// A volume store with one encrypted copy of two streams.
struct Scene {
    root: TempDir,
    copy: String,
    raw: Bytes,
}

#[derive(Debug, Parser)]
struct Verify {
    #[command(flatten)]
    arguments: verify::VerifyArgs,
}

#[derive(Debug, Parser)]
struct Decrypt {
    #[command(flatten)]
    arguments: decrypt::DecryptArgs,
}

#[derive(Debug, Parser)]
struct Rekey {
    #[command(flatten)]
    arguments: rekey::RekeyArgs,
}

#[derive(Debug, Parser)]
struct Replicate {
    #[command(flatten)]
    arguments: replicate::ReplicateArgs,
}

impl Scene {
    async fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for folder in ["volume", "identity", "stranger"] {
            fs::create_dir(at(folder)).unwrap();
        }
        let mine = age::x25519::Identity::generate();
        fs::write(at("identity/identity"), mine.to_string().expose_secret()).unwrap();
        fs::write(
            at("stranger/identity"),
            age::x25519::Identity::generate().to_string().expose_secret(),
        )
        .unwrap();
        let manifest = "apiVersion: holdfast.dev/v1alpha1\nkind: BackupStore\nmetadata: {name: offsite}\n\
                        spec: {volume: {claimName: backups, path: a}, encryption: {age: {recipients: [RECIPIENT]}}}\n";
        fs::write(at("store.yaml"), manifest.replace("RECIPIENT", &mine.to_public().to_string())).unwrap();

        let volume = Volume::open(&VolumeConfig {
            mount: at("volume"),
            path: Some("a".into()),
            created: None,
        })
        .unwrap();
        let store = Store::new(volume, Patience::PROBE, 2);
        let key = RunKey::generate();
        let pipeline = Pipeline::new(
            store.clone(),
            Pool::new(0, 1),
            Sealing::Age(key.recipient()),
            CancellationToken::new(),
            Arc::default(),
        );
        let raw = noise(3 << 20, 1);
        let (mut streams, mut stored) = (Vec::new(), Vec::new());
        for (name, kind, database, bytes) in [
            ("globals", StreamKind::PostgresqlGlobals, None, GLOBALS),
            ("database-1", StreamKind::Other("noise".into()), Some("Bücher".to_owned()), &raw[..]),
        ] {
            let done = pipeline
                .store_stream(&pod().stream(label(name), true), bytes, Box::new(Opaque))
                .await
                .unwrap();
            streams.push(done.describe(label(name), kind, database));
            stored.extend(done.stored);
        }
        let path = pod().key(1);
        let sealed = seal_key(&key, &SealTo::recipients([mine.to_public().to_string().as_str()]).unwrap()).unwrap();
        let (bytes, sha256) = (sealed.len() as u64, Sha256::of(&sealed));
        stored.push(StoredObject {
            path: path.to_string(),
            bytes,
            sha256,
            confirmed: Confirmed::ReadBack {},
            version_id: None,
        });
        store.create(&StorePath::from(&path), sealed.into()).await.unwrap();
        let encryption = Encryption::Age {
            recipients: vec![],
            public_recipient: key.recipient().to_string(),
            key: path.to_string(),
        };
        let decision = Decision::Committed(Box::new(Committed::new(manifest_of(streams, encryption), stored)));
        let run = pod().run;
        let outcome = Outcome {
            run: run.clone(),
            nonce: "n".into(),
            by: pod().pod,
            at: "2026-11-20T22:11:00Z".parse().unwrap(),
            decision,
        };
        store
            .create(&StorePath::from(&run.outcome()), outcome.to_bytes().into())
            .await
            .unwrap();

        let given_up = RunPath::new("shop", "orders", "given-up").unwrap();
        let decision = Decision::Abandoned(Abandonment {
            reason: "Cancelled".into(),
            message: "by alice".into(),
        });
        let abandoned = Outcome {
            run: given_up.clone(),
            decision,
            ..outcome
        };
        store
            .create(&StorePath::from(&given_up.outcome()), abandoned.to_bytes().into())
            .await
            .unwrap();
        Self {
            root,
            copy: run.to_string(),
            raw,
        }
    }

    fn arguments(&self, copy: &str, identity: &str, more: &[&str]) -> Vec<String> {
        let at = |name: &str| self.root.path().join(name).display().to_string();
        let fixed = [
            "test".into(),
            copy.into(),
            "--store".into(),
            at("store.yaml"),
            "--store-volume".into(),
            at("volume"),
            "--identity".into(),
            at(identity),
        ];
        fixed.into_iter().chain(more.iter().map(ToString::to_string)).collect()
    }

    async fn verify(&self, copy: &str, identity: &str, more: &[&str]) -> Result<AgentResult, Failure> {
        let arguments = Verify::parse_from(self.arguments(copy, identity, more)).arguments;
        verify::run(arguments, CancellationToken::new(), Progress::default()).await
    }

    async fn decrypt(&self, identity: &str, more: &[&str]) -> Result<Vec<u8>, Failure> {
        let output = self.root.path().join("out");
        let _ = fs::remove_file(&output);
        let more = [more, &["--output", output.to_str().unwrap()]].concat();
        let arguments = Decrypt::parse_from(self.arguments(&self.copy, identity, &more)).arguments;
        decrypt::run(arguments, CancellationToken::new(), Progress::default()).await?;
        Ok(fs::read(output).unwrap())
    }

    /// Seals the key to the stranger, too, with what lies in `identity`.
    async fn rekey(&self, copy: &str, identity: &str) -> Result<AgentResult, Failure> {
        let recipient = recipient(self, "stranger");
        let arguments = Rekey::parse_from(self.arguments(copy, identity, &["--recipient", &recipient])).arguments;
        rekey::run(arguments, CancellationToken::new(), Progress::default()).await
    }

    fn store(&self) -> Store {
        let config = VolumeConfig {
            mount: self.root.path().join("volume"),
            path: Some("a".into()),
            created: None,
        };
        Store::new(Volume::open(&config).unwrap(), Patience::PROBE, 2)
    }

    /// Changes one byte in the middle of the file whose path ends so.
    fn damage(&self, name: &str) {
        let data = self.root.path().join("volume/a").join(pod().data()).join(name);
        let mut bytes = fs::read(&data).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let mut permissions = fs::metadata(&data).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
        fs::set_permissions(&data, permissions).unwrap();
        fs::write(&data, bytes).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_copy_verifies_and_its_streams_come_out() {
    let scene = Scene::new().await;
    for level in ["manifest", "digest", "decode"] {
        let result = scene.verify(&scene.copy, "identity", &["--level", level]).await.unwrap();
        assert_eq!(result.reason, Reason::Succeeded);
        assert!(result.message.contains("5 objects"), "{}", result.message);
    }
    assert_eq!(scene.decrypt("identity", &["--stream", "globals"]).await.unwrap(), GLOBALS);
    assert!(scene.decrypt("identity", &["--database", "Bücher"]).await.unwrap() == scene.raw);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_says_why() {
    let scene = Scene::new().await;
    let decode = ["--level", "decode"];
    for (result, reason, expected) in [
        (
            scene.verify("shop/orders/other", "identity", &[]).await.map(drop),
            Reason::CopyNotFound,
            "shop/orders/other",
        ),
        (
            scene.verify("shop/orders/given-up", "identity", &[]).await.map(drop),
            Reason::CopyNotFound,
            "by alice",
        ),
        (
            scene.verify("orders", "identity", &[]).await.map(drop),
            Reason::InvalidSpec,
            "<namespace>/<source>/<run>",
        ),
        (
            scene.verify(&scene.copy, "stranger", &decode).await.map(drop),
            Reason::WrongKey,
            "recipients of this copy",
        ),
        (
            scene.verify(&scene.copy, "volume", &decode).await.map(drop),
            Reason::KeyMissing,
            "neither identity nor passphrase",
        ),
        (
            scene.decrypt("stranger", &["--stream", "globals"]).await.map(drop),
            Reason::WrongKey,
            "recipients of this copy",
        ),
        (
            scene.decrypt("identity", &[]).await.map(drop),
            Reason::DatabaseNotInCopy,
            "globals (95 bytes), database-1 (database \"Bücher\", 3145728 bytes)",
        ),
    ] {
        let failure = result.unwrap_err();
        assert_eq!(failure.reason, reason, "{}", failure.message);
        assert!(failure.message.contains(expected), "{}", failure.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_whose_keys_were_destroyed_says_so_and_a_record_alone_keeps_nobody_from_reading() {
    let scene = Scene::new().await;
    let at: jiff::Timestamp = "2026-04-20T08:00:00Z".parse().unwrap();
    let fact = Fact::Shredded {
        disposal: "shop/erase".to_owned(),
        basis: "GDPR Art. 17".to_owned(),
    };
    let record = Record::new(
        scene.copy.parse().unwrap(),
        Ulid::new(at, [0; 10]),
        Label::new("pod", "keeper").unwrap(),
        at,
        None,
        fact,
    );
    let store = scene.store();
    let place = record.path().to_string().parse().unwrap();
    store.create(&place, record.to_bytes().into()).await.unwrap();
    assert_eq!(scene.decrypt("identity", &["--stream", "globals"]).await.unwrap(), GLOBALS);

    fs::remove_file(scene.root.path().join("volume/a").join(pod().key(1).to_string())).unwrap();
    for result in [
        scene.decrypt("identity", &["--stream", "globals"]).await.map(drop),
        scene.verify(&scene.copy, "identity", &["--level", "manifest"]).await.map(drop),
    ] {
        let failure = result.unwrap_err();
        assert_eq!(failure.reason, Reason::CopyRemoved, "{}", failure.message);
        let expected = "its keys were destroyed at 2026-04-20T08:00:00Z (disposal shop/erase): ";
        assert!(failure.message.starts_with(expected), "{}", failure.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_by_the_levels_that_read() {
    let scene = Scene::new().await;
    scene.damage("database-1/00001.zst.age");
    assert!(scene.verify(&scene.copy, "identity", &["--level", "manifest"]).await.is_ok());
    for level in ["digest", "decode"] {
        let failure = scene.verify(&scene.copy, "identity", &["--level", level]).await.unwrap_err();
        assert_eq!(failure.reason, Reason::CopyCorrupt);
        assert!(
            failure.message.contains("1 of 5") && failure.message.contains("database-1/00001.zst.age"),
            "{}",
            failure.message
        );
    }
    assert_eq!(
        scene.decrypt("identity", &["--database", "Bücher"]).await.unwrap_err().reason,
        Reason::CopyCorrupt
    );
    assert_eq!(scene.decrypt("identity", &["--stream", "globals"]).await.unwrap(), GLOBALS);
}

/// Another volume is filled by hand: what comes out of it with the key is what went into the first.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_store_that_was_filled_by_hand_gives_back_the_same_bytes() {
    let mut scene = Scene::new().await;
    let at = |name: &str| scene.root.path().join(name);
    fs::create_dir(at("second")).unwrap();
    let second = fs::read_to_string(at("store.yaml"))
        .unwrap()
        .replace("name: offsite", "name: second");
    fs::write(at("second.yaml"), second).unwrap();
    let task = |source: &str, more: &[&str]| {
        let text = |name: &str| at(name).display().to_string();
        let fixed = [
            ("--source", source.to_owned()),
            ("--from", text("store.yaml")),
            ("--from-volume", text("volume")),
            ("--store", text("second.yaml")),
            ("--store-volume", text("second")),
        ];
        let arguments = fixed.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
        let arguments = ["test".to_owned()]
            .into_iter()
            .chain(arguments)
            .chain(more.iter().map(ToString::to_string));
        let arguments = Replicate::parse_from(arguments).arguments;
        crate::config::Invocation::new(arguments.task()?, arguments.places)
    };
    let copy = async |more: &[&str]| {
        let invocation = task("shop/orders", more).unwrap();
        let holdfast_crds::Action::Copy(copy) = &invocation.task.action else {
            panic!("another task")
        };
        replicate::run(&invocation, copy).await.unwrap()
    };
    let preview = copy(&["--preview"]).await;
    assert_eq!((preview.reason, preview.message.as_str()), (Reason::Succeeded, "1 Missing"));
    assert!(!at("second/a/catalog").exists());
    assert_eq!(copy(&[]).await.message, "1 Copied");
    assert_eq!(
        copy(&["--run", &pod().run.run.to_string(), "--type", "Full"]).await.message,
        "1 Present"
    );
    for (source, more, expected) in [
        ("orders", &[][..], "found \"orders\", expected <namespace>/<name>"),
        ("shop/Orders", &[], "source is \"Orders\""),
        ("shop/orders", &["--run", "A"], "run is \"A\""),
    ] {
        let failure = task(source, more).err().unwrap();
        assert_eq!(failure.reason, Reason::InvalidSpec);
        assert!(failure.message.contains(expected), "{}", failure.message);
    }

    fs::rename(at("volume"), at("lost")).unwrap();
    fs::rename(at("second"), at("volume")).unwrap();
    scene.copy = pod().run.to_string();
    let verified = scene.verify(&scene.copy, "identity", &["--level", "decode"]).await.unwrap();
    assert!(verified.message.contains("5 objects"), "{}", verified.message);
    assert!(scene.decrypt("identity", &["--database", "Bücher"]).await.unwrap() == scene.raw);
    let wrong = scene.decrypt("stranger", &["--stream", "globals"]).await.unwrap_err();
    assert_eq!(wrong.reason, Reason::WrongKey);
}

/// Somebody wrote another key over the one of the copy, or deleted it: on a bucket with versions the one that was stored counts.
#[tokio::test]
async fn the_key_of_a_copy_is_read_in_the_version_that_was_written() {
    let root = tempfile::tempdir().unwrap();
    let mine = age::x25519::Identity::generate();
    fs::write(root.path().join("identity"), mine.to_string().expose_secret()).unwrap();
    let to = SealTo::recipients([mine.to_public().to_string().as_str()]).unwrap();
    let memory = crate::store::memory::Memory::new();
    let store = Store::new(memory.clone(), Patience::PROBE, 1);
    let (key, other) = (RunKey::generate(), RunKey::generate());
    let path = pod().key(1);
    let sealed = seal_key(&key, &to).unwrap();
    let crate::store::Created::Ours(held) = store.create(&StorePath::from(&path), sealed.into()).await.unwrap() else {
        panic!("it was there already")
    };
    let stored = held.to_document();
    assert!(stored.version_id.is_some());
    let encryption = Encryption::Age {
        recipients: vec![],
        public_recipient: key.recipient().to_string(),
        key: path.to_string(),
    };
    let copy = Committed::new(manifest_of(vec![], encryption.clone()), vec![stored.clone()]);
    memory.plant(&path.to_string(), seal_key(&other, &to).unwrap());
    let read = run_key(&store, &copy, root.path()).await.unwrap().unwrap();
    assert_eq!(read.recipient().to_string(), key.recipient().to_string());
    memory.hide(&path.to_string());
    assert!(run_key(&store, &copy, root.path()).await.unwrap().is_some());
    // Without the version it is the newest that is read: there is none, and another's would not fit.
    let unversioned = StoredObject {
        version_id: None,
        ..stored
    };
    let copy = Committed::new(manifest_of(vec![], encryption), vec![unversioned]);
    assert_eq!(run_key(&store, &copy, root.path()).await.err().unwrap().reason, Reason::CopyCorrupt);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_a_key_was_sealed_to_later_reads_the_copy_and_so_do_those_before() {
    let scene = Scene::new().await;
    let store = scene.store();
    let level = ["--level", "decode"];
    let refused = scene.verify(&scene.copy, "stranger", &level).await.unwrap_err();
    assert_eq!(refused.reason, Reason::WrongKey);
    // Who cannot open it seals it to nobody.
    let refused = scene.rekey(&scene.copy, "stranger").await.unwrap_err();
    assert_eq!(refused.reason, Reason::WrongKey, "{}", refused.message);
    assert_eq!(keys_beside(&store, &pod()).await.unwrap(), [1]);
    // What somebody put there opens nothing, and takes nobody's place.
    let another = seal_key(
        &RunKey::generate(),
        &SealTo::recipients([recipient(&scene, "stranger").as_str()]).unwrap(),
    )
    .unwrap();
    store.create(&StorePath::from(&pod().key(2)), another.into()).await.unwrap();
    let refused = scene.verify(&scene.copy, "stranger", &level).await.unwrap_err();
    assert_eq!(refused.reason, Reason::WrongKey, "{}", refused.message);

    let (source, _) = scene.copy.rsplit_once('/').unwrap();
    let result = scene.rekey(source, "identity").await.unwrap();
    assert!(result.message.starts_with("sealed the keys of 1 of 1 runs"), "{}", result.message);
    assert_eq!(keys_beside(&store, &pod()).await.unwrap(), [1, 2, 3]);
    for identity in ["identity", "stranger"] {
        let whole = scene.verify(&scene.copy, identity, &level).await.unwrap();
        assert_eq!(whole.reason, Reason::Succeeded, "{identity}");
    }
    // The later one can go on by itself, also where the key that the manifest names was lost.
    fs::remove_file(scene.root.path().join("volume/a").join(pod().key(1).to_string())).unwrap();
    scene.rekey(&scene.copy, "stranger").await.unwrap();
    assert!(scene.decrypt("stranger", &["--database", "Bücher"]).await.unwrap() == scene.raw);
    let lost = scene.decrypt("identity", &["--database", "Bücher"]).await.unwrap_err();
    assert_eq!(lost.reason, Reason::CopyCorrupt, "{}", lost.message);

    // A copy that was removed gets no key.
    let fact = holdfast_crds::document::Fact::Removed {
        reason: "retention".into(),
        mark: None,
    };
    let (run, at) = (pod().run, "2026-11-21T00:00:00Z".parse().unwrap());
    let ulid = holdfast_crds::document::Ulid::new(at, [1; 10]);
    let record = holdfast_crds::document::Record::new(run, ulid, label("keeper"), at, None, fact);
    store.create_record(&record.path(), record.to_bytes()).await.unwrap();
    let result = scene.rekey(source, "stranger").await.unwrap();
    assert!(result.message.starts_with("sealed the keys of 0 of 1 runs"), "{}", result.message);
    for (copy, reason) in [
        ("shop/orders/given-up", Reason::CopyNotFound),
        ("shop/none", Reason::CopyNotFound),
        ("shop", Reason::InvalidSpec),
    ] {
        let refused = scene.rekey(copy, "stranger").await.unwrap_err();
        assert_eq!(refused.reason, reason, "{copy}: {}", refused.message);
    }
}

fn recipient(scene: &Scene, identity: &str) -> String {
    let text = fs::read_to_string(scene.root.path().join(identity).join("identity")).unwrap();
    text.parse::<age::x25519::Identity>().unwrap().to_public().to_string()
}
