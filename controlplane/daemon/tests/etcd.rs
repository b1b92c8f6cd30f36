//! What etcd can do to the control plane: restart, go away, forget history, go back, ask for certificates and passwords.
#![allow(clippy::unwrap_used)]

mod bed;

use bed::dataplane::Dataplane;
use bed::etcd::{Etcd, blocking, private_pid};
use bed::proxy::Proxy;
use bed::{ControlPlane, pod, service, standalone, wait};
use etcd_client::{Certificate, Client, ConnectOptions, Identity, PermissionType, TlsOptions};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustix::process::{Signal, kill_process};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;
use turnpike_wire::admin::Resource;

fn on(etcd: &str) -> String {
    format!("{}\n[etcd]\nendpoints = [\"{etcd}\"]\n", standalone("203.0.113.0/24"))
}

#[test]
fn a_private_etcd_that_dies_is_started_again() {
    let turnpike = ControlPlane::connected(&standalone("203.0.113.0/24"));
    turnpike.apply(vec![service("web", "ClusterIP"), pod("web-1", "web", "10.244.0.11")]);
    let killed = private_pid(turnpike.folder()).unwrap();
    kill_process(killed, Signal::KILL).unwrap();
    wait("the loss to be noticed", || turnpike.status().etcd.reconnects > 0);
    assert_eq!(turnpike.backends("web"), ["10.244.0.11"], "what was known stays in force");
    turnpike.wait_connected();
    assert_eq!(turnpike.apply(vec![pod("web-2", "web", "10.244.0.12")]), ["created"]);
    assert_eq!(turnpike.backends("web"), ["10.244.0.11", "10.244.0.12"]);
    assert_ne!(private_pid(turnpike.folder()), Some(killed));
}

#[test]
fn the_private_etcd_ends_with_its_control_plane_and_an_orphan_at_the_next_start() {
    let mut turnpike = ControlPlane::connected(&standalone("203.0.113.0/24"));
    turnpike.apply(vec![service("web", "ClusterIP")]);
    let address = turnpike.service("web")["spec"]["clusterIP"].clone();
    turnpike.kill();
    let orphan = private_pid(turnpike.folder()).expect("a killed control plane leaves its etcd");
    turnpike.start();
    turnpike.wait_connected();
    assert_ne!(private_pid(turnpike.folder()), Some(orphan), "the orphan is ended");
    assert_eq!(turnpike.service("web")["spec"]["clusterIP"], address);
    turnpike.stop();
    assert_eq!(private_pid(turnpike.folder()), None);
    let said = fs::read_to_string(turnpike.log()).unwrap();
    assert!(!said.contains("WARN") && !said.contains("ERROR"), "an orderly end is quiet: {said}");
    assert!(!turnpike.folder().join("run/controlplane.sock").exists());
}

#[test]
fn a_port_of_the_private_etcd_that_somebody_took_is_replaced() {
    let mut turnpike = ControlPlane::connected(&standalone("203.0.113.0/24"));
    turnpike.apply(vec![service("web", "ClusterIP")]);
    turnpike.stop();
    let ports = fs::read_to_string(turnpike.folder().join("state/etcd/ports")).unwrap();
    let port: u16 = ports.split_whitespace().next().unwrap().parse().unwrap();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    turnpike.start();
    turnpike.wait_connected();
    assert_eq!(turnpike.status().objects.services, 1);
}

#[test]
fn two_control_planes_cannot_have_the_same_state() {
    let first = ControlPlane::connected(&standalone("203.0.113.0/24"));
    let mut second = ControlPlane::new(&standalone("203.0.113.0/24"));
    let file = second.folder().join("turnpike.toml");
    let own = format!("state_dir = \"{}", second.folder().display());
    let its = format!("state_dir = \"{}", first.folder().display());
    fs::write(&file, fs::read_to_string(&file).unwrap().replace(&own, &its)).unwrap();
    let (code, said) = second.run_until_it_ends();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("another control plane") && said.contains("gateway.state_dir"), "{said}");
    assert_eq!(first.apply(vec![service("web", "ClusterIP")]), ["created"]);
    assert_eq!(first.status().etcd.reconnects, 0);
}

