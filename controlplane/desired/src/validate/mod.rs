//! Whether an applied object is one the Kubernetes API server would take, and one this gateway can serve.
//!
//! All that is wrong with an object is told at once, each with the path of its field. Defaults ([`crate::defaults`]) are filled in before.

mod endpoint_slice;
mod names;
mod node;
mod pod;
mod service;

use crate::address_guard::danger;
use crate::object::{Kind, Object};
use crate::settings::Rules;
use crate::words::{MANAGED_BY, MANAGED_BY_LABEL};
use std::fmt;
use std::net::IpAddr;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field, e.g. `spec.ports[0].port`.
    pub path: String,
    /// What is wrong and the mend.
    pub message: String,
}

/// Everything that is wrong with one object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Invalid {
    /// Kind, namespace and name.
    pub object: String,
    /// At least one.
    pub errors: Vec<FieldError>,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.object)?;
        for (index, error) in self.errors.iter().enumerate() {
            write!(f, "{}{error}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

/// Collects errors under a path.
#[derive(Default)]
struct Errors {
    found: Vec<FieldError>,
}

impl Errors {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.found.push(FieldError { path: path.into(), message: message.into() });
    }

    /// Adds what a check of `names` says.
    fn check(&mut self, path: impl Into<String>, checked: Result<(), String>) {
        if let Err(message) = checked {
            self.add(path, message);
        }
    }

    fn is_one_of(&mut self, path: &str, value: &str, allowed: &[&str]) {
        if !allowed.contains(&value) {
            self.add(path, format!("{value:?} is not one of {}", allowed.join(", ")));
        }
    }

    /// A port number, 1 to 65535.
    fn is_port(&mut self, path: impl Into<String>, number: i32) {
        if !(1..=65535).contains(&number) {
            self.add(path, format!("{number} is not 1..65535"));
        }
    }

    /// The address of a host that traffic may be sent to.
    fn is_host_address(&mut self, path: &str, text: &str) -> Option<IpAddr> {
        let Ok(address) = text.parse::<IpAddr>() else {
            self.add(path, format!("{text:?} is no IP address"));
            return None;
        };
        if let Some(reason) = danger(address) {
            self.add(path, format!("{address} {reason} and gets no traffic"));
        }
        Some(address)
    }
}

/// Checks an object.
pub fn validate(object: &Object, rules: &Rules) -> Result<(), Invalid> {
    let mut errors = Errors::default();
    metadata(object, &mut errors);
    match object {
        Object::Service(o) => service::check(o, rules, &mut errors),
        Object::EndpointSlice(o) => endpoint_slice::check(o, &mut errors),
        Object::Pod(o) => pod::check(o, &mut errors),
        Object::Node(o) => node::check(o, &mut errors),
        Object::ServiceCidr(_) => {
            errors.add(
                "kind",
                "the networks of cluster addresses are the setting cluster.service_cidrs, not an object",
            );
        }
    }
    finish(object, errors)
}

/// Checks what may not change between two versions. Both are valid by themselves.
pub fn validate_update(old: &Object, new: &Object) -> Result<(), Invalid> {
    let mut errors = Errors::default();
    match (old, new) {
        (Object::Service(old), Object::Service(new)) => service::check_update(old, new, &mut errors),
        (Object::EndpointSlice(old), Object::EndpointSlice(new)) => {
            endpoint_slice::check_update(old, new, &mut errors);
        }
        _ => {}
    }
    finish(new, errors)
}

fn finish(object: &Object, errors: Errors) -> Result<(), Invalid> {
    if errors.found.is_empty() {
        Ok(())
    } else {
        Err(Invalid { object: object.to_string(), errors: errors.found })
    }
}

fn metadata(object: &Object, errors: &mut Errors) {
    let meta = object.metadata();
    let name = match object.kind() {
        Kind::Service => names::dns1035_label(&meta.name),
        _ => names::dns1123_subdomain(&meta.name),
    };
    if meta.name.is_empty() {
        errors.add(
            "metadata.name",
            "is missing; what is applied needs a name of its own, generateName makes none",
        );
    } else {
        errors.check("metadata.name", name);
    }
    if object.kind().is_namespaced() {
        errors.check("metadata.namespace", names::dns1123_label(&meta.namespace));
    }
    for (key, value) in &meta.labels {
        errors.check("metadata.labels", names::qualified_name(key));
        errors.check(format!("metadata.labels[{key}]"), names::label_value(value));
    }
    for key in meta.annotations.keys() {
        errors.check("metadata.annotations", names::qualified_name(&key.to_lowercase()));
    }
    for finalizer in &meta.finalizers {
        errors.check("metadata.finalizers", names::qualified_name(finalizer));
    }
    let bytes: usize = meta.annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > names::ANNOTATION_BYTES_MAX {
        errors.add(
            "metadata.annotations",
            format!("{bytes} bytes are over the limit of {}", names::ANNOTATION_BYTES_MAX),
        );
    }
    if meta.labels.get(MANAGED_BY_LABEL).is_some_and(|by| by == MANAGED_BY) {
        let message = format!(
            "{MANAGED_BY:?} marks the slices Turnpike makes from selectors; give another word, e.g. your own"
        );
        errors.add(format!("metadata.labels[{MANAGED_BY_LABEL}]"), message);
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
