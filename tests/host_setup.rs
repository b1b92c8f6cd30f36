//! `scripts/host-setup` on a made-up host: what it does, what it would do, what it puts back, and what it refuses.
#![allow(clippy::unwrap_used)]

mod made_up_host;

use made_up_host::Host;
use std::fs;
use std::os::unix::fs::symlink;

const PAGES_2M: &str = "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
const PAGES_1G_NODE1: &str = "sys/devices/system/node/node1/hugepages/hugepages-1048576kB/nr_hugepages";
const DROP_IN: &str = "etc/default/grub.d/turnpike.cfg";
const SAVED: &str = "etc/turnpike/host-setup.conf";
const STATE: &str = "var/lib/turnpike-host-setup/state";
/// Everything it can do, at once.
const ALL: &[&str] = &[
    "apply",
    "--hugepages-2m",
    "512",
    "--hugepages-1g",
    "2@1",
    "--bind",
    "02:00.0",
    "--isolate",
    "2-3,5",
    "--iommu",
    "--at-boot",
];

#[track_caller]
fn refuses(host: &Host, words: &[&str], code: i32, needle: &str) {
    let before = host.snapshot();
    let output = host.setup(words);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
    assert!(said.starts_with("error: ") && said.contains(needle), "{needle:?} is not in: {said}");
    assert_eq!(host.snapshot(), before, "{words:?} changed the host, though refused: {said}");
}

#[test]
fn apply_does_all_of_it() {
    let host = Host::new();
    host.does(ALL);
    assert_eq!(host.read(PAGES_2M), "512");
    assert_eq!(host.read(PAGES_1G_NODE1), "2");
    assert_eq!(host.driver("0000:02:00.0").as_deref(), Some("vfio-pci"));
    assert_eq!(host.driver("0000:01:00.0").as_deref(), Some("ixgbe"), "the other NICs stay");
    let rows = [
        ("proc/irq/default_smp_affinity", "000000d3"),
        ("sys/devices/virtual/workqueue/cpumask", "000000d3"),
        ("proc/irq/9/smp_affinity_list", "0-1,4,6-7"),
        ("proc/irq/24/smp_affinity_list", "0-1,4,6-7"),
        ("proc/irq/25/smp_affinity_list", "1"),
    ];
    for (file, wanted) in rows {
        assert_eq!(host.read(file), wanted, "{file}");
    }
    let parameters = "isolcpus=managed_irq,domain,2-3,5 nohz_full=2-3,5 rcu_nocbs=2-3,5 intel_iommu=on iommu=pt \
                      hugepagesz=1G hugepages=1:2";
    let line = format!("GRUB_CMDLINE_LINUX_DEFAULT=\"$GRUB_CMDLINE_LINUX_DEFAULT {parameters}\"");
    assert_eq!(host.read(DROP_IN).lines().nth(1), Some(line.as_str()));
    assert_eq!(
        host.calls(),
        [
            "modprobe vfio-pci",
            "getent group turnpike",
            "udevadm settle --timeout=5",
            "chgrp turnpike /dev/vfio/11",
            "chmod 0660 /dev/vfio/11",
            "update-grub",
            "systemctl --quiet enable turnpike-host-setup.service",
        ]
    );
}

#[test]
fn undo_puts_everything_back() {
    let host = Host::new();
    host.write(PAGES_2M, "7");
    let before = host.snapshot();
    host.does(ALL);
    assert_ne!(host.snapshot(), before);
    host.does(&["undo"]);
    let after = host.snapshot();
    for (file, text) in &before {
        let now = after.get(file).map(|text| text.trim());
        // What was never overridden reads "(null)", which nobody can write.
        let wanted = if text.trim() == "(null)" && now == Some("") { "" } else { text.trim() };
        assert_eq!(now, Some(wanted), "{file}");
    }
    let more: Vec<_> = after.keys().filter(|file| !before.contains_key(*file)).collect();
    assert!(more.is_empty(), "left behind: {more:?}");
    assert_eq!(host.calls().iter().filter(|call| *call == "update-grub").count(), 2);
    assert!(host.does(&["undo"]).contains("nothing to undo"));
}

