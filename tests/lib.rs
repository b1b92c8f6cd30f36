//! Support for the tests of the whole: the lab as a value, and requests that are counted.
#![forbid(unsafe_code)]

pub mod bed;
pub mod load;
