//! The Internet checksum: sums (RFC 1071), updates (RFC 1624).
//!
//! A checksum is the complement of the one's complement sum of 16-bit words, here in network byte order.

/// One's complement sum of the bytes as 16-bit words; a last odd byte counts as the high half of a word.
///
/// Over data that includes its own right checksum the sum is `0xffff`.
#[must_use]
pub fn ones_complement_sum(bytes: &[u8]) -> u16 {
    let mut words = bytes.chunks_exact(2);
    let whole: u64 = words.by_ref().map(|w| u64::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let odd = words.remainder().first().map_or(0, |&b| u64::from(b) << 8);
    fold(whole + odd)
}

/// The checksum of the bytes, in which the checksum field is zero.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    !ones_complement_sum(bytes)
}

/// One's complement sum of a TCP or UDP segment and its IPv4 pseudo header (RFC 9293 section 3.1, RFC 768).
#[must_use]
pub fn transport_sum(source: u32, destination: u32, protocol: u8, segment: &[u8]) -> u16 {
    let halves = |a: u32| u64::from(a >> 16) + u64::from(a & 0xffff);
    let pseudo = halves(source) + halves(destination) + u64::from(protocol) + segment.len() as u64;
    fold(pseudo + u64::from(ones_complement_sum(segment)))
}

/// The same with an IPv6 pseudo header (RFC 8200 section 8.1), also of an ICMPv6 message.
#[must_use]
pub fn transport_sum6(source: u128, destination: u128, protocol: u8, segment: &[u8]) -> u16 {
    let words = |a: u128| (0..8).map(|word| (a >> (16 * word)) as u64 & 0xffff).sum::<u64>();
    let pseudo = words(source) + words(destination) + u64::from(protocol) + segment.len() as u64;
    fold(pseudo + u64::from(ones_complement_sum(segment)))
}

/// The checksum after a word of the data changed from `old` to `new`: RFC 1624 equation 3, HC' = ~(~HC + ~m + m').
#[must_use]
pub const fn updated(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(!checksum as u64 + !old as u64 + new as u64)
}

/// Adds the carries back in until none is left.
const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(ones_complement_sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624() {
        // Section 4: a field changes from 0x5555 to 0x3285 under checksum 0xdd2f, which the earlier equation got wrong.
        assert_eq!(updated(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn an_odd_byte_is_a_high_half() {
        assert_eq!(ones_complement_sum(&[0x12, 0x34, 0x56]), 0x1234 + 0x5600);
        assert_eq!(ones_complement_sum(&[]), 0);
    }

    proptest! {
        #[test]
        fn updating_is_summing_anew(mut bytes in prop::collection::vec(any::<u8>(), 4..100), at in any::<prop::sample::Index>(), new: u16) {
            let at = at.index(bytes.len() / 2) * 2;
            let before = checksum(&bytes);
            let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
            let (updated, anew) = (updated(before, old, new), checksum(&bytes));
            // All zero data sums to zero, which an update cannot tell from 0xffff: the same number in one's complement.
            prop_assert!(updated == anew || updated ^ anew == 0xffff && (anew == 0 || anew == 0xffff));
        }
    }
}