#[test]
fn a_dry_run_prints_every_command_and_changes_nothing() {
    let host = Host::new();
    let before = host.snapshot();
    let mut words = vec!["--dry-run"];
    words.extend(ALL);
    let said = host.does(&words);
    assert_eq!(host.snapshot(), before);
    assert!(host.calls().iter().all(|call| call == "getent group turnpike"), "{:?}", host.calls());
    let commands: Vec<&str> = said.lines().filter(|line| line.starts_with("+ ")).collect();
    assert_eq!(
        commands,
        [
            "+ echo 512 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
            "+ echo 2 > /sys/devices/system/node/node1/hugepages/hugepages-1048576kB/nr_hugepages",
            "+ modprobe vfio-pci",
            "+ echo vfio-pci > /sys/bus/pci/devices/0000:02:00.0/driver_override",
            "+ echo 0000:02:00.0 > /sys/bus/pci/devices/0000:02:00.0/driver/unbind",
            "+ echo 0000:02:00.0 > /sys/bus/pci/drivers_probe",
            "+ udevadm settle --timeout=5",
            "+ chgrp turnpike /dev/vfio/11",
            "+ chmod 0660 /dev/vfio/11",
            "+ echo 000000d3 > /proc/irq/default_smp_affinity",
            "+ echo 000000d3 > /sys/devices/virtual/workqueue/cpumask",
            "+ echo 0-1\\,4\\,6-7 > /proc/irq/24/smp_affinity_list",
            "+ echo 0-1\\,4\\,6-7 > /proc/irq/9/smp_affinity_list",
            "+ mkdir -p /etc/default/grub.d",
            "+ cat > /etc/default/grub.d/turnpike.cfg <<'END'",
            "+ update-grub",
            "+ mkdir -p /etc/turnpike",
            "+ cat > /etc/turnpike/host-setup.conf <<'END'",
            "+ systemctl --quiet enable turnpike-host-setup.service",
        ]
    );
    host.does(ALL);
    let done = host.snapshot();
    let said = host.does(&["--dry-run", "undo"]);
    assert_eq!(host.snapshot(), done);
    let commands: Vec<&str> = said.lines().filter(|line| line.starts_with("+ ")).collect();
    assert_eq!(
        commands,
        [
            "+ systemctl --quiet disable turnpike-host-setup.service",
            "+ rm -f /etc/turnpike/host-setup.conf",
            "+ rm -f /etc/default/grub.d/turnpike.cfg",
            "+ update-grub",
            "+ echo 0-7 > /proc/irq/9/smp_affinity_list",
            "+ echo 5 > /proc/irq/24/smp_affinity_list",
            "+ echo ff > /sys/devices/virtual/workqueue/cpumask",
            "+ echo ff > /proc/irq/default_smp_affinity",
            "+ echo '' > /sys/bus/pci/devices/0000:02:00.0/driver_override",
            "+ echo 0000:02:00.0 > /sys/bus/pci/devices/0000:02:00.0/driver/unbind",
            "+ echo 0000:02:00.0 > /sys/bus/pci/drivers_probe",
            "+ echo 0 > /sys/devices/system/node/node1/hugepages/hugepages-1048576kB/nr_hugepages",
            "+ echo 0 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
        ]
    );
}

#[test]
fn what_is_applied_again_is_undone_to_the_first_state() {
    let host = Host::new();
    host.write(PAGES_2M, "7");
    host.does(ALL);
    let (done, state, calls) = (host.snapshot(), host.read(STATE), host.calls().len());
    host.does(ALL);
    assert_eq!(host.snapshot(), done, "the same once more changes nothing");
    assert_eq!(host.read(STATE), state);
    let again = host.calls()[calls..].iter().filter(|call| call.starts_with("update-grub")).count();
    assert_eq!(again, 0, "the boot loader is left alone");
    host.does(&["apply", "--hugepages-2m", "1024", "--bind", "0000:02:00.1"]);
    assert_eq!(host.read(PAGES_2M), "1024");
    host.does(&["undo"]);
    assert_eq!(host.read(PAGES_2M), "7");
    for nic in ["0000:02:00.0", "0000:02:00.1"] {
        assert_eq!(host.driver(nic).as_deref(), Some("ixgbe"));
    }
}

