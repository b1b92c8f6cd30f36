//! One value of etcd ↔ one object: the magic, the type, the message.
//!
//! Layout (kubernetes/apimachinery `pkg/runtime/serializer/protobuf`): four magic bytes, then `runtime.Unknown` with the type in field 1 and
//! the object's message in field 2. Everything else that may stand in etcd is refused by name, so that an operator knows what to change.
//! Next in a Service's walk: [`crate::tracker`].

use crate::k8s::{EndpointSlice, Node, Pod, RangeAllocation, Service, ServiceCidr};
use crate::object::{Kind, Object, ObjectKey};
use prost::Message;

/// First bytes of every protobuf value.
pub const MAGIC: [u8; 4] = *b"k8s\0";
/// First bytes of a self-described CBOR value.
const CBOR_TAG: [u8; 3] = [0xd9, 0xd9, 0xf7];
const ENCRYPTED_PREFIX: &[u8] = b"k8s:enc:";
/// Longest value that is looked at, in bytes. etcd's own limit for a request is 1.5 MiB unless it was raised.
pub const VALUE_BYTES_MAX: usize = 16 << 20;

/// `runtime.Unknown`. Its raw bytes are borrowed from the value, so that an object is copied once, when it is decoded.
#[derive(Clone, PartialEq, prost::Message)]
struct TypeMeta {
    #[prost(string, required, tag = "1")]
    api_version: String,
    #[prost(string, required, tag = "2")]
    kind: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Unknown {
    #[prost(message, required, tag = "1")]
    type_meta: TypeMeta,
    #[prost(bytes = "bytes", required, tag = "2")]
    raw: prost::bytes::Bytes,
    #[prost(string, required, tag = "3")]
    content_encoding: String,
    #[prost(string, required, tag = "4")]
    content_type: String,
}

/// Why a value is not an object that can be used. Each says what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Nothing there.
    #[error("the value is empty: write the object anew through the Kubernetes API, or delete the key")]
    Empty,
    /// Over [`VALUE_BYTES_MAX`].
    #[error("the value has {bytes} bytes, over the limit of {VALUE_BYTES_MAX}: make the object smaller")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// `--storage-media-type=application/json`, or a custom resource.
    #[error(
        "the value is JSON; Turnpike reads protobuf: run kube-apiserver with --storage-media-type=application/vnd.kubernetes.protobuf and write the object anew"
    )]
    Json,
    /// A custom resource of an apiserver with CBOR storage.
    #[error("the value is CBOR; Turnpike reads protobuf: write the object anew with protobuf storage")]
    Cbor,
    /// Encrypted at rest.
    #[error(
        "the value is encrypted at rest by provider {provider:?}, whose keys Turnpike does not have: exclude this resource in the apiserver's EncryptionConfiguration and write the object anew"
    )]
    Encrypted {
        /// `aescbc`, `aesgcm`, `secretbox`, `kms`, …
        provider: String,
    },
    /// None of the known forms.
    #[error(
        "the value starts with {found:02x?}, which is no form of a Kubernetes object: look for what wrote it past the Kubernetes API, and write the object anew"
    )]
    NoObject {
        /// Its first bytes.
        found: Vec<u8>,
    },
    /// Ends too early, or is damaged.
    #[error("the value is truncated or damaged ({0}): write the object anew through the Kubernetes API")]
    Damaged(String),
    /// The right kind, in a version of the API that is not read.
    #[error(
        "the value is a {found} {kind}, and Turnpike reads {expected} alone: have a current kube-apiserver write the object anew (a storage version migration)"
    )]
    OtherVersion {
        /// Kind.
        kind: String,
        /// API version found.
        found: String,
        /// API version that is read.
        expected: &'static str,
    },
    /// Another kind than the key is for.
    #[error(
        "the value is a {found}, but its key is for a {expected}: delete the key, or write the right object"
    )]
    OtherKind {
        /// API version and kind found.
        found: String,
        /// Kind that belongs under the key.
        expected: &'static str,
    },
    /// Compressed or otherwise encoded inside the envelope.
    #[error(
        "the object is encoded as {0:?} inside its envelope, which Turnpike does not read: write the object anew with plain protobuf storage"
    )]
    ContentEncoding(String),
    /// Moved or copied from another key.
    #[error(
        "the object says it is {found}, but its key says {expected}: it was copied past the Kubernetes API; delete the key"
    )]
    OtherName {
        /// By its metadata.
        found: ObjectKey,
        /// By its key.
        expected: ObjectKey,
    },
}

/// Reads the value of the object `key`. Total: any bytes give an object or an error.
pub fn decode(kind: Kind, key: &ObjectKey, value: &[u8]) -> Result<Object, DecodeError> {
    let raw = open(value, kind.api_version(), kind.name())?;
    let object = match kind {
        Kind::Service => Service::decode(raw).map(Object::from),
        Kind::EndpointSlice => EndpointSlice::decode(raw).map(Object::from),
        Kind::Pod => Pod::decode(raw).map(Object::from),
        Kind::Node => Node::decode(raw).map(Object::from),
        Kind::ServiceCidr => ServiceCidr::decode(raw).map(Object::from),
    }
    .map_err(|e| DecodeError::Damaged(e.to_string()))?;
    let found = object.key();
    if found == *key { Ok(object) } else { Err(DecodeError::OtherName { found, expected: key.clone() }) }
}

