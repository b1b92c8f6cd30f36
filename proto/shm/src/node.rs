//! NUMA nodes of memory: asking for pages of one, and finding where pages are.

use rustix::io::Errno;
use std::ffi::{c_int, c_long, c_ulong, c_void};
use std::path::Path;

/// Nodes that a request can name: one bit each.
const NODES_MAX: u32 = 1024;

const BITS: u32 = c_ulong::BITS;

/// Asks the kernel to take pages of this range from `node` while it has some, and from others afterwards.
///
/// # Safety
/// `start` and `bytes` are a mapping of the caller's own.
pub(crate) unsafe fn prefer(start: *mut c_void, bytes: usize, node: u32) -> Result<(), Errno> {
    if node >= NODES_MAX {
        return Err(Errno::INVAL);
    }
    let mut nodes: [c_ulong; (NODES_MAX / BITS) as usize] = [0; _];
    if let Some(word) = nodes.get_mut((node / BITS) as usize) {
        *word = 1 << (node % BITS);
    }
    let policy: c_int = libc::MPOL_PREFERRED;
    // The kernel takes one bit less than it is told of.
    let bits = c_ulong::from(NODES_MAX) + 1;
    // SAFETY: the mask has NODES_MAX bits and lives through the call; a policy changes no byte, and the caller vouches for the range.
    let status: c_long =
        unsafe { libc::syscall(libc::SYS_mbind, start, bytes, policy, nodes.as_ptr(), bits, 0) };
    if status == 0 { Ok(()) } else { Err(Errno::INVAL) }
}

/// Huge pages of `page_bytes` that `node` has free; none where the kernel does not say.
pub(crate) fn free_pages(sys: &Path, node: u32, page_bytes: usize) -> Option<u64> {
    let of_size = format!("devices/system/node/node{node}/hugepages/hugepages-{}kB", page_bytes / 1024);
    std::fs::read_to_string(sys.join(of_size).join("free_hugepages")).ok()?.trim().parse().ok()
}

/// The node that has most pages of the mapping in which `address` lies, by the text of `/proc/PID/numa_maps`. Neighbouring mappings of one kind
/// may be one line there, so the line is the last one that begins at or before the address.
pub(crate) fn of_mapping(numa_maps: &str, address: usize) -> Option<u32> {
    let begins = |line: &str| usize::from_str_radix(line.split_whitespace().next()?, 16).ok();
    let line = numa_maps
        .lines()
        .filter_map(|line| Some((begins(line)?, line)))
        .filter(|(begin, _)| *begin <= address)
        .max_by_key(|(begin, _)| *begin)?;
    let pages = line.1.split_whitespace().filter_map(|word| {
        let (node, pages) = word.strip_prefix('N')?.split_once('=')?;
        Some((pages.parse::<u64>().ok()?, node.parse::<u32>().ok()?))
    });
    pages.max_by_key(|(pages, node)| (*pages, std::cmp::Reverse(*node))).map(|(_, node)| node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_of_a_mapping_is_the_one_with_most_of_its_pages() {
        let text = "7f0000000000 default file=/lib/x N=3 Nx=1 mapped=2 N0=2\n\
                    7f1000000000 prefer:1 anon=512 dirty=512 N0=12 N1=500 kernelpagesize_kB=4\n\
                    7f2000000000 default huge anon=4 dirty=4 N2=4 kernelpagesize_kB=2048\n\
                    7f3000000000 default\nnonsense N7=9\n";
        let rows = [
            (0x7f00_0000_1000, Some(0)),
            (0x7f10_0000_0000, Some(1)),
            (0x7f1f_ffff_0000, Some(1)),
            (0x7f20_0000_0000, Some(2)),
            (0x7f30_0000_0000, None),
            (0x1000, None),
        ];
        for (address, wanted) in rows {
            assert_eq!(of_mapping(text, address), wanted, "{address:x}");
        }
        assert_eq!(of_mapping("", 0x1000), None);
    }

    #[test]
    fn free_pages_of_a_node_are_read_or_unknown() {
        let sys = tempfile::tempdir().unwrap();
        let folder = sys.path().join("devices/system/node/node1/hugepages/hugepages-2048kB");
        std::fs::create_dir_all(&folder).unwrap();
        assert_eq!(free_pages(sys.path(), 1, 2 << 20), None);
        std::fs::write(folder.join("free_hugepages"), "17\n").unwrap();
        assert_eq!(free_pages(sys.path(), 1, 2 << 20), Some(17));
        assert_eq!(free_pages(sys.path(), 1, 1 << 30), None);
        std::fs::write(folder.join("free_hugepages"), "many").unwrap();
        assert_eq!(free_pages(sys.path(), 1, 2 << 20), None);
    }

    #[test]
    fn a_node_that_no_kernel_has_is_refused() {
        let mut page = [0u8; 1];
        let start = page.as_mut_ptr().cast();
        for node in [NODES_MAX, u32::MAX] {
            // SAFETY: refused before the kernel is asked.
            assert_eq!(unsafe { prefer(start, 0, node) }, Err(Errno::INVAL));
        }
    }
}
