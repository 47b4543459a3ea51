use std::{collections::BTreeMap, fs, path::Path};

use super::*;

fn label(text: &str) -> Label {
    Label::new("test", text).unwrap()
}

fn run() -> RunPath {
    RunPath::new("shop", "orders", "orders-hourly-20261120t2200z-abcd2345").unwrap()
}

fn manifest() -> Manifest {
    let pod = run().pod(label("0b4e7f3c-7b0a-4a55-9f0e-1f2d3c4b5a69"));
    let place = pod.stream(label("database-1"), true);
    Manifest {
        version: FORMAT,
        cluster: "c1".into(),
        source: SourceIdentity {
            namespace: label("shop"),
            name: label("orders"),
        },
        run: RunIdentity {
            name: run().run,
            tick: Some("2026-11-20T22:00:00Z".parse().unwrap()),
            keep_for: None,
            attempt: 1,
            pod: pod.pod.clone(),
        },
        schedule: Some(ScheduleIdentity {
            name: "gold".into(),
            namespace: Some("shop".into()),
            trigger: Some("hourly".into()),
            generation: 3,
            policy_digest: Sha256::of(b"policy"),
        }),
        engine: Engine::Postgresql,
        method: Method::Logical,
        copy_type: "Full".into(),
        parents: vec![],
        server: Server {
            host: "db:5432".into(),
            version: "15.13".into(),
            system_identifier: Some("7412345678901234567".into()),
            standby: false,
            tools: BTreeMap::from([("pg_dump".into(), "15.13".into())]),
        },
        recovery_point: "2026-11-20T22:00:03.25Z".parse().unwrap(),
        streams: vec![Stream {
            name: label("database-1"),
            kind: StreamKind::PostgresqlArchive,
            database: Some("Bücher \"2\"".into()),
            checked: Checked::Structure,
            raw: RawDigest {
                bytes: 10,
                blake3: Blake3::of(b"0123456789"),
            },
            parts: vec![Part {
                object: place.part(1).to_string(),
                bytes: 300,
                sha256: Sha256::of(b"part"),
                decrypted_bytes: 19,
                raw_bytes: 10,
                frames: 1,
            }],
            index: IndexObject {
                object: place.index().to_string(),
                bytes: 200,
                sha256: Sha256::of(b"index"),
                raw: RawDigest {
                    bytes: 5,
                    blake3: Blake3::of(b"lines"),
                },
            },
        }],
        contents: Contents {
            databases: vec![Database {
                name: "Bücher \"2\"".into(),
                stream: label("database-1"),
                bytes: 8_000_000,
                owner: "app".into(),
                encoding: "UTF8".into(),
                settings: BTreeMap::new(),
                extensions: vec![Extension {
                    name: "vector".into(),
                    version: "0.8.0".into(),
                }],
                tables: vec![Table {
                    schema: "public".into(),
                    name: "orders".into(),
                    rows: Some(2),
                }],
                large_objects: None,
                not_copied: Vec::new(),
            }],
            not_copied: vec![NotCopied {
                name: "tmp_1".into(),
                why: "excluded".into(),
            }],
            roles: vec!["app".into()],
            tablespaces: vec![],
        },
        encryption: Encryption::Age {
            recipients: vec![Sha256::of(b"age1store")],
            public_recipient: "age1run".into(),
            key: pod.key(1).to_string(),
        },
        durations: Durations {
            started: "2026-11-20T22:00:02Z".parse().unwrap(),
            finished: "2026-11-20T22:00:09Z".parse().unwrap(),
            phases: BTreeMap::from([("dump".into(), 6800)]),
        },
        not_after: "2026-11-21T04:00:00Z".parse().unwrap(),
        agent: "0.1.0".into(),
    }
}

fn outcome() -> Outcome {
    let manifest = manifest();
    let confirmed = Confirmed::Checksum {
        algorithm: ChecksumAlgorithm::Crc64Nvme,
        value: "AAAAAAAAAAA=".into(),
    };
    let mut stored: Vec<_> = manifest
        .objects()
        .map(|(path, bytes, sha256)| StoredObject {
            path: path.into(),
            bytes,
            sha256,
            confirmed: confirmed.clone(),
            version_id: None,
        })
        .collect();
    let key = manifest.encryption.key().unwrap().to_owned();
    stored.push(StoredObject {
        path: key,
        bytes: 400,
        sha256: Sha256::of(b"key"),
        confirmed: Confirmed::ReadBack {},
        version_id: Some("v1".into()),
    });
    Outcome {
        run: run(),
        nonce: "n".into(),
        by: manifest.run.pod.clone(),
        at: "2026-11-20T22:00:10Z".parse().unwrap(),
        decision: Decision::Committed(Box::new(Committed::new(manifest, stored))),
    }
}

