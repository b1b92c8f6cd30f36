//! capsule: being written.
