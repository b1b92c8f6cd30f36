//! Label selectors of Services.

use std::collections::BTreeMap;

/// Whether `labels` have every pair of `selector`. An empty selector selects nothing: it means that slices are made by hand.
#[must_use]
pub fn matches(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::matches;
    use std::collections::BTreeMap;

    #[test]
    fn every_pair_must_be_there() {
        let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let pod = labels(&[("app", "web"), ("track", "stable")]);
        let rows: &[(&[(&str, &str)], bool)] = &[
            (&[("app", "web")], true),
            (&[("app", "web"), ("track", "stable")], true),
            (&[("app", "web"), ("track", "canary")], false),
            (&[("app", "web"), ("zone", "a")], false),
            (&[], false),
        ];
        for (selector, expected) in rows {
            assert_eq!(matches(&labels(selector), &pod), *expected, "{selector:?}");
        }
    }
}
