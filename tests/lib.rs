//! Support for the tests of the whole: the lab as a value, requests that are counted, and what idle workers cost and gain.
#![forbid(unsafe_code)]

pub mod bed;
pub mod idleness;
pub mod load;
