//! dpdk-sys: being written.
