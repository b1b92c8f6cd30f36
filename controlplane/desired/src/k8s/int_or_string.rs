//! `intstr.IntOrString`: a port by number or by name.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// A number or a text, as stored. Read it through [`IntOrString::port`].
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct IntOrString {
    /// 0: the number counts; 1: the text counts.
    #[prost(int64, required, tag = "1")]
    pub kind: i64,
    /// The number.
    #[prost(int32, required, tag = "2")]
    pub number: i32,
    /// The text.
    #[prost(string, required, tag = "3")]
    pub text: String,
}

/// What an [`IntOrString`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortRef<'a> {
    /// A number, not yet checked; 0 means not set.
    Number(i32),
    /// The name of a container port.
    Name(&'a str),
}

impl IntOrString {
    /// The number or the name, whichever counts.
    #[must_use]
    pub fn port(&self) -> PortRef<'_> {
        if self.kind == 0 { PortRef::Number(self.number) } else { PortRef::Name(&self.text) }
    }

    /// Whether it is the number 0, which stands for "not set".
    #[must_use]
    pub fn is_unset(&self) -> bool {
        self.port() == PortRef::Number(0)
    }
}

impl From<i32> for IntOrString {
    fn from(number: i32) -> Self {
        Self { kind: 0, number, text: String::new() }
    }
}

impl From<&str> for IntOrString {
    fn from(text: &str) -> Self {
        Self { kind: 1, number: 0, text: text.to_owned() }
    }
}

impl fmt::Display for IntOrString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port() {
            PortRef::Number(number) => write!(f, "{number}"),
            PortRef::Name(name) => f.write_str(name),
        }
    }
}

impl Serialize for IntOrString {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.port() {
            PortRef::Number(number) => serializer.serialize_i32(number),
            PortRef::Name(name) => serializer.serialize_str(name),
        }
    }
}

impl<'de> Deserialize<'de> for IntOrString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = IntOrString;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port number or a port name")
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<IntOrString, E> {
                i32::try_from(number)
                    .map(IntOrString::from)
                    .map_err(|_| E::custom(format!("{number} is no port number")))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<IntOrString, E> {
                i32::try_from(number)
                    .map(IntOrString::from)
                    .map_err(|_| E::custom(format!("{number} is no port number")))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<IntOrString, E> {
                Ok(IntOrString::from(text))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::{IntOrString, PortRef};
    use prost::Message;

    #[test]
    fn numbers_and_names_keep_their_kind() {
        let number: IntOrString = serde_json::from_str("8080").unwrap();
        assert_eq!(number.port(), PortRef::Number(8080));
        assert_eq!(
            number.encode_to_vec(),
            [0x08, 0, 0x10, 0x90, 0x3f, 0x1a, 0],
            "all three fields are on the wire"
        );
        let name: IntOrString = serde_json::from_str("\"http\"").unwrap();
        assert_eq!(name.port(), PortRef::Name("http"));
        assert_eq!(serde_json::to_string(&name).unwrap(), "\"http\"");
        assert_eq!(serde_json::to_string(&number).unwrap(), "8080");
        assert!(serde_json::from_str::<IntOrString>("4294967296").is_err());
        assert!(IntOrString::default().is_unset() && !IntOrString::from("").is_unset());
    }
}
