//! A host made of files, for programs that are told where the root of /sys, /proc and /etc is: NICs that move between drivers as the kernel
//! moves them, huge pages, interrupts, and programs that only write down how they were called.

use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use turnpike_tests::bed::workspace;

/// Programs that change a host, which here only leave a line in `calls`.
const STUBS: &[&str] = &["modprobe", "update-grub", "udevadm", "getent", "chgrp", "chmod", "systemctl"];
/// Files through which the kernel is told to move a NIC.
const ORDERS: &[&str] = &["drivers/ixgbe/unbind", "drivers/vfio-pci/unbind", "drivers_probe"];
const NIC_CLASS: &str = "0x020000";

/// See the module. It has the NIC 0000:01:00.0 (eth0) with the default route, 0000:02:00.0 (eth1) with nothing, and 0000:02:00.1 (eth2).
pub struct Host {
    folder: tempfile::TempDir,
    kernel: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Host {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut host = Self { folder, kernel: Vec::new(), stop: Arc::default() };
        for (page, more) in [("2048", "0"), ("1048576", "0")] {
            for under in ["sys/kernel/mm", "sys/devices/system/node/node0", "sys/devices/system/node/node1"] {
                host.write(&format!("{under}/hugepages/hugepages-{page}kB/nr_hugepages"), more);
                host.write(&format!("{under}/hugepages/hugepages-{page}kB/free_hugepages"), more);
            }
        }
        for (file, text) in [
            ("sys/devices/system/node/online", "0-1"),
            ("sys/devices/system/cpu/online", "0-7"),
            ("sys/devices/system/cpu/isolated", ""),
            ("sys/devices/virtual/workqueue/cpumask", "ff"),
            ("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "N"),
            ("proc/meminfo", "MemTotal:       16384000 kB\nMemAvailable:    8192000 kB"),
            ("proc/cpuinfo", "vendor_id\t: GenuineIntel"),
            ("proc/sys/kernel/random/boot_id", "boot-1"),
            ("proc/irq/default_smp_affinity", "ff"),
            ("proc/irq/9/smp_affinity_list", "0-7"),
            ("proc/irq/24/smp_affinity_list", "5"),
            ("proc/irq/25/smp_affinity_list", "1"),
            (
                "proc/net/route",
                "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\neth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000",
            ),
            ("proc/net/ipv6_route", ""),
            ("proc/net/if_inet6", ""),
            ("proc/net/tcp", "  sl  local_address rem_address   st"),
            ("proc/net/tcp6", ""),
            ("etc/ssh/sshd_config", "Port 22"),
            ("etc/default/grub", "GRUB_CMDLINE_LINUX_DEFAULT=quiet"),
            ("usr/lib/systemd/system/turnpike-host-setup.service", "[Unit]"),
            ("dev/vfio/11", ""),
            ("calls", ""),
        ] {
            host.write(file, text);
        }
        host.nic("0000:01:00.0", "ixgbe", "eth0", Some("10"));
        host.nic("0000:02:00.0", "ixgbe", "eth1", Some("11"));
        host.nic("0000:02:00.1", "ixgbe", "eth2", Some("12"));
        for stub in STUBS {
            host.stub(stub, "");
        }
        host.stub("ip", "echo '2: eth1    inet 192.0.2.1/24 brd 192.0.2.255 scope global eth1'");
        for order in ORDERS {
            let path = host.path(&format!("sys/bus/pci/{order}"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
            let (root, stop, order) = (host.path(""), Arc::clone(&host.stop), *order);
            host.kernel.push(std::thread::spawn(move || {
                while let Ok(text) = fs::read_to_string(&path) {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    text.lines().for_each(|address| obey(&root, order, address));
                }
            }));
        }
        host
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    pub fn write(&self, file: &str, text: &str) {
        let path = self.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path(file)).unwrap_or_default().trim_end().to_owned()
    }

    /// A PCI device of `driver` (none: `-`) with one interface.
    pub fn nic(&self, address: &str, driver: &str, interface: &str, group: Option<&str>) {
        let device = format!("sys/bus/pci/devices/{address}");
        self.write(&format!("{device}/class"), NIC_CLASS);
        self.write(&format!("{device}/driver_override"), "(null)");
        self.write(&format!("{device}/born"), driver);
        self.write(&format!("sys/class/net/{interface}/mtu"), "1500");
        fs::create_dir_all(self.path(&format!("{device}/net/{interface}"))).unwrap();
        link(&self.path(""), address, driver);
        if let Some(group) = group {
            let groups = self.path(&format!("sys/kernel/iommu_groups/{group}"));
            fs::create_dir_all(groups.join("devices").join(address)).unwrap();
            symlink(groups, self.path(&format!("{device}/iommu_group"))).unwrap();
        }
    }

    /// The driver that has a PCI device.
    pub fn driver(&self, address: &str) -> Option<String> {
        let link = fs::read_link(self.path(&format!("sys/bus/pci/devices/{address}/driver"))).ok()?;
        Some(link.file_name()?.to_string_lossy().into_owned())
    }

    /// A program on the path that writes down how it was called, and says `body`.
    pub fn stub(&self, name: &str, body: &str) {
        let text =
            format!("#!/bin/sh\necho \"{name} $*\" >>{}\n{body}", self.path("calls").to_string_lossy());
        self.write(&format!("stubs/{name}"), &text);
        fs::set_permissions(self.path(&format!("stubs/{name}")), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Takes a program away.
    pub fn lacks(&self, stub: &str) {
        fs::remove_file(self.path(&format!("stubs/{stub}"))).unwrap();
    }

    /// How programs were called, in order.
    pub fn calls(&self) -> Vec<String> {
        let root = self.path("").to_string_lossy().into_owned();
        let text = self.read("calls").replace(&root, "/");
        text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
    }

    /// Runs `scripts/host-setup` on this host.
    pub fn setup(&self, words: &[&str]) -> Output {
        let root = self.folder.path();
        Command::new(workspace().join("scripts/host-setup"))
            .args(words)
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", root.join("stubs").to_string_lossy()))
            .env("TURNPIKE_HOST_ROOT", root)
            .output()
            .unwrap()
    }

    /// Runs it, and it must succeed; gives what it printed, paths as on a real host.
    #[track_caller]
    pub fn does(&self, words: &[&str]) -> String {
        let output = self.setup(words);
        let said =
            String::from_utf8_lossy(&output.stdout).replace(&*self.folder.path().to_string_lossy(), "");
        assert!(output.status.success(), "{words:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        said
    }

    /// Every file that is the host's, with its text, and every link with its target.
    pub fn snapshot(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        collect(self.folder.path(), self.folder.path(), &mut found);
        for own in ["calls", "run/turnpike-host-setup.lock"] {
            found.remove(own);
        }
        found
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for order in ORDERS {
            let _ = fs::write(self.path(&format!("sys/bus/pci/{order}")), "");
        }
        self.kernel.drain(..).for_each(|thread| drop(thread.join()));
    }
}

fn collect(root: &Path, folder: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
        let name = entry.path().strip_prefix(root).unwrap().to_string_lossy().into_owned();
        let kind = entry.file_type().unwrap();
        if kind.is_symlink() {
            found.insert(name, fs::read_link(entry.path()).unwrap().to_string_lossy().into_owned());
        } else if kind.is_dir() {
            collect(root, &entry.path(), found);
        } else if kind.is_file() {
            found.insert(name, fs::read_to_string(entry.path()).unwrap());
        }
    }
}

/// What the kernel does when an address is written to one of its files.
fn obey(root: &Path, order: &str, address: &str) {
    let device = root.join("sys/bus/pci/devices").join(address);
    if order.ends_with("unbind") {
        let _ = fs::remove_file(device.join("driver"));
        return;
    }
    // Orders come through several files; the kernel takes them in the order of their writing.
    for _ in 0..200 {
        if fs::symlink_metadata(device.join("driver")).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let wanted = |file: &str| fs::read_to_string(device.join(file)).unwrap_or_default().trim().to_owned();
    match wanted("driver_override").as_str() {
        "vfio-pci" if device.join("faulty").exists() => {}
        "" | "(null)" => link(root, address, &wanted("born")),
        driver => link(root, address, driver),
    }
}

fn link(root: &Path, address: &str, driver: &str) {
    if driver != "-" {
        let drivers = root.join("sys/bus/pci/drivers").join(driver);
        fs::create_dir_all(&drivers).unwrap();
        symlink(drivers, root.join("sys/bus/pci/devices").join(address).join("driver")).unwrap();
    }
}
