//! What the view of etcd is worth: values that cannot be read, prefixes that may not be, moments that belong together, and views that shrink.
#![allow(clippy::unwrap_used)]

mod bed;

use bed::cluster::{restored, revision_of};
use bed::dataplane::Dataplane;
use bed::etcd::{Etcd, blocking};
use bed::proxy::Proxy;
use bed::{ControlPlane, PATIENCE, wait};
use etcd_client::{Client, ConnectOptions, Permission, PermissionType, Txn, TxnOp};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use turnpike_controlplane::etcd::client::Connector;
use turnpike_controlplane::etcd::source;
use turnpike_controlplane::state::State;
use turnpike_desired::envelope::encode;
use turnpike_desired::k8s::{
    Endpoint, EndpointPort, EndpointSlice, ObjectMeta, Service, ServicePort, ServiceSpec,
};
use turnpike_desired::object::{Object, ObjectKey};
use turnpike_desired::registry::Registry;
use turnpike_wire::admin::{HeldBack, Reply, Request, Status};
use turnpike_wire::config::Config;

fn kubernetes(etcd: &str) -> String {
    format!("[cluster]\nmode = \"kubernetes\"\n[etcd]\nendpoints = [\"{etcd}\"]\n")
}

fn at(etcd: &Etcd) -> String {
    format!("http://{}", etcd.address())
}

fn metadata(name: &str) -> ObjectMeta {
    ObjectMeta { name: name.into(), namespace: "shop".into(), ..Default::default() }
}

/// A Service at 10.96.0.NUMBER and its slice with one endpoint at that address.
fn pair(number: u8, endpoint: &str) -> [Object; 2] {
    let name = format!("s{number}");
    let port = ServicePort { name: "http".into(), port: 80, ..Default::default() };
    let spec = ServiceSpec {
        cluster_ip: format!("10.96.0.{number}"),
        ports: vec![port],
        // Tells which version it is.
        external_name: endpoint.into(),
        ..Default::default()
    };
    let mut slice = EndpointSlice {
        metadata: metadata(&name),
        endpoints: vec![Endpoint { addresses: vec![endpoint.into()], ..Default::default() }],
        ports: vec![EndpointPort { name: Some("http".into()), port: Some(8080), ..Default::default() }],
        address_type: "IPv4".into(),
    };
    slice.metadata.labels.insert("kubernetes.io/service-name".into(), name.clone());
    [Service { metadata: metadata(&name), spec, ..Default::default() }.into(), slice.into()]
}

fn key(object: &Object) -> String {
    Registry::new("/registry").key(object.kind(), &object.key())
}

async fn put(client: &mut Client, objects: &[Object]) {
    let puts: Vec<TxnOp> = objects.iter().map(|o| TxnOp::put(key(o), encode(o), None)).collect();
    client.txn(Txn::new().and_then(puts)).await.unwrap();
}

async fn delete_prefix(client: &mut Client, prefix: &str) {
    client.delete(prefix, Some(etcd_client::DeleteOptions::new().with_prefix())).await.unwrap();
}

