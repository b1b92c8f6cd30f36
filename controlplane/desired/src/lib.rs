//! turnpike-desired: being written.
