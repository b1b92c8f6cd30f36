//! The way to the host's kernel and back: rings between the workers and the one thread that reads and writes taps.
//!
//! Each worker has a ring of its own to that thread, and worker 0 one from it, so that every ring has one producer and one consumer and no
//! worker ever waits or calls the system. What finds no room is dropped and counted.
//!
//! # A flood harms nobody else
//! What a worker passes on is bounded for each [`Class`], and within a class one sender gets half at most, so that a flood from one host
//! leaves room for a BGP session with another, and a flood from far away none of the room of neighbours. Of the ring itself far senders may
//! fill one half, neighbours three quarters, the link's own protocols all; and those who send much a quarter less than others of their class,
//! so that a thread that cannot keep up with a flood still gets what comes beside it.
//!
//! # Which ports of an address are the kernel's
//! An address may be both the gateway's own and a SNAT address. Then a packet belongs to the flow that it is of, and to the kernel when it is
//! of none. The kernel's own connections use ports that SNAT never uses ([`Plan::local_ports`]), and so do the servers of Turnpike, so no reply
//! to the kernel is ever taken for one to a flow, and none to a live flow for one to the kernel. Of a datagram in fragments the first one tells,
//! and all go its way ([`crate::fragments`]). ICMP errors do not tell their port without a doubt: those that may be of a flow stay away from the
//! kernel.

use crate::address::Address;
use crate::handoff::Handed;
use crate::hash::{Secret, scale};
use crate::limits::{
    EXCEPTION_BURST_MS, EXCEPTION_FRAMES, EXCEPTION_FRAMES_PER_SECOND, EXCEPTION_LINK_FRAMES_PER_SECOND,
    EXCEPTION_SENDERS,
};
use rtrb::{Consumer, Producer, RingBuffer};
use std::sync::Arc;
use turnpike_wire::limits::SNAT_PORT_MIN;

/// The tap of one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tap {
    /// Longest frame that the kernel may send through it, in bytes, without VLAN tags.
    pub frame_bytes_max: usize,
    /// The addresses that the kernel has on it.
    pub addresses: Vec<Address>,
}

/// What is the kernel's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// For each port of the gateway in order its tap, if it has one.
    pub taps: Vec<Option<Tap>>,
    /// First and last port that the kernel gives its own connections (`net.ipv4.ip_local_port_range`).
    pub local_ports: (u16, u16),
    /// Ports of its addresses at which programs of Turnpike listen.
    pub listening: Vec<u16>,
}

impl Plan {
    /// Whether there is a tap at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.taps.iter().all(Option::is_none)
    }

    /// The tap of a port.
    #[must_use]
    pub fn tap(&self, port: usize) -> Option<&Tap> {
        self.taps.get(port)?.as_ref()
    }

    /// Whether the kernel has this address on one of its taps.
    #[must_use]
    pub fn has(&self, address: Address) -> bool {
        self.taps.iter().flatten().any(|tap| tap.addresses.contains(&address))
    }

    /// Whether SNAT leaves this port of an address that is the kernel's too to it: the well-known ports, those of its own connections, and
    /// those at which Turnpike listens.
    #[must_use]
    pub fn is_local_port(&self, port: u16) -> bool {
        port < SNAT_PORT_MIN || self.ports().any(|(first, last)| first <= port && port <= last)
    }

    /// Those ports but the well-known ones, as ranges by their first and last.
    pub fn ports(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        self.listening.iter().map(|&port| (port, port)).chain([self.local_ports])
    }
}

/// Whose frames share a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// To a group or everybody on the link, or neither IPv4 nor IPv6: neighbour tables, LLDP, OSPF, IPv6's neighbour discovery.
    Link,
    /// From a host on a connected network.
    Neighbour,
    /// From any other host.
    Far,
}

impl Class {
    /// Room of the ring that must stay free when one of its frames is in.
    const fn spared(self) -> usize {
        match self {
            Self::Link => 0,
            Self::Neighbour => EXCEPTION_FRAMES / 4,
            Self::Far => EXCEPTION_FRAMES / 2,
        }
    }
}

/// Why a frame was not passed on. It comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its class or its sender has used up its share.
    Limited,
    /// The ring has no room for its class.
    Full,
}

/// One worker's ends.
#[derive(Debug)]
pub struct Exception<F> {
    plan: Arc<Plan>,
    to_kernel: Producer<Handed<F>>,
    /// Worker 0 alone sends what the kernel sends.
    from_kernel: Option<Consumer<Handed<F>>>,
    meter: Meter,
}

