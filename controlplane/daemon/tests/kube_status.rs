//! `status.loadBalancer` and the finalizer through the Kubernetes API: the loop Service → address → patch → Service, with a server that
//! conflicts, refuses, fails and is slow.
#![allow(clippy::unwrap_used)]

mod bed;

use bed::api_server::{ApiServer, Mood, delete, edit, load_balancer, stored};
use bed::etcd::Etcd;
use bed::{ControlPlane, wait};
use serde_json::{Value, json};
use std::time::Duration;
use tempfile::TempDir;

const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";

/// An etcd, the API over it, and what leads there.
struct Lab {
    etcd: Etcd,
    api: ApiServer,
    settings: String,
    folder: TempDir,
}

impl Lab {
    fn new() -> Self {
        let etcd = Etcd::start();
        let api = ApiServer::start(&etcd);
        let folder = TempDir::new().unwrap();
        let settings = format!(
            "{}[cluster]\nmode = \"kubernetes\"\n[[cluster.pools]]\nname = \"public\"\naddresses = [\"203.0.113.4/31\"]\n{}",
            api.settings(folder.path()),
            etcd.settings()
        );
        Self { etcd, api, settings, folder }
    }

    fn make(&self, name: &str) {
        edit(&self.etcd, name, |service| *service = load_balancer(name, "10.96.0.10", 1));
    }

    fn ingress(&self, name: &str) -> Value {
        stored(&self.etcd, name)["status"]["loadBalancer"]["ingress"].clone()
    }

    fn finalizers(&self, name: &str) -> Value {
        stored(&self.etcd, name)["metadata"]["finalizers"].clone()
    }

    fn is_recorded(&self) -> bool {
        self.etcd.dump().keys().any(|key| key.starts_with("/turnpike/addresses/"))
    }

    fn wait_written(&self, name: &str) {
        wait("the status", || self.ingress(name) == json!([{"ip": "203.0.113.4", "ipMode": "VIP"}]));
        assert_eq!(self.finalizers(name), json!([FINALIZER]));
    }
}

#[test]
fn rule_c2_finalizer_first_then_the_address_and_both_go_with_the_service() {
    let lab = Lab::new();
    let gateway = ControlPlane::connected(&lab.settings);
    lab.make("web");
    lab.wait_written("web");
    let path = "/api/v1/namespaces/shop/services/web";
    assert_eq!(lab.api.calls(), [format!("200 PATCH {path}"), format!("200 PATCH {path}/status")]);
    let status = gateway.status().kubernetes;
    assert_eq!((status.state.as_str(), status.written, status.last_error), ("writing", 2, None));
    delete(&lab.etcd, "web");
    wait("the end of the Service", || stored(&lab.etcd, "web").is_null());
    wait("the end of its record", || !lab.is_recorded());
    assert_eq!(lab.api.calls()[2..], [format!("200 PATCH {path}/status"), format!("200 PATCH {path}")]);
}

#[test]
fn rule_c2_a_service_that_becomes_another_type_is_cleared() {
    let lab = Lab::new();
    let _gateway = ControlPlane::connected(&lab.settings);
    lab.make("web");
    lab.wait_written("web");
    edit(&lab.etcd, "web", |service| {
        service["spec"]["type"] = "ClusterIP".into();
        service["metadata"]["finalizers"].as_array_mut().unwrap().push("example.com/own".into());
    });
    wait("a clear status", || lab.ingress("web").is_null());
    wait("no finalizer of ours", || lab.finalizers("web") == json!(["example.com/own"]));
    wait("the end of its record", || !lab.is_recorded());
}

#[test]
fn rule_c2_the_finalizer_goes_also_when_the_api_was_away_for_longer_than_the_grace() {
    let lab = Lab::new();
    let gateway = ControlPlane::connected(&lab.settings);
    lab.make("web");
    lab.wait_written("web");
    lab.api.set_mood(Mood::Forbidding);
    // The API server clears the status itself when it takes the type.
    edit(&lab.etcd, "web", |service| {
        service["spec"]["type"] = "ClusterIP".into();
        service["status"] = json!({"loadBalancer": {}});
    });
    wait("the refusal", || gateway.status().kubernetes.state == "failing");
    std::thread::sleep(Duration::from_secs(7));
    lab.api.set_mood(Mood::Well);
    wait("no finalizer", || lab.finalizers("web").as_array().is_none_or(Vec::is_empty));
    wait("the end of its record", || !lab.is_recorded());
}

#[test]
fn rule_c1_services_of_another_class_are_never_written() {
    let lab = Lab::new();
    edit(&lab.etcd, "other", |service| {
        *service = load_balancer("other", "10.96.0.11", 1);
        service["spec"]["loadBalancerClass"] = "example.com/edge".into();
        service["metadata"]["finalizers"] = json!([FINALIZER]);
        service["status"] = json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.9", "ipMode": "VIP"}]}});
    });
    let before = stored(&lab.etcd, "other");
    let _gateway = ControlPlane::connected(&lab.settings);
    lab.make("web");
    lab.wait_written("web");
    assert_eq!(stored(&lab.etcd, "other"), before);
    assert!(lab.api.calls().iter().all(|call| !call.contains("other")), "{:?}", lab.api.calls());
}

