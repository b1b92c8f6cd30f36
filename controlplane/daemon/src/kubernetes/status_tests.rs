use super::*;
use turnpike_desired::k8s::{LoadBalancerIngress, Time};
use turnpike_wire::config::Config;

fn service(addresses: &[&str], finalizers: &[&str]) -> Service {
    let mut service = Service::default();
    service.metadata.namespace = "shop".into();
    service.metadata.name = "web".into();
    service.metadata.finalizers = finalizers.iter().map(|text| (*text).to_owned()).collect();
    let ingress = addresses.iter().map(|address| LoadBalancerIngress {
        ip: (*address).into(),
        ip_mode: Some("VIP".into()),
        ..Default::default()
    });
    service.status.load_balancer.ingress = ingress.collect();
    service
}

fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn rules() -> Rules {
    let config =
        Config::parse("[cluster]\nmode = \"standalone\"", std::path::Path::new("test.toml")).unwrap();
    Rules::from_config(&config)
}

/// Whether a Service with these addresses has nothing left of [`VIP`].
fn clean(service: &Service, assigned: &[&str]) -> bool {
    is_clean(service, VIP.parse().unwrap(), &addresses(assigned), &rules())
}

/// The patch for a Service: `finalizers […]` or `ingress […]`.
fn next(service: &Service, assigned: &[&str], recorded: &[&str]) -> Option<String> {
    let job = job(service, 77, &addresses(assigned), &addresses(recorded), &rules())?;
    assert_eq!(job.patch["metadata"]["resourceVersion"], "77");
    Some(if job.is_status {
        let ips: Vec<_> = job.patch["status"]["loadBalancer"]["ingress"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| i["ip"].as_str().unwrap().to_owned())
            .collect();
        format!("ingress {ips:?}")
    } else {
        format!("finalizers {}", job.patch["metadata"]["finalizers"])
    })
}

const VIP: &str = "203.0.113.5";

#[test]
fn rule_c2_the_finalizer_comes_first_and_goes_last() {
    let ours = format!("finalizers [\"{FINALIZER}\"]");
    assert_eq!(next(&service(&[], &[]), &[VIP], &[VIP]), Some(ours));
    assert_eq!(
        next(&service(&[], &["example.com/x"]), &[VIP], &[VIP]),
        Some(format!("finalizers [\"example.com/x\",\"{FINALIZER}\"]"))
    );
    assert_eq!(next(&service(&[], &[FINALIZER]), &[VIP], &[VIP]), Some(format!("ingress [{VIP:?}]")));
    assert_eq!(next(&service(&[VIP], &[FINALIZER]), &[VIP], &[VIP]), None);
    // It is not ours any more.
    assert_eq!(next(&service(&[VIP], &[FINALIZER]), &[], &[VIP]), Some("ingress []".into()));
    assert_eq!(
        next(&service(&[], &[FINALIZER, "example.com/x"]), &[], &[VIP]),
        Some("finalizers [\"example.com/x\"]".into())
    );
    assert_eq!(next(&service(&[], &[]), &[], &[VIP]), None);
}

#[test]
fn rule_c2_a_service_on_its_way_out_is_cleaned() {
    let mut ending = service(&[VIP], &[FINALIZER]);
    ending.metadata.deletion_timestamp = Some(Time::from_unix_seconds(9));
    assert_eq!(next(&ending, &[VIP], &[VIP]), Some("ingress []".into()));
    assert!(!clean(&ending, &[VIP]));
    ending.status.load_balancer.ingress.clear();
    assert_eq!(next(&ending, &[VIP], &[VIP]), Some("finalizers []".into()));
    assert!(!clean(&ending, &[VIP]), "it waits for its finalizer");
    ending.metadata.finalizers.clear();
    assert_eq!(next(&ending, &[VIP], &[VIP]), None);
    assert!(clean(&ending, &[VIP]));
}

#[test]
fn rule_c2_a_record_stays_as_long_as_a_finalizer_is_left_to_take_off() {
    let mut left = service(&[], &[FINALIZER]);
    assert!(
        !clean(&left, &[]),
        "the API server cleared the status with the type, the finalizer is ours still"
    );
    assert!(clean(&left, &["203.0.113.6"]), "it goes on with another address, and keeps the finalizer");
    assert!(!clean(&service(&[VIP], &[FINALIZER]), &["203.0.113.6"]));
    left.spec.r#type = "LoadBalancer".into();
    left.spec.load_balancer_class = Some("example.com/edge".into());
    assert!(clean(&left, &[]), "it is another's");
    assert!(clean(&service(&[], &["example.com/x"]), &[]));
}

#[test]
fn rule_c1_the_finalizer_of_another_class_is_not_ours_to_remove() {
    let mut moved = service(&[VIP], &[FINALIZER]);
    moved.spec.r#type = "LoadBalancer".into();
    moved.spec.load_balancer_class = Some("example.com/edge".into());
    assert_eq!(next(&moved, &[], &[VIP]), Some("ingress []".into()));
    moved.status.load_balancer.ingress.clear();
    assert_eq!(next(&moved, &[], &[VIP]), None);
    moved.spec.r#type = "ClusterIP".into();
    assert_eq!(next(&moved, &[], &[VIP]), Some("finalizers []".into()));
}

#[test]
fn addresses_of_others_are_left_when_ours_go() {
    let mixed = service(&[VIP, "198.51.100.9"], &[FINALIZER]);
    assert_eq!(next(&mixed, &[], &[VIP]), Some("ingress [\"198.51.100.9\"]".into()));
    // While it is ours, it says what it has from us.
    assert_eq!(next(&mixed, &[VIP], &[VIP]), Some(format!("ingress [{VIP:?}]")));
}

#[tokio::test]
async fn a_kubeconfig_that_cannot_be_used_is_told_by_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kubeconfig");
    let error = format!("{:#}", client(&file, None).await.err().unwrap());
    assert!(error.contains("kubernetes.kubeconfig") && error.contains("kubeconfig"), "{error}");
    std::fs::write(&file, "nonsense: [").unwrap();
    assert!(client(&file, None).await.is_err());
}