#[test]
fn after_a_reboot_the_saved_words_count_and_undo_leaves_the_new_boot_alone() {
    let host = Host::new();
    host.does(ALL);
    // The next boot: memory, drivers and interrupts as they were born; files stay.
    let reboot = |id: &str| {
        host.write("proc/sys/kernel/random/boot_id", id);
        for (file, text) in [(PAGES_2M, "3"), (PAGES_1G_NODE1, "2"), ("proc/irq/9/smp_affinity_list", "0-7")]
        {
            host.write(file, text);
        }
        let driver = host.path("sys/bus/pci/devices/0000:02:00.0/driver");
        fs::remove_file(&driver).unwrap();
        symlink(host.path("sys/bus/pci/drivers/ixgbe"), driver).unwrap();
        host.write("sys/bus/pci/devices/0000:02:00.0/driver_override", "(null)");
    };
    reboot("boot-2");
    let calls = host.calls().len();
    host.does(&["boot"]);
    assert_eq!(host.read(PAGES_2M), "512");
    assert_eq!(host.driver("0000:02:00.0").as_deref(), Some("vfio-pci"));
    let calls = &host.calls()[calls..];
    assert!(!calls.iter().any(|call| call.contains("grub") || call.contains("systemctl")), "{calls:?}");
    host.does(&["undo"]);
    assert_eq!(host.read(PAGES_2M), "3", "what this boot began with");
    assert!(!host.path(DROP_IN).exists() && !host.path(SAVED).exists() && !host.path(STATE).exists());

    host.does(ALL);
    reboot("boot-3");
    host.write(PAGES_2M, "99");
    host.does(&["undo"]);
    assert_eq!(host.read(PAGES_2M), "99", "nobody changed it since the boot");
    assert!(!host.path(DROP_IN).exists() && !host.path(SAVED).exists());
    refuses(&host, &["boot"], 1, "nothing is saved for the boot");
}

#[test]
fn a_nic_that_the_host_is_reached_by_is_refused_unless_forced() {
    type Prepare = fn(&Host);
    let rows: &[(&str, &str, Prepare, &str)] = &[
        ("the default route", "0000:01:00.0", |_| {}, "(eth0) carries the default route (eth0)"),
        (
            "the default route of IPv6",
            "0000:02:00.0",
            |host| {
                host.write(
                    "proc/net/ipv6_route",
                    &format!("{0} 00 {0} 00 {0} 1 2 3 4     eth1", "0".repeat(32)),
                );
            },
            "(eth1) carries the default route (eth1)",
        ),
        (
            "a VLAN on a bond of it has the default route",
            "0000:02:00.1",
            |host| {
                host.write("proc/net/route", "bond0.7\t00000000\t010200C0\t0003\t0\t0\t0\t00000000");
                for (upper, lower) in [("bond0.7", "bond0"), ("bond0", "eth1"), ("bond0", "eth2")] {
                    fs::create_dir_all(host.path(&format!("sys/class/net/{upper}"))).unwrap();
                    symlink(
                        host.path(&format!("sys/class/net/{lower}")),
                        host.path(&format!("sys/class/net/{upper}/lower_{lower}")),
                    )
                    .unwrap();
                }
            },
            "(eth2) carries the default route (bond0.7)",
        ),
        (
            "an SSH session",
            "0000:02:00.0",
            |host| host.write("proc/net/tcp", "   0: 010200C0:0016 090200C0:C350 01 00000000:00000000"),
            "(eth1) carries an SSH session (eth1)",
        ),
        (
            "an SSH session over IPv4, told as IPv6, at another port",
            "0000:02:00.0",
            |host| {
                host.write("etc/ssh/sshd_config", "# Port 22\n  port 2222");
                host.write("proc/net/tcp6", "   0: 0000000000000000FFFF0000010200C0:08AE 0:1 01 0");
            },
            "(eth1) carries an SSH session (eth1)",
        ),
        (
            "an SSH session over IPv6",
            "0000:02:00.1",
            |host| {
                host.write("proc/net/if_inet6", "20010db8000000000000000000000001 03 40 00 80     eth2");
                host.write("proc/net/tcp6", "   0: B80D0120000000000000000001000000:0016 0:1 01 0");
            },
            "(eth2) carries an SSH session (eth2)",
        ),
    ];
    for (what, nic, prepare, needle) in rows {
        let host = Host::new();
        prepare(&host);
        refuses(&host, &["apply", "--hugepages-2m", "8", "--bind", nic], 1, needle);
        refuses(&host, &["--dry-run", "apply", "--bind", nic], 1, "--force");
        host.does(&["--force", "apply", "--bind", nic]);
        assert_eq!(host.driver(nic).as_deref(), Some("vfio-pci"), "{what}");
    }
    let host = Host::new();
    host.write(
        "proc/net/tcp",
        "   0: 010200C0:0050 090200C0:C350 01 0\n   1: 010200C0:0016 00000000:0000 0A 0",
    );
    host.does(&["apply", "--bind", "0000:02:00.0"]);
    assert_eq!(
        host.driver("0000:02:00.0").as_deref(),
        Some("vfio-pci"),
        "neither HTTP nor a listener is a session"
    );
}

