//! turnpike-shm: being written.