#[test]
fn a_compacted_history_means_a_new_list_which_notices_what_is_gone() {
    let etcd = Etcd::start();
    let proxy = Proxy::new(etcd.address());
    let near = ControlPlane::connected(&on(&proxy.endpoint()));
    let far = ControlPlane::connected(&on(&format!("http://{}", etcd.address())));
    near.apply(vec![service("gone", "ClusterIP"), service("stays", "ClusterIP")]);
    wait("both to know", || far.status().objects.services == 2);

    // A connection that is lost without a gap in history goes on where it was.
    proxy.turn(None);
    wait("the loss", || near.status().etcd.state != "connected");
    far.apply(vec![service("new", "ClusterIP")]);
    proxy.turn(Some(etcd.address()));
    wait("the new one", || near.status().objects.services == 3);
    assert_eq!(near.status().etcd.relists, 0);

    proxy.turn(None);
    wait("the loss", || near.status().etcd.state != "connected");
    far.delete("Service", "gone", false).unwrap();
    far.apply(vec![service("later", "ClusterIP")]);
    etcd.with(async |client| {
        let now = client.get("x", None).await.unwrap().header().unwrap().revision();
        client.compact(now, None).await.unwrap();
    });
    assert_eq!(near.status().objects.services, 3, "what was known stays in force");
    proxy.turn(Some(etcd.address()));
    wait("a new list", || near.status().etcd.relists == 1 && near.status().etcd.state == "connected");
    assert_eq!(near.get(Resource::Services), far.get(Resource::Services));
    assert_eq!(near.get(Resource::Frontends), far.get(Resource::Frontends));
    assert_eq!(near.service("gone"), serde_json::Value::Null);
    assert_eq!(near.apply(vec![service("last", "ClusterIP")]), ["created"]);
}

#[test]
fn another_cluster_behind_the_same_address_is_listed_anew() {
    let (first, second) = (Etcd::start(), Etcd::start());
    let proxy = Proxy::new(first.address());
    let turnpike = ControlPlane::connected(&on(&proxy.endpoint()));
    let mut dataplane = Dataplane::start(turnpike.folder());
    turnpike.apply(vec![service("old", "ClusterIP")]);
    let mut told = |etcd: &Etcd| {
        let key = etcd.dump().remove("/turnpike/fleet/maglev-key").expect("the fleet's key");
        wait("the dataplane to hear of the fleet's key", || {
            dataplane.turn();
            let fleet = dataplane.tables.fleet.map(|fleet| fleet.maglev_key);
            fleet.is_some_and(|[high, low]| format!("{high:016x}{low:016x}").as_bytes() == key)
        });
    };
    told(&first);
    let other = ControlPlane::connected(&on(&format!("http://{}", second.address())));
    other.apply(vec![service("new", "ClusterIP")]);
    proxy.turn(Some(second.address()));
    wait("the other cluster's Service", || turnpike.service("new") != serde_json::Value::Null);
    assert_eq!(turnpike.status().objects.services, 1);
    assert!(turnpike.status().etcd.relists >= 1);
    told(&second);
}

/// A copy of a folder of files and folders.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn an_etcd_restored_from_a_backup_is_listed_anew() {
    let etcd = Etcd::start();
    let proxy = Proxy::new(etcd.address());
    let turnpike = ControlPlane::connected(&on(&proxy.endpoint()));
    turnpike.apply(vec![service("old", "ClusterIP")]);
    proxy.turn(None);
    let folder = etcd.stop();
    let backup = tempfile::Builder::new().prefix("turnpike-etcd-").tempdir().unwrap();
    copy(&folder.path().join("data"), &backup.path().join("data"));

    let etcd = Etcd::start_in(folder, "http", &[]);
    proxy.turn(Some(etcd.address()));
    turnpike.wait_connected();
    assert_eq!(turnpike.apply(vec![service("new", "ClusterIP")]), ["created"]);
    assert_eq!(turnpike.status().etcd.relists, 0, "a restart is no reason to list anew");
    let revision = turnpike.status().etcd.revision;

    let restored = Etcd::start_in(backup, "http", &[]);
    proxy.turn(Some(restored.address()));
    wait("the past", || turnpike.service("new") == serde_json::Value::Null);
    turnpike.wait_connected();
    assert!(turnpike.status().etcd.revision < revision);
    assert_eq!(turnpike.status().etcd.relists, 1);
    assert_ne!(turnpike.service("old"), serde_json::Value::Null);
    assert_eq!(turnpike.apply(vec![service("newer", "ClusterIP")]), ["created"]);
}