#[test]
fn what_cannot_work_is_refused_with_the_mend_before_anything_is_changed() {
    let host = Host::new();
    host.nic("0000:03:00.0", "mlx5_core", "eth3", Some("13"));
    host.nic("0000:04:00.0", "ixgbe", "eth4", None);
    host.nic("0000:05:00.0", "ixgbe", "eth5", Some("15"));
    host.nic("0000:05:00.1", "ahci", "eth6", Some("15"));
    host.write("sys/bus/pci/devices/0000:05:00.1/class", "0x010601");
    let rows: &[(&[&str], i32, &str)] = &[
        (&["--bind", "0000:09:00.0"], 1, "no PCI device 0000:09:00.0"),
        (&["--bind", "0000:05:00.1"], 1, "no network device (class 0x010601)"),
        (&["--bind", "0000:03:00.0"], 1, "name it in dataplane.ports as it is"),
        (&["--bind", "0000:04:00.0"], 1, "--no-iommu"),
        (&["--bind", "0000:05:00.0"], 1, "shares IOMMU group 15 with 0000:05:00.1 (ahci)"),
        (&["--hugepages-2m", "8", "--bind", "0000:01:00.0"], 1, "default route"),
        (&["--hugepages-2m", "8@7"], 1, "no NUMA node 7 on this host; it has 0-1"),
        (&["--hugepages-2m", "4001"], 1, "8002 MiB more of huge pages are asked for and 8000 MiB"),
        (&["--hugepages-1g", "9"], 1, "ask for fewer"),
        (&["--isolate", "0-1"], 1, "core 0"),
        (&["--isolate", "6-9"], 1, "no core 8-9 on this host; it has 0-7"),
        (&["--hugepages-2m", "8", "--hugepages-2m", "8@1"], 2, "both of all nodes and of one"),
        (&["--hugepages-2m", "many"], 2, "\"many\" is no number"),
        (&["--isolate", "2-"], 2, "no list of cores"),
        (&["--isolate", "-1"], 2, "no list of cores"),
        (&["--bind", "eth1"], 2, "no PCI address"),
        (&["--bind"], 2, "--bind needs a value"),
        (&["--hugepages", "8"], 2, "--hugepages is nothing"),
        (&["undo"], 2, "one verb at a time"),
        (&[], 2, "apply needs to know what"),
    ];
    for (words, code, needle) in rows {
        let words: Vec<&str> = std::iter::once("apply").chain(words.iter().copied()).collect();
        refuses(&host, &words, *code, needle);
    }
    refuses(&host, &["undo", "--bind", "0000:02:00.0"], 2, "undo takes none of --bind");
    refuses(&host, &[], 2, "say what to do");
    host.lacks("update-grub");
    refuses(&host, &["apply", "--isolate", "2-3"], 1, "isolcpus=managed_irq,domain,2-3 nohz_full=2-3");
    host.stub("update-grub", "");
    host.write(DROP_IN, "GRUB_TIMEOUT=9");
    refuses(&host, &["apply", "--isolate", "2-3"], 1, "was not made by host-setup");
}

