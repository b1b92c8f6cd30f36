//! turnpike-forward: being written.