/// Changes one value of the outcome's JSON.
fn altered(pointer: &str, value: Value) -> Vec<u8> {
    let mut json: Value = serde_json::from_slice(&outcome().to_bytes()).unwrap();
    *json.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = value;
    serde_json::to_vec(&json).unwrap()
}

#[test]
fn outcome_is_read_back_as_it_was_written() {
    let outcome = outcome();
    let bytes = outcome.to_bytes();
    assert_eq!(bytes, outcome.to_bytes());
    let read = Outcome::from_bytes(&run(), &bytes).unwrap();
    assert_eq!(read, outcome);
    assert_eq!(read.to_bytes(), bytes);
}

#[test]
fn abandonment_is_read_back_as_it_was_written() {
    let decision = Decision::Abandoned(Abandonment {
        reason: "Cancelled".into(),
        message: "by alice".into(),
    });
    let outcome = Outcome { decision, ..outcome() };
    let read = Outcome::from_bytes(&run(), &outcome.to_bytes()).unwrap();
    assert_eq!(read, outcome);
    assert!(read.committed().is_none());
}

#[test]
fn canonical_bytes_sort_keys_and_keep_every_character() {
    let value = serde_json::json!({"b": [1, {"z": null, "a": "é\"\n"}], "a": u64::MAX});
    assert_eq!(
        String::from_utf8(canonical_bytes(&value)).unwrap(),
        "{\"a\":18446744073709551615,\"b\":[1,{\"a\":\"é\\\"\\n\",\"z\":null}]}"
    );
}

#[test]
fn fields_of_a_later_minor_version_keep_their_place_in_the_digest() {
    let known = Outcome::from_bytes(&run(), &outcome().to_bytes())
        .unwrap()
        .committed()
        .unwrap()
        .manifest_sha256();
    let mut json: Value = serde_json::from_slice(&outcome().to_bytes()).unwrap();
    json["manifest"]["version"] = "1.7".into();
    json["manifest"]["server"]["flavour"] = "vanilla".into();
    let read = Outcome::from_bytes(&run(), &serde_json::to_vec(&json).unwrap()).unwrap();
    let digest = read.committed().unwrap().manifest_sha256();
    assert_ne!(digest, known);
    assert_eq!(digest, Sha256::of(&canonical_bytes(&json["manifest"])));
    // They are still there in what is written for another store.
    let copy = read.committed().unwrap().in_store(vec![]);
    let there = Outcome {
        nonce: "another".into(),
        decision: Decision::Committed(Box::new(copy)),
        ..read
    };
    let written: Value = serde_json::from_slice(&there.to_bytes()).unwrap();
    assert_eq!(written["manifest"], json["manifest"]);
    assert_eq!((&written["nonce"], &written["stored"]), (&"another".into(), &Value::Array(vec![])));
}

#[test]
fn newer_major_versions_are_refused_whatever_else_they_hold() {
    for bytes in [
        altered("/version", "2.0".into()),
        altered("/manifest/version", "2.1".into()),
        br#"{"version":"9.0","x":1}"#.to_vec(),
    ] {
        let error = Outcome::from_bytes(&run(), &bytes).unwrap_err();
        assert!(matches!(error, DocumentError::NewerVersion { .. }), "{error}");
    }
}

#[test]
fn contradictions_are_named() {
    let other = RunPath::new("shop", "orders", "another").unwrap();
    let cases = [
        (Outcome::from_bytes(&other, &outcome().to_bytes()), "runKey"),
        (
            Outcome::from_bytes(&run(), &altered("/manifest/source/name", "users".into())),
            "source and run",
        ),
        (
            Outcome::from_bytes(
                &run(),
                &altered("/manifest/streams/0/parts/0/object", "data/a/b/c/d/e/00001.zst.age".into()),
            ),
            "parts[0].object",
        ),
        (
            Outcome::from_bytes(&run(), &altered("/manifest/streams/0/parts/0/rawBytes", 11.into())),
            "raw.bytes",
        ),
        (
            Outcome::from_bytes(&run(), &altered("/manifest/streams/0/index/object", "../x".into())),
            "index.object",
        ),
        (
            Outcome::from_bytes(&run(), &altered("/manifest/encryption/age/key", "catalog/a/b/c/key-d-1.age".into())),
            "encryption key",
        ),
        (
            Outcome::from_bytes(&run(), &altered("/manifest/contents/databases/0/stream", "gone".into())),
            "contents.databases[0].stream",
        ),
        (Outcome::from_bytes(&run(), &altered("/stored/0/bytes", 1.into())), "stored data/"),
        (Outcome::from_bytes(&run(), &altered("/stored/2/path", "x".into())), "without it"),
        (Outcome::from_bytes(&run(), &altered("/stored", Value::Null)), "abandonment alone"),
        (
            Outcome::from_bytes(&run(), &altered("/manifest/streams/0/raw/blake3", "xyz".into())),
            "64 lower-case",
        ),
        (Outcome::from_bytes(&run(), b"{\"version\":\"1.0\"}"), "missing field"),
        (Outcome::from_bytes(&run(), b"{}"), "field version is missing"),
        (Outcome::from_bytes(&run(), b"<html>"), "read outcome"),
    ];
    for (result, expected) in cases {
        let message = result.unwrap_err().to_string();
        assert!(message.contains(expected), "{message:?} does not name {expected:?}");
    }
}

