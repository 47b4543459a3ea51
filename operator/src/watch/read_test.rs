use holdfast_crds::BackupStore;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::*;

fn store(name: &str, bucket: &Value) -> Value {
    json!({
        "apiVersion": "holdfast.dev/v1alpha1", "kind": "BackupStore",
        "metadata": {"name": name, "namespace": "shop", "resourceVersion": "7",
            // What looks like the end of something, or like its manager, is text.
            "annotations": {"a": r#"}],"managedFields":[{"\"#, "b": "Zürich [{\"managedFields\":[1"},
            "managedFields": [{"manager": "]}\"", "fieldsV1": {"f:spec": {"f:s3": [{}, {"a": "]"}]}}}]},
        "spec": {"s3": {"bucket": bucket}, "credentials": {"secretName": "s3"}, "encryption": {"none": {}}},
    })
}

fn read(text: &[u8], piece: usize) -> serde_json::Result<(Vec<Read<BackupStore>>, ListMeta)> {
    let (mut list, mut found) = (List::new(), Vec::new());
    for piece in text.chunks(piece) {
        list.take(piece, |object| found.push(object))?;
    }
    Ok((found, list.end()?))
}

#[test]
fn a_list_is_read_wherever_it_is_cut() {
    let items = [
        store("a", &json!("backups")),
        store("bad", &json!(["not a text"])),
        store("c", &json!("\\\"")),
    ];
    let before =
        json!({"apiVersion": "v1", "items": items, "kind": "List", "metadata": {"continue": "more", "resourceVersion": "9", "x": [{}]}});
    let after = format!(
        r#"{{ "kind": "List", "metadata": {{"continue":"more","resourceVersion":"9","x":{{"y":[{{}}]}}}}, "items": [ {} ] }}"#,
        items.each_ref().map(Value::to_string).join(" , ")
    );
    for text in [before.to_string(), after] {
        for piece in [1, 2, 3, 7, 64, 1_000, text.len()] {
            let (found, list) = read(text.as_bytes(), piece).unwrap();
            assert_eq!(
                (list.continue_.as_deref(), list.resource_version.as_deref()),
                (Some("more"), Some("9"))
            );
            let [Ok(a), Err(bad), Ok(c)] = &found[..] else {
                panic!("{found:?}")
            };
            assert_eq!((a.name_any().as_str(), c.name_any().as_str()), ("a", "c"));
            assert_eq!(a.annotations()["b"], "Zürich [{\"managedFields\":[1");
            assert!(a.metadata.managed_fields.is_none());
            assert_eq!(bad.metadata.name.as_deref(), Some("bad"));
            assert!(
                bad.error.contains("spec.s3.bucket: ") && bad.error.contains("expected a string"),
                "{}",
                bad.error
            );
        }
    }
}

#[test]
fn a_list_without_objects_has_its_version() {
    for items in ["[]", "null"] {
        let text = format!(r#"{{"items":{items},"metadata":{{"resourceVersion":"9"}}}}"#);
        let (found, list) = read(text.as_bytes(), 5).unwrap();
        assert_eq!((found.len(), list.resource_version.as_deref()), (0, Some("9")));
    }
}

#[test]
fn half_an_answer_is_none() {
    let whole = json!({"items": [store("a", &json!("backups"))], "metadata": {"resourceVersion": "9"}}).to_string();
    for length in 0..whole.len() {
        assert!(read(&whole.as_bytes()[..length], 64).is_err(), "{length}");
    }
    for wrong in ["]", "{}", "no", r#"{"items":[]}"#] {
        assert!(read(wrong.as_bytes(), 64).is_err(), "{wrong}");
    }
}

#[test]
fn events_are_told_apart() {
    let of = |kind: &str, object: &Value| event::<BackupStore>(json!({"type": kind, "object": object}).to_string().as_bytes());
    let good = store("a", &json!("backups"));
    assert!(matches!(of("ADDED", &good), Ok(Event::Applied(Ok(store))) if store.name_any() == "a"));
    assert!(matches!(of("MODIFIED", &store("a", &json!(7))), Ok(Event::Applied(Err(_)))));
    assert!(matches!(of("DELETED", &good), Ok(Event::Deleted(Ok(_)))));
    let bookmark = json!({"kind": "BackupStore", "apiVersion": "holdfast.dev/v1alpha1", "metadata": {"resourceVersion": "12", "creationTimestamp": null}});
    assert!(matches!(of("BOOKMARK", &bookmark), Ok(Event::Bookmark(meta)) if meta.resource_version.as_deref() == Some("12")));
    assert!(matches!(of("ERROR", &json!({"kind": "Status", "code": 410})), Ok(Event::Error(status)) if status.code == Some(410)));
    let unknown = of("MOVED", &good).unwrap_err().to_string();
    assert!(unknown.contains("MOVED"), "{unknown}");
    assert!(event::<BackupStore>(b"{\"type\":\"ADDED\"}").is_err());
}
