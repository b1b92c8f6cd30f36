//! Which fields the Kubernetes API 1.36 has where Turnpike holds only some of them: of objects of all kinds their metadata, of pods and
//! nodes the parts that say how they run. Deeper inside those nothing is judged, since nothing of it is read.

use crate::object::Kind;

/// Kept by an API server for itself, in what it hands out.
const BOOKKEEPING: [&str; 2] = ["managedFields", "selfLink"];

const POD_SPEC: &str = "activeDeadlineSeconds affinity automountServiceAccountToken containers dnsConfig dnsPolicy enableServiceLinks \
    ephemeralContainers hostAliases hostIPC hostNetwork hostPID hostUsers hostname hostnameOverride imagePullSecrets initContainers nodeName \
    nodeSelector os overhead preemptionPolicy priority priorityClassName readinessGates resourceClaims resources restartPolicy \
    runtimeClassName schedulerName schedulingGates securityContext serviceAccount serviceAccountName setHostnameAsFQDN \
    shareProcessNamespace subdomain terminationGracePeriodSeconds tolerations topologySpreadConstraints volumes workloadRef";
const CONTAINER: &str = "args command env envFrom image imagePullPolicy lifecycle livenessProbe name ports readinessProbe resizePolicy \
    resources restartPolicy restartPolicyRules securityContext startupProbe stdin stdinOnce terminationMessagePath \
    terminationMessagePolicy tty volumeDevices volumeMounts workingDir";
const CONTAINER_PORT: &str = "containerPort hostIP hostPort name protocol";
const POD_STATUS: &str = "allocatedResources conditions containerStatuses ephemeralContainerStatuses extendedResourceClaimStatus hostIP \
    hostIPs initContainerStatuses message nominatedNodeName observedGeneration phase podIP podIPs qosClass reason resize \
    resourceClaimStatuses resources startTime";
const NODE_SPEC: &str = "configSource externalID podCIDR podCIDRs providerID taints unschedulable";
const NODE_STATUS: &str = "addresses allocatable capacity conditions config daemonEndpoints declaredFeatures features images nodeInfo phase \
    runtimeHandlers volumesAttached volumesInUse";

/// Whether the API server would refuse a field that was not read.
pub(super) fn is_unknown(kind: Kind, path: &str) -> bool {
    let segments: Vec<&str> =
        path.split('.').map(|segment| segment.split('[').next().unwrap_or(segment)).collect();
    let has = |fields: &str, name: &str| fields.split_whitespace().any(|field| field == name);
    match (kind, segments.as_slice()) {
        (_, ["metadata", field, ..]) if BOOKKEEPING.contains(field) => false,
        (Kind::Pod, ["spec", "containers" | "initContainers", "ports", name]) => !has(CONTAINER_PORT, name),
        (Kind::Pod, ["spec", "containers" | "initContainers", name]) => !has(CONTAINER, name),
        (Kind::Pod, ["spec", name]) => !has(POD_SPEC, name),
        (Kind::Pod, ["status", name]) => !has(POD_STATUS, name),
        (Kind::Node, ["spec", name]) => !has(NODE_SPEC, name),
        (Kind::Node, ["status", name]) => !has(NODE_STATUS, name),
        (Kind::Pod | Kind::Node, ["spec" | "status", ..]) => false,
        // Of these kinds every field is held, and so is every other one of the metadata.
        _ => true,
    }
}

/// Whether a field is an API server's own and not worth a word.
pub(super) fn is_bookkeeping(path: &str) -> bool {
    path.strip_prefix("metadata.").is_some_and(|field| {
        BOOKKEEPING
            .iter()
            .any(|own| field.strip_prefix(own).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric)))
    })
}

#[cfg(test)]
mod tests {
    use super::is_bookkeeping;
    use crate::manifest::from_json;
    use serde_json::{Value, json};

    #[test]
    fn fields_that_the_api_does_not_have_are_refused_by_their_path() {
        let object = |kind: &str, mut value: Value| {
            let version = if kind == "EndpointSlice" { "discovery.k8s.io/v1" } else { "v1" };
            value["apiVersion"] = version.into();
            value["kind"] = kind.into();
            value
        };
        // Kind, what is written, the unknown field; empty: none.
        let rows = [
            ("Service", json!({"spec": {"port": 80}}), "spec.port"),
            (
                "Service",
                json!({"spec": {"ports": [{"port": 80, "targetport": 1}]}}),
                "spec.ports[0].targetport",
            ),
            ("Service", json!({"spce": {}}), "spce"),
            ("Service", json!({"metadata": {"label": {"a": "b"}}}), "metadata.label"),
            (
                "Service",
                json!({"metadata": {"managedFields": [{"manager": "kubectl"}], "selfLink": "/x"}}),
                "",
            ),
            ("Service", json!({"metadata": {"managedFieldsX": 1}}), "metadata.managedFieldsX"),
            ("EndpointSlice", json!({"endpoints": [{"address": "10.0.0.1"}]}), "endpoints[0].address"),
            ("Pod", json!({"spec": {"container": []}}), "spec.container"),
            ("Pod", json!({"spec": {"containers": [{"imagee": "x"}]}}), "spec.containers[0].imagee"),
            (
                "Pod",
                json!({"spec": {"containers": [{"ports": [{"port": 1}]}]}}),
                "spec.containers[0].ports[0].port",
            ),
            (
                "Pod",
                json!({"spec": {"containers": [{"image": "x", "env": [{"name": "A"}]}], "volumes": []}}),
                "",
            ),
            ("Pod", json!({"status": {"podIp": "10.0.0.1"}}), "status.podIp"),
            ("Pod", json!({"stauts": {}}), "stauts"),
            ("Node", json!({"spec": {"podCidr": "10.0.0.0/8"}}), "spec.podCidr"),
            ("Node", json!({"status": {"capacity": {"cpu": "1"}, "nodeInfo": {}}}), ""),
            ("Node", json!({"status": {"adresses": []}}), "status.adresses"),
        ];
        for (kind, value, path) in rows {
            let told = from_json(object(kind, value.clone())).map(drop).map_err(|error| error.to_string());
            match (path, told) {
                ("", told) => assert_eq!(told, Ok(()), "{value}"),
                (path, told) => {
                    let error = told.expect_err(path);
                    assert!(error.contains(&format!("unknown field {path:?}")), "{value}: {error}");
                }
            }
        }
        assert!(is_bookkeeping("metadata.managedFields") && !is_bookkeeping("metadata.managedFieldsX"));
    }
}
