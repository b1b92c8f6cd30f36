//! A sorted map whose copies share what they have in common.
//!
//! A state is copied at each change, and the copy is compared with the one before. Both cost what has changed, not what there is: the
//! entries lie in chunks of bounded size, a change copies its chunk alone, and chunks that two maps share are passed over unread.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::Index;
use std::sync::Arc;

/// Most entries of a chunk: what one change copies.
const CHUNK_MAX: usize = 128;
/// A chunk that falls below joins its neighbour, if there is room.
const CHUNK_MIN: usize = CHUNK_MAX / 4;

/// See the module. `K` and `V` should be cheap to clone.
#[derive(Clone, Debug)]
pub struct SharedMap<K, V> {
    /// None of them empty, in order.
    chunks: Vec<Arc<Vec<(K, V)>>>,
    len: usize,
}

/// An entry that two maps need not share: its key, and its value in the older and the newer map.
pub type Difference<'a, K, V> = (&'a K, Option<&'a V>, Option<&'a V>);

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<K, V> SharedMap<K, V> {
    /// Number of entries.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entries in order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).map(|(key, value)| (key, value))
    }

    /// The keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// The values in order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Ord, V> SharedMap<K, V> {
    /// The value of a key.
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let chunk = self.chunks.get(self.chunk_of(key))?;
        let at = position(chunk, key).ok()?;
        chunk.get(at).map(|(_, value)| value)
    }

    /// Whether there is an entry of a key.
    #[must_use]
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Every entry in which `newer` may differ from this map, in order; entries of shared chunks are passed over.
    pub fn differences<'a>(&'a self, newer: &'a Self) -> impl Iterator<Item = Difference<'a, K, V>> {
        let (mut old, mut new) = (Cursor::of(self), Cursor::of(newer));
        std::iter::from_fn(move || {
            while old.whole_chunk().zip(new.whole_chunk()).is_some_and(|(old, new)| Arc::ptr_eq(old, new)) {
                old.skip_chunk();
                new.skip_chunk();
            }
            let (before, after) = (old.entry(), new.entry());
            let order = match (before, after) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((before, _)), Some((after, _))) => before.cmp(after),
            };
            let before = before.filter(|_| order.is_le());
            let after = after.filter(|_| order.is_ge());
            if before.is_some() {
                old.advance();
            }
            if after.is_some() {
                new.advance();
            }
            let (key, _) = before.or(after)?;
            Some((key, before.map(|(_, value)| value), after.map(|(_, value)| value)))
        })
    }

    /// The chunk that has a key, if any has it: the last that does not begin behind it.
    fn chunk_of<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        let behind = |chunk: &Arc<Vec<(K, V)>>| chunk.first().is_some_and(|(first, _)| first.borrow() <= key);
        self.chunks.partition_point(behind).saturating_sub(1)
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// Sets the value of a key; gives the one before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let index = self.chunk_of(&key);
        let Some(chunk) = self.chunks.get_mut(index) else {
            self.chunks.push(Arc::new(vec![(key, value)]));
            self.len = 1;
            return None;
        };
        let chunk = Arc::make_mut(chunk);
        match position(chunk, &key) {
            Ok(at) => chunk.get_mut(at).map(|(_, known)| std::mem::replace(known, value)),
            Err(at) => {
                chunk.insert(at, (key, value));
                self.len += 1;
                if chunk.len() > CHUNK_MAX {
                    let behind = chunk.split_off(chunk.len() / 2);
                    self.chunks.insert(index + 1, Arc::new(behind));
                }
                None
            }
        }
    }

    /// Takes an entry out.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let index = self.chunk_of(key);
        let chunk = self.chunks.get_mut(index)?;
        let at = position(chunk, key).ok()?;
        let (_, value) = Arc::make_mut(chunk).remove(at);
        self.len -= 1;
        let left = chunk.len();
        if left == 0 {
            self.chunks.remove(index);
        } else if left < CHUNK_MIN
            && self.chunks.get(index + 1).is_some_and(|next| left + next.len() <= CHUNK_MAX / 2)
        {
            let next = self.chunks.remove(index + 1);
            if let Some(chunk) = self.chunks.get_mut(index) {
                Arc::make_mut(chunk).extend(next.iter().cloned());
            }
        }
        Some(value)
    }
}