#[test]
fn words_of_later_versions_are_kept() {
    let read = Outcome::from_bytes(&run(), &altered("/manifest/engine", "oracle".into())).unwrap();
    assert_eq!(read.committed().unwrap().manifest().engine, Engine::Other("oracle".into()));
    assert_eq!(Engine::from("postgresql".to_owned()), Engine::Postgresql);
}

#[test]
fn paths_are_parsed_back_to_what_they_were() {
    let pod = run().pod(label("0b4e7f3c-7b0a-4a55-9f0e-1f2d3c4b5a69"));
    let sealed = pod.stream(label("globals"), true);
    let plain = pod.stream(label("globals"), false);
    let base = "shop/orders/orders-hourly-20261120t2200z-abcd2345";
    let uid = &pod.pod;
    let table = [
        (ObjectPath::Owner { epoch: 12 }, "owner/12.json".to_owned()),
        (
            ObjectPath::Probe {
                store: label("s"),
                name: label("race-1"),
            },
            "probe/s/race-1".to_owned(),
        ),
        (run().outcome(), format!("catalog/{base}/outcome.json")),
        (pod.key(1), format!("catalog/{base}/key-{uid}-1.age")),
        (sealed.part(7), format!("data/{base}/{uid}/globals/00007.zst.age")),
        (plain.part(99_999), format!("data/{base}/{uid}/globals/99999.zst")),
        (sealed.index(), format!("data/{base}/{uid}/globals/index.zst.age")),
        (
            ObjectPath::Record {
                run: run(),
                ulid: "01JD5Z6V7W8X9Y0Z1A2B3C4D5E".parse().unwrap(),
                what: label("removed"),
            },
            format!("catalog/{base}/01JD5Z6V7W8X9Y0Z1A2B3C4D5E-removed.json"),
        ),
        (
            ObjectPath::SourceRecord {
                namespace: label("shop"),
                source: label("orders"),
                ulid: "01JD5Z6V7W8X9Y0Z1A2B3C4D5E".parse().unwrap(),
                what: label("policy"),
            },
            "catalog/shop/orders/01JD5Z6V7W8X9Y0Z1A2B3C4D5E-policy.json".to_owned(),
        ),
        (
            ObjectPath::Hold {
                hold: label("htax-0123456789abcdef"),
                ulid: "01JD5Z6V7W8X9Y0Z1A2B3C4D5E".parse().unwrap(),
                what: label("place"),
            },
            "holds/htax-0123456789abcdef/01JD5Z6V7W8X9Y0Z1A2B3C4D5E-place.json".to_owned(),
        ),
    ];
    for (path, text) in table {
        assert_eq!(path.to_string(), text);
        assert_eq!(text.parse::<ObjectPath>().unwrap(), path);
    }
}

#[test]
fn paths_that_nothing_here_wrote_are_refused() {
    for text in [
        "",
        "owner/x.json",
        "owner/01.json",
        "catalog/shop/orders/r/outcome.json.bak",
        "catalog/Shop/orders/r/outcome.json",
        "catalog/shop/../r/outcome.json",
        "catalog//orders/r/outcome.json",
        "catalog/shop/orders/r/key-p-01.age",
        "data/shop/orders/r/p/s/7.zst.age",
        "data/shop/orders/r/p/s/00007.zst.gpg",
        "data/shop/orders/r/p/s/-0007.zst",
        "data/shop/orders/r/p/s/index.age",
        "data/shop/orders/r/p/s/x/00001.zst",
        "/owner/1.json",
    ] {
        assert!(text.parse::<ObjectPath>().is_err(), "{text:?} was accepted");
    }
    for text in ["", "-a", "a-", "A", "a.b", "a/b", "..", &"a".repeat(64)] {
        let message = Label::new("source", text).unwrap_err().to_string();
        assert!(message.starts_with("source is "), "{message}");
    }
}

