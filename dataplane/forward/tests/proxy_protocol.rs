//! The PROXY protocol towards backends: what they get in front of each connection, and that both sides keep their numbers whatever is lost.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::errors::{POD_ROUTER, error6, too_big};
use harness::services::Port;
use harness::{Bed, answer_to, ends, from};
use proptest::prelude::*;
use turnpike_packet::flight::Flight;
use turnpike_packet::icmpv4::Complaint;
use turnpike_packet::io::Spread;
use turnpike_packet::tcp;
use turnpike_packet::tcp::flags::{ACK, FIN, PSH, RST, SYN};
use turnpike_wire::update::{FrontendKind, Protocol};

/// Client, frontend, backend, the header, and where the TCP header starts.
struct Family {
    client: &'static str,
    vip: &'static str,
    backend: &'static str,
    header: Vec<u8>,
    l4: usize,
}

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The example of section 2.2, written out by hand.
fn families() -> [Family; 2] {
    let v4 = [&SIGNATURE[..], &[0x21, 0x11, 0, 12], &[198, 51, 100, 7, 203, 0, 113, 80, 0x9c, 0x40, 0, 80]];
    let v6 = |last: u8, third: u8| {
        let mut address = [0x20, 1, 0x0d, 0xb8, 0, third, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
        address[4] = 0;
        address
    };
    let v6 = [&SIGNATURE[..], &[0x21, 0x21, 0, 36], &v6(7, 0x0c), &v6(0x80, 0x80), &[0x9c, 0x40, 0, 80]];
    [
        Family {
            client: "198.51.100.7:40000",
            vip: "203.0.113.80:80",
            backend: "10.244.0.1:8080",
            header: v4.concat(),
            l4: 34,
        },
        Family {
            client: "[2001:db8:c::7]:40000",
            vip: "[2001:db8:80::80]:80",
            backend: "[fd00::1]:8080",
            header: v6.concat(),
            l4: 54,
        },
    ]
}

fn bed() -> Bed {
    let mut bed = Bed::dual(1, &Spread::Unknown, 1_500);
    let ports = families().map(|of| {
        Port::new(of.vip, Protocol::Tcp, &[of.backend]).on(of.vip, FrontendKind::LoadBalancer).prefaced()
    });
    bed.put(&ports);
    bed
}

/// Sequence and acknowledgement numbers, flags, and payload of a segment.
fn segment(frame: &[u8], l4: usize) -> (u32, u32, u8, Vec<u8>) {
    let word = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
    let start = l4 + usize::from(frame[l4 + 12] >> 4) * 4;
    (word(l4 + 4), word(l4 + 8), frame[l4 + 13] & 0x3f, frame[start..].to_vec())
}

/// A connection whose handshake is done but for the client's acknowledgement; the way from the backend.
fn opened(bed: &mut Bed, of: &Family) -> Flight {
    let there = from(of.client, of.vip);
    let syn = bed.pass_through(&tcp::segment(&there, 1_000, 0, SYN, b""));
    assert_eq!(segment(&syn, of.l4), (1_000, 0, SYN, vec![]));
    let back = answer_to(&syn);
    let answer = bed.pass_through(&tcp::segment(&back, 9_000, 1_001, SYN | ACK, b""));
    assert_eq!(segment(&answer, of.l4), (9_000, 1_001, SYN | ACK, vec![]));
    back
}

#[test]
fn the_backend_learns_its_client_before_the_first_byte() {
    for of in families() {
        let (mut bed, there) = (bed(), from(of.client, of.vip));
        let length = of.header.len() as u32;
        let back = opened(&mut bed, &of);
        // The acknowledgement that completes the handshake carries it.
        let out = bed.pass_through(&tcp::segment(&there, 1_001, 9_001, ACK, b""));
        assert_eq!(segment(&out, of.l4), (1_001, 9_001, ACK, of.header.clone()));
        assert_eq!(ends(&out).1, of.backend.parse().unwrap());
        // The client's first bytes carry it again, since nobody has acknowledged it.
        let out = bed.pass_through(&tcp::segment(&there, 1_001, 9_001, ACK | PSH, b"GET /"));
        assert_eq!(segment(&out, of.l4), (1_001, 9_001, ACK | PSH, [&of.header[..], b"GET /"].concat()));
        // What the backend has of the header is nothing to the client; what it has of the bytes is.
        for (says, hears) in [(1_001 + 5, 1_001), (1_001 + length, 1_001), (1_001 + length + 5, 1_006)] {
            let out = bed.pass_through(&tcp::segment(&back, 9_001, says, ACK, b"200"));
            assert_eq!(segment(&out, of.l4), (9_001, hears, ACK, b"200".to_vec()));
        }
        // From now on the numbers differ, and nothing is put in any more.
        for (sends, bits, bytes) in
            [(1_006, ACK, &b"more"[..]), (1_001, ACK | PSH, b"GET /"), (1_010, FIN | ACK, b"")]
        {
            let out = bed.pass_through(&tcp::segment(&there, sends, 9_004, bits, bytes));
            assert_eq!(segment(&out, of.l4), (sends + length, 9_004, bits, bytes.to_vec()));
        }
        let out = bed.pass_through(&tcp::segment(&back, 9_004, 1_011 + length, FIN | ACK, b""));
        assert_eq!(segment(&out, of.l4), (9_004, 1_011, FIN | ACK, vec![]));
        bed.pass(240_000 + 16_000);
        assert_eq!(bed.count("flows_live"), 0, "its end was seen");
    }
}

#[test]
fn rfc7413_no_byte_comes_in_front_of_the_header() {
    for of in families() {
        let (mut bed, there) = (bed(), from(of.client, of.vip));
        for bytes in [&b"GET"[..], b"even", b""] {
            let syn = bed.pass_through(&tcp::segment(&there, 1_000, 0, SYN, bytes));
            assert_eq!((segment(&syn, of.l4), syn.len()), ((1_000, 0, SYN, vec![]), of.l4 + 20));
        }
        opened(&mut bed, &of);
        let out = bed.pass_through(&tcp::segment(&there, 1_001, 9_001, ACK, b"GET"));
        assert_eq!(segment(&out, of.l4).3, [&of.header[..], b"GET"].concat());
    }
}

#[test]
fn segments_leave_room_for_the_header() {
    for of in families() {
        let (mut bed, there) = (bed(), from(of.client, of.vip));
        let syn = bed.pass_through(&tcp::with_options(&there, 1_000, 0, SYN, &[2, 4, 5, 180]));
        assert_eq!(syn[of.l4 + 20..], [2, 4, 5, if of.l4 == 34 { 180 } else { 160 }], "what both links take");
        let back = answer_to(&syn);
        let answer = bed.pass_through(&tcp::with_options(&back, 9_000, 1_001, SYN | ACK, &[2, 4, 5, 180]));
        let most = 1_500 - (of.l4 as u16 - 14) - 20 - of.header.len() as u16;
        assert_eq!(answer[of.l4 + 22..], most.to_be_bytes());
        let full = vec![7; usize::from(most)];
        let out = bed.pass_through(&tcp::segment(&there, 1_001, 9_001, ACK, &full));
        assert_eq!(out.len(), 1_514);
        let out = bed.exchange(&[tcp::segment(&there, 1_001, 9_001, ACK, &[&full[..], b"!"].concat())]);
        assert_eq!((bed.count("too_big"), out.len()), (1, 1), "and whoever does not heed it is told");
    }
}

#[test]
fn selective_acknowledgements_say_what_the_client_has_sent() {
    for of in families() {
        let (mut bed, there) = (bed(), from(of.client, of.vip));
        let length = of.header.len() as u32;
        let back = opened(&mut bed, &of);
        bed.pass_through(&tcp::segment(&there, 1_001, 9_001, ACK, b""));
        let sack = |from: u32, to: u32| [&[1, 1, 5, 10][..], &from.to_be_bytes(), &to.to_be_bytes()].concat();
        // The header was lost, and what came behind it was not.
        let behind = sack(1_001 + length, 1_101 + length);
        let out = bed.pass_through(&tcp::with_options(&back, 9_001, 1_001, ACK, &behind));
        assert_eq!((segment(&out, of.l4).1, &out[of.l4 + 20..]), (1_001, &[1; 12][..]));
        let gap = sack(1_201 + length, 1_301 + length);
        let out = bed.pass_through(&tcp::with_options(&back, 9_001, 1_101 + length, ACK, &gap));
        assert_eq!((segment(&out, of.l4).1, &out[of.l4 + 20..]), (1_101, &sack(1_201, 1_301)[..]));
    }
}

#[test]
fn errors_speak_of_what_the_client_has_sent() {
    let narrow = |of: &Family, about: &[u8]| match of.l4 {
        34 => too_big(POD_ROUTER, about, 1_400),
        _ => error6(about, Complaint::TooBig { mtu: 1_400 }),
    };
    for of in families() {
        let (mut bed, there) = (bed(), from(of.client, of.vip));
        let length = of.header.len() as u32;
        let back = opened(&mut bed, &of);
        // While the header has to go with it, a segment has less room.
        let first = bed.pass_through(&tcp::segment(&there, 1_001, 9_001, ACK, b"GET"));
        let told = bed.pass_through(&narrow(&of, &first));
        let quoted = of.l4 + 8 + (of.l4 - 14);
        let word = |at: usize| u32::from_be_bytes(told[at..at + 4].try_into().unwrap());
        assert_eq!((word(of.l4 + 4), word(quoted + 4)), (1_400 - length, 1_001));
        bed.pass_through(&tcp::segment(&back, 9_001, 1_004 + length, ACK, b""));
        let next = bed.pass_through(&tcp::segment(&there, 1_004, 9_001, ACK, b"more"));
        let told = bed.pass_through(&narrow(&of, &next));
        let word = |at: usize| u32::from_be_bytes(told[at..at + 4].try_into().unwrap());
        assert_eq!((word(of.l4 + 4), word(quoted + 4)), (1_400, 1_004));
        // About what the backend sends there is nothing to change but the ends.
        let answer = bed.pass_through(&tcp::segment(&back, 9_001, 1_008 + length, ACK, b"200"));
        let told = bed.pass_through(&narrow(&of, &answer));
        assert_eq!(u32::from_be_bytes(told[quoted + 4..quoted + 8].try_into().unwrap()), 9_001);
    }
}

#[test]
fn numbers_stay_right_however_long_the_stream_is() {
    for of in families() {
        let (mut bed, there) = (bed(), from(of.client, of.vip));
        let length = of.header.len() as u32;
        let back = opened(&mut bed, &of);
        bed.pass_through(&tcp::segment(&there, 1_001, 9_001, ACK, b""));
        bed.pass_through(&tcp::segment(&back, 9_001, 1_001 + length, ACK, b""));
        // Once around all numbers, and the first ones again, in steps that windows of 64 kB without scaling allow.
        let mut number = 1_001u32;
        for _ in 0..(1u64 << 32) / 0xf000 + 3 {
            let out = bed.pass_through(&tcp::segment(&there, number, 9_001, ACK, b"x"));
            assert_eq!(segment(&out, of.l4).0, number.wrapping_add(length));
            number = number.wrapping_add(0xf000);
            let says = number.wrapping_add(length);
            let out = bed.pass_through(&tcp::segment(&back, 9_001, says, ACK, b""));
            assert_eq!(segment(&out, of.l4).1, number);
        }
    }
}

#[test]
fn what_cannot_have_a_header_goes_nowhere_without_one() {
    let mut bed = bed();
    let of = &families()[0];
    let there = from(of.client, of.vip);
    // Where its stream begins is not known.
    let out = bed.exchange(&[tcp::segment(&there, 5, 77, ACK, b"amid")]);
    assert_eq!((bed.count("tcp_no_flow"), out[0][47]), (1, RST));
    // A reset before anything was sent has the number that the backend waits for, one behind the header has another.
    opened(&mut bed, of);
    let out = bed.pass_through(&tcp::segment(&there, 1_001, 9_001, RST, b""));
    assert_eq!(segment(&out, of.l4).0, 1_001);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Two ends that send again what is not acknowledged, over a network that loses: the backend reads the header once and then the client's
    /// bytes, the client reads the backend's.
    #[test]
    fn both_streams_arrive_whole_whatever_is_lost(
        lost in prop::collection::vec(prop::bool::weighted(0.3), 64),
        upload in prop::collection::vec(any::<u8>(), 1..4_000),
        first in any::<u32>(),
    ) {
        for of in families() {
            let (mut bed, there) = (bed(), from(of.client, of.vip));
            let syn = bed.pass_through(&tcp::segment(&there, first, 0, SYN, b""));
            let back = answer_to(&syn);
            bed.pass_through(&tcp::segment(&back, 9_000, first.wrapping_add(1), SYN | ACK, b""));
            let start = first.wrapping_add(1);
            let mut losses = lost.iter().cycle();
            // What the backend has got in order, what the client knows of it.
            let (mut got, mut known) = (Vec::new(), 0usize);
            for _ in 0..400 {
                let chunk = &upload[known..upload.len().min(known + 700)];
                let sent = tcp::segment(&there, start.wrapping_add(known as u32), 9_001, ACK, chunk);
                let out = bed.pass_through(&sent);
                if !losses.next().unwrap() {
                    let (sequence, _, _, bytes) = segment(&out, of.l4);
                    let at = sequence.wrapping_sub(start) as usize;
                    if at <= got.len() {
                        got.truncate(at);
                        got.extend(bytes);
                    }
                }
                let answer = tcp::segment(&back, 9_001, start.wrapping_add(got.len() as u32), ACK, b"");
                let out = bed.pass_through(&answer);
                if !losses.next().unwrap() {
                    known = known.max(segment(&out, of.l4).1.wrapping_sub(start) as usize);
                }
                if known == upload.len() {
                    break;
                }
            }
            prop_assert_eq!(known, upload.len());
            prop_assert_eq!(&got[..of.header.len()], &of.header[..]);
            prop_assert_eq!(&got[of.header.len()..], &upload[..]);
        }
    }
}
