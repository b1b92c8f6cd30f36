//! [`Eal`]: DPDK's environment, started once per process.

use crate::thread::available_cores;
use crate::{control, errno, error_text};
use rustix::fs::Access;
use std::ffi::{CString, OsString, c_char, c_int};
use std::path::Path;
use std::sync::OnceLock;

/// Proof that the environment runs. It runs until the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eal(Memory);

/// How the environment is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EalConfig {
    /// Where packet memory comes from.
    pub memory: Memory,
    /// PCI addresses of the NICs DPDK may take. Empty: it looks at no PCI device at all.
    pub pci: Vec<String>,
    /// NUMA nodes that huge pages are taken from, in equal shares; none is replaced by another. Empty: wherever there are some.
    pub nodes: Vec<u32>,
}

/// Where packet memory comes from, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Huge pages, in memory files of this process alone: nothing stays behind however it ends.
    Huge {
        /// MiB reserved at the start.
        mb: u32,
    },
    /// Ordinary pages.
    Ordinary {
        /// MiB, all there will be.
        mb: u32,
    },
}

/// Why the environment does not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EalError {
    /// Huge pages were asked for and are not there.
    #[error(
        "{wanted_mb} MiB of huge pages are needed and {free_mb} MiB are free; reserve more: \
         echo {pages} > /proc/sys/vm/nr_hugepages (or set dataplane.hugepages = \"never\")"
    )]
    TooFewHugePages {
        /// MiB asked for.
        wanted_mb: u32,
        /// MiB free.
        free_mb: u64,
        /// What `nr_hugepages` would have to be.
        pages: u64,
    },
    /// Real NICs need root, or the right to open their VFIO group.
    #[error(
        "taking the PCI device {address} needs root, or the right to open its group in /dev/vfio: run as root, or \
         bind it with scripts/host-setup, which gives the group to turnpike"
    )]
    NoRoot {
        /// The first device that cannot be taken.
        address: String,
    },
    /// DPDK refused; it has written why to standard error.
    #[error("DPDK's environment did not start: {reason} (arguments: {arguments})")]
    Refused {
        /// Its error number in words.
        reason: String,
        /// What it was given.
        arguments: String,
    },
    /// Started before with other settings. There is one environment a process and one try.
    #[error("DPDK's environment was already started in this process, with other settings")]
    AlreadyStarted,
    /// The thread that starts the environment could not be made.
    #[error("cannot make a thread to start DPDK's environment: {0}")]
    Thread(String),
}

static STARTED: OnceLock<(EalConfig, Result<Eal, EalError>)> = OnceLock::new();

impl Eal {
    /// Starts the environment, about 0.1 s. A second call with the same settings gives the first call's outcome.
    pub fn start(config: &EalConfig) -> Result<Self, EalError> {
        let (first, outcome) = STARTED.get_or_init(|| (config.clone(), start(config)));
        if first == config { outcome.clone() } else { Err(EalError::AlreadyStarted) }
    }

    /// Where its packet memory comes from.
    #[must_use]
    pub fn memory(self) -> Memory {
        self.0
    }
}

fn start(config: &EalConfig) -> Result<Eal, EalError> {
    check(config)?;
    let (arguments, memory) = (arguments(config), config.memory);
    // rte_eal_init pins the calling thread to its main lcore, and threads inherit that: it gets a thread of its own.
    std::thread::Builder::new()
        .name("eal-init".into())
        .spawn(move || init(&arguments, memory))
        .map_err(|e| EalError::Thread(e.to_string()))?
        .join()
        .unwrap_or_else(|_| Err(EalError::Thread("it panicked".into())))
}

fn check(config: &EalConfig) -> Result<(), EalError> {
    if let Memory::Huge { mb } = config.memory {
        let free_mb = free_hugepages_mb();
        if free_mb < u64::from(mb) {
            let pages = reserved_pages_2mb() + (u64::from(mb) - free_mb).div_ceil(2);
            return Err(EalError::TooFewHugePages { wanted_mb: mb, free_mb, pages });
        }
    }
    let is_root = rustix::process::geteuid().is_root();
    match config.pci.iter().find(|address| !is_root && !may_take(address, Path::new("/"))) {
        Some(address) => Err(EalError::NoRoot { address: address.clone() }),
        None => Ok(()),
    }
}

