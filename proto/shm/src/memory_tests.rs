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
