//! Kubernetes JSON ↔ objects. A field that the Kubernetes API does not know is refused, as its server-side validation does; one that it
//! knows and Turnpike does not use is named and not kept.

mod schema;

use crate::object::{Kind, Object, ObjectKey};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// An object of a manifest, and what of the manifest it does not hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The object as written, without defaults.
    pub object: Object,
    /// Paths of fields that Turnpike does not know or does not use, e.g. `spec.containers[0].image`; not kept.
    pub unused_fields: Vec<String>,
}

/// Why JSON is no object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not even of the form of an object.
    #[error("not a Kubernetes object: {0}")]
    Shape(String),
    /// No kind Turnpike takes.
    #[error(
        "{api_version} {kind} {name}: Turnpike takes v1 Service, v1 Pod, v1 Node and discovery.k8s.io/v1 EndpointSlice"
    )]
    Kind {
        /// As written.
        api_version: String,
        /// As written.
        kind: String,
        /// As written, may be empty.
        name: String,
    },
    /// Fields that the kind does not have: spelled wrong, or at the wrong place.
    #[error("{kind} {name}: {}; correct the spelling or the indentation, or leave it out", unknown(.paths))]
    Unknown {
        /// Its kind.
        kind: Kind,
        /// Its namespace and name as written.
        name: ObjectKey,
        /// Their paths.
        paths: Vec<String>,
    },
    /// A field has a value of the wrong type.
    #[error("{kind} {name}: {path}: {message}")]
    Field {
        /// Its kind.
        kind: Kind,
        /// Its namespace and name as written.
        name: ObjectKey,
        /// Path of the field.
        path: String,
        /// What is wrong.
        message: String,
    },
}

/// The objects of a value: of a `List` its items, of anything else the value itself.
#[must_use]
pub fn flatten(value: Value) -> Vec<Value> {
    match value {
        Value::Object(mut map)
            if map.get("kind").and_then(Value::as_str).is_some_and(|k| k.ends_with("List")) =>
        {
            match map.remove("items") {
                Some(Value::Array(items)) => items.into_iter().flat_map(flatten).collect(),
                Some(Value::Null) | None => Vec::new(),
                // Refused with its own words when it is read.
                Some(other) => vec![other],
            }
        }
        Value::Array(items) => items.into_iter().flat_map(flatten).collect(),
        other => vec![other],
    }
}

/// Reads one object. `null` means absent, as in Kubernetes.
pub fn from_json(value: Value) -> Result<Manifest, ManifestError> {
    let Value::Object(mut map) = without_nulls(value) else {
        return Err(ManifestError::Shape("expected a mapping with apiVersion, kind and metadata".into()));
    };
    let mut word = |field: &str| match map.remove(field) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(ManifestError::Shape(format!("{field} must be text"))),
        None => Err(ManifestError::Shape(format!("{field} is missing"))),
    };
    let (api_version, kind_name) = (word("apiVersion")?, word("kind")?);
    let name = written_name(&map);
    // The networks of cluster addresses are a setting here, not an object.
    let taken = Kind::from_type(&api_version, &kind_name).filter(|kind| *kind != Kind::ServiceCidr);
    let Some(kind) = taken else {
        return Err(ManifestError::Kind { api_version, kind: kind_name, name: name.to_string() });
    };
    let value = Value::Object(map);
    let (object, unused_fields) = match kind {
        Kind::Service => read(value).map(|(o, unused)| (Object::Service(o), unused)),
        Kind::EndpointSlice => read(value).map(|(o, unused)| (Object::EndpointSlice(o), unused)),
        Kind::Pod => read(value).map(|(o, unused)| (Object::Pod(o), unused)),
        Kind::Node => read(value).map(|(o, unused)| (Object::Node(o), unused)),
        Kind::ServiceCidr => read(value).map(|(o, unused)| (Object::ServiceCidr(o), unused)),
    }
    .map_err(|(path, message)| ManifestError::Field { kind, name: name.clone(), path, message })?;
    let paths: Vec<String> =
        unused_fields.iter().filter(|path| schema::is_unknown(kind, path)).cloned().collect();
    if !paths.is_empty() {
        return Err(ManifestError::Unknown { kind, name, paths });
    }
    let unused_fields = unused_fields.into_iter().filter(|path| !schema::is_bookkeeping(path)).collect();
    Ok(Manifest { object, unused_fields })
}

fn unknown(paths: &[String]) -> String {
    paths.iter().map(|path| format!("unknown field {path:?}")).collect::<Vec<_>>().join(", ")
}

