use super::*;

#[test]
fn memory_is_zeroed_aligned_and_writable() {
    for policy in [Pages::Auto, Pages::Never] {
        for bytes in [1, 4096, HUGE_PAGE_BYTES, HUGE_PAGE_BYTES * 3 + 5] {
            let mut memory = HugeMemory::new(bytes, policy).unwrap();
            assert_eq!(memory.bytes().len(), bytes);
            assert_eq!(memory.bytes().as_ptr().addr() % HUGE_PAGE_BYTES, 0);
            assert!(memory.bytes().iter().all(|&byte| byte == 0));
            memory.bytes_mut().fill(0xa5);
            assert!(memory.bytes().iter().all(|&byte| byte == 0xa5));
            if policy == Pages::Never {
                assert_eq!(memory.pages(), PageKind::Ordinary);
            }
        }
    }
}

/// Memory of this process that is present, in MiB.
fn present_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[test]
fn memory_is_present_at_once_and_goes_back_on_drop() {
    let memory = HugeMemory::new(256 << 20, Pages::Never).unwrap();
    let held = present_mib();
    assert!(held >= 256, "only {held} MiB are present");
    drop(memory);
    let after = present_mib();
    assert!(after + 200 < held, "{held} MiB before, {after} MiB after");
}

#[test]
fn impossible_amounts_are_errors() {
    for bytes in [usize::MAX, isize::MAX as usize, 1 << 46] {
        for policy in [Pages::Auto, Pages::Never] {
            let error = HugeMemory::new(bytes, policy).err().unwrap().to_string();
            assert!(error.contains("dataplane.flows_per_worker"), "{error}");
        }
    }
}

#[test]
fn required_huge_pages_are_had_or_named() {
    match HugeMemory::new(HUGE_PAGE_BYTES, Pages::Require) {
        Ok(memory) => assert_eq!(memory.pages(), PageKind::Huge),
        Err(e) => assert!(e.to_string().contains("vm.nr_hugepages"), "{e}"),
    }
    let error = HugeMemory::new(1 << 45, Pages::Require).err().unwrap().to_string();
    assert!(error.contains("reserve 16777216 more huge pages"), "{error}");
}

#[test]
fn large_pages_are_tried_before_small_ones_and_those_of_the_node_first() {
    const GIB: usize = GIANT_PAGE_BYTES;
    let sys = tempfile::tempdir().unwrap();
    let reserve = |node: u32, kb: usize, pages: u64| {
        let folder = format!("devices/system/node/node{node}/hugepages/hugepages-{kb}kB");
        std::fs::create_dir_all(sys.path().join(&folder)).unwrap();
        std::fs::write(sys.path().join(folder).join("free_hugepages"), pages.to_string()).unwrap();
    };
    reserve(0, 2048, 1024);
    reserve(0, 1_048_576, 0);
    reserve(1, 2048, 0);
    reserve(1, 1_048_576, 2);
    use PageKind::{Giant, Huge};
    type Row = (usize, Option<u32>, &'static [(PageKind, usize)]);
    // Bytes, node, what is tried and how much of it.
    let rows: &[Row] = &[
        (GIB, None, &[(Giant, GIB), (Huge, GIB)]),
        (GIB / 2, None, &[(Giant, GIB), (Huge, GIB / 2)]),
        (GIB / 2 - 1, None, &[(Huge, GIB / 2)]),
        (1, Some(0), &[(Huge, HUGE_PAGE_BYTES)]),
        (GIB, Some(0), &[(Huge, GIB), (Giant, GIB)]),
        (GIB + GIB / 4, Some(1), &[(Giant, 2 * GIB), (Huge, GIB + GIB / 4)]),
        (3 * GIB, Some(1), &[(Giant, 3 * GIB), (Huge, 3 * GIB)]),
        (3 * GIB, Some(7), &[(Giant, 3 * GIB), (Huge, 3 * GIB)]),
    ];
    for (bytes, node, wanted) in rows {
        assert_eq!(sizes(*bytes, *node, sys.path()), *wanted, "{bytes} bytes near {node:?}");
    }
    assert_eq!(sizes(usize::MAX, None, sys.path()), []);
}

#[test]
fn memory_is_on_the_node_it_was_asked_from_and_says_so() {
    if !Path::new("/proc/self/numa_maps").exists() {
        return assert_eq!(HugeMemory::near(1, Pages::Never, Some(0)).unwrap().node(), None);
    }
    for policy in [Pages::Auto, Pages::Never] {
        let memory = HugeMemory::near(8 << 20, policy, Some(0)).unwrap();
        assert_eq!(memory.node(), Some(0), "{policy:?}: node 0 has memory on every host");
        let maps = std::fs::read_to_string("/proc/self/numa_maps").unwrap();
        let begin = format!("{:x} ", memory.bytes().as_ptr().addr());
        let line = maps.lines().find(|line| line.starts_with(&begin)).unwrap();
        assert!(line.contains("prefer"), "the kernel was asked: {line}");
        // A node that is not there is no reason to have no memory.
        assert_eq!(HugeMemory::near(8 << 20, policy, Some(1023)).unwrap().bytes().len(), 8 << 20);
    }
}

#[test]
fn pages_have_names_and_sizes() {
    let kinds = [PageKind::Giant, PageKind::Huge, PageKind::Transparent, PageKind::Ordinary];
    assert_eq!(kinds.map(PageKind::name), ["1 GiB", "2 MiB", "transparent", "4 KiB"]);
    assert_eq!(kinds.map(PageKind::page_bytes), [1 << 30, 2 << 20, 4096, 4096]);
}
