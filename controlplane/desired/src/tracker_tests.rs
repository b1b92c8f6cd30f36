use super::{RegistryEvent, Replaced, Tracker};
use crate::envelope;
use crate::object::{Kind, Object, ObjectKey};
use crate::registry::Registry;
use crate::test_world::{mk_pod, mk_service, mk_slice};
use crate::words::SERVICE_NAME_LABEL;

fn tracker() -> Tracker {
    Tracker::new(Registry::new("/registry"), &[])
}

fn put(tracker: &mut Tracker, object: impl Into<Object>, mod_revision: i64) -> bool {
    let object = object.into();
    let key = Registry::new("/registry").key(object.kind(), &object.key());
    let value = envelope::encode(&object);
    tracker.apply(&RegistryEvent { key: key.as_bytes(), value: Some(&value), mod_revision })
}

fn dirty(tracker: &mut Tracker) -> Vec<String> {
    tracker.take_dirty().iter().map(ToString::to_string).collect()
}

#[test]
fn only_touched_services_are_dirty() {
    let mut tracker = tracker();
    assert!(put(&mut tracker, mk_service("shop/web", "10.96.0.1"), 1));
    assert!(put(&mut tracker, mk_service("shop/api", "10.96.0.2"), 2));
    assert_eq!(dirty(&mut tracker), ["shop/api", "shop/web"]);
    assert_eq!(dirty(&mut tracker), [] as [&str; 0]);
    put(&mut tracker, mk_slice("shop/s", "web", &[]), 3);
    assert_eq!(dirty(&mut tracker), ["shop/web"]);
    // A slice that goes to another Service touches both.
    put(&mut tracker, mk_slice("shop/s", "api", &[]), 4);
    assert_eq!(dirty(&mut tracker), ["shop/api", "shop/web"]);
    assert_eq!(tracker.slices_of(&ObjectKey::new("shop", "web")).count(), 0);
    assert_eq!(tracker.slices_of(&ObjectKey::new("shop", "api")).count(), 1);
    let mut free = mk_slice("shop/s", "api", &[]);
    free.metadata.labels.remove(SERVICE_NAME_LABEL);
    put(&mut tracker, free, 5);
    assert_eq!(dirty(&mut tracker), ["shop/api"]);
    // Pods without a weight touch nobody.
    put(&mut tracker, mk_pod("shop/p", &[], "10.244.0.1"), 6);
    assert_eq!(dirty(&mut tracker), [] as [&str; 0]);
}

#[test]
fn events_that_are_no_news_change_nothing() {
    let mut tracker = tracker();
    put(&mut tracker, mk_service("shop/web", "10.96.0.1"), 5);
    dirty(&mut tracker);
    assert!(!put(&mut tracker, mk_service("shop/web", "10.96.0.9"), 5), "seen");
    assert!(!put(&mut tracker, mk_service("shop/web", "10.96.0.9"), 4), "older");
    let delete =
        |key: &'static str, mod_revision| RegistryEvent { key: key.as_bytes(), value: None, mod_revision };
    assert!(!tracker.apply(&delete("/registry/services/specs/shop/web", 3)), "older");
    assert!(!tracker.apply(&delete("/registry/services/specs/shop/none", 9)), "unknown");
    assert!(!tracker.apply(&delete("/registry/secrets/shop/web", 9)), "of no kind");
    assert_eq!(dirty(&mut tracker), [] as [&str; 0]);
    assert!(tracker.apply(&delete("/registry/services/specs/shop/web", 9)));
    assert_eq!(dirty(&mut tracker), ["shop/web"]);
}

#[test]
fn a_full_list_replaces_what_was_known() {
    let mut tracker = tracker();
    for (name, revision) in [("shop/same", 1), ("shop/changed", 2), ("shop/gone", 3)] {
        put(&mut tracker, mk_service(name, "10.96.0.1"), revision);
    }
    let bad =
        RegistryEvent { key: b"/registry/services/specs/shop/old-bad", value: Some(b"{}"), mod_revision: 4 };
    tracker.apply(&bad);
    dirty(&mut tracker);
    let line = |name: &str, address: &str, revision: i64| {
        let object = Object::from(mk_service(name, address));
        (Registry::new("/registry").key(Kind::Service, &object.key()), envelope::encode(&object), revision)
    };
    // etcd was restored from a backup: revisions have gone back, and what is listed counts all the same.
    let mut lines = vec![
        line("shop/same", "10.96.0.1", 1),
        line("shop/changed", "10.96.0.2", 1),
        line("shop/new", "10.96.0.3", 1),
    ];
    lines.push(("/registry/services/specs/shop/bad".into(), b"{}".to_vec(), 1));
    lines.push(("/registry/pods/shop/web".into(), b"{}".to_vec(), 1));
    let events = lines.iter().map(|(key, value, mod_revision)| RegistryEvent {
        key: key.as_bytes(),
        value: Some(value),
        mod_revision: *mod_revision,
    });
    let replaced = tracker.replace_all(Kind::Service, events);
    assert_eq!(replaced, Replaced { added: 1, changed: 1, removed: 2, skipped: 1 });
    assert_eq!(dirty(&mut tracker), ["shop/changed", "shop/gone", "shop/new"]);
    let names: Vec<String> = tracker.services().map(|(key, _)| key.name.clone()).collect();
    assert_eq!(names, ["changed", "new", "same"]);
    assert_eq!(tracker.skipped().len(), 1);
    assert_eq!(tracker.skipped()[0].key, "/registry/services/specs/shop/bad");
    assert!(!tracker.is_complete(), "slices were not listed");
}