/// Whether a process that is not root can have a PCI device, under this root of all files: through VFIO if its group can be opened; with a
/// driver that shares it DPDK finds out by itself; through UIO never.
fn may_take(address: &str, root: &Path) -> bool {
    let device = root.join("sys/bus/pci/devices").join(address);
    let name = |link: &str| std::fs::read_link(device.join(link)).ok()?.file_name().map(OsString::from);
    match name("driver").as_ref().and_then(|driver| driver.to_str()) {
        Some("vfio-pci") => name("iommu_group").is_some_and(|group| {
            let file = root.join("dev/vfio").join(group);
            rustix::fs::access(&file, Access::READ_OK | Access::WRITE_OK).is_ok()
        }),
        Some(driver) => !driver.contains("uio"),
        None => false,
    }
}

/// No files, no sockets, no other process: nothing to find after a crash and nothing to share.
fn arguments(config: &EalConfig) -> Vec<String> {
    let mut arguments: Vec<String> =
        vec!["turnpike".into(), "--no-telemetry".into(), "--log-level=warning".into()];
    match config.memory {
        Memory::Huge { mb } => {
            arguments.extend(["--in-memory".into(), "--single-file-segments".into()]);
            arguments.extend(match shares(mb, &config.nodes) {
                None => ["-m".into(), mb.to_string()],
                Some(shares) => ["--socket-mem".into(), shares],
            });
        }
        Memory::Ordinary { mb } => {
            arguments.extend(["--no-huge".into(), "--no-shconf".into(), "-m".into(), mb.to_string()]);
        }
    }
    if config.pci.is_empty() {
        arguments.extend(["--no-pci".into(), "--iova-mode=va".into()]);
    }
    for address in &config.pci {
        arguments.extend(["-a".into(), address.clone()]);
    }
    // One lcore for EAL itself, free to run on every core this process may use. Otherwise it makes an idle thread for each core.
    let cores: Vec<String> = available_cores().iter().map(u16::to_string).collect();
    if !cores.is_empty() {
        arguments.push(format!("--lcores=0@({})", cores.join(",")));
    }
    arguments
}

/// What of `mb` MiB each node gives, the way DPDK wants it: a number for every node up to the last.
fn shares(mb: u32, nodes: &[u32]) -> Option<String> {
    let last = *nodes.iter().max()?;
    let share = mb.div_ceil(nodes.len() as u32);
    let of = |node: u32| if nodes.contains(&node) { share.to_string() } else { "0".into() };
    Some((0..=last).map(of).collect::<Vec<_>>().join(","))
}

fn init(arguments: &[String], memory: Memory) -> Result<Eal, EalError> {
    let refused = |reason: String| EalError::Refused { reason, arguments: arguments[1..].join(" ") };
    let strings: Vec<CString> = arguments
        .iter()
        .map(|a| CString::new(a.as_str()).map_err(|_| refused(format!("argument {a:?} holds a NUL byte"))))
        .collect::<Result<_, _>>()?;
    let mut argv: Vec<*mut c_char> = strings.iter().map(|s| s.as_ptr().cast_mut()).collect();
    argv.push(std::ptr::null_mut());
    let argc = c_int::try_from(strings.len()).map_err(|_| refused("too many arguments".into()))?;
    let _one_at_a_time = control();
    // SAFETY: argv has argc NUL-terminated strings and a null behind them; EAL may reorder the pointers, and copies the strings it keeps.
    let status = unsafe { dpdk_sys::rte_eal_init(argc, argv.as_mut_ptr()) };
    if status < 0 { Err(refused(error_text(errno()))) } else { Ok(Eal(memory)) }
}

