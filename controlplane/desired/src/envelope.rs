//! One value of etcd ↔ one object: the magic, the type, the message.
//!
//! Layout (kubernetes/apimachinery `pkg/runtime/serializer/protobuf`): four magic bytes, then `runtime.Unknown` with the type in field 1 and
//! the object's message in field 2. Everything else that may stand in etcd is refused by name, so that an operator knows what to change.
//! Next in a Service's walk: [`crate::tracker`].

use crate::k8s::{EndpointSlice, Node, Pod, Service, ServiceCidr};
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

/// Why a value is not an object that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Nothing there.
    #[error("the value is empty")]
    Empty,
    /// Over [`VALUE_BYTES_MAX`].
    #[error("the value has {bytes} bytes, over the limit of {VALUE_BYTES_MAX}")]
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
    #[error("the value starts with {found:02x?}, which is no form of a Kubernetes object")]
    NoObject {
        /// Its first bytes.
        found: Vec<u8>,
    },
    /// Ends too early, or is damaged.
    #[error("the value is truncated or damaged: {0}")]
    Damaged(String),
    /// Another version of the API, or another kind.
    #[error("the value is a {found}, expected {} {expected}: have the object written anew by a current kube-apiserver", expected.api_version())]
    OtherType {
        /// API version and kind found.
        found: String,
        /// Kind that belongs under the key.
        expected: Kind,
    },
    /// Compressed or otherwise encoded inside the envelope.
    #[error("the object is encoded as {0:?} inside its envelope, which Turnpike does not read")]
    ContentEncoding(String),
    /// Moved or copied from another key.
    #[error("the object says it is {found}, but its key says {expected}")]
    OtherName {
        /// By its metadata.
        found: ObjectKey,
        /// By its key.
        expected: ObjectKey,
    },
}

/// Reads the value of the object `key`. Total: any bytes give an object or an error.
pub fn decode(kind: Kind, key: &ObjectKey, value: &[u8]) -> Result<Object, DecodeError> {
    let Some(body) = value.strip_prefix(&MAGIC) else { return Err(foreign(value)) };
    if value.len() > VALUE_BYTES_MAX {
        return Err(DecodeError::TooLong { bytes: value.len() });
    }
    let unknown = Unknown::decode(body).map_err(|e| DecodeError::Damaged(e.to_string()))?;
    let found = &unknown.type_meta;
    if Kind::from_type(&found.api_version, &found.kind) != Some(kind) {
        let found = format!("{} {}", found.api_version, found.kind);
        return Err(DecodeError::OtherType { found, expected: kind });
    }
    if !unknown.content_encoding.is_empty() {
        return Err(DecodeError::ContentEncoding(unknown.content_encoding));
    }
    let raw = unknown.raw;
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
    use super::{DecodeError, decode, encode};
    use crate::k8s::{EndpointSlice, ObjectMeta, Service};
    use crate::object::{Kind, Object, ObjectKey};
    use proptest::prelude::*;

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
            (&beta, "is a v2 Service, expected v1 Service"),
        ];
        for (value, words) in rows {
            let error = decode(Kind::Service, &key, value).unwrap_err().to_string();
            assert!(error.contains(words), "{value:x?}: {error}");
        }
        assert_eq!(decode(Kind::Service, &key, &good), Ok(web()));
        let error = decode(Kind::Pod, &key, &good).unwrap_err();
        assert_eq!(error, DecodeError::OtherType { found: "v1 Service".into(), expected: Kind::Pod });
        let error = decode(Kind::Service, &ObjectKey::new("shop", "api"), &good).unwrap_err();
        assert!(error.to_string().contains("says it is shop/web, but its key says shop/api"), "{error}");
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