#[test]
fn control_planes_at_the_same_time_never_share_an_address() {
    let etcd = Etcd::start();
    let gateways: Vec<ControlPlane> =
        (0..3).map(|_| ControlPlane::connected(&on(&format!("http://{}", etcd.address())))).collect();
    thread::scope(|scope| {
        for (number, gateway) in gateways.iter().enumerate() {
            scope.spawn(move || {
                for service_number in 0..6 {
                    gateway.apply(vec![service(&format!("s{number}-{service_number}"), "LoadBalancer")]);
                }
            });
        }
    });
    for gateway in &gateways {
        wait("every Service", || gateway.status().objects.services == 18);
        let services = gateway.get(Resource::Services);
        for path in ["/spec/clusterIP", "/spec/ports/0/nodePort", "/status/loadBalancer/ingress/0/ip"] {
            let values: BTreeSet<String> =
                services.iter().map(|s| s.pointer(path).unwrap().to_string()).collect();
            assert_eq!(values.len(), 18, "{path}");
        }
    }
    let fleet_keys = etcd.dump().into_keys().filter(|key| key.starts_with("/turnpike/fleet/")).count();
    assert_eq!(fleet_keys, 1);
}

#[test]
fn an_etcd_that_cannot_be_reached_is_named_and_waited_for() {
    let etcd = Etcd::start();
    let proxy = Proxy::new(etcd.address());
    proxy.turn(None);
    let turnpike = ControlPlane::started(&on(&proxy.endpoint()));
    wait("the error", || turnpike.status().etcd.last_error.is_some());
    let status = turnpike.status().etcd;
    assert_ne!(status.state, "connected");
    assert!(status.last_error.unwrap().contains(&proxy.endpoint()));
    let error = turnpike.try_apply(vec![service("web", "ClusterIP")]).unwrap_err();
    assert!(error.contains("etcd"), "{error}");
    proxy.turn(Some(etcd.address()));
    turnpike.wait_connected();
    assert_eq!(turnpike.apply(vec![service("web", "ClusterIP")]), ["created"]);
}

#[test]
fn kubernetes_objects_are_read_and_never_written() {
    let etcd = Etcd::start();
    let writer = ControlPlane::connected(&on(&format!("http://{}", etcd.address())));
    writer.apply(vec![service("web", "ClusterIP"), pod("web-1", "web", "10.244.0.11")]);
    let reader = ControlPlane::connected(&format!("[cluster]\nmode = \"kubernetes\"\n{}", etcd.settings()));
    assert_eq!(reader.backends("web"), ["10.244.0.11"]);
    let before = etcd.dump();
    for error in [
        reader.try_apply(vec![service("new", "ClusterIP")]).unwrap_err(),
        reader.delete("Service", "web", false).unwrap_err(),
    ] {
        assert!(error.contains("kubernetes mode") && error.contains("kubectl"), "{error}");
    }
    assert_eq!(etcd.dump(), before);
    writer.apply(vec![pod("web-1", "web", "10.244.0.22")]);
    wait("the pod's new address", || reader.backends("web") == ["10.244.0.22"]);
}

