use super::{RegistryEvent, Replaced, Tracker, ViewSize};
use crate::envelope;
use crate::k8s::{ObjectMeta, ServiceCidr, ServiceCidrSpec};
use crate::object::{Kind, Object, ObjectKey};
use crate::registry::{Part, Registry};
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

fn range_value(network: &str) -> Vec<u8> {
    let raw = [b"\x0a\0\x12", [u8::try_from(network.len()).unwrap()].as_slice(), network.as_bytes()].concat();
    let mut value = b"k8s\0\x0a\x15\x0a\x02v1\x12\x0fRangeAllocation\x12".to_vec();
    value.push(u8::try_from(raw.len()).unwrap());
    value.extend(raw);
    value
}

#[test]
fn networks_under_ranges_count_until_there_are_service_cidr_objects() {
    let mut tracker = tracker();
    let networks = |tracker: &Tracker| -> Vec<String> {
        tracker.service_networks().map(|network| network.to_string()).collect()
    };
    let key = b"/registry/ranges/serviceips";
    let event = |value, mod_revision| RegistryEvent { key, value, mod_revision };
    let (first, second) = (range_value("10.96.0.0/16"), range_value("10.0.0.0/24"));
    put(&mut tracker, mk_service("shop/web", "10.96.0.1"), 1);
    dirty(&mut tracker);
    assert!(tracker.apply(&event(Some(&first), 2)));
    assert_eq!(networks(&tracker), ["10.96.0.0/16"]);
    assert_eq!(dirty(&mut tracker), ["shop/web"]);
    assert!(!tracker.apply(&event(Some(&second), 2)), "seen");
    // A value that is no range is told, and the network before stays.
    assert!(tracker.apply(&event(Some(b"{}"), 3)));
    assert_eq!(networks(&tracker), ["10.96.0.0/16"]);
    assert!(tracker.skipped()[0].reason.contains("JSON"), "{:?}", tracker.skipped());
    let ports = range_value("30000-32767");
    tracker.apply(&event(Some(&ports), 4));
    assert!(tracker.skipped()[0].reason.contains("no network"), "{:?}", tracker.skipped());
    // A list counts whatever its revisions are.
    tracker.replace_part(Part::ServiceRanges, [event(Some(&second), 1)]);
    assert_eq!((networks(&tracker), tracker.skipped()), (vec!["10.0.0.0/24".to_owned()], Vec::new()));
    let metadata = ObjectMeta { name: "kubernetes".into(), ..Default::default() };
    let spec = ServiceCidrSpec { cidrs: vec!["10.1.0.0/16".into(), "fd00::/112".into(), "x".into()] };
    put(&mut tracker, ServiceCidr { metadata, spec, ..Default::default() }, 6);
    assert_eq!(networks(&tracker), ["10.1.0.0/16", "fd00::/112"]);
    tracker.forgo(Part::Objects(Kind::ServiceCidr));
    assert_eq!(networks(&tracker), ["10.0.0.0/24"]);
    assert!(tracker.apply(&RegistryEvent { key, value: None, mod_revision: 9 }));
    assert_eq!(networks(&tracker), [] as [&str; 0]);
}

#[test]
fn an_update_that_cannot_be_read_leaves_the_last_good_version_in_force() {
    let mut tracker = tracker();
    let key = b"/registry/services/specs/shop/web";
    let event = |value, mod_revision| RegistryEvent { key, value, mod_revision };
    tracker.apply(&event(Some(b"k8s:enc:aesgcm:v1:k:x"), 1));
    assert!(tracker.skipped()[0].reason.contains("nothing of it is in force"), "{:?}", tracker.skipped());
    put(&mut tracker, mk_service("shop/web", "10.96.0.1"), 2);
    assert!(tracker.skipped().is_empty());
    dirty(&mut tracker);
    assert!(tracker.apply(&event(Some(b"{}"), 3)));
    let web = ObjectKey::new("shop", "web");
    assert_eq!(tracker.service(&web).unwrap().revision, 2);
    assert_eq!(dirty(&mut tracker), [] as [&str; 0], "nothing is resolved anew");
    let skipped = tracker.skipped();
    assert_eq!((skipped.len(), skipped[0].revision), (1, 3));
    assert!(skipped[0].reason.contains("JSON") && skipped[0].reason.contains("revision 2 stays in force"));
    // The same in a list.
    tracker.replace_all(Kind::Service, [event(Some(b"\xd9\xd9\xf7"), 4)]);
    assert_eq!(tracker.service(&web).unwrap().revision, 2);
    assert!(tracker.skipped()[0].reason.contains("CBOR"));
    // A deletion is believed.
    assert!(tracker.apply(&event(None, 5)));
    assert!(tracker.service(&web).is_none() && tracker.skipped().is_empty());
    assert_eq!(dirty(&mut tracker), ["shop/web"]);
}

#[test]
fn what_is_gone_is_counted_by_name_and_bad_values_are_not_gone() {
    let mut before = tracker();
    for (number, name) in ["shop/a", "shop/b", "shop/c"].into_iter().enumerate() {
        put(&mut before, mk_service(name, "10.96.0.1"), number as i64 + 1);
    }
    put(&mut before, mk_slice("shop/s", "a", &["10.0.0.1", "10.0.0.2"]), 4);
    assert_eq!(before.size(), ViewSize { services: 3, endpoints: 2 });
    let mut now = before.clone();
    let a = envelope::encode(&mk_service("shop/a", "10.96.0.1").into());
    let line = |key: &'static str, value| RegistryEvent { key: key.as_bytes(), value, mod_revision: 9 };
    let list = [
        line("/registry/services/specs/shop/a", Some(a.as_slice())),
        line("/registry/services/specs/shop/b", Some(b"{}")),
        line("/registry/services/specs/shop/new", Some(b"{}")),
    ];
    now.replace_all(Kind::Service, list);
    assert_eq!(now.services_gone_since(&before), 1);
    assert_eq!(now.size(), ViewSize { services: 2, endpoints: 2 });
    assert_eq!(before.size().services, 3, "a clone is its own");
}

#[test]
fn rule_s13_nothing_is_complete_before_services_and_slices_were_listed() {
    for (first, last) in [(Kind::Service, Kind::EndpointSlice), (Kind::EndpointSlice, Kind::Service)] {
        let mut tracker = Tracker::new(Registry::new("/registry"), &[Kind::Pod]);
        // Events are no list.
        put(&mut tracker, mk_service("shop/web", "10.96.0.1"), 1);
        put(&mut tracker, mk_slice("shop/s", "web", &["10.0.0.1"]), 2);
        tracker.replace_all(first, []);
        assert!(!tracker.is_complete());
        tracker.replace_all(last, []);
        assert!(!tracker.is_complete(), "pods are awaited too");
        tracker.forgo(Part::Objects(Kind::Pod));
        assert!(tracker.is_complete());
    }
}