#[test]
fn what_the_kernel_refuses_is_put_back_at_once() {
    let host = Host::new();
    fs::remove_file(host.path(PAGES_2M)).unwrap();
    symlink("/dev/null", host.path(PAGES_2M)).unwrap();
    refuses_midway(&host, &["apply", "--hugepages-2m", "8"], "found 0 of 8 pages of 2 MiB");
    host.write("sys/bus/pci/devices/0000:02:00.0/faulty", "");
    refuses_midway(&host, &["apply", "--bind", "0000:02:00.0"], "it is with ixgbe again");
    assert_eq!(host.driver("0000:02:00.0").as_deref(), Some("ixgbe"));
    host.stub("modprobe", "exit 1");
    refuses_midway(&host, &["apply", "--bind", "0000:02:00.1"], "no module vfio-pci");
    host.does(&["undo"]);
    assert!(!host.path(STATE).exists());
}

#[track_caller]
fn refuses_midway(host: &Host, words: &[&str], needle: &str) {
    let output = host.setup(words);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(needle), "{needle:?} is not in: {said}");
}

#[test]
fn whole_groups_interrupts_that_stay_and_hosts_without_an_iommu() {
    let host = Host::new();
    host.nic("0000:05:00.0", "ixgbe", "eth5", Some("15"));
    host.nic("0000:05:00.1", "ixgbe", "eth6", Some("15"));
    host.does(&["apply", "--bind", "0000:05:00.0", "--bind", "0000:05:00.1"]);
    assert_eq!(host.driver("0000:05:00.1").as_deref(), Some("vfio-pci"));

    host.nic("0000:04:00.0", "ixgbe", "eth4", None);
    host.does(&["apply", "--no-iommu", "--bind", "0000:04:00.0"]);
    assert_eq!(host.read("sys/module/vfio/parameters/enable_unsafe_noiommu_mode"), "Y");

    // /dev/full refuses every byte, as the kernel does for an interrupt that is one core's.
    fs::create_dir_all(host.path("proc/irq/26")).unwrap();
    let stays = host.path("proc/irq/26/smp_affinity_list");
    symlink("/dev/full", &stays).unwrap();
    host.stub("head", "case $3 in */26/*) echo 2 ;; *) exec /usr/bin/head \"$@\" ;; esac");
    let said = host.does(&["apply", "--isolate", "2-3"]);
    assert!(said.contains("1 interrupts belong to one core each and stay"), "{said}");
    host.does(&["undo"]);
    assert_eq!(host.read("sys/module/vfio/parameters/enable_unsafe_noiommu_mode"), "N");
    assert_eq!(host.driver("0000:04:00.0").as_deref(), Some("ixgbe"));
}

#[test]
fn status_tells_what_is() {
    let host = Host::new();
    host.does(&["apply", "--hugepages-2m", "512", "--bind", "0000:02:00.0"]);
    let said = host.does(&["status"]);
    for line in [
        "huge pages  /sys/kernel/mm/hugepages/hugepages-2048kB: 512, free 0",
        "NIC         0000:02:00.0: driver vfio-pci, interfaces eth1",
        "NIC         0000:01:00.0: driver ixgbe, interfaces eth0",
        "cores       online 0-7, isolated none",
        "undo        2 changes",
    ] {
        assert!(said.lines().any(|l| l == line), "{line:?} is not in: {said}");
    }
}
