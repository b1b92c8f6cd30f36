//! Which setting was meant by one that does not exist.

/// Most letters that may be wrong, added, missing or swapped in a name that is still recognised: a third of it.
fn tolerance(name: &str) -> usize {
    name.chars().count().div_ceil(3)
}

/// The question to append to the parser's complaint about an unknown field: `did you mean ...?`. Nothing when it complains about
/// something else, or no known name is near.
///
/// The complaint is serde's: an unknown name between backticks, then the known ones between backticks.
pub(crate) fn question(complaint: &str) -> Option<String> {
    let names = complaint.strip_prefix("unknown field ")?;
    let mut quoted = names.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    let (distance, known) = quoted.map(|known| (distance(unknown, known), known)).min()?;
    (distance <= tolerance(unknown)).then(|| format!("did you mean `{known}`?"))
}

/// Edits from one name to the other: a letter more, less or another, or two neighbours swapped (optimal string alignment).
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, &a) in from.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, &b) in to.iter().enumerate() {
            let changed = row[j] + usize::from(a != b);
            let mut least = changed.min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && a == to[j - 1] && from[i - 1] == b {
                least = least.min(before[j - 1] + 1);
            }
            next.push(least);
        }
        before = std::mem::replace(&mut row, next);
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::path::Path;

    #[test]
    fn edits_are_counted() {
        for (from, to, edits) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("workers", "workers", 0),
            ("wrokers", "workers", 1),
            ("worker", "workers", 1),
            ("wörkers", "workers", 1),
            ("name", "zone", 3),
        ] {
            assert_eq!(distance(from, to), edits, "{from} to {to}");
        }
    }

    #[test]
    fn a_misspelt_setting_is_recognised_with_its_place() {
        for (text, place, meant) in [
            ("[gateway]\nnmae = \"x\"\n", "line 2, column 1", "did you mean `name`?"),
            ("[dataplane]\n\nwrokers = [1]\n", "line 3, column 1", "did you mean `workers`?"),
            ("[datapalne]\n", "line 1, column 2", "did you mean `dataplane`?"),
            ("[etcd]\nendpoint = []\n", "line 2, column 1", "did you mean `endpoints`?"),
            ("[dataplane.snat]\naddreses = []\n", "line 2, column 1", "did you mean `addresses`?"),
        ] {
            let error = Config::parse(text, Path::new("t.toml")).unwrap_err().to_string();
            assert!(error.contains(place) && error.contains(meant), "{error}");
        }
    }

    #[test]
    fn nothing_near_is_asked_nothing() {
        for text in ["[gateway]\ncolour = 1\n", "[gateway]\nname = 1\n", "[gateway\n"] {
            let error = Config::parse(text, Path::new("t.toml")).unwrap_err().to_string();
            assert!(!error.contains("did you mean"), "{error}");
        }
    }
}