#[test]
fn index_lines_are_read_back_as_they_were_written() {
    let lines = [
        IndexLine::Header(IndexHeader {
            version: FORMAT,
            stream: label("globals"),
            frames: 1,
            entries: 1,
        }),
        IndexLine::Frame(IndexFrame {
            part: 1,
            offset: 0,
            stored: 9,
            raw: 4,
            blake3: Blake3::of(b"frame"),
        }),
        IndexLine::Entry(IndexEntry {
            id: "3412".into(),
            kind: EntryKind::TableData,
            name: "public.orders".into(),
            frame: 0,
            raw_offset: 1,
            length: 3,
            rows: Some(2),
        }),
    ];
    for line in lines {
        assert_eq!(serde_json::from_slice::<IndexLine>(&canonical_bytes(&line)).unwrap(), line);
    }
}

/// The schemas beside the code are those of the code. `HOLDFAST_UPDATE=1 cargo test -p holdfast-crds` writes them.
#[test]
fn schemas_are_those_of_the_documents() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    let schemas = [
        ("outcome", schemars::schema_for!(OutcomeWire)),
        ("manifest", schemars::schema_for!(Manifest)),
        ("index-line", schemars::schema_for!(IndexLine)),
        ("owner", schemars::schema_for!(Owner)),
        ("record", schemars::schema_for!(Record)),
        ("source-record", schemars::schema_for!(SourceRecord)),
        ("hold-record", schemars::schema_for!(HoldRecord)),
    ];
    for (name, schema) in schemas {
        let expected = format!("{}\n", serde_json::to_string_pretty(&schema).unwrap());
        let file = folder.join(format!("{name}.schema.json"));
        if std::env::var_os("HOLDFAST_UPDATE").is_some() {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&file, &expected).unwrap();
        }
        let found = fs::read_to_string(&file).unwrap_or_default();
        assert!(
            found == expected,
            "{} is not what the code says; run HOLDFAST_UPDATE=1 cargo test -p holdfast-crds",
            file.display()
        );
    }
}

#[test]
fn ulids_sort_as_their_times_do() {
    let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
    let early = Ulid::new(at("2026-11-20T22:00:00Z"), [255; 10]);
    let late = Ulid::new(at("2026-11-20T22:00:00.001Z"), [0; 10]);
    assert!(early < late);
    assert_eq!(early.as_str().parse::<Ulid>().unwrap(), early);
    assert_eq!(Ulid::new(at("1969-01-01T00:00:00Z"), [0; 10]).as_str(), "0".repeat(26));
    for text in [
        "",
        "01JD5Z6V7W8X9Y0Z1A2B3C4D5",
        "01JD5Z6V7W8X9Y0Z1A2B3C4D5U",
        "81JD5Z6V7W8X9Y0Z1A2B3C4D5E",
        "01jd5z6v7w8x9y0z1a2b3c4d5e",
    ] {
        assert!(text.parse::<Ulid>().unwrap_err().contains("expected a ULID"), "{text}");
    }
}

#[test]
fn a_record_in_another_place_is_refused() {
    let ulid: Ulid = "01JD5Z6V7W8X9Y0Z1A2B3C4D5E".parse().unwrap();
    let at = "2026-11-20T22:00:00Z".parse().unwrap();
    let record = Record::new(run(), ulid.clone(), label("pod"), at, None, Fact::Held { hold: label("tax") });
    let place = record.path();
    assert_eq!(Record::from_bytes(&place, &record.to_bytes()).unwrap(), record);
    let other = ObjectPath::Record {
        run: run(),
        ulid: ulid.clone(),
        what: label("mark"),
    };
    let error = Record::from_bytes(&other, &record.to_bytes()).unwrap_err();
    assert!(matches!(error, DocumentError::Contradicts { .. }), "{error}");
    let unknown = br#"{"version":"1.3","runKey":"shop/orders/r","ulid":"01JD5Z6V7W8X9Y0Z1A2B3C4D5E","by":"p","at":"2026-11-20T22:00:00Z","fact":{"blessed":{}}}"#;
    assert!(matches!(Record::from_bytes(&place, unknown), Err(DocumentError::Malformed { .. })));
    let newer = br#"{"version":"2.0"}"#;
    assert!(matches!(Record::from_bytes(&place, newer), Err(DocumentError::NewerVersion { .. })));
}

#[test]
fn a_record_of_a_hold_without_terms_is_of_one_with_the_usual_terms() {
    let old = serde_json::json!({"place": {"namespace": "shop", "name": "tax", "placedBy": "ann", "reason": "audit", "scope": {}}});
    let HoldFact::Place { release_by, cool_off, .. } = serde_json::from_value(old).unwrap() else {
        panic!("a placing")
    };
    assert_eq!(
        (release_by, cool_off),
        (crate::ReleaseBy::AnotherPerson, crate::Span::from_hours(24))
    );
}