#[test]
fn each_value_that_cannot_be_read_is_told_by_its_key_with_the_mend() {
    let etcd = Etcd::start();
    let [good, slice] = pair(1, "10.0.0.1");
    let good_value = encode(&good);
    let name = "/registry/services/specs/shop/";
    let beta = |value: &[u8]| -> Vec<u8> {
        let mut value = value.to_vec();
        let place = value.windows(2).position(|w| w == b"v1").unwrap();
        value[place..place + 2].copy_from_slice(b"v2");
        value
    };
    let rows: Vec<(String, Vec<u8>, &str)> = vec![
        (format!("{name}json"), b"{\"kind\":\"Service\"}".to_vec(), "--storage-media-type"),
        (format!("{name}cbor"), b"\xd9\xd9\xf7\xa0".to_vec(), "CBOR"),
        (format!("{name}secret"), b"k8s:enc:aescbc:v1:key1:xx".to_vec(), "EncryptionConfiguration"),
        (format!("{name}version"), beta(&good_value), "v2 Service"),
        (format!("{name}kind"), encode(&slice), "discovery.k8s.io/v1 EndpointSlice"),
        (format!("{name}damaged"), good_value[..good_value.len() / 2].to_vec(), "truncated or damaged"),
        (format!("{name}moved"), good_value.clone(), "says it is shop/s1"),
        (format!("{name}empty"), Vec::new(), "empty"),
        ("/registry/ranges/serviceips".into(), b"{}".to_vec(), "JSON"),
    ];
    // Half of them are there at the start, the others come later.
    let write = |rows: &[(String, Vec<u8>, &str)]| {
        etcd.with(async |client| {
            for (key, value, _) in rows {
                client.put(key.as_str(), value.clone(), None).await.unwrap();
            }
        });
    };
    write(&rows[..4]);
    etcd.with(async |client| put(client, &[good.clone(), slice.clone()]).await);
    let turnpike = ControlPlane::connected(&kubernetes(&at(&etcd)));
    write(&rows[4..]);
    wait("every one to be told", || turnpike.status().objects.skipped.len() == rows.len());
    let status = turnpike.status();
    for (key, _, words) in &rows {
        let skipped = status.objects.skipped.iter().find(|skipped| skipped.key == *key).unwrap();
        assert!(skipped.reason.contains(words) && skipped.revision > 0, "{key}: {}", skipped.reason);
    }
    assert_eq!((status.objects.services, turnpike.backends("s1")), (1, vec!["10.0.0.1".to_owned()]));

    // A bad write over a good value takes nothing down; a deletion does.
    etcd.with(async |client| client.put(key(&good), "{}", None).await.unwrap());
    wait("the bad write", || turnpike.status().objects.skipped.len() == rows.len() + 1);
    let skipped = turnpike.status().objects.skipped.into_iter().find(|s| s.key == key(&good)).unwrap();
    assert!(skipped.reason.contains("stays in force"), "{}", skipped.reason);
    assert_eq!(turnpike.backends("s1"), ["10.0.0.1"]);
    etcd.with(async |client| client.delete(key(&good), None).await.unwrap());
    wait("the deletion", || turnpike.backends("s1").is_empty());
    assert_eq!(turnpike.status().objects.skipped.len(), rows.len());
}

#[test]
fn what_may_not_be_read_is_done_without_or_named_with_the_role_to_grant() {
    let etcd = Etcd::start();
    let prefixes = ["services/specs", "endpointslices", "minions"].map(|p| format!("/registry/{p}/"));
    etcd.with(async |client| {
        put(client, &pair(1, "10.0.0.1")).await;
        let mut auth = client.auth_client();
        auth.role_add("gateway").await.unwrap();
        for prefix in prefixes.iter().filter(|prefix| !prefix.contains("slices")) {
            let read = Permission::new(PermissionType::Read, prefix.as_str()).with_prefix();
            auth.role_grant_permission("gateway", read).await.unwrap();
        }
        for (user, password) in [("root", "r00t"), ("gateway", "s3cret")] {
            auth.user_add(user, password, None).await.unwrap();
            auth.user_grant_role(user, user).await.unwrap();
        }
        auth.auth_enable().await.unwrap();
    });
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "s3cret\n").unwrap();
    let more =
        format!("{}user = \"gateway\"\npassword_file = \"{}\"\n", kubernetes(&at(&etcd)), password.display());
    let turnpike = ControlPlane::started(&more);
    wait("the error", || turnpike.status().etcd.last_error.is_some());
    let error = turnpike.status().etcd.last_error.unwrap();
    for words in ["/registry/endpointslices/", "etcdctl role grant-permission", "--prefix=true read"] {
        assert!(error.contains(words), "{words}: {error}");
    }
    let root = async || {
        let options = ConnectOptions::new().with_user("root", "r00t");
        Client::connect([at(&etcd)], Some(options)).await.unwrap()
    };
    blocking(async {
        let read = Permission::new(PermissionType::Read, prefixes[1].as_str()).with_prefix();
        root().await.auth_client().role_grant_permission("gateway", read).await.unwrap();
    });
    turnpike.wait_connected();
    assert_eq!(turnpike.backends("s1"), ["10.0.0.1"]);
    let status = turnpike.status().etcd;
    assert_eq!((status.warnings.len(), &status.last_error), (3, &None), "{:?}", status.warnings);
    for words in ["/registry/pods/", "/registry/servicecidrs/", "/registry/ranges/"] {
        assert!(status.warnings.iter().any(|w| w.starts_with(words) && w.contains("grant")), "{words}");
    }
    // What is watched goes on although the watches of other prefixes would be refused.
    blocking(async { put(&mut root().await, &pair(1, "10.0.0.2")).await });
    wait("the change", || turnpike.backends("s1") == ["10.0.0.2"]);
    // What may no longer be read is an error again, and what was known stays.
    blocking(async {
        let end = etcd_client::RoleRevokePermissionOptions::new().with_prefix();
        root()
            .await
            .auth_client()
            .role_revoke_permission("gateway", prefixes[1].as_str(), Some(end))
            .await
            .unwrap();
        root().await.kv_client().put("/registry/minions/x", "{}", None).await.unwrap();
    });
    thread::sleep(Duration::from_millis(300));
    assert_eq!(turnpike.backends("s1"), ["10.0.0.2"]);
}

