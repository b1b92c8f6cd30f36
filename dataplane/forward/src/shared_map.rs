//! Maps and lists of which a changed copy costs what was changed, not what there is.
//!
//! Each is cut into parts that copies share until one of them is written to. Tables of ten thousand Services are made anew for every
//! change of one endpoint, while workers still read the former ones.

use crate::address::Address;
use hashbrown::HashMap;
use std::hash::Hash;
use std::sync::Arc;

/// Parts of a map: a copy costs that many reference counts, a first write one part in that many.
const MAP_PARTS: usize = 256;
/// Entries of a part of a list.
const LIST_PART: usize = 256;

/// What keys are.
pub trait MapKey: Copy + Eq + Hash {
    /// A number in which most keys differ; it decides in which part they are.
    fn word(self) -> u64;
}

impl MapKey for Address {
    fn word(self) -> u64 {
        let bits = self.bits();
        bits as u64 ^ ((bits >> 64) as u64).rotate_left(29)
    }
}

/// A map.
#[derive(Clone, Debug)]
pub struct SharedMap<K, V> {
    parts: Box<[Arc<HashMap<K, V>>]>,
    len: usize,
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        let empty = Arc::new(HashMap::new());
        Self { parts: (0..MAP_PARTS).map(|_| Arc::clone(&empty)).collect(), len: 0 }
    }
}

impl<K: MapKey, V: Clone> SharedMap<K, V> {
    /// What is under a key.
    #[inline]
    #[must_use]
    pub fn get(&self, key: K) -> Option<&V> {
        self.parts[part(key.word())].get(&key)
    }

    /// Puts something under a key and gives what was there.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let former = Arc::make_mut(&mut self.parts[part(key.word())]).insert(key, value);
        self.len += usize::from(former.is_none());
        former
    }

    /// Takes out what is under a key.
    pub fn remove(&mut self, key: K) -> Option<V> {
        // Looked for first: nothing is copied for what is not there.
        self.get(key)?;
        let former = Arc::make_mut(&mut self.parts[part(key.word())]).remove(&key);
        self.len -= usize::from(former.is_some());
        former
    }

    /// The keys.
    pub fn keys(&self) -> impl Iterator<Item = K> {
        self.parts.iter().flat_map(|part| part.keys().copied())
    }

    /// The keys that another map has not. What the two share is not looked at.
    pub fn keys_new_since<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = K> + 'a {
        let parts = self.parts.iter().zip(&other.parts).filter(|(part, known)| !Arc::ptr_eq(part, known));
        parts.flat_map(|(part, known)| part.keys().copied().filter(|key| !known.contains_key(key)))
    }

    /// How many entries there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// The part of a key: the top bits of a multiplication (Knuth, volume 3, section 6.4), so that neighbours spread.
#[inline]
const fn part(key: u64) -> usize {
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize & (MAP_PARTS - 1)
}

/// A list of things that may be missing, by index.
#[derive(Debug)]
pub struct SharedList<T> {
    parts: Vec<Arc<[Option<Arc<T>>]>>,
}

impl<T> Default for SharedList<T> {
    fn default() -> Self {
        Self { parts: Vec::new() }
    }
}

impl<T> Clone for SharedList<T> {
    fn clone(&self) -> Self {
        Self { parts: self.parts.clone() }
    }
}

impl<T> SharedList<T> {
    /// What is at an index.
    #[inline]
    #[must_use]
    pub fn get(&self, index: u32) -> Option<&Arc<T>> {
        self.parts.get(index as usize / LIST_PART)?.get(index as usize % LIST_PART)?.as_ref()
    }

    /// Puts something, or nothing, at an index; the list grows as needed.
    pub fn set(&mut self, index: u32, value: Option<Arc<T>>) {
        let at = index as usize / LIST_PART;
        while self.parts.len() <= at {
            self.parts.push((0..LIST_PART).map(|_| None).collect());
        }
        Arc::make_mut(&mut self.parts[at])[index as usize % LIST_PART] = value;
    }

    /// Everything that is there.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.parts.iter().flat_map(|part| part.iter().flatten())
    }

    /// What is here and is not at the same place of another list. What the two share is not looked at.
    pub fn new_since<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a Arc<T>> {
        self.parts.iter().enumerate().flat_map(move |(at, part)| {
            let known = other.parts.get(at);
            let same = known.is_some_and(|known| Arc::ptr_eq(known, part));
            let part: &[Option<Arc<T>>] = if same { &[] } else { part };
            part.iter().enumerate().filter_map(move |(within, entry)| {
                let entry = entry.as_ref()?;
                let former = known.and_then(|known| known[within].as_ref());
                former.is_none_or(|former| !Arc::ptr_eq(former, entry)).then_some(entry)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    impl MapKey for u64 {
        fn word(self) -> u64 {
            self
        }
    }

    proptest! {
        /// A copy is what a plain map would be, and writing to it changes no former copy.
        #[test]
        fn copies_are_apart(steps in prop::collection::vec((0u64..40, prop::option::of(any::<u8>()), any::<bool>()), 0..80)) {
            let mut map = SharedMap::default();
            let mut model = BTreeMap::new();
            let mut copies = Vec::new();
            for (key, value, copy) in steps {
                let key = key << 32;
                let former = match value {
                    Some(value) => (map.insert(key, value), model.insert(key, value)),
                    None => (map.remove(key), model.remove(&key)),
                };
                prop_assert_eq!(former.0, former.1);
                if copy {
                    copies.push((map.clone(), model.clone()));
                }
            }
            let (last, last_model) = (map.clone(), model.clone());
            copies.push((map, model));
            for (map, model) in copies {
                prop_assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
                for key in (0..40).map(|k| k << 32) {
                    prop_assert_eq!(map.get(key), model.get(&key));
                }
                let sorted = |keys: Vec<u64>| keys.into_iter().collect::<std::collections::BTreeSet<_>>();
                prop_assert_eq!(sorted(map.keys().collect()), model.keys().copied().collect());
                let new = sorted(last.keys_new_since(&map).collect());
                prop_assert_eq!(new, last_model.keys().copied().filter(|k| !model.contains_key(k)).collect());
            }
        }
    }

    #[test]
    fn only_the_written_part_of_a_list_is_new() {
        let mut before = SharedList::default();
        for index in 0..1_000 {
            before.set(index, Some(Arc::new(index)));
        }
        let mut after = before.clone();
        after.set(300, Some(Arc::new(7)));
        after.set(301, None);
        after.set(5_000, Some(Arc::new(8)));
        assert_eq!(after.new_since(&before).map(|v| **v).collect::<Vec<_>>(), [7, 8]);
        assert_eq!((before.get(300).map(|v| **v), before.get(5_000)), (Some(300), None));
        assert_eq!((after.get(301), after.get(u32::MAX)), (None, None));
        assert_eq!(after.iter().count(), 1_000);
        assert!(
            Arc::ptr_eq(&before.parts[0], &after.parts[0]) && !Arc::ptr_eq(&before.parts[1], &after.parts[1])
        );
    }
}
