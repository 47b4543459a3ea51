use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::core::v1::ConfigMap;

use super::*;

fn object(name: &str, uid: &str, version: &str, owner: &str) -> ConfigMap {
    let mut object = ConfigMap::default();
    object.metadata.namespace = Some("n".to_owned());
    object.metadata.name = Some(name.to_owned());
    object.metadata.uid = Some(uid.to_owned());
    object.metadata.resource_version = Some(version.to_owned());
    object.data = Some([("owner".to_owned(), owner.to_owned())].into());
    object
}

fn cache() -> Cache<ConfigMap> {
    Cache::new(&[None]).indexed("owner", |object: &ConfigMap| {
        object.data.iter().filter_map(|data| data.get("owner").cloned()).collect()
    })
}

fn names(objects: &[Arc<ConfigMap>]) -> Vec<&str> {
    objects.iter().filter_map(|object| object.metadata.name.as_deref()).collect()
}

fn key(name: &str) -> Key {
    Key::new("n", name)
}

#[test]
fn an_index_follows_its_objects() {
    let cache = cache();
    cache.watched(object("a", "1", "1", "x"));
    cache.watched(object("b", "2", "2", "x"));
    cache.watched(object("c", "3", "3", "y"));
    assert_eq!(names(&cache.by("owner", "n", "x")), ["a", "b"]);
    assert!(cache.by("owner", "m", "x").is_empty());
    cache.watched(object("a", "1", "4", "y"));
    assert_eq!(names(&cache.by("owner", "n", "x")), ["b"]);
    assert_eq!(names(&cache.by("owner", "n", "y")), ["a", "c"]);
    cache.removed(&object("c", "3", "5", "y"));
    assert_eq!(names(&cache.by("owner", "n", "y")), ["a"]);
}

#[test]
fn a_controller_reads_what_it_wrote_although_the_watch_lags() {
    let cache = cache();
    cache.watched(object("a", "1", "5", "x"));
    cache.wrote(object("a", "1", "7", "z"));
    cache.watched(object("a", "1", "6", "y"));
    assert_eq!(names(&cache.by("owner", "n", "z")), ["a"]);
    cache.watched(object("a", "1", "10", "w"));
    assert_eq!(names(&cache.by("owner", "n", "w")), ["a"]);
}

