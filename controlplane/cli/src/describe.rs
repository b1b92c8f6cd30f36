//! `turnpike describe service`: the object, its addresses, what is answered, who serves, and what is wrong, in one page.

use crate::print::{list, text};
use serde_json::{Value, json};
use std::fmt::Write;
use turnpike_wire::admin::Skipped;

/// Everything about one Service, as the control plane tells it.
pub struct Description {
    /// The Service object.
    pub service: Value,
    /// What is answered for it.
    pub frontends: Vec<Value>,
    /// Who serves each of its ports.
    pub endpoints: Vec<Value>,
    /// What of it is not done.
    pub problems: Vec<Skipped>,
}

impl Description {
    /// For scripts.
    pub fn value(&self) -> Value {
        json!({
            "service": self.service,
            "frontends": self.frontends,
            "endpoints": self.endpoints,
            "problems": self.problems(),
            "from_revision": self.revision(),
        })
    }

    fn problems(&self) -> Vec<String> {
        self.problems.iter().map(|problem| problem.reason.clone()).chain(waits_for(&self.service)).collect()
    }

    /// etcd revision of the youngest object this is made from.
    fn revision(&self) -> u64 {
        let own = text(&self.service, "/metadata/resourceVersion").parse().unwrap_or(0);
        self.frontends.iter().filter_map(|f| f["from_revision"].as_u64()).fold(own, u64::max)
    }

    /// For people.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let service = &self.service;
        let mut out = String::new();
        let pairs = |pointer: &str| -> String {
            let map = service.pointer(pointer).and_then(Value::as_object);
            let pairs = map
                .into_iter()
                .flatten()
                .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
            pairs.collect::<Vec<_>>().join(", ")
        };
        let mut line = |name: &str, value: String| {
            if value.is_empty() { Ok(()) } else { writeln!(out, "{:<24}{value}", format!("{name}:")) }
        };
        line("Name", text(service, "/metadata/name"))?;
        line("Namespace", text(service, "/metadata/namespace"))?;
        line("Labels", pairs("/metadata/labels"))?;
        line("Annotations", pairs("/metadata/annotations"))?;
        line("Selector", pairs("/spec/selector"))?;
        line("Type", text(service, "/spec/type"))?;
        line("IP families", list(service, "/spec/ipFamilies", |f| text(f, "")))?;
        line("IP family policy", text(service, "/spec/ipFamilyPolicy"))?;
        line("Cluster IPs", list(service, "/spec/clusterIPs", |ip| text(ip, "")))?;
        line("External IPs", list(service, "/spec/externalIPs", |ip| text(ip, "")))?;
        line("Load balancer class", text(service, "/spec/loadBalancerClass"))?;
        line("Load balancer ingress", ingress(service))?;
        line("Source ranges", list(service, "/spec/loadBalancerSourceRanges", |range| text(range, "")))?;
        line("External name", text(service, "/spec/externalName"))?;
        for port in service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten() {
            let name = Some(text(port, "/name"))
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| "<unnamed>".into());
            line(
                "Port",
                format!(
                    "{name} {}/{} → {}",
                    text(port, "/port"),
                    text(port, "/protocol"),
                    text(port, "/targetPort")
                ),
            )?;
            line("  NodePort", text(port, "/nodePort"))?;
            line("  Endpoints", self.endpoints_of(&text(port, "/name"), &text(port, "/protocol")))?;
        }
        line("Session affinity", affinity(service))?;
        line("Internal traffic", text(service, "/spec/internalTrafficPolicy"))?;
        line("External traffic", text(service, "/spec/externalTrafficPolicy"))?;
        line("Health check NodePort", text(service, "/spec/healthCheckNodePort"))?;
        line("Traffic distribution", text(service, "/spec/trafficDistribution"))?;
        line("From revision", self.revision().to_string())?;
        if self.frontends.is_empty() {
            line("Frontends", "none".into())?;
        }
        for frontend in &self.frontends {
            let address = text(frontend, "/address");
            let address = if address.contains(':') { format!("[{address}]") } else { address };
            let backends = frontend["backends"].as_array().map_or(0, Vec::len);
            let (protocol, port) = (text(frontend, "/protocol"), text(frontend, "/port"));
            let (kind, action, mode) =
                (text(frontend, "/kind"), text(frontend, "/action"), text(frontend, "/mode"));
            let plural = if backends == 1 { "" } else { "s" };
            line(
                "Frontend",
                format!("{protocol} {address}:{port}  {kind}: {action}, {mode}, {backends} backend{plural}"),
            )?;
        }
        let problems = self.problems();
        if problems.is_empty() {
            line("Problems", "none".into())?;
        }
        for problem in problems {
            line("Problem", problem)?;
        }
        Ok(out)
    }

    fn endpoints_of(&self, port_name: &str, protocol: &str) -> String {
        let of_port =
            self.endpoints.iter().filter(|e| e["port_name"] == port_name && e["protocol"] == protocol);
        let lists = of_port.filter_map(|e| e["endpoints"].as_array()).flatten();
        let shown: Vec<String> = lists
            .map(|e| {
                let address = text(e, "/address");
                let address = if address.contains(':') { format!("[{address}]") } else { address };
                let state = if e["state"] == "ready" { "" } else { " (terminating)" };
                format!("{address}:{}{state}", text(e, "/port"))
            })
            .collect();
        if shown.is_empty() { "<none>".into() } else { shown.join(", ") }
    }
}

/// The addresses, or that and why the Service waits for one.
fn ingress(service: &Value) -> String {
    let given = list(service, "/status/loadBalancer/ingress", |i| text(i, "/ip"));
    let waits = waits_for(service).map(|_| "<pending>".to_owned());
    [Some(given).filter(|given| !given.is_empty()), waits]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(", ")
}

/// Why a Service waits for a load-balancer address; none: it does not.
pub fn waits_for(service: &Value) -> Option<String> {
    let conditions = service.pointer("/status/conditions")?.as_array()?;
    let waiting =
        conditions.iter().find(|c| c["type"] == "turnpike.dev/AddressAssigned" && c["status"] == "False");
    waiting.map(|condition| text(condition, "/message"))
}

fn affinity(service: &Value) -> String {
    let seconds = text(service, "/spec/sessionAffinityConfig/clientIP/timeoutSeconds");
    let kind = text(service, "/spec/sessionAffinity");
    if seconds.is_empty() { kind } else { format!("{kind}, {seconds} s") }
}