#[test]
fn objects_of_one_moment_are_seen_together() {
    let etcd = Etcd::start();
    etcd.with(async |client| put(client, &pair(1, "10.0.0.0")).await);
    let folder = tempfile::tempdir().unwrap();
    let text = format!("{}[gateway]\nstate_dir = \"{}\"\n", kubernetes(&at(&etcd)), folder.path().display());
    let config = Config::parse(&text, Path::new("test.toml")).unwrap();
    let connector = Connector::new(&config.etcd).unwrap();
    let state = Arc::new(State::new(config));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.spawn(source::follow(connector, state.clone()));
    wait("the list", || state.core().revision > 0);
    let name = ObjectKey::new("shop", "s1");
    // The revisions of the Service and of its slice, which are written by one transaction.
    let revisions = || {
        let core = state.core();
        let slice = core.tracker.endpoint_slice(&name).unwrap().revision;
        (core.tracker.service(&name).unwrap().revision, slice)
    };
    let end = AtomicBool::new(false);
    let mut seen = BTreeSet::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            etcd.with(async |client| {
                for version in 1..=250u8 {
                    // Much else is written at the same time.
                    let others: Vec<Object> = (2..30).flat_map(|number| pair(number, "10.0.1.1")).collect();
                    put(client, &others[..usize::from(version) % 50]).await;
                    put(client, &pair(1, &format!("10.0.0.{version}"))).await;
                    tokio::time::sleep(Duration::from_millis(u64::from(version % 7))).await;
                }
            });
            end.store(true, Ordering::Relaxed);
        });
        while !end.load(Ordering::Relaxed) {
            let (service, slice) = revisions();
            assert_eq!(service, slice);
            seen.insert(service);
        }
    });
    assert!(seen.len() > 20, "only {} versions were seen", seen.len());
    assert_eq!(state.etcd_status().cuts_forced, 0);
    let last = etcd.with(revision_of);
    wait("the last one", || revisions() == (last, last));
}

#[test]
fn one_change_reaches_the_dataplane_at_once() {
    let etcd = Etcd::start();
    etcd.with(async |client| put(client, &pair(1, "10.0.0.1")).await);
    let turnpike = ControlPlane::connected(&kubernetes(&at(&etcd)));
    let mut dataplane = Dataplane::start(turnpike.folder());
    wait("the snapshot", || {
        dataplane.turn();
        dataplane.snapshots > 0
    });
    let mut taken: Vec<Duration> = Vec::new();
    etcd.with(async |client| {
        for version in 2..=41u8 {
            tokio::time::sleep(Duration::from_millis(15)).await;
            dataplane.turn();
            let address = format!("10.0.0.{version}");
            put(client, &pair(1, &address)[1..]).await;
            let start = Instant::now();
            while !dataplane.backend_addresses().contains(&address) {
                assert!(start.elapsed() < PATIENCE, "{address} never came");
                dataplane.turn();
            }
            taken.push(start.elapsed());
        }
    });
    taken.sort();
    eprintln!("etcd to ring: median {:?}, longest {:?}", taken[20], taken[39]);
    assert!(taken[20] < Duration::from_millis(50), "{taken:?}");
}

fn held(turnpike: &ControlPlane) -> Option<HeldBack> {
    turnpike.status().etcd.held_back
}

fn sizes(status: &Status) -> (u64, u64) {
    (status.objects.services, status.objects.frontends)
}