/// The object as Kubernetes JSON, with its type; `revision` becomes `metadata.resourceVersion` unless it is 0.
#[must_use]
pub fn to_json(object: &Object, revision: i64) -> Value {
    let body = match object {
        Object::Service(o) => serde_json::to_value(o),
        Object::EndpointSlice(o) => serde_json::to_value(o),
        Object::Pod(o) => serde_json::to_value(o),
        Object::Node(o) => serde_json::to_value(o),
        Object::ServiceCidr(o) => serde_json::to_value(o),
    };
    let mut map = Map::new();
    map.insert("apiVersion".into(), object.kind().api_version().into());
    map.insert("kind".into(), object.kind().name().into());
    // Types with text keys only always become a mapping.
    if let Ok(Value::Object(fields)) = body {
        map.extend(fields);
    }
    if revision != 0
        && let Some(Value::Object(metadata)) = map.get_mut("metadata")
    {
        metadata.insert("resourceVersion".into(), revision.to_string().into());
    }
    Value::Object(map)
}

fn written_name(map: &Map<String, Value>) -> ObjectKey {
    let word = |field: &str| {
        map.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or_default()
    };
    ObjectKey::new(word("namespace"), word("name"))
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(_, v)| !v.is_null());
            Value::Object(kept.map(|(k, v)| (k, without_nulls(v))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

type Read<T> = Result<(Box<T>, Vec<String>), (String, String)>;

fn read<T: DeserializeOwned>(value: Value) -> Read<T> {
    let mut unused = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
    let read: Result<T, _> = serde_ignored::deserialize(tracked, |path| unused.push(dotted(&path)));
    match read {
        Ok(object) => Ok((Box::new(object), unused)),
        Err(error) => Err((track.path().to_string(), error.to_string())),
    }
}

/// A path in the words of Kubernetes: `spec.ports[0].name`.
fn dotted(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", dotted(parent)),
        Path::Map { parent, key } => match dotted(parent) {
            above if above.is_empty() => key.clone(),
            above => format!("{above}.{key}"),
        },
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            dotted(parent)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{flatten, from_json, to_json};
    use crate::k8s::PortRef;
    use crate::object::Object;
    use serde_json::json;

    #[test]
    fn a_manifest_becomes_an_object_and_back() {
        let written = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"}, "creationTimestamp": "2026-01-31T12:00:00Z"},
            "spec": {
                "type": "LoadBalancer", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "loadBalancerIP": "203.0.113.5",
                "ports": [{"name": "http", "port": 80, "targetPort": "web"}], "selector": {"app": "web"},
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}
            },
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.5", "ipMode": "VIP"}]}}
        });
        let manifest = from_json(written.clone()).unwrap();
        assert_eq!(manifest.unused_fields, Vec::<String>::new());
        let Object::Service(service) = &manifest.object else { panic!("{manifest:?}") };
        assert_eq!(service.spec.ports[0].target_port.port(), PortRef::Name("web"));
        assert_eq!(to_json(&manifest.object, 0), written);
        assert_eq!(to_json(&manifest.object, 9)["metadata"]["resourceVersion"], "9");
    }

    #[test]
    fn nulls_are_absent_and_unknown_fields_are_named() {
        let manifest = from_json(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "a", "creationTimestamp": null, "labels": null},
            "spec": {"containers": [{"name": "c", "image": "nginx", "ports": null}]},
            "status": {}
        }))
        .unwrap();
        assert_eq!(manifest.unused_fields, ["spec.containers[0].image"]);
    }

    #[test]
    fn errors_name_the_object_the_field_and_the_mend() {
        let rows = [
            (json!("x"), "expected a mapping"),
            (json!({"kind": "Pod"}), "apiVersion is missing"),
            (json!({"apiVersion": 1, "kind": "Pod"}), "apiVersion must be text"),
            (
                json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}}),
                "apps/v1 Deployment d: Turnpike takes",
            ),
            (
                json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"}, "spec": {"ports": [{"port": 80}, {"port": "x"}]}}),
                "Service shop/web: spec.ports[1].port: invalid type",
            ),
        ];
        for (value, words) in rows {
            let error = from_json(value.clone()).unwrap_err().to_string();
            assert!(error.contains(words), "{value}: {error}");
        }
    }

    #[test]
    fn lists_are_flattened() {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [{"kind": "Pod"}, {"kind": "ServiceList", "items": [{"kind": "Service"}]}]});
        assert_eq!(flatten(list), [json!({"kind": "Pod"}), json!({"kind": "Service"})]);
        assert_eq!(flatten(json!({"kind": "Pod"})), [json!({"kind": "Pod"})]);
        assert!(flatten(json!({"kind": "List", "items": null})).is_empty());
    }
}