/// An authority with certificates of a server and of a client, in `folder`.
fn make_certificates(folder: &Path) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    fs::write(folder.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    for name in ["server", "client"] {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, format!("turnpike test {name}"));
        let key = KeyPair::generate().unwrap();
        fs::write(folder.join(format!("{name}.pem")), params.signed_by(&key, &issuer).unwrap().pem())
            .unwrap();
        fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[test]
fn client_certificates_and_a_password_open_an_etcd_that_demands_both() {
    let folder = tempfile::Builder::new().prefix("turnpike-tls-").tempdir().unwrap();
    make_certificates(folder.path());
    let files = folder.path().display().to_string();
    let etcd = Etcd::start_in(
        tempfile::Builder::new().prefix("turnpike-etcd-").tempdir().unwrap(),
        "https",
        &[
            &format!("--cert-file={files}/server.pem"),
            &format!("--key-file={files}/server.key"),
            &format!("--trusted-ca-file={files}/ca.pem"),
            "--client-cert-auth",
            // A token lives for so short that every later request needs a new one.
            "--auth-token-ttl=1",
        ],
    );
    let endpoint = format!("https://{}", etcd.address());
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(read("ca.pem")))
        .identity(Identity::from_pem(read("client.pem"), read("client.key")));
    blocking(async {
        let options = ConnectOptions::new().with_tls(tls);
        let client = Client::connect([&endpoint], Some(options)).await.unwrap();
        let mut auth = client.auth_client();
        auth.role_add("gateway").await.unwrap();
        for prefix in ["/registry/", "/turnpike/"] {
            let everything = etcd_client::Permission::new(PermissionType::Readwrite, prefix).with_prefix();
            auth.role_grant_permission("gateway", everything).await.unwrap();
        }
        for (user, password) in [("root", "r00t"), ("gateway", "s3cret")] {
            auth.user_add(user, password, None).await.unwrap();
            auth.user_grant_role(user, user).await.unwrap();
        }
        auth.auth_enable().await.unwrap();
    });

    let password = folder.path().join("password");
    fs::write(&password, "s3cret\n").unwrap();
    let settings = |with: &[&str]| {
        let mut text = format!("{}\n[etcd]\nendpoints = [\"{endpoint}\"]\n", standalone("203.0.113.0/24"));
        for line in with {
            text += &format!("{}\n", line.replace("DIR", &files));
        }
        text
    };
    let ca = "ca_file = \"DIR/ca.pem\"";
    let certificate = "cert_file = \"DIR/client.pem\"\nkey_file = \"DIR/client.key\"";
    let user = "user = \"gateway\"\npassword_file = \"DIR/password\"";

    let turnpike = ControlPlane::connected(&settings(&[ca, certificate, user]));
    assert_eq!(
        turnpike.apply(vec![service("web", "ClusterIP"), pod("web-1", "web", "10.244.0.11")]),
        ["created"; 2]
    );
    thread::sleep(Duration::from_secs(3));
    assert_eq!(
        turnpike.apply(vec![pod("web-2", "web", "10.244.0.12")]),
        ["created"],
        "with a token that has expired"
    );
    assert_eq!(turnpike.backends("web"), ["10.244.0.11", "10.244.0.12"]);

    let complains = |with: &[&str], words: &[&str]| {
        let turnpike = ControlPlane::started(&settings(with));
        wait("the error", || turnpike.status().etcd.last_error.is_some());
        let error = turnpike.status().etcd.last_error.unwrap();
        words.iter().for_each(|word| assert!(error.contains(word), "{word:?} is not in {error:?}"));
    };
    complains(&[ca, user], &[&endpoint]);
    complains(&[ca, certificate], &[&endpoint]);
    fs::write(&password, "wrong\n").unwrap();
    complains(&[ca, certificate, user], &[&endpoint, "authentication failed"]);

    let refuses = |with: &[&str], words: &[&str]| {
        let (code, said) = ControlPlane::new(&settings(with)).run_until_it_ends();
        assert_eq!(code, Some(1), "{said}");
        words.iter().for_each(|word| assert!(said.contains(word), "{word:?} is not in {said:?}"));
    };
    refuses(&[certificate, user], &["etcd.ca_file"]);
    refuses(&[ca, "cert_file = \"DIR/client.pem\""], &["cert_file", "key_file"]);
    refuses(&["ca_file = \"DIR/none.pem\""], &["etcd.ca_file", "none.pem"]);
    refuses(&[ca, "user = \"gateway\""], &["password_file"]);
}

#[test]
fn a_machine_without_etcd_is_told_what_to_install() {
    let mut turnpike = ControlPlane::new(&standalone("203.0.113.0/24"));
    turnpike.set_path("/nonexistent");
    let (code, said) = turnpike.run_until_it_ends();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("etcd-server") && said.contains("etcd.endpoints"), "{said}");
    assert_eq!(said.matches("error:").count(), 1, "{said}");
}