/// The ends of the thread that reads and writes taps.
#[derive(Debug)]
pub struct KernelEnd<F> {
    from_workers: Vec<Consumer<Handed<F>>>,
    to_worker: Producer<Handed<F>>,
    /// The ring that is looked at first next time.
    turn: usize,
}

/// The ends for each of `workers` workers, and for the kernel's thread.
#[must_use]
pub fn rings<F>(plan: Plan, workers: usize, secret: Secret) -> (Vec<Exception<F>>, KernelEnd<F>) {
    let plan = Arc::new(plan);
    let (to_worker, from_kernel) = RingBuffer::new(EXCEPTION_FRAMES);
    let (mut from_kernel, mut from_workers) = (Some(from_kernel), Vec::new());
    let ends = (0..workers).map(|_| {
        let (to_kernel, consumer) = RingBuffer::new(EXCEPTION_FRAMES);
        from_workers.push(consumer);
        let meter = Meter::new(workers, secret);
        Exception { plan: Arc::clone(&plan), to_kernel, from_kernel: from_kernel.take(), meter }
    });
    (ends.collect(), KernelEnd { from_workers, to_worker, turn: 0 })
}

impl<F> Exception<F> {
    /// What is the kernel's.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Passes a frame from a port on to its tap, or gives it back.
    pub fn pass(
        &mut self,
        port: u8,
        frame: F,
        class: Class,
        sender: u128,
        now_ms: u32,
    ) -> Result<(), (F, Refusal)> {
        let much = if self.meter.sends_much(class, sender) { EXCEPTION_FRAMES / 4 } else { 0 };
        if self.to_kernel.slots() <= class.spared() + much {
            return Err((frame, Refusal::Full));
        }
        if !self.meter.admits(class, sender, now_ms) {
            return Err((frame, Refusal::Limited));
        }
        let pushed = self.to_kernel.push(Handed { port, frame });
        pushed.map_err(|rtrb::PushError::Full(handed)| (handed.frame, Refusal::Full))
    }

    /// The next frame of the kernel.
    pub fn receive(&mut self) -> Option<Handed<F>> {
        self.from_kernel.as_mut()?.pop().ok()
    }
}

impl<F> KernelEnd<F> {
    /// The next frame for the kernel. Workers take turns.
    pub fn receive(&mut self) -> Option<Handed<F>> {
        for _ in 0..self.from_workers.len() {
            let ring = self.turn;
            self.turn = if ring + 1 < self.from_workers.len() { ring + 1 } else { 0 };
            if let Ok(handed) = self.from_workers[ring].pop() {
                return Some(handed);
            }
        }
        None
    }

    /// Frames for the kernel that are on their way.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.from_workers.iter().map(Consumer::slots).sum()
    }

    /// Frames of the kernel that there is room for.
    #[must_use]
    pub fn room(&self) -> usize {
        self.to_worker.slots()
    }

    /// Hands over what the kernel sends through the tap of a port; gives it back when the ring is full.
    pub fn send(&mut self, port: u8, frame: F) -> Result<(), F> {
        self.to_worker.push(Handed { port, frame }).map_err(|rtrb::PushError::Full(handed)| handed.frame)
    }
}

/// What may still pass: thousandths of frames, so that a millisecond brings as many as there are frames in a second.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: u32,
    since_ms: u32,
}

/// Thousandths of a frame.
const FRAME: u32 = 1_000;

impl Bucket {
    const fn full(rate: u32) -> Self {
        Self { left: rate * EXCEPTION_BURST_MS, since_ms: 0 }
    }

    /// Lets time pass at `rate` frames a second, and says whether there is a frame's worth.
    fn has_one(&mut self, rate: u32, now_ms: u32) -> bool {
        let elapsed_ms = now_ms.wrapping_sub(self.since_ms).min(EXCEPTION_BURST_MS);
        self.since_ms = now_ms;
        self.left = (self.left + elapsed_ms * rate).min(rate * EXCEPTION_BURST_MS);
        self.left >= FRAME
    }
}

/// The bounds of one worker.
#[derive(Debug)]
struct Meter {
    secret: Secret,
    /// Frames a second of [`Class::Neighbour`], and of [`Class::Far`].
    rate: u32,
    link: Bucket,
    classes: [Bucket; 2],
    /// By a keyed hash, so that nobody can choose an address that shares another's.
    senders: Box<[[Bucket; 2]]>,
}

