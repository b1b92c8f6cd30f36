//! DPDK's hash table behind its safe face.
#![allow(clippy::unwrap_used)]

use capsule::{Eal, EalConfig, HASH_BULK, Hash, HashError, Memory};

fn eal() -> Eal {
    Eal::start(&EalConfig { memory: Memory::Ordinary { mb: 64 }, pci: vec![], nodes: vec![] }).unwrap()
}

fn key(n: u32) -> [u8; 16] {
    let mut key = [0xa5; 16];
    key[..4].copy_from_slice(&n.to_be_bytes());
    key
}

#[test]
fn keys_are_found_with_their_values_and_others_are_not() {
    let mut hash = Hash::<16>::new(eal(), 1_024).unwrap();
    // Keys of 24 bytes with their values and padding, and buckets of a line for eight.
    assert!((1_024 * 40..1_024 * 80).contains(&hash.memory_bytes()), "{}", hash.memory_bytes());
    for n in 0..900 {
        hash.insert(&key(n), n as usize + 7).unwrap();
    }
    hash.insert(&key(5), 1).unwrap();
    let mut values = [0; HASH_BULK];
    // Every other key is in the table.
    let keys: Vec<_> = (0..100).map(|n| key(if n % 2 == 0 { n } else { 10_000 + n })).collect();
    assert_eq!(hash.lookup(&keys, &mut values), 0x5555_5555_5555_5555, "those behind the 64th are left out");
    assert!((0..64).step_by(2).all(|n| values[n] == n + 7), "{values:?}");
    assert_eq!(hash.lookup(&[key(5)], &mut values), 1);
    assert_eq!(values[0], 1, "another value");
    assert_eq!((hash.get(&key(5)), hash.get(&key(6)), hash.get(&key(10_000))), (Some(1), Some(13), None));
    assert_eq!(hash.lookup(&[], &mut values), 0);
}

#[test]
fn a_full_table_and_one_of_no_size_are_told() {
    let mut hash = Hash::<16>::new(eal(), 64).unwrap();
    let refused = (0..1_000).find_map(|n| hash.insert(&key(n), 0).err()).unwrap();
    assert!(refused.to_string().contains("takes no other key"), "{refused}");
    for entries in [0, 1, u32::MAX] {
        let refused = Hash::<16>::new(eal(), entries).unwrap_err();
        assert!(matches!(&refused, HashError::NotMade { entries: asked, .. } if *asked == entries));
        assert!(refused.to_string().contains("8 to 1073741824"), "{refused}");
    }
}