/// Reads a network of service addresses as clusters without ServiceCIDR objects keep it.
pub fn decode_range(value: &[u8]) -> Result<RangeAllocation, DecodeError> {
    let raw = open(value, "v1", "RangeAllocation")?;
    RangeAllocation::decode(raw).map_err(|e| DecodeError::Damaged(e.to_string()))
}

/// Takes the message out of its envelope, if it is of that type.
fn open(
    value: &[u8],
    api_version: &'static str,
    kind: &'static str,
) -> Result<prost::bytes::Bytes, DecodeError> {
    let Some(body) = value.strip_prefix(&MAGIC) else { return Err(foreign(value)) };
    if value.len() > VALUE_BYTES_MAX {
        return Err(DecodeError::TooLong { bytes: value.len() });
    }
    let unknown = Unknown::decode(body).map_err(|e| DecodeError::Damaged(e.to_string()))?;
    let found = unknown.type_meta;
    if found.kind != kind {
        let found = format!("{} {}", found.api_version, found.kind);
        return Err(DecodeError::OtherKind { found, expected: kind });
    }
    if found.api_version != api_version {
        return Err(DecodeError::OtherVersion {
            kind: found.kind,
            found: found.api_version,
            expected: api_version,
        });
    }
    if !unknown.content_encoding.is_empty() {
        return Err(DecodeError::ContentEncoding(unknown.content_encoding));
    }
    Ok(unknown.raw)
}

/// Names the form of a value that is not protobuf.
fn foreign(value: &[u8]) -> DecodeError {
    if value.is_empty() {
        DecodeError::Empty
    } else if MAGIC.starts_with(value) {
        DecodeError::Damaged("it ends inside the magic bytes".into())
    } else if let Some(rest) = value.strip_prefix(ENCRYPTED_PREFIX) {
        let provider = rest.split(|&b| b == b':').next().unwrap_or_default();
        DecodeError::Encrypted {
            provider: String::from_utf8_lossy(&provider[..provider.len().min(32)]).into_owned(),
        }
    } else if value.starts_with(&CBOR_TAG) {
        DecodeError::Cbor
    } else if value.trim_ascii_start().starts_with(b"{") {
        DecodeError::Json
    } else {
        DecodeError::NoObject { found: value[..value.len().min(8)].to_vec() }
    }
}

/// Writes an object as a kube-apiserver would: `metadata.resourceVersion` is left out, because etcd has the revision itself.
#[must_use]
pub fn encode(object: &Object) -> Vec<u8> {
    let kind = object.kind();
    let raw = if object.metadata().resource_version.is_empty() {
        message(object)
    } else {
        let mut stored = object.clone();
        stored.metadata_mut().resource_version.clear();
        message(&stored)
    };
    let unknown = Unknown {
        type_meta: TypeMeta { api_version: kind.api_version().into(), kind: kind.name().into() },
        raw: raw.into(),
        content_encoding: String::new(),
        content_type: String::new(),
    };
    let mut value = MAGIC.to_vec();
    value.extend(unknown.encode_to_vec());
    value
}

