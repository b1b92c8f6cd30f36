//! Which objects have changed since the names were made from them, so that a change costs what it touches.

use std::collections::BTreeSet;
use turnpike_desired::object::{Kind, ObjectKey};
use turnpike_desired::registry::Registry;

/// Filled under the lock of the objects, taken by [`super::follow`]. Remembers nothing until somebody follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    followed: bool,
    /// A full list came: everything may be another.
    pub all: bool,
    /// Services that were written or deleted.
    pub services: BTreeSet<ObjectKey>,
    /// EndpointSlices that were written or deleted.
    pub slices: BTreeSet<ObjectKey>,
}

impl Touched {
    /// From now on changes are remembered; whatever came before counts as changed.
    pub fn follow(&mut self) {
        self.followed = true;
        self.all = true;
    }

    /// A key was written or deleted.
    pub fn mark(&mut self, registry: &Registry, key: &[u8]) {
        if !self.followed || self.all {
            return;
        }
        match registry.parse(key) {
            Some((Kind::Service, key)) => self.services.insert(key),
            Some((Kind::EndpointSlice, key)) => self.slices.insert(key),
            _ => return,
        };
    }

    /// A full list came.
    pub fn mark_all(&mut self) {
        if self.followed {
            self.all = true;
            self.services.clear();
            self.slices.clear();
        }
    }

    /// What has changed since the last time, which is forgotten.
    #[must_use]
    pub fn take(&mut self) -> Self {
        std::mem::replace(self, Self { followed: self.followed, ..Self::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::Touched;
    use turnpike_desired::object::{Kind, ObjectKey};
    use turnpike_desired::registry::Registry;

    #[test]
    fn changes_are_remembered_once_and_only_for_a_follower() {
        let registry = Registry::new("/registry");
        let web = ObjectKey::new("shop", "web");
        let mark = |touched: &mut Touched, kind| touched.mark(&registry, registry.key(kind, &web).as_bytes());
        let mut touched = Touched::default();
        mark(&mut touched, Kind::Service);
        touched.mark_all();
        assert_eq!(touched, Touched::default(), "nobody follows");

        touched.follow();
        assert!(touched.take().all, "what came before");
        for kind in Kind::ALL {
            mark(&mut touched, kind);
        }
        touched.mark(&registry, b"/elsewhere");
        let taken = touched.take();
        assert_eq!((taken.services.len(), taken.slices.len(), taken.all), (1, 1, false));
        assert!(taken.services.contains(&web) && taken.slices.contains(&web));
        assert!(touched.take().services.is_empty(), "taken is forgotten");

        mark(&mut touched, Kind::Service);
        touched.mark_all();
        mark(&mut touched, Kind::Service);
        let taken = touched.take();
        assert!(taken.all && taken.services.is_empty(), "a full list has them all");
    }
}