#[test]
fn each_state_is_told_once() {
    let cache = cache();
    let told = Arc::new(AtomicUsize::new(0));
    let count = told.clone();
    cache.listen(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    cache.wrote(object("a", "1", "1", "x"));
    cache.watched(object("a", "1", "1", "x"));
    assert_eq!(told.load(Ordering::Relaxed), 1);
    cache.removed(&object("a", "1", "2", "x"));
    cache.removed(&object("a", "1", "2", "x"));
    assert_eq!(told.load(Ordering::Relaxed), 2);
}

#[test]
fn a_late_delete_does_not_remove_what_was_created_since() {
    let cache = cache();
    cache.watched(object("a", "1", "1", "x"));
    cache.wrote(object("a", "2", "4", "x"));
    cache.removed(&object("a", "1", "3", "x"));
    assert!(cache.get(&key("a")).is_some());
    cache.removed(&object("a", "2", "5", "x"));
    assert!(cache.get(&key("a")).is_none());
}

#[test]
fn a_list_removes_what_it_does_not_show() {
    let cache = cache();
    assert!(!cache.ready());
    cache.watched(object("a", "1", "1", "x"));
    cache.watched(object("b", "2", "2", "x"));
    cache.wrote(object("c", "3", "9", "x"));
    let doubtful = cache.listed(None, Some(&HashSet::from([key("a")])));
    assert!(cache.ready());
    assert_eq!(names(&cache.all()), ["a", "c"]);
    // What we wrote after the list was taken stays until its watch had time to show it.
    assert_eq!(doubtful, [key("c")]);
    cache.drop_unconfirmed(&doubtful);
    assert_eq!(names(&cache.all()), ["a"]);
    assert!(cache.by("owner", "n", "x").len() == 1);
}

#[test]
fn what_the_watch_confirms_is_not_doubtful() {
    let cache = cache();
    cache.wrote(object("c", "3", "9", "x"));
    let doubtful = cache.listed(None, Some(&HashSet::new()));
    cache.watched(object("c", "3", "9", "x"));
    cache.drop_unconfirmed(&doubtful);
    assert_eq!(names(&cache.all()), ["c"]);
}

#[test]
fn scopes_are_apart() {
    let cache: Cache<ConfigMap> = Cache::new(&[Some("n".to_owned()), Some("m".to_owned())]);
    cache.watched(object("a", "1", "1", "x"));
    cache.listed(Some(&"m".to_owned()), Some(&HashSet::new()));
    assert!(cache.get(&key("a")).is_some());
    assert!(!cache.ready());
    cache.listed(Some(&"n".to_owned()), Some(&HashSet::new()));
    assert!(cache.ready() && cache.is_empty());
}

#[test]
fn an_object_that_cannot_be_read_is_news_once() {
    let cache = cache();
    cache.watched(object("a", "1", "1", "x"));
    assert!(cache.mark_unreadable(key("a"), "bad"));
    assert!(!cache.mark_unreadable(key("a"), "bad"));
    assert!(cache.get(&key("a")).is_none());
    assert_eq!(cache.unreadable(&key("a")).as_deref(), Some("bad"));
    cache.watched(object("a", "1", "2", "x"));
    assert_eq!(cache.unreadable_count(), 0);
}

#[test]
fn what_is_held_in_a_small_form_is_found_told_and_told_apart_as_any() {
    let cache = cache().packed(Packing {
        pack: |object: &ConfigMap| {
            let meta = &object.metadata;
            let owner = object.data.as_ref()?.get("owner")?.strip_prefix("done-")?;
            Some(format!("{}/{}/{owner}", meta.uid.as_deref()?, meta.resource_version.as_deref()?).into_bytes())
        },
        unpack: |key, bytes| {
            let text = std::str::from_utf8(bytes).unwrap();
            let [uid, version, owner] = text.split('/').collect::<Vec<_>>().try_into().unwrap();
            object(&key.name, uid, version, &format!("done-{owner}"))
        },
    });
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    cache.listen({
        let told = told.clone();
        move |change: &Change<ConfigMap>| {
            let owner = |object: &Option<Arc<ConfigMap>>| object.as_ref().map(|object| object.data.clone().unwrap()["owner"].clone());
            told.lock().unwrap().push((owner(&change.before), owner(&change.after)));
        }
    });
    let labelled = |version: &str, owner: &str| {
        let mut object = object("a", "1", version, owner);
        object.metadata.labels = Some([("big".to_owned(), "label".to_owned())].into());
        object
    };
    cache.watched(labelled("1", "x"));
    cache.watched(labelled("3", "done-x"));
    cache.watched(labelled("2", "x"));
    let held = cache.get(&key("a")).unwrap();
    assert_eq!(
        (held.metadata.resource_version.as_deref(), &held.metadata.labels),
        (Some("3"), &None)
    );
    assert_eq!(names(&cache.by("owner", "n", "done-x")), ["a"]);
    assert!(cache.by("owner", "n", "x").is_empty());
    assert_eq!(names(&cache.in_namespace("n")), ["a"]);
    cache.watched(labelled("4", "x"));
    assert!(cache.get(&key("a")).unwrap().metadata.labels.is_some(), "needed whole again");
    cache.watched(labelled("5", "done-x"));
    cache.deleted(&key("a"), Some("another"));
    assert_eq!(cache.len(), 1);
    cache.deleted(&key("a"), Some("1"));
    assert!(cache.is_empty() && cache.by("owner", "n", "done-x").is_empty());
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        *told.lock().unwrap(),
        [
            (None, text("x")),
            (text("x"), text("done-x")),
            (text("done-x"), text("x")),
            (text("x"), text("done-x")),
            (text("done-x"), None)
        ]
    );
}
