//! What `dpdk-testpmd` prints when forwarding stops.

/// Packets forwarded and lost since `start`, over all ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// Packets received.
    pub received: u64,
    /// Packets sent.
    pub sent: u64,
    /// Packets lost on either side.
    pub dropped: u64,
}

/// Reads the lines of one forwarding report, one after the other.
#[derive(Debug, Default)]
pub struct Report {
    accumulated: bool,
    receive: Option<(u64, u64)>,
    send: Option<(u64, u64)>,
}

/// The line that ends a report.
const END: &str = "Done.";

impl Report {
    /// Takes the next line; gives the sums with the last line of a whole report.
    pub fn line(&mut self, line: &str) -> Option<Forwarded> {
        let line = line.trim();
        if line.contains("Accumulated forward statistics") {
            *self = Self { accumulated: true, ..Self::default() };
        } else if self.accumulated && line.starts_with("RX-packets:") {
            self.receive = counts(line, ["RX-packets:", "RX-dropped:"]);
        } else if self.accumulated && line.starts_with("TX-packets:") {
            self.send = counts(line, ["TX-packets:", "TX-dropped:"]);
        } else if line == END {
            let (received, lost) = self.receive.take()?;
            let (sent, unsent) = self.send.take()?;
            self.accumulated = false;
            return Some(Forwarded { received, sent, dropped: lost + unsent });
        }
        None
    }
}

/// The numbers behind two labels of a line.
fn counts(line: &str, labels: [&str; 2]) -> Option<(u64, u64)> {
    let mut words = line.split_whitespace();
    let mut numbers = [0; 2];
    for (number, label) in numbers.iter_mut().zip(labels) {
        words.find(|&word| word == label)?;
        *number = words.next()?.parse().ok()?;
    }
    Some((numbers[0], numbers[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STOPPED: &str = "\
Telling cores to stop...
Waiting for lcores to finish...

  ---------------------- Forward statistics for port 0  ----------------------
  RX-packets: 25319264       RX-dropped: 0             RX-total: 25319264
  TX-packets: 25319296       TX-dropped: 0             TX-total: 25319296
  ----------------------------------------------------------------------------

  +++++++++++++++ Accumulated forward statistics for all ports+++++++++++++++
  RX-packets: 50638528       RX-dropped: 3             RX-total: 50638531
  TX-packets: 50638592       TX-dropped: 4             TX-total: 50638596
  ++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++

Done.
";

    fn read(text: &str) -> Vec<Forwarded> {
        let mut report = Report::default();
        text.lines().filter_map(|line| report.line(line)).collect()
    }

    #[test]
    fn sums_over_all_ports_and_only_once() {
        let want = Forwarded { received: 50_638_528, sent: 50_638_592, dropped: 7 };
        assert_eq!(read(STOPPED), vec![want]);
        assert_eq!(read(&format!("Done\nDone.\n{STOPPED}{STOPPED}Done.\n")), vec![want, want]);
    }

    #[test]
    fn half_a_report_is_none() {
        for broken in ["RX-packets: 50638528", "TX-dropped: 4", "Accumulated"] {
            assert_eq!(read(&STOPPED.replace(broken, "rubbish")), vec![], "without {broken}");
        }
        assert_eq!(read(&STOPPED.replace("50638592 ", "5063859x ")), vec![]);
    }
}