/// MiB of huge pages of every size that are free and promised to no one.
#[must_use]
pub fn free_hugepages_mb() -> u64 {
    let Ok(sizes) = std::fs::read_dir("/sys/kernel/mm/hugepages") else { return 0 };
    let bytes_kb = sizes.flatten().filter_map(|size| {
        let name = size.file_name();
        let page_kb: u64 = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let free = number(&size.path().join("free_hugepages"))?;
        let promised = number(&size.path().join("resv_hugepages")).unwrap_or(0);
        Some(page_kb * free.saturating_sub(promised))
    });
    bytes_kb.sum::<u64>() / 1024
}

fn reserved_pages_2mb() -> u64 {
    number("/proc/sys/vm/nr_hugepages".as_ref()).unwrap_or(0)
}

fn number(file: &std::path::Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_touch_no_pci_device_unless_told() {
        let none = arguments(&EalConfig { memory: Memory::Ordinary { mb: 64 }, pci: vec![], nodes: vec![] })
            .join(" ");
        assert!(none.contains("--no-pci") && none.contains("--no-huge --no-shconf -m 64"), "{none}");
        let pci = vec!["0000:01:00.0".to_owned(), "0000:01:00.1".to_owned()];
        let two = arguments(&EalConfig { memory: Memory::Huge { mb: 64 }, pci, nodes: vec![] }).join(" ");
        assert!(two.contains("-a 0000:01:00.0 -a 0000:01:00.1") && !two.contains("--no-pci"), "{two}");
        assert!(two.contains("--in-memory") && !two.contains("--no-huge"), "{two}");
    }

    #[test]
    fn a_nic_is_taken_without_root_through_a_group_that_can_be_opened() {
        let root = tempfile::tempdir().unwrap();
        let make = |address: &str, links: &[(&str, &str)]| {
            let device = root.path().join("sys/bus/pci/devices").join(address);
            std::fs::create_dir_all(&device).unwrap();
            for (link, target) in links {
                std::os::unix::fs::symlink(target, device.join(link)).unwrap();
            }
        };
        std::fs::create_dir_all(root.path().join("dev/vfio")).unwrap();
        std::fs::write(root.path().join("dev/vfio/11"), "").unwrap();
        make("open", &[("driver", "/d/vfio-pci"), ("iommu_group", "/g/11")]);
        make("closed", &[("driver", "/d/vfio-pci"), ("iommu_group", "/g/12")]);
        make("without-iommu", &[("driver", "/d/vfio-pci")]);
        make("shared", &[("driver", "/d/mlx5_core")]);
        make("uio", &[("driver", "/d/igb_uio")]);
        make("unbound", &[]);
        let rows = [
            ("open", true),
            ("closed", false),
            ("without-iommu", false),
            ("shared", true),
            ("uio", false),
            ("unbound", false),
        ];
        for (device, may) in rows {
            assert_eq!(may_take(device, root.path()), may, "{device}");
        }
    }

    #[test]
    fn huge_pages_come_from_the_nodes_named() {
        let rows: &[(&[u32], &str)] = &[
            (&[], "-m 64"),
            (&[0], "--socket-mem 64"),
            (&[1], "--socket-mem 0,64"),
            (&[0, 1], "--socket-mem 32,32"),
            (&[3, 1], "--socket-mem 0,32,0,32"),
            (&[0, 1, 2], "--socket-mem 22,22,22"),
        ];
        for (nodes, wanted) in rows {
            let config = EalConfig { memory: Memory::Huge { mb: 64 }, pci: vec![], nodes: nodes.to_vec() };
            let told = arguments(&config).join(" ");
            assert!(told.contains(&format!("{wanted} ")), "{nodes:?}: {told}");
        }
    }

    #[test]
    fn too_few_huge_pages_names_the_command() {
        let config = EalConfig { memory: Memory::Huge { mb: u32::MAX }, pci: vec![], nodes: vec![] };
        let message = check(&config).unwrap_err().to_string();
        assert!(message.contains("/proc/sys/vm/nr_hugepages") && message.contains("never"), "{message}");
    }
}
