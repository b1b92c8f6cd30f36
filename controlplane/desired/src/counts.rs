//! How often each thing is had, such as an address by Services or endpoints.

use std::collections::HashMap;
use std::hash::Hash;

/// See the module. What nobody has is not in it.
#[derive(Clone, Debug)]
pub(crate) struct Counts<T> {
    counts: HashMap<T, usize>,
}

impl<T> Default for Counts<T> {
    fn default() -> Self {
        Self { counts: HashMap::new() }
    }
}

impl<T: Copy + Eq + Hash> Counts<T> {
    /// Whether somebody has it.
    pub(crate) fn contains(&self, thing: T) -> bool {
        self.counts.contains_key(&thing)
    }

    /// Counts each once more; gives those that nobody had.
    pub(crate) fn add(&mut self, things: impl Iterator<Item = T>) -> Vec<T> {
        let mut came = Vec::new();
        for thing in things {
            let count = self.counts.entry(thing).or_default();
            *count += 1;
            if *count == 1 {
                came.push(thing);
            }
        }
        came
    }

    /// Counts each once less; gives those that nobody has any more.
    pub(crate) fn remove(&mut self, things: impl Iterator<Item = T>) -> Vec<T> {
        let mut went = Vec::new();
        for thing in things {
            let Some(count) = self.counts.get_mut(&thing) else { continue };
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&thing);
                went.push(thing);
            }
        }
        went
    }
}

#[cfg(test)]
mod tests {
    use super::Counts;
    use std::net::IpAddr;

    #[test]
    fn a_thing_is_there_while_somebody_has_it() {
        let [one, two] = ["10.96.0.1", "10.96.0.2"].map(|text| text.parse::<IpAddr>().unwrap());
        let mut counts = Counts::default();
        assert!(counts.remove([one].into_iter()).is_empty());
        assert_eq!(counts.add([one, two, one].into_iter()), [one, two]);
        assert_eq!(counts.remove([one, two].into_iter()), [two]);
        assert!(counts.contains(one) && !counts.contains(two));
        assert_eq!(counts.remove([one].into_iter()), [one]);
        assert!(!counts.contains(one));
    }
}