#[test]
fn conflicts_are_looked_at_again() {
    let lab = Lab::new();
    lab.api.set_mood(Mood::Overtaken(3));
    let gateway = ControlPlane::connected(&lab.settings);
    lab.make("web");
    lab.wait_written("web");
    let conflicts = lab.api.calls().iter().filter(|call| call.starts_with("409")).count();
    assert_eq!(conflicts, 3, "{:?}", lab.api.calls());
    assert_eq!(
        stored(&lab.etcd, "web")["metadata"]["annotations"]["example.com/touched"],
        "1",
        "theirs is kept"
    );
    assert_eq!(gateway.status().kubernetes.last_error, None);
}

#[test]
fn what_may_not_be_written_is_told_with_the_rule_to_grant_and_written_once_it_may() {
    let lab = Lab::new();
    let gateway = ControlPlane::connected(&lab.settings);
    for (mood, told) in
        [(Mood::Forbidding, "verb patch on services and services/status"), (Mood::Failing, "500")]
    {
        lab.api.set_mood(mood);
        lab.make("web");
        let error = || gateway.status().kubernetes.last_error.unwrap_or_default();
        wait("the error", || error().contains(told));
        assert_eq!(gateway.status().kubernetes.state, "failing");
        assert!(error().contains("shop/web"), "{}", error());
        lab.api.set_mood(Mood::Well);
        lab.wait_written("web");
        wait("no error", || gateway.status().kubernetes.last_error.is_none());
        delete(&lab.etcd, "web");
        wait("the end of the Service", || stored(&lab.etcd, "web").is_null() && !lab.is_recorded());
    }
}

#[test]
fn one_gateway_writes_and_the_other_goes_on_when_it_is_killed() {
    let lab = Lab::new();
    lab.api.set_mood(Mood::Slow);
    let mut gateways = [ControlPlane::connected(&lab.settings), ControlPlane::connected(&lab.settings)];
    let state = |gateway: &ControlPlane| gateway.status().kubernetes.state;
    wait("one that writes", || gateways.iter().any(|gateway| state(gateway) == "writing"));
    let leader = usize::from(state(&gateways[1]) == "writing");
    wait("one that waits", || state(&gateways[1 - leader]) == "waiting");
    lab.make("web");
    // Between the finalizer and the status.
    wait("the finalizer", || lab.finalizers("web") == json!([FINALIZER]));
    gateways[leader].kill();
    lab.api.set_mood(Mood::Well);
    lab.wait_written("web");
    wait("the other to write", || state(&gateways[1 - leader]) == "writing");
}

#[test]
fn a_token_that_has_changed_is_read_again() {
    let lab = Lab::new();
    let gateway = ControlPlane::connected(&lab.settings);
    wait("it to write", || gateway.status().kubernetes.state == "writing");
    lab.api.set_token("another-token");
    lab.make("web");
    wait("its complaint", || gateway.status().kubernetes.last_error.is_some_and(|e| e.contains("401")));
    assert!(lab.ingress("web").is_null());
    lab.api.settings(lab.folder.path());
    lab.wait_written("web");
    wait("no complaint", || gateway.status().kubernetes.last_error.is_none());
}

#[test]
fn a_kubeconfig_that_is_not_there_ends_the_start() {
    let lab = Lab::new();
    let broken = lab.settings.replacen("/kubeconfig\"", "/missing\"", 1);
    let (code, said) = ControlPlane::new(&broken).run_until_it_ends();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("kubernetes.kubeconfig: ") && said.contains("/missing"), "{said}");
}

#[test]
fn a_check_reads_the_kubeconfig_and_starts_nothing() {
    let lab = Lab::new();
    let folder = tempfile::tempdir().unwrap();
    let check = |settings: &str| {
        let file = folder.path().join("turnpike.toml");
        std::fs::write(&file, settings).unwrap();
        let program = env!("CARGO_BIN_EXE_turnpike-controlplane");
        let output =
            std::process::Command::new(program).arg("--check").arg("--config").arg(&file).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (code, said) = check(&lab.settings);
    assert!(code == Some(0) && said.contains("fine"), "{said}");
    let (code, said) = check(&lab.settings.replacen("/kubeconfig\"", "/missing\"", 1));
    assert!(code == Some(1) && said.contains("/missing"), "{said}");
    let broken = folder.path().join("broken");
    std::fs::write(&broken, "apiVersion: v1\nkind: Config\ncontexts: []\n").unwrap();
    let config = lab.settings.lines().map(|line| match line.strip_prefix("kubeconfig = ") {
        Some(_) => format!("kubeconfig = {broken:?}\n"),
        None => format!("{line}\n"),
    });
    let (code, said) = check(&config.collect::<String>());
    assert!(code == Some(1) && said.contains("kubernetes.kubeconfig: "), "{said}");
}