/// Where a key is in a chunk, or where it would be.
fn position<K: Borrow<Q>, Q: Ord + ?Sized, V>(chunk: &[(K, V)], key: &Q) -> Result<usize, usize> {
    chunk.binary_search_by(|(known, _)| known.borrow().cmp(key))
}

/// A place in a map.
struct Cursor<'a, K, V> {
    chunks: &'a [Arc<Vec<(K, V)>>],
    at: usize,
}

impl<'a, K, V> Cursor<'a, K, V> {
    fn of(map: &'a SharedMap<K, V>) -> Self {
        Self { chunks: &map.chunks, at: 0 }
    }

    fn entry(&self) -> Option<&'a (K, V)> {
        self.chunks.first()?.get(self.at)
    }

    /// The chunk that begins here.
    fn whole_chunk(&self) -> Option<&'a Arc<Vec<(K, V)>>> {
        self.chunks.first().filter(|_| self.at == 0)
    }

    fn skip_chunk(&mut self) {
        self.chunks = self.chunks.get(1..).unwrap_or_default();
        self.at = 0;
    }

    fn advance(&mut self) {
        self.at += 1;
        if self.chunks.first().is_some_and(|chunk| self.at == chunk.len()) {
            self.skip_chunk();
        }
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: Eq, V: Eq> Eq for SharedMap<K, V> {}

impl<K: Ord, V> Index<&K> for SharedMap<K, V> {
    type Output = V;

    /// # Panics
    /// If there is no entry of the key.
    fn index(&self, key: &K) -> &V {
        self.get(key).expect("an entry of the key")
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        entries.into_iter().for_each(|(key, value)| drop(map.insert(key, value)));
        map
    }
}

#[cfg(test)]
mod tests {
    use super::{CHUNK_MAX, SharedMap};
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    type Model = BTreeMap<u16, u8>;

    /// Keys lie close together, so that chunks fill and empty.
    fn steps() -> impl Strategy<Value = Vec<(u16, Option<u8>)>> {
        proptest::collection::vec((0..600_u16, proptest::option::weighted(0.6, any::<u8>())), 0..1500)
    }

    fn take(map: &mut SharedMap<u16, u8>, model: &mut Model, steps: &[(u16, Option<u8>)]) {
        for (key, value) in steps {
            match value {
                Some(value) => assert_eq!(map.insert(*key, *value), model.insert(*key, *value)),
                None => assert_eq!(map.remove(key), model.remove(key)),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_is_the_map_of_the_standard_library(first in steps(), second in steps()) {
            let (mut map, mut model) = (SharedMap::default(), Model::new());
            take(&mut map, &mut model, &first);
            let (old, old_model) = (map.clone(), model.clone());
            take(&mut map, &mut model, &second);
            for (map, model) in [(&old, &old_model), (&map, &model)] {
                prop_assert!(map.iter().eq(model.iter()));
                prop_assert_eq!(map.len(), model.len());
                prop_assert_eq!(map.is_empty(), model.is_empty());
                prop_assert!(map.chunks.iter().all(|chunk| (1..=CHUNK_MAX).contains(&chunk.len())));
                prop_assert!((0..600).all(|key| map.get(&key) == model.get(&key)));
            }
            let found: Vec<_> = old.differences(&map).filter(|(_, old, new)| old != new).collect();
            let keys = (0..600_u16).filter(|key| old_model.get(key) != model.get(key));
            prop_assert!(found.iter().map(|(key, ..)| **key).eq(keys));
            prop_assert!(found.iter().all(|(key, old, new)| (*old, *new) == (old_model.get(key), model.get(key))));
        }
    }

    #[test]
    fn one_change_touches_one_chunk() {
        let old: SharedMap<u32, u32> = (0..100_000).map(|n| (n, n)).collect();
        let mut new = old.clone();
        new.insert(50_000, 7);
        let apart = old.chunks.iter().zip(&new.chunks).filter(|(old, new)| !Arc::ptr_eq(old, new)).count();
        assert_eq!(apart, 1);
        assert!(old.differences(&new).count() <= CHUNK_MAX, "the others are not looked at");
        assert_eq!(old.differences(&old).count(), 0);
        assert_eq!((old[&50_000], new[&50_000]), (50_000, 7));
        assert!(old != new && old == (0..100_000).map(|n| (n, n)).collect());
    }
}
