//! The report of flow tables against each other: tables for people, JSON for programs.

use crate::contest::{Cost, InsertRow, Kind, Row};
use crate::host::Host;
use comfy_table::Table;
use serde::Serialize;

/// Everything that was measured. Its JSON keys are a contract: they are added to, never changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TablesReport {
    /// What it was measured on.
    pub host: Host,
    /// How it was called.
    pub command: String,
    /// Runs of each kind of look-up.
    pub rounds: usize,
    /// Keys of a batch.
    pub batch: usize,
    /// Look-ups.
    pub rows: Vec<Row>,
    /// Single inserts into Turnpike's own.
    pub inserts: Vec<InsertRow>,
    /// What was left out, and why.
    pub left_out: Vec<LeftOut>,
}

/// A table that was not measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LeftOut {
    /// Which table.
    pub table: Kind,
    /// Entries that it would have been made for.
    pub entries: u32,
    /// Whether it would have been on pages of 2 MiB.
    pub huge_pages: bool,
    /// Why.
    pub reason: String,
}

/// What one insert may take of a turn.
const STALL_NS: u32 = 20_000;

impl TablesReport {
    /// The report for people.
    #[must_use]
    pub fn text(&self) -> String {
        let Host { cpu, cores, bench_core, kernel, dpdk, rustc, .. } = &self.host;
        let mut text = format!("{}\n\n{}\n", trimmed(&self.look_ups()), trimmed(&self.single_inserts()));
        for LeftOut { table, entries, huge_pages, reason } in &self.left_out {
            let (name, pages) = (table.name(), pages(*huge_pages));
            text.push_str(&format!(
                "{name} for {entries} entries on pages of {pages} was left out: {reason}.\n"
            ));
        }
        text.push_str(&format!(
            "ns of one look-up, its session's line read too: the best run / the middle one, of {} with other keys each, in random order, of which nobody else had the core. SINGLY: each key on\n\
             its own; BATCH: {} keys at a time, asking ahead for what it can. INSERT: of one entry, on the way to this fill. FULL: of the entries that it is\n\
             made for; PLACES: of those in its index (Turnpike's has two for each entry; hashbrown doubles at seven eighths). BYTES: for each entry it is\n\
             made for, half a session included; a flow has two entries.\n\
             One insert of a flow (two entries) into Turnpike's own: the shortest of {} equal runs each, so that interruptions do not count; the middle and the worst\n\
             of all. At 100 % each is refused. None may take {STALL_NS} ns.\n\
             {cpu}; {cores} cores, core {bench_core} measured; Linux {kernel}; {dpdk}; {rustc}.\n",
            self.rounds, self.batch, self.rounds
        ));
        text
    }

    fn look_ups(&self) -> Table {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING).set_header([
            "ENTRIES",
            "PAGES",
            "FULL",
            "TABLE",
            "PLACES",
            "BYTES",
            "HIT SINGLY",
            "HIT BATCH",
            "MISS SINGLY",
            "MISS BATCH",
            "INSERT",
        ]);
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        rows.sort_by_key(|row| (row.entries, row.huge_pages, row.filled_percent));
        for row in rows {
            table.add_row([
                row.entries.to_string(),
                pages(row.huge_pages).into(),
                format!("{} %", row.filled_percent),
                row.table.name().into(),
                format!("{:.0} %", row.places_filled_percent),
                format!("{:.0}", row.bytes_per_entry),
                cost(row.hit_single),
                cost(row.hit_batch),
                cost(row.miss_single),
                cost(row.miss_batch),
                format!("{:.0}", row.insert_ns),
            ]);
        }
        table
    }

    fn single_inserts(&self) -> Table {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING).set_header([
            "ENTRIES",
            "PAGES",
            "FULL",
            "INSERTS",
            "MEDIAN NS",
            "WORST NS",
            "HOLDS",
        ]);
        for row in &self.inserts {
            table.add_row([
                row.entries.to_string(),
                pages(row.huge_pages).into(),
                format!("{} %", row.filled_percent),
                row.inserts.to_string(),
                format!("{:.0}", row.median_ns),
                row.worst_ns.to_string(),
                if row.worst_ns <= STALL_NS { "yes".into() } else { "NO".into() },
            ]);
        }
        table
    }
}

const fn pages(huge: bool) -> &'static str {
    if huge { "2 MiB" } else { "4 KiB" }
}

fn cost(cost: Cost) -> String {
    format!("{:.1} / {:.1}", cost.min_ns, cost.median_ns)
}

fn trimmed(table: &Table) -> String {
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_and_what_is_missing_are_told() {
        let cost = |min_ns| Cost { min_ns, median_ns: min_ns + 1.0 };
        let row = Row {
            table: Kind::RteHash,
            entries: 1_000_000,
            huge_pages: true,
            filled_percent: 90,
            places_filled_percent: 85.8,
            bytes_per_entry: 75.6,
            insert_ns: 101.4,
            hit_single: cost(40.0),
            hit_batch: cost(20.0),
            miss_single: cost(30.0),
            miss_batch: cost(10.0),
        };
        let insert = |worst_ns| InsertRow {
            entries: 65_536,
            huge_pages: false,
            filled_percent: 99,
            inserts: 327,
            median_ns: 90.0,
            worst_ns,
        };
        let left = LeftOut {
            table: Kind::Turnpike,
            entries: 64_000_000,
            huge_pages: false,
            reason: "it needs 3 GiB, and 1 GiB are free".into(),
        };
        let report = TablesReport {
            host: Host::look(0, true),
            command: "tables".into(),
            rounds: 15,
            batch: 32,
            rows: vec![row],
            inserts: vec![insert(20_000), insert(20_001)],
            left_out: vec![left],
        };
        let text = report.text();
        let lines: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines[1],
            "1000000 2 MiB 90 % rte-hash 86 % 76 40.0 / 41.0 20.0 / 21.0 30.0 / 31.0 10.0 / 11.0 101"
        );
        assert_eq!(lines[4], "65536 4 KiB 99 % 327 90 20000 yes");
        assert_eq!(lines[5], "65536 4 KiB 99 % 327 90 20001 NO");
        assert!(
            text.contains("turnpike for 64000000 entries on pages of 4 KiB was left out: it needs 3 GiB, and 1 GiB are free."),
            "{text}"
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["rows"][0]["table"], "rte-hash");
    }
}
