//! What the figures were taken on.

use serde::Serialize;
use std::fs;

/// The host and the software.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Host {
    /// What hosts have in common whose figures can be compared: processor and number of cores.
    pub kind: String,
    /// The processor's model, family and stepping.
    pub cpu: String,
    /// Cores this process may use.
    pub cores: usize,
    /// Core of the subject and of the floor's forwarding thread.
    pub bench_core: u16,
    /// Frequency of the time stamp counter, in MHz.
    pub tsc_mhz: Option<f64>,
    /// Release of the kernel.
    pub kernel: String,
    /// Release of DPDK, of subject and floor.
    pub dpdk: String,
    /// Release of the compiler that made this program.
    pub rustc: String,
    /// Whether packet memory and flow tables are on huge pages of 2 MiB.
    pub huge_pages: bool,
    /// Load average over one minute before the first run.
    pub load_before: Option<f64>,
    /// The same behind the last run.
    pub load_after: Option<f64>,
}

impl Host {
    /// Looks at the host.
    #[must_use]
    pub fn look(bench_core: u16, huge_pages: bool) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cores = capsule::available_cores().len();
        Self {
            kind: kind(&cpuinfo, cores),
            cpu: cpu(&cpuinfo),
            cores,
            bench_core,
            tsc_mhz: tsc_mhz(&cpuinfo),
            kernel: kernel.trim().into(),
            dpdk: capsule::dpdk_version(),
            rustc: env!("RUSTC_RELEASE").into(),
            huge_pages,
            load_before: load(),
            load_after: None,
        }
    }
}

/// Load average over the last minute.
#[must_use]
pub fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

/// MiB of memory that are free, on huge pages of 2 MiB or on ordinary ones. None where the kernel does not say.
#[must_use]
pub fn free_mb(huge: bool) -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let kb = |name| field(&meminfo, name)?.strip_suffix("kB")?.trim().parse::<u64>().ok();
    let pages = |name| field(&meminfo, name)?.parse::<u64>().ok();
    if huge {
        Some(pages("HugePages_Free")?.saturating_sub(pages("HugePages_Rsvd")?) * 2)
    } else {
        Some(kb("MemAvailable")? >> 10)
    }
}

fn field<'a>(cpuinfo: &'a str, name: &str) -> Option<&'a str> {
    let of_name = |line: &'a str| line.split_once(':').filter(|(key, _)| key.trim() == name);
    cpuinfo.lines().find_map(of_name).map(|(_, value)| value.trim())
}

fn cpu(cpuinfo: &str) -> String {
    let part = |name| field(cpuinfo, name).unwrap_or("unknown");
    let (model, family, number) = (part("model name"), part("cpu family"), part("model"));
    format!("{model}, family {family} model {number} stepping {}", part("stepping"))
}

/// The same in letters, digits and dashes, without the stepping, and with the number of cores.
fn kind(cpuinfo: &str, cores: usize) -> String {
    let part = |name| field(cpuinfo, name).unwrap_or("unknown");
    let (model, family, number) = (part("model name"), part("cpu family"), part("model"));
    let words = format!("{model} {family} {number} {cores} cores").to_lowercase();
    let words = words.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-")
}

/// The kernel's BogoMIPS are twice the frequency of the counter, where delays are timed by it. None where it does not run at one pace.
fn tsc_mhz(cpuinfo: &str) -> Option<f64> {
    field(cpuinfo, "flags")?.split_whitespace().find(|&flag| flag == "constant_tsc")?;
    Some(field(cpuinfo, "bogomips")?.parse::<f64>().ok()? / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPUINFO: &str = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\nstepping\t: 1\n\
        flags\t\t: fpu tsc constant_tsc\nbogomips\t: 5192.27\n\nprocessor\t: 1\nbogomips\t: 1.0\n";

    #[test]
    fn free_memory_is_told() {
        assert!(free_mb(false).is_some_and(|mb| mb > 10));
        assert!(free_mb(true).is_some());
    }

    #[test]
    fn the_processor_is_named_and_its_counter_timed() {
        assert_eq!(cpu(CPUINFO), "AMD EPYC, family 25 model 17 stepping 1");
        assert_eq!(kind(CPUINFO, 4), "amd-epyc-25-17-4-cores");
        let named = CPUINFO.replace("AMD EPYC", "Intel(R) Xeon(R) CPU @ 2.50GHz");
        assert_eq!(kind(&named, 2), "intel-r-xeon-r-cpu-2-50ghz-25-17-2-cores");
        assert_eq!(tsc_mhz(CPUINFO), Some(2596.135));
        assert_eq!(tsc_mhz(&CPUINFO.replace("constant_tsc", "")), None);
        assert_eq!(tsc_mhz(""), None);
    }
}
