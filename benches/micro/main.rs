//! Criterion benches of single steps: reading and rewriting a packet, the flow table, Maglev tables, the tables of all Services, the ring and the codec between the processes.
//!
//! `cargo bench -p turnpike-benches --bench micro -- NAME` runs those whose name holds NAME. They show where a step went; what a packet costs as a whole
//! is `forwarding`'s to say.
#![forbid(unsafe_code)]

mod maglev;
mod packet;
mod rebuild;
mod records;
mod table;

use criterion::{Criterion, criterion_group, criterion_main};
use std::time::Duration;

criterion_group! {
    name = steps;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = packet::parse, packet::rewrite, table::lookup, table::insert, maglev::build, rebuild::tables, records::ring, records::codec
}
criterion_main!(steps);
