//! The maximum segment size that a TCP segment with SYN announces (RFC 9293 section 3.7.1), lowered on its way where a link takes less.

use crate::{checksum, ipv4, ipv6, tcp};

/// What IPv4 and TCP headers without options take of an MTU, in bytes (RFC 6691 section 2).
pub const HEADERS: u16 = (ipv4::HEADER + tcp::HEADER) as u16;
/// The same of IPv6 headers.
pub const HEADERS6: u16 = (ipv6::HEADER + tcp::HEADER) as u16;
/// The option's kind and length.
const OPTION: [u8; 2] = [2, 4];

/// Lowers the announced size to `most` and updates the checksum (RFC 1624), so that a wrong one stays wrong. `segment` starts at the TCP
/// header. A segment without SYN, without the option, or with a lower size stays as it is, and so does one whose options do not add up. Whether
/// it was changed.
pub fn clamp(segment: &mut [u8], most: u16) -> bool {
    let Some(fixed) = segment.first_chunk::<{ tcp::HEADER }>() else { return false };
    let end = usize::from(fixed[12] >> 4) * 4;
    if fixed[13] & tcp::flags::SYN == 0 {
        return false;
    }
    let Some(at) = segment.get(tcp::HEADER..end).and_then(value).map(|at| at + tcp::HEADER) else {
        return false;
    };
    let old = u16::from_be_bytes([segment[at], segment[at + 1]]);
    if old <= most {
        return false;
    }
    let mut sum = u16::from_be_bytes([segment[16], segment[17]]);
    // Options start at any byte: a value at an odd one is spread over two words of the sum.
    for (at, new) in (at..).zip(most.to_be_bytes()) {
        let word = |byte: u8| if at % 2 == 0 { u16::from(byte) << 8 } else { u16::from(byte) };
        sum = checksum::updated(sum, word(segment[at]), word(new));
        segment[at] = new;
    }
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    true
}

/// Lowers the announced size by so many bytes, as [`clamp`] does.
pub fn lower(segment: &mut [u8], by: u16) -> bool {
    let Some(fixed) = segment.first_chunk::<{ tcp::HEADER }>() else { return false };
    let end = usize::from(fixed[12] >> 4) * 4;
    let Some(at) = segment.get(tcp::HEADER..end).and_then(value) else { return false };
    let at = at + tcp::HEADER;
    let announced = u16::from_be_bytes([segment[at], segment[at + 1]]);
    clamp(segment, announced.saturating_sub(by))
}

/// Where the option's value starts among the options.
fn value(options: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match *options.get(at..)? {
            [] | [0, ..] => return None,
            [1, ..] => at += 1,
            [kind, length, ..] => {
                if [kind, length] == OPTION {
                    return (at + 4 <= options.len()).then_some(at + 2);
                }
                if length < 2 {
                    return None;
                }
                at += usize::from(length);
            }
            [_] => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flight::{Flight, check};
    use crate::tcp::flags::{ACK, SYN};
    use proptest::prelude::*;

    fn syn(bits: u8, options: &[u8]) -> Vec<u8> {
        let flight = Flight {
            source_mac: [2, 0, 0, 0, 0, 9],
            destination_mac: [2, 0, 0, 0, 0, 1],
            source: "198.51.100.7:40000".parse().unwrap(),
            destination: "203.0.113.80:80".parse().unwrap(),
        };
        tcp::with_options(&flight, 7, 0, bits, options)
    }

    /// What it is, TCP flags, options, the largest size allowed, options afterwards.
    type Row<'a> = (&'a str, u8, &'a [u8], u16, &'a [u8]);

    #[test]
    fn only_the_size_of_a_syn_is_lowered() {
        let rows: &[Row] = &[
            ("lowered", SYN, &[2, 4, 5, 180], 1360, &[2, 4, 5, 80]),
            ("in the answer too", SYN | ACK, &[2, 4, 5, 180], 1360, &[2, 4, 5, 80]),
            ("never raised", SYN, &[2, 4, 2, 24], 1360, &[2, 4, 2, 24]),
            (
                "behind others, at an odd byte",
                SYN,
                &[1, 2, 4, 5, 180, 4, 2, 0],
                1360,
                &[1, 2, 4, 5, 80, 4, 2, 0],
            ),
            (
                "at an odd byte behind another",
                SYN,
                &[3, 3, 7, 2, 4, 5, 180, 0],
                1360,
                &[3, 3, 7, 2, 4, 5, 80, 0],
            ),
            ("no SYN", ACK, &[2, 4, 5, 180], 1360, &[2, 4, 5, 180]),
            ("not there", SYN, &[4, 2, 1, 1], 1360, &[4, 2, 1, 1]),
            (
                "behind the end of the list",
                SYN,
                &[0, 2, 4, 5, 180, 0, 0, 0],
                1360,
                &[0, 2, 4, 5, 180, 0, 0, 0],
            ),
            ("an option without length", SYN, &[3, 0, 2, 4, 5, 180, 1, 1], 1360, &[3, 0, 2, 4, 5, 180, 1, 1]),
            ("cut off", SYN, &[1, 1, 2, 4], 1360, &[1, 1, 2, 4]),
            ("of another length", SYN, &[2, 3, 5, 1], 1, &[2, 3, 5, 1]),
        ];
        for (what, bits, options, most, wanted) in rows {
            let mut frame = syn(*bits, options);
            assert_eq!(clamp(&mut frame[34..], *most), options != wanted, "{what}");
            assert_eq!(&frame[54..54 + wanted.len()], *wanted, "{what}");
            assert_eq!(check(&frame), Ok(()), "{what}");
        }
    }

    proptest! {
        #[test]
        fn any_options_are_survived_and_a_wrong_checksum_stays_wrong(
            options in prop::collection::vec(any::<u8>(), 0..10).prop_map(|o| o.repeat(4)),
            most: u16,
            cut in 0usize..70,
            flip: bool,
        ) {
            let mut frame = syn(SYN, &options);
            frame[50] ^= u8::from(flip);
            let end = frame.len().min(34 + cut);
            let changed = clamp(&mut frame[34..end], most);
            prop_assert_eq!(check(&frame).is_ok(), !flip);
            prop_assert!(!changed || end == frame.len() || cut >= 24);
        }
    }
}