#[test]
fn a_view_that_shrinks_suddenly_is_held_back_until_it_grows_or_is_accepted() {
    let (etcd, empty) = (restored(), Etcd::start());
    let proxy = Proxy::new(etcd.address());
    let mut turnpike = ControlPlane::connected(&kubernetes(&proxy.endpoint()));
    let mut dataplane = Dataplane::start(turnpike.folder());
    wait("the snapshot", || {
        dataplane.turn();
        dataplane.snapshots > 0
    });
    let (whole, tables) = (sizes(&turnpike.status()), dataplane.tables.clone());
    assert_eq!(whole.0, 44);
    wait("it to be remembered", || turnpike.folder().join("state/view.json").exists());

    // An etcd that lost its data.
    proxy.turn(Some(empty.address()));
    wait("the alarm", || held(&turnpike).is_some());
    let alarm = held(&turnpike).unwrap();
    assert_eq!((alarm.services_before, alarm.services_now, alarm.endpoints_now), (44, 0, 0));
    assert!(alarm.reason.contains("turnpike accept"), "{}", alarm.reason);
    wait("the connection", || turnpike.status().etcd.state == "connected");
    assert_eq!(sizes(&turnpike.status()), whole);
    // It is followed all the same, and a little more does not make it whole.
    empty.with(async |client| put(client, &pair(1, "10.0.0.1")).await);
    wait("the first object", || held(&turnpike).is_some_and(|held| held.services_now == 1));
    assert_eq!(held(&turnpike).unwrap().since_unix_s, alarm.since_unix_s);
    assert_eq!(sizes(&turnpike.status()), whole);

    // A control plane that starts meanwhile has nothing to publish; the dataplane keeps what it has.
    turnpike.kill();
    turnpike.start();
    wait("the alarm", || held(&turnpike).is_some());
    assert_eq!((held(&turnpike).unwrap().services_before, sizes(&turnpike.status())), (44, (0, 0)));
    let commits = dataplane.commits.len();
    for _ in 0..20 {
        dataplane.turn();
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!((dataplane.commits.len(), &dataplane.tables), (commits, &tables));

    // It grows back.
    proxy.turn(Some(etcd.address()));
    wait("the whole view", || sizes(&turnpike.status()) == whole && held(&turnpike).is_none());

    // This time it is meant.
    proxy.turn(Some(empty.address()));
    wait("the alarm", || held(&turnpike).is_some());
    assert_eq!(sizes(&turnpike.status()), whole);
    let Reply::Accepted(accepted) = turnpike.ask(&Request::AcceptView) else { panic!("not accepted") };
    assert_eq!((accepted.services_before, accepted.services_now), (44, 1));
    assert_eq!((turnpike.status().objects.services, held(&turnpike)), (1, None));
    let Reply::Error { message } = turnpike.ask(&Request::AcceptView) else { panic!("accepted twice") };
    assert!(message.contains("nothing") || message.contains("no view"), "{message}");
    wait("the dataplane to hear of it", || {
        dataplane.turn();
        dataplane.backend_addresses().len() == 1
    });
    // And it is what the next start compares with.
    let remembered = || std::fs::read_to_string(turnpike.folder().join("state/view.json")).unwrap();
    wait("it to be remembered", || remembered().contains("\"services\":1,"));
}

#[test]
fn deletions_that_come_as_events_are_believed() {
    let etcd = restored();
    let turnpike = ControlPlane::connected(&kubernetes(&at(&etcd)));
    assert_eq!(turnpike.status().objects.services, 44);
    etcd.with(async |client| {
        delete_prefix(client, "/registry/services/specs/").await;
        delete_prefix(client, "/registry/endpointslices/").await;
    });
    wait("the end of all", || sizes(&turnpike.status()) == (0, 0));
    assert_eq!(held(&turnpike), None);
}

#[test]
fn a_limit_of_one_hundred_percent_holds_nothing_back() {
    let (etcd, empty) = (restored(), Etcd::start());
    let proxy = Proxy::new(etcd.address());
    let more = format!("{}shrink_limit_percent = 100\n", kubernetes(&proxy.endpoint()));
    let turnpike = ControlPlane::connected(&more);
    proxy.turn(Some(empty.address()));
    wait("the end of all", || turnpike.status().objects.services == 0);
    assert_eq!(held(&turnpike), None);
}