fn message(object: &Object) -> Vec<u8> {
    match object {
        Object::Service(o) => o.encode_to_vec(),
        Object::EndpointSlice(o) => o.encode_to_vec(),
        Object::Pod(o) => o.encode_to_vec(),
        Object::Node(o) => o.encode_to_vec(),
        Object::ServiceCidr(o) => o.encode_to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::{DecodeError, MAGIC, TypeMeta, Unknown, VALUE_BYTES_MAX, decode, encode};
    use crate::k8s::{EndpointSlice, ObjectMeta, Service};
    use crate::object::{Kind, Object, ObjectKey};
    use proptest::prelude::*;
    use prost::Message;

    fn web() -> Object {
        let metadata = ObjectMeta { name: "web".into(), namespace: "shop".into(), ..Default::default() };
        Object::from(Service { metadata, ..Default::default() })
    }

    #[test]
    fn an_empty_service_has_the_bytes_go_would_write() {
        let metadata = ObjectMeta { name: "a".into(), namespace: "b".into(), ..Default::default() };
        let value =
            encode(&EndpointSlice { metadata, address_type: "IPv4".into(), ..Default::default() }.into());
        let meta = b"\x0a\x01a\x12\x00\x1a\x01b\x2a\x00\x32\x00\x38\x00\x42\x00";
        let mut raw = vec![0x0a, u8::try_from(meta.len()).unwrap()];
        raw.extend(meta);
        raw.extend(b"\x22\x04IPv4");
        let mut expected = b"k8s\0\x0a\x24\x0a\x13discovery.k8s.io/v1\x12\x0dEndpointSlice".to_vec();
        expected.extend([0x12, u8::try_from(raw.len()).unwrap()]);
        expected.extend(&raw);
        expected.extend(b"\x1a\x00\x22\x00");
        assert_eq!(value, expected);
    }

    #[test]
    fn each_foreign_value_is_refused_by_its_name() {
        let key = ObjectKey::new("shop", "web");
        let good = encode(&web());
        let mut beta = good.clone();
        let at = beta.windows(2).position(|w| w == b"v1").unwrap();
        beta[at..at + 2].copy_from_slice(b"v2");
        let rows: &[(&[u8], &str)] = &[
            (b"", "empty"),
            (b"{\"kind\":\"Service\"}", "JSON"),
            (b"\n {}", "JSON"),
            (b"\xd9\xd9\xf7\xa1", "CBOR"),
            (b"k8s:enc:aescbc:v1:key1:xxxx", "\"aescbc\""),
            (b"k8", "truncated"),
            (b"garbage", "no form"),
            (&good[..good.len() / 2], "truncated"),
            (&beta, "is a v2 Service, and Turnpike reads v1 alone"),
        ];
        for (value, words) in rows {
            let error = decode(Kind::Service, &key, value).unwrap_err().to_string();
            assert!(error.contains(words), "{value:x?}: {error}");
        }
        assert_eq!(decode(Kind::Service, &key, &good), Ok(web()));
        let error = decode(Kind::Pod, &key, &good).unwrap_err();
        assert_eq!(error, DecodeError::OtherKind { found: "v1 Service".into(), expected: "Pod" });
        let error = decode(Kind::Service, &ObjectKey::new("shop", "api"), &good).unwrap_err();
        assert!(error.to_string().contains("says it is shop/web, but its key says shop/api"), "{error}");
    }

    #[test]
    fn every_refusal_is_of_its_own_words_and_says_what_to_do() {
        let key = ObjectKey::new("shop", "web");
        let good = encode(&web());
        let typed = |version: &str, kind: &str, encoding: &str| {
            let unknown = Unknown {
                type_meta: TypeMeta { api_version: version.into(), kind: kind.into() },
                raw: Vec::new().into(),
                content_encoding: encoding.into(),
                content_type: String::new(),
            };
            [MAGIC.to_vec(), unknown.encode_to_vec()].concat()
        };
        let values: [(&str, Vec<u8>); 10] = [
            ("Empty", Vec::new()),
            ("TooLong", [MAGIC.as_slice(), &vec![0; VALUE_BYTES_MAX]].concat()),
            ("Json", b"{}".to_vec()),
            ("Cbor", b"\xd9\xd9\xf7\xa0".to_vec()),
            ("Encrypted", b"k8s:enc:kms:v2:".to_vec()),
            ("NoObject", b"hello".to_vec()),
            ("Damaged", good[..good.len() - 9].to_vec()),
            ("OtherVersion", typed("v1beta1", "Service", "")),
            ("OtherKind", typed("v1", "ConfigMap", "")),
            ("ContentEncoding", typed("v1", "Service", "gzip")),
        ];
        let mut texts = std::collections::BTreeSet::new();
        for (name, value) in values {
            let error = decode(Kind::Service, &key, &value).unwrap_err();
            assert!(format!("{error:?}").starts_with(name), "{name}: {error:?}");
            let text = error.to_string();
            let mend = text.split_once(": ").map(|(_, mend)| mend).unwrap_or_default();
            let has_mend = ["write", "run", "exclude", "delete", "make", "have", "look"]
                .iter()
                .any(|verb| mend.contains(verb));
            assert!(has_mend, "{name}: {text}");
            assert!(texts.insert(text.chars().take(24).collect::<String>()), "{name}: {text}");
        }
    }

    #[test]
    fn the_network_of_an_old_cluster_is_read() {
        // As kube-apiserver writes /registry/ranges/serviceips: empty metadata, the network, a bitmap.
        let value = b"k8s\0\x0a\x15\x0a\x02v1\x12\x0fRangeAllocation\x12\x23\x0a\x10\x0a\0\x12\0\x1a\0\"\0*\x002\x008\0B\0\x12\x0c10.96.0.0/12\x1a\x01\x02\x1a\0\"\0";
        assert_eq!(super::decode_range(value).unwrap().range, "10.96.0.0/12");
        assert_eq!(super::decode_range(b"{}"), Err(DecodeError::Json));
    }

    #[test]
    fn the_resource_version_is_not_stored() {
        let mut object = web();
        object.metadata_mut().resource_version = "17".into();
        assert_eq!(encode(&object), encode(&web()));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(value in proptest::collection::vec(any::<u8>(), 0..200), magic in any::<bool>()) {
            let key = ObjectKey::new("shop", "web");
            let bytes = if magic { [b"k8s\0", value.as_slice()].concat() } else { value };
            for kind in Kind::ALL {
                let _ = decode(kind, &key, &bytes);
            }
        }

        #[test]
        fn a_damaged_object_decodes_or_is_refused(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
            let mut value = encode(&web());
            let index = at.index(value.len());
            value[index] = byte;
            value.truncate(cut.index(value.len()) + 1);
            let _ = decode(Kind::Service, &ObjectKey::new("shop", "web"), &value);
        }
    }
}
