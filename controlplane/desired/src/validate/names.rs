//! The forms of Kubernetes names (RFC 1035 and RFC 1123 labels, RFC 6335 service names, label keys and values).

/// Most bytes of all annotations of one object.
pub(super) const ANNOTATION_BYTES_MAX: usize = 256 << 10;
const LABEL_BYTES_MAX: usize = 63;
const SUBDOMAIN_BYTES_MAX: usize = 253;
const PORT_NAME_BYTES_MAX: usize = 15;

fn is_lower_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_dns1123_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| is_lower_alphanumeric(*byte));
    bytes.len() <= LABEL_BYTES_MAX
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| is_lower_alphanumeric(*byte) || *byte == b'-')
}

/// A namespace or the name of a Service port.
pub(super) fn dns1123_label(text: &str) -> Result<(), String> {
    is_dns1123_label(text).then_some(()).ok_or_else(|| {
        format!("{text:?} is no name: at most 63 lower-case letters, digits and '-', with a letter or digit at both ends")
    })
}

/// The name of a Service: it becomes a DNS name, so it starts with a letter.
pub(super) fn dns1035_label(text: &str) -> Result<(), String> {
    let starts_well = text.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
    (is_dns1123_label(text) && starts_well).then_some(()).ok_or_else(|| {
        format!("{text:?} is no Service name: at most 63 lower-case letters, digits and '-', a letter first and a letter or digit last")
    })
}

/// The name of a Pod, Node or EndpointSlice.
pub(super) fn dns1123_subdomain(text: &str) -> Result<(), String> {
    let sound = text.len() <= SUBDOMAIN_BYTES_MAX && text.split('.').all(is_dns1123_label_of_any_length);
    sound.then_some(()).ok_or_else(|| {
        format!("{text:?} is no name: at most 253 lower-case letters, digits, '-' and '.', with a letter or digit at both ends of each part")
    })
}

fn is_dns1123_label_of_any_length(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| is_lower_alphanumeric(*byte));
    edge(text.as_bytes().first())
        && edge(text.as_bytes().last())
        && text.bytes().all(|byte| is_lower_alphanumeric(byte) || byte == b'-')
}

/// The name of a container port (RFC 6335 section 5.1).
pub(super) fn port_name(text: &str) -> Result<(), String> {
    let sound = text.len() <= PORT_NAME_BYTES_MAX
        && is_dns1123_label(text)
        && !text.contains("--")
        && text.bytes().any(|byte| byte.is_ascii_lowercase());
    sound.then_some(()).ok_or_else(|| {
        format!("{text:?} is no port name: at most 15 lower-case letters, digits and single '-', with a letter somewhere")
    })
}

/// The key of a label or annotation: an optional DNS prefix and '/', then a name.
pub(super) fn qualified_name(text: &str) -> Result<(), String> {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    let sound = prefix.is_none_or(|prefix| dns1123_subdomain(prefix).is_ok())
        && !name.is_empty()
        && is_label_word(name);
    sound.then_some(()).ok_or_else(|| {
        format!("{text:?} is no label key: [PREFIX/]NAME, the name of at most 63 letters, digits, '-', '_' and '.'")
    })
}

/// The value of a label.
pub(super) fn label_value(text: &str) -> Result<(), String> {
    (text.is_empty() || is_label_word(text)).then_some(()).ok_or_else(|| {
        format!("{text:?} is no label value: at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends")
    })
}

fn is_label_word(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    text.len() <= LABEL_BYTES_MAX
        && edge(text.as_bytes().first())
        && edge(text.as_bytes().last())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::{dns1035_label, dns1123_label, dns1123_subdomain, label_value, port_name, qualified_name};

    #[test]
    fn each_form_takes_and_refuses_what_kubernetes_does() {
        type Check = fn(&str) -> Result<(), String>;
        let long = "a".repeat(64);
        let rows: &[(Check, &[&str], &[&str])] = &[
            (
                dns1123_label,
                &["a", "0", "web-1", &long[1..]],
                &["", "-a", "a-", "A", "a.b", "a_b", "ä", &long],
            ),
            (dns1035_label, &["web", "w0-1"], &["", "0web", "-a", "Web"]),
            (
                dns1123_subdomain,
                &["a", "a.b-c.d", &long],
                &["", ".a", "a..b", "a.-b", "A.b", &"a.".repeat(127)],
            ),
            (
                port_name,
                &["http", "h2", "a-b", "123a"],
                &["", "123", "a--b", "-a", "HTTP", "abcdefghijklmnop"],
            ),
            (qualified_name, &["app", "a.b/app", "X_y.z"], &["", "/a", "a/", "a/b/c", "A/b", "a b", &long]),
            (label_value, &["", "v1.2_x", "A"], &["-a", "a-", "a b", &long]),
        ];
        for (check, good, bad) in rows {
            for text in *good {
                assert_eq!(check(text), Ok(()), "{text:?}");
            }
            for text in *bad {
                assert!(check(text).is_err(), "{text:?}");
            }
        }
    }
}
