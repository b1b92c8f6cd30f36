//! `dataplane.mss_clamp`: a word or a number.

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What is done to the segment sizes that TCP SYNs announce (RFC 6691).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MssClamp {
    /// They pass as they are.
    Off,
    /// None is larger than what both ports of its connection take: their smaller MTU less 40 bytes of headers.
    #[default]
    Auto,
    /// None is larger than this many bytes, [`MssClamp::LEAST`] at least.
    Bytes(u16),
}

impl MssClamp {
    /// The size every host takes (RFC 9293 section 3.7.1).
    pub const LEAST: u16 = 536;
}

impl Serialize for MssClamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_str("off"),
            Self::Auto => serializer.serialize_str("auto"),
            Self::Bytes(bytes) => serializer.serialize_u16(*bytes),
        }
    }
}

impl<'de> Deserialize<'de> for MssClamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Words)
    }
}

struct Words;

impl Visitor<'_> for Words {
    type Value = MssClamp;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"off\", \"auto\" or a number of bytes from {}, e.g. 1360", MssClamp::LEAST)
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<MssClamp, E> {
        match word {
            "off" => Ok(MssClamp::Off),
            "auto" => Ok(MssClamp::Auto),
            _ => Err(E::invalid_value(Unexpected::Str(word), &self)),
        }
    }

    fn visit_i64<E: Error>(self, bytes: i64) -> Result<MssClamp, E> {
        match u16::try_from(bytes) {
            Ok(bytes) if bytes >= MssClamp::LEAST => Ok(MssClamp::Bytes(bytes)),
            _ => Err(E::invalid_value(Unexpected::Signed(bytes), &self)),
        }
    }

    fn visit_u64<E: Error>(self, bytes: u64) -> Result<MssClamp, E> {
        self.visit_i64(i64::try_from(bytes).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::path::Path;

    fn read(value: &str) -> Result<MssClamp, String> {
        let text = format!("[dataplane]\nmss_clamp = {value}\n");
        Config::parse(&text, Path::new("t")).map(|c| c.dataplane.mss_clamp).map_err(|e| e.to_string())
    }

    #[test]
    fn words_and_numbers() {
        let rows = [
            ("\"off\"", MssClamp::Off),
            ("\"auto\"", MssClamp::Auto),
            ("536", MssClamp::Bytes(536)),
            ("65535", MssClamp::Bytes(65_535)),
        ];
        for (value, wanted) in rows {
            assert_eq!(read(value), Ok(wanted));
            assert_eq!(serde_json::to_string(&wanted).unwrap(), value);
        }
        assert_eq!(Config::default().dataplane.mss_clamp, MssClamp::Auto);
        for value in ["\"on\"", "535", "65536", "-1", "true", "1.5"] {
            let refused = read(value).unwrap_err();
            assert!(refused.contains("\"off\", \"auto\" or a number of bytes from 536"), "{refused}");
        }
    }
}