const _: () = assert!((EXCEPTION_FRAMES_PER_SECOND as u64 * EXCEPTION_BURST_MS as u64) < u32::MAX as u64 / 2);

impl Meter {
    fn new(workers: usize, secret: Secret) -> Self {
        // However many workers share it, one transfer comes to one of them.
        let rate = (EXCEPTION_FRAMES_PER_SECOND / workers.max(1) as u32).max(EXCEPTION_FRAMES_PER_SECOND / 8);
        Self {
            secret,
            rate,
            link: Bucket::full(EXCEPTION_LINK_FRAMES_PER_SECOND),
            classes: [Bucket::full(rate); 2],
            senders: vec![[Bucket::full(rate / 2); 2]; EXCEPTION_SENDERS].into(),
        }
    }

    /// The place of a sender, by a keyed hash.
    const fn slot(&self, sender: u128) -> usize {
        let hash = self.secret.words(sender as u64, (sender >> 64) as u64);
        scale((hash >> 32) as u32, EXCEPTION_SENDERS as u32) as usize
    }

    /// Whether a sender has used up a quarter of what may come at once.
    fn sends_much(&self, class: Class, sender: u128) -> bool {
        let at = match class {
            Class::Link => return false,
            Class::Neighbour => 0,
            Class::Far => 1,
        };
        self.senders[self.slot(sender)][at].left < self.rate / 2 * EXCEPTION_BURST_MS / 4 * 3
    }

