//! `metav1.Time`: seconds since 1970 in protobuf, RFC 3339 text in JSON.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// A moment with a precision of one second. The default is "not set" (Go's zero time), written as an empty message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Message)]
pub struct Time {
    /// Seconds since 1970-01-01T00:00:00Z; absent: not set.
    #[prost(int64, optional, tag = "1")]
    pub seconds: Option<i64>,
    /// Always written as 0 beside `seconds`; the JSON form has none.
    #[prost(int32, optional, tag = "2")]
    pub nanos: Option<i32>,
}

impl Time {
    /// The moment `seconds` after 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn from_unix_seconds(seconds: i64) -> Self {
        Self { seconds: Some(seconds), nanos: Some(0) }
    }

    /// Seconds since 1970, unless not set.
    #[must_use]
    pub const fn unix_seconds(&self) -> Option<i64> {
        self.seconds
    }

    /// Whether no moment is set.
    #[must_use]
    pub const fn is_unset(&self) -> bool {
        self.seconds.is_none()
    }

    /// Reads RFC 3339 text; fractions of a second are cut off.
    pub fn parse(text: &str) -> Result<Self, String> {
        text.parse::<jiff::Timestamp>()
            .map(|moment| Self::from_unix_seconds(moment.as_second()))
            .map_err(|_| format!("{text:?} is no RFC 3339 time; write e.g. \"2026-01-31T12:00:00Z\""))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.seconds.map(jiff::Timestamp::from_second) {
            None => f.write_str("not set"),
            Some(Ok(moment)) => write!(f, "{moment}"),
            Some(Err(_)) => f.write_str("outside the calendar"),
        }
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.seconds.map(jiff::Timestamp::from_second) {
            Some(Ok(moment)) => serializer.collect_str(&moment),
            // A moment outside of the calendar has no RFC 3339 form; JSON shows it as not set.
            Some(Err(_)) | None => serializer.serialize_none(),
        }
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Option::<String>::deserialize(deserializer)? {
            None => Ok(Self::default()),
            Some(text) => Self::parse(&text).map_err(de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Time;
    use prost::Message;

    #[test]
    fn text_and_seconds_are_exact_both_ways() {
        let rows = [
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59Z", -1),
            ("2000-02-29T12:34:56Z", 951_827_696),
            ("2038-01-19T03:14:08Z", 1 << 31),
            ("9999-12-30T22:00:00Z", 253_402_207_200),
        ];
        for (text, seconds) in rows {
            let time = Time::parse(text).unwrap();
            assert_eq!(time.unix_seconds(), Some(seconds), "{text}");
            assert_eq!(serde_json::to_value(time).unwrap(), text);
            assert_eq!(serde_json::from_value::<Time>(text.into()).unwrap(), time);
        }
        assert_eq!(
            Time::parse("2026-01-01T01:00:00.9+01:00").unwrap(),
            Time::parse("2026-01-01T00:00:00Z").unwrap()
        );
        assert!(Time::parse("yesterday").unwrap_err().contains("RFC 3339"));
    }

    #[test]
    fn not_set_is_an_empty_message_and_null() {
        assert!(Time::default().encode_to_vec().is_empty());
        assert_eq!(Time::from_unix_seconds(0).encode_to_vec(), [0x08, 0, 0x10, 0]);
        assert_eq!(serde_json::to_value(Time::default()).unwrap(), serde_json::Value::Null);
        assert!(serde_json::from_value::<Time>(serde_json::Value::Null).unwrap().is_unset());
        let beyond = Time::from_unix_seconds(i64::MAX);
        assert_eq!(serde_json::to_value(beyond).unwrap(), serde_json::Value::Null);
    }
}
