//! Names that many endpoints have in common, kept once: of nodes, of zones.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Arc;

/// How many names are kept before those that nobody has any more are looked for.
const KEPT_MIN: usize = 1024;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    kept: RefCell<HashSet<Arc<str>>>,
}

impl Names {
    /// The one copy of a name.
    pub(crate) fn keep(&self, name: &str) -> Arc<str> {
        let mut kept = self.kept.borrow_mut();
        if let Some(known) = kept.get(name) {
            return Arc::clone(known);
        }
        // A set that is full of names in use grows, and is looked through the next time when it is full again.
        if kept.len() >= KEPT_MIN && kept.len() == kept.capacity() {
            kept.retain(|name| Arc::strong_count(name) > 1);
        }
        let name: Arc<str> = name.into();
        kept.insert(Arc::clone(&name));
        name
    }
}

#[cfg(test)]
mod tests {
    use super::{KEPT_MIN, Names};
    use std::sync::Arc;

    #[test]
    fn a_name_is_kept_once_and_only_while_it_is_used() {
        let names = Names::default();
        let first = names.keep("node-a");
        assert!(Arc::ptr_eq(&first, &names.keep("node-a")));
        for n in 0..50 * KEPT_MIN {
            names.keep(&format!("gone-{n}"));
        }
        assert!(names.kept.borrow().len() <= 4 * KEPT_MIN, "{}", names.kept.borrow().len());
        assert!(Arc::ptr_eq(&first, &names.keep("node-a")), "in use");
    }
}