    fn admits(&mut self, class: Class, sender: u128, now_ms: u32) -> bool {
        let at = match class {
            Class::Link => {
                let admitted = self.link.has_one(EXCEPTION_LINK_FRAMES_PER_SECOND, now_ms);
                self.link.left -= if admitted { FRAME } else { 0 };
                return admitted;
            }
            Class::Neighbour => 0,
            Class::Far => 1,
        };
        let slot = self.slot(sender);
        let (class, sender) = (&mut self.classes[at], &mut self.senders[slot][at]);
        // Both are asked, so that both let time pass; neither is charged for what the other refuses.
        let admitted = class.has_one(self.rate, now_ms) & sender.has_one(self.rate / 2, now_ms);
        if admitted {
            class.left -= FRAME;
            sender.left -= FRAME;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let tap = Tap { frame_bytes_max: 1_514, addresses: vec![Address::v4(0xc000_0201)] };
        Plan { taps: vec![None, Some(tap)], local_ports: (32_768, 60_999), listening: vec![] }
    }

    fn ends(workers: usize) -> (Vec<Exception<u32>>, KernelEnd<u32>) {
        rings(plan(), workers, Secret::new([1, 2, 3, 4]))
    }

    /// Frames of one sender that pass in a millisecond-stepped second, with the thread taking all of them away.
    fn passed(end: &mut Exception<u32>, kernel: &mut KernelEnd<u32>, class: Class, sender: u128) -> u32 {
        let mut passed = 0;
        for ms in 10_000..11_000 {
            for frame in 0..400 {
                passed += u32::from(end.pass(1, frame, class, sender, ms).is_ok());
            }
            while kernel.receive().is_some() {}
        }
        passed
    }

    #[test]
    fn ports_and_addresses_of_the_kernel() {
        let plan = plan();
        assert!(
            !plan.is_empty() && plan.has(Address::v4(0xc000_0201)) && !plan.has(Address::v4(0xc000_0202))
        );
        assert!(plan.tap(0).is_none() && plan.tap(1).is_some() && plan.tap(2).is_none());
        for (port, local) in
            [(22, true), (179, true), (1_023, true), (1_024, false), (32_767, false), (32_768, true)]
        {
            assert_eq!(plan.is_local_port(port), local, "{port}");
        }
        assert!(plan.is_local_port(60_999) && !plan.is_local_port(61_000));
        let serving = Plan { listening: vec![5_353, 10_256], ..plan };
        for (port, local) in [(5_352, false), (5_353, true), (10_256, true), (40_000, true), (61_000, false)]
        {
            assert_eq!(serving.is_local_port(port), local, "{port}");
        }
        assert!(Plan { taps: vec![None], local_ports: (1, 2), listening: vec![] }.is_empty());
    }

    #[test]
    fn frames_cross_both_ways_in_order_and_workers_take_turns() {
        let (mut workers, mut kernel) = ends(2);
        for frame in 0..3 {
            workers[0].pass(1, frame, Class::Link, 0, 1).unwrap();
            workers[1].pass(1, frame + 10, Class::Link, 0, 1).unwrap();
        }
        assert_eq!(kernel.waiting(), 6);
        let taken: Vec<u32> = std::iter::from_fn(|| kernel.receive()).map(|h| h.frame).collect();
        assert_eq!(taken, [0, 10, 1, 11, 2, 12]);
        for frame in 0..EXCEPTION_FRAMES as u32 {
            assert_eq!(kernel.send(1, frame), Ok(()));
        }
        assert_eq!((kernel.room(), kernel.send(1, 9)), (0, Err(9)), "given back");
        assert!(workers[1].receive().is_none(), "worker 0 sends for the kernel");
        let taken: Vec<u32> = std::iter::from_fn(|| workers[0].receive()).map(|h| h.frame).collect();
        assert_eq!(taken, (0..EXCEPTION_FRAMES as u32).collect::<Vec<_>>());
    }

    #[test]
    fn the_ring_keeps_room_for_the_link_and_for_neighbours() {
        let (mut workers, _kernel) = ends(1);
        let mut fill = |class| {
            let pass = |n: &u32| workers[0].pass(1, *n, class, u128::from(*n), 5_000 + n).is_ok();
            (0..2_000u32).take_while(pass).count()
        };
        assert_eq!(fill(Class::Far), EXCEPTION_FRAMES / 2);
        assert_eq!(fill(Class::Neighbour), EXCEPTION_FRAMES / 4);
        assert_eq!(fill(Class::Link), EXCEPTION_FRAMES / 4);
        let full = workers[0].pass(1, 7, Class::Link, 0, 9_000);
        assert_eq!(full, Err((7, Refusal::Full)));
    }

    #[test]
    fn who_sends_much_leaves_room_in_the_ring_to_others_of_its_class() {
        for (class, room) in [(Class::Far, 256), (Class::Neighbour, 512)] {
            let (mut workers, mut kernel) = ends(1);
            let end = &mut workers[0];
            // A flood that the thread at first keeps up with.
            passed(end, &mut kernel, class, 1);
            let flood = (0..2_000).filter(|&n| end.pass(1, n, class, 1, 11_000 + n / 20).is_ok()).count();
            assert_eq!(flood, room, "{class:?}");
            let others = (2..2_000).filter(|&sender| end.pass(1, 0, class, sender, 11_100).is_ok()).count();
            assert_eq!(others, EXCEPTION_FRAMES / 4, "{class:?}");
        }
    }

    #[test]
    fn one_sender_gets_half_and_leaves_the_other_classes_alone() {
        let (mut workers, mut kernel) = ends(1);
        let half = EXCEPTION_FRAMES_PER_SECOND / 2;
        let burst = half * EXCEPTION_BURST_MS / 1_000;
        let flood = passed(&mut workers[0], &mut kernel, Class::Far, 1);
        assert!((half..=half + burst).contains(&flood), "{flood}");
        assert_eq!(
            workers[0].pass(1, 0, Class::Far, 1, 10_999),
            Err((0, Refusal::Limited)),
            "its share is used up"
        );
        for (class, sender) in [(Class::Far, 2), (Class::Neighbour, 1), (Class::Link, 1)] {
            assert_eq!(workers[0].pass(1, 0, class, sender, 10_999), Ok(()), "{class:?} of {sender}");
        }
    }

    #[test]
    fn however_many_senders_a_class_has_its_bound() {
        let (mut workers, mut kernel) = ends(1);
        let (mut passed, end) = (0, &mut workers[0]);
        for ms in 10_000..11_000 {
            for sender in 0..400 {
                passed += u32::from(end.pass(1, 0, Class::Far, sender, ms).is_ok());
            }
            while kernel.receive().is_some() {}
        }
        let burst = EXCEPTION_FRAMES_PER_SECOND * EXCEPTION_BURST_MS / 1_000;
        assert!((EXCEPTION_FRAMES_PER_SECOND..=EXCEPTION_FRAMES_PER_SECOND + burst).contains(&passed));
        assert!(workers[0].pass(1, 0, Class::Neighbour, 1, 10_999).is_ok());
    }

    #[test]
    fn a_long_pause_brings_one_burst_and_the_clock_may_wrap() {
        let mut bucket = Bucket { left: 0, since_ms: u32::MAX - 10 };
        assert!(bucket.has_one(1_000, 10));
        assert_eq!(bucket.left, 21 * 1_000);
        assert!(bucket.has_one(1_000, 1_000_000));
        assert_eq!(bucket.left, EXCEPTION_BURST_MS * 1_000);
    }
}
