//! [`Port`]: one NIC, configured and started, with as many queue pairs as there are workers.

use crate::astray::{HashCheck, Tally};
use crate::device::{Device, DeviceError};
use crate::eal::Eal;
use crate::mempool::Mempool;
use crate::offloads::Offloads;
use crate::queue::Queue;
use crate::ring::{RingConsumer, RingProducer};
use crate::rss::{self, Wish};
use crate::wake::Before;
use crate::{control, error_text};
use dpdk_sys as sys;
use std::ffi::{CStr, CString, c_int};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use turnpike_packet::io::{PortInfo, Spread};

/// How a port is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// Queue pairs, one for each worker.
    pub queues: u16,
    /// Receive descriptors of each queue; brought within what the driver takes.
    pub rx_descriptors: u16,
    /// Transmit descriptors of each queue; likewise.
    pub tx_descriptors: u16,
    /// Largest IP packet that it must take, in bytes; a device that takes larger ones is left as it is. None: what the device has.
    pub mtu: Option<u16>,
    /// Toeplitz key for drivers with receive-side scaling, repeated or cut to the length they want; none: a fixed well-known one.
    pub rss_key: Option<Vec<u8>>,
    /// Whether almost all frames that it is given to send come from the pool it receives into. Only a matter of speed: others are copied then.
    pub one_pool: bool,
}

impl Default for PortConfig {
    fn default() -> Self {
        Self {
            queues: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mtu: None,
            rss_key: None,
            one_pool: true,
        }
    }
}

/// Why a port did not open. What had been done of it is undone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// The device string or what it names.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The same device was opened before.
    #[error(
        "device {0} is already open; give each port a device of its own (net_af_packet0, net_af_packet1)"
    )]
    AlreadyOpen(String),
    /// No driver took it.
    #[error(
        "no DPDK driver takes device {device}: {reason}; check the driver's name and its arguments, and that this process may use it (root)"
    )]
    NotTaken {
        /// The device.
        device: String,
        /// What DPDK says.
        reason: String,
    },
    /// The NIC is not one that the environment was started with.
    #[error(
        "PCI device {0} was not taken by any DPDK driver; it must be listed when the environment starts and be bound to vfio-pci"
    )]
    NotProbed(String),
    /// More workers than queues.
    #[error(
        "device {device} has {offered} queue pairs, {wanted} are needed (one a worker); use fewer workers, or give it more queues{hint}"
    )]
    TooFewQueues {
        /// The device.
        device: String,
        /// What it has.
        offered: u16,
        /// What is needed.
        wanted: u16,
        /// How its driver is given more.
        hint: &'static str,
    },
    /// The MTU is not one the device takes.
    #[error("device {device} takes an MTU from {least} to {most}, not {wanted}")]
    Mtu {
        /// The device.
        device: String,
        /// What was asked for.
        wanted: u16,
        /// Smallest it takes.
        least: u16,
        /// Largest it takes.
        most: u16,
    },
    /// A step of the configuration failed.
    #[error("device {device}: cannot {step}: {reason}")]
    Step {
        /// The device.
        device: String,
        /// What was being done.
        step: &'static str,
        /// What DPDK says.
        reason: String,
    },
}

/// State of a port's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whether frames can pass.
    pub up: bool,
    /// In Mbit/s, where it is known.
    pub speed_mbps: Option<u32>,
}

/// What the driver has counted since the port was opened. Software drivers leave some at 0; net_ring counts no bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Frames received.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames lost because a receive queue was full.
    pub rx_missed: u64,
    /// Frames that arrived broken.
    pub rx_errors: u64,
    /// Frames that could not be sent.
    pub tx_errors: u64,
    /// Frames lost because packet memory had run out.
    pub rx_no_memory: u64,
}

/// An open port. It closes when it and all its queues are dropped.
#[derive(Debug)]
pub struct Port(Arc<Opened>);

/// The open port itself, shared by [`Port`] and its queues. Dropping it stops, closes and removes the device, in this order.
#[derive(Debug)]
pub(crate) struct Opened {
    device: String,
    driver: String,
    port: u16,
    started: bool,
    info: PortInfo,
    offloads: Offloads,
    tally: Tally,
    raw: *mut sys::rte_device,
    /// Ends of the rings a ring port is made of: dropped after the device is closed.
    _rings: Vec<(RingConsumer, RingProducer)>,
}

// SAFETY: the device pointer is only handed back to DPDK, under the control lock; the rest is plain data.
unsafe impl Send for Opened {}
// SAFETY: as above; through & only statistics and link state are read, which DPDK allows from any thread.
unsafe impl Sync for Opened {}

impl Port {
    /// Opens a device: virtual ones are made now, PCI ones must have been listed in [`crate::EalConfig::pci`]. Frames are received into `pool`.
    pub fn open(
        eal: Eal,
        device: &Device,
        config: &PortConfig,
        pool: Mempool,
    ) -> Result<(Self, Vec<Queue>), PortError> {
        device.check()?;
        let name = c_string(device.port_name(), device)?;
        let before;
        {
            let _one_at_a_time = control();
            before = Before::look(device.port_name());
            match device {
                Device::Pci(address) if port_by_name(&name).is_none() => {
                    return Err(PortError::NotProbed(address.clone()));
                }
                Device::Virtual { .. } if port_by_name(&name).is_some() => {
                    return Err(PortError::AlreadyOpen(device.to_string()));
                }
                Device::Pci(_) => {}
                Device::Virtual { arguments, .. } => attach(device, &name, arguments)?,
            }
        }
        let port = port_by_name(&name).ok_or_else(|| PortError::NotTaken {
            device: device.to_string(),
            reason: "it makes no network port".into(),
        })?;
        let (port, mut queues) = Self::configure(eal, device.to_string(), port, config, pool, Vec::new())?;
        for (queue, socket) in queues.iter_mut().zip(before.found(config.queues)) {
            queue.wakes_by(socket);
        }
        Ok((port, queues))
    }

    /// Makes a port of rings: queue `i` receives from the consumer and sends to the producer of pair `i`. The other ends stay with the caller.
    pub fn from_rings(
        eal: Eal,
        pairs: Vec<(RingConsumer, RingProducer)>,
        config: &PortConfig,
        pool: Mempool,
    ) -> Result<(Self, Vec<Queue>), PortError> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let device = format!("rings{}", MADE.fetch_add(1, Ordering::Relaxed));
        let name = CString::new(device.as_str()).unwrap_or_default();
        let receive: Vec<_> = pairs.iter().map(|(consumer, _)| consumer.as_ptr()).collect();
        let send: Vec<_> = pairs.iter().map(|(_, producer)| producer.as_ptr()).collect();
        let count = pairs.len() as u32;
        let made = {
            let _one_at_a_time = control();
            // SAFETY: the environment runs; both arrays hold `count` rings, which the port keeps alive.
            unsafe {
                sys::rte_eth_from_rings(name.as_ptr(), receive.as_ptr(), count, send.as_ptr(), count, 0)
            }
        };
        let Ok(port) = u16::try_from(made) else {
            return Err(PortError::NotTaken { device, reason: error_text(crate::errno()) });
        };
        Self::configure(eal, device, port, config, pool, pairs)
    }

    fn configure(
        _eal: Eal,
        device: String,
        port: u16,
        config: &PortConfig,
        pool: Mempool,
        rings: Vec<(RingConsumer, RingProducer)>,
    ) -> Result<(Self, Vec<Queue>), PortError> {
        let info = PortInfo { mac: [0; 6], mtu: 0, spread: Spread::Unknown };
        let raw = std::ptr::null_mut();
        // From here on an error drops `opened`, which closes the device.
        let mut opened = Opened {
            device,
            driver: String::new(),
            port,
            started: false,
            info,
            offloads: Offloads::default(),
            tally: Tally::default(),
            raw,
            _rings: rings,
        };
        let one_at_a_time = control();
        let outcome = opened.bring_up(config, pool);
        drop(one_at_a_time);
        outcome?;
        let opened = Arc::new(opened);
        let queues = (0..config.queues).map(|q| Queue::new(Arc::clone(&opened), q, pool)).collect();
        Ok((Self(opened), queues))
    }

    /// What its queues can do.
    #[must_use]
    pub fn info(&self) -> &PortInfo {
        &self.0.info
    }

    /// The device as it was named.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.0.device
    }

    /// The driver's name, e.g. `net_af_packet`.
    #[must_use]
    pub fn driver(&self) -> &str {
        &self.0.driver
    }

    /// What its driver does beside receiving and sending.
    #[must_use]
    pub fn offloads(&self) -> Offloads {
        self.0.offloads
    }

    /// Whether frames come to the queues that their hashes name, where the driver leaves hashes with them.
    #[must_use]
    pub fn hash_check(&self) -> HashCheck {
        self.0.tally.read()
    }

    /// Whether frames can pass now.
    #[must_use]
    pub fn link(&self) -> Link {
        let (mut up, mut speed): (c_int, u32) = (0, 0);
        // SAFETY: the port is open; both results are ours.
        let status = unsafe { sys::shim_eth_link_get(self.0.port, &raw mut up, &raw mut speed) };
        let known = speed != 0 && speed != u32::MAX;
        Link { up: status == 0 && up != 0, speed_mbps: known.then_some(speed) }
    }

    /// What the driver has counted.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut raw = sys::rte_eth_stats::default();
        // SAFETY: the port is open; the result is ours. It stays all zero where a driver counts nothing.
        let _ = unsafe { sys::rte_eth_stats_get(self.0.port, &raw mut raw) };
        Stats {
            rx_frames: raw.ipackets,
            rx_bytes: raw.ibytes,
            tx_frames: raw.opackets,
            tx_bytes: raw.obytes,
            rx_missed: raw.imissed,
            rx_errors: raw.ierrors,
            tx_errors: raw.oerrors,
            rx_no_memory: raw.rx_nombuf,
        }
    }
}

impl Opened {
    pub(crate) fn port_id(&self) -> u16 {
        self.port
    }

    pub(crate) fn info(&self) -> &PortInfo {
        &self.info
    }

    pub(crate) fn offloads(&self) -> Offloads {
        self.offloads
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Configures and starts the port.
    fn bring_up(&mut self, config: &PortConfig, pool: Mempool) -> Result<(), PortError> {
        let mut offer = sys::rte_eth_dev_info::default();
        // SAFETY: the port exists; the result is ours.
        self.step("ask what it offers", unsafe { sys::rte_eth_dev_info_get(self.port, &raw mut offer) })?;
        self.raw = offer.device;
        self.driver = text(offer.driver_name);
        let queues = config.queues;
        let offered = offer.max_rx_queues.min(offer.max_tx_queues);
        if queues == 0 || queues > offered {
            let (device, hint) = (self.device.clone(), more_queues(&self.driver));
            return Err(PortError::TooFewQueues { device, offered, wanted: queues.max(1), hint });
        }
        let mtu = self.mtu(config, &offer)?;
        let wish = Wish::of(&offer, queues, config.rss_key.as_deref().unwrap_or(&rss::DEFAULT_KEY));
        self.offloads = Offloads::of(&offer, mtu, wish.types != 0, config.one_pool);
        self.apply(queues, mtu, &wish)?;
        self.set_up_queues(config, &offer, pool)?;
        // SAFETY: configured, with every queue set up.
        self.step("start", unsafe { sys::rte_eth_dev_start(self.port) })?;
        self.started = true;
        // A driver without promiscuous mode receives everything anyway, or says so by receiving nothing for the addresses it serves.
        // SAFETY: the port is started.
        let _ = unsafe { sys::rte_eth_promiscuous_enable(self.port) };
        self.info = self.read_info(&offer, &wish, queues)?;
        Ok(())
    }

    fn mtu(&self, config: &PortConfig, offer: &sys::rte_eth_dev_info) -> Result<u16, PortError> {
        let mut current = 0;
        // SAFETY: the port exists; the result is ours.
        self.step("ask its MTU", unsafe { sys::rte_eth_dev_get_mtu(self.port, &raw mut current) })?;
        match config.mtu {
            None => Ok(current),
            Some(wanted) if wanted <= current => Ok(current),
            Some(wanted) if (offer.min_mtu..=offer.max_mtu).contains(&wanted) => Ok(wanted),
            Some(wanted) => {
                let device = self.device.clone();
                Err(PortError::Mtu { device, wanted, least: offer.min_mtu, most: offer.max_mtu })
            }
        }
    }

    /// No checksum, VLAN or segmentation offload is turned on: the worker sees frames as they came and sends them as they are.
    fn apply(&self, queues: u16, mtu: u16, wish: &Wish) -> Result<(), PortError> {
        let mut key = wish.key.clone();
        let mut conf = sys::rte_eth_conf::default();
        conf.rxmode.mtu = u32::from(mtu);
        conf.rxmode.offloads = self.offloads.rx_bits();
        conf.txmode.offloads = self.offloads.tx_bits();
        if wish.types != 0 {
            conf.rxmode.mq_mode = sys::RTE_ETH_MQ_RX_RSS;
            conf.rx_adv_conf.rss_conf.rss_hf = wish.types;
            if !key.is_empty() {
                conf.rx_adv_conf.rss_conf.rss_key = key.as_mut_ptr();
                conf.rx_adv_conf.rss_conf.rss_key_len = key.len() as u8;
            }
        }
        // SAFETY: the port exists and is stopped; conf and the key it points at live through the call.
        let status = unsafe { sys::rte_eth_dev_configure(self.port, queues, queues, &raw const conf) };
        self.step("configure its queues", status)
    }

    fn set_up_queues(
        &self,
        config: &PortConfig,
        offer: &sys::rte_eth_dev_info,
        pool: Mempool,
    ) -> Result<(), PortError> {
        let (mut rx, mut tx) = (config.rx_descriptors, config.tx_descriptors);
        // SAFETY: the port is configured; both numbers are ours.
        let status = unsafe { sys::rte_eth_dev_adjust_nb_rx_tx_desc(self.port, &raw mut rx, &raw mut tx) };
        self.step("agree on queue lengths", status)?;
        // SAFETY: the port exists. A port of no NUMA node gives -1, "any".
        let node = unsafe { sys::rte_eth_dev_socket_id(self.port) } as u32;
        for queue in 0..config.queues {
            // SAFETY: the port is configured with this queue; a null configuration is the driver's default; the pool lives for ever.
            let status = unsafe {
                sys::rte_eth_rx_queue_setup(self.port, queue, rx, node, std::ptr::null(), pool.as_ptr())
            };
            self.step("set up a receive queue", status)?;
            let mut sending = offer.default_txconf;
            sending.offloads = 0;
            // SAFETY: as above; the configuration lives through the call.
            let status =
                unsafe { sys::rte_eth_tx_queue_setup(self.port, queue, tx, node, &raw const sending) };
            self.step("set up a transmit queue", status)?;
        }
        Ok(())
    }

    fn read_info(
        &self,
        offer: &sys::rte_eth_dev_info,
        wish: &Wish,
        queues: u16,
    ) -> Result<PortInfo, PortError> {
        let mut mac = sys::rte_ether_addr::default();
        // SAFETY: the port exists; the result is ours.
        self.step("read its Ethernet address", unsafe { sys::rte_eth_macaddr_get(self.port, &raw mut mac) })?;
        let mut mtu = 0;
        // SAFETY: as above.
        self.step("ask its MTU", unsafe { sys::rte_eth_dev_get_mtu(self.port, &raw mut mtu) })?;
        let spread = rss::spread(self.port, &self.driver, offer, wish, queues);
        Ok(PortInfo { mac: mac.addr_bytes, mtu, spread })
    }

    fn step(&self, step: &'static str, status: c_int) -> Result<(), PortError> {
        if status >= 0 {
            return Ok(());
        }
        Err(PortError::Step { device: self.device.clone(), step, reason: error_text(status) })
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let _one_at_a_time = control();
        // SAFETY: the port is ours and no queue of it is left. Nothing can be done about a driver that cannot stop: closing goes on.
        unsafe {
            if self.started {
                let _ = sys::rte_eth_dev_stop(self.port);
            }
            let _ = sys::rte_eth_dev_close(self.port);
            if !self.raw.is_null() {
                let _ = sys::rte_dev_remove(self.raw);
            }
        }
    }
}

/// Makes a virtual device. Call under the control lock.
fn attach(device: &Device, name: &CStr, arguments: &str) -> Result<(), PortError> {
    let arguments = c_string(arguments, device)?;
    // SAFETY: the environment runs; three NUL-terminated strings, copied by DPDK.
    let status = unsafe { sys::rte_eal_hotplug_add(c"vdev".as_ptr(), name.as_ptr(), arguments.as_ptr()) };
    match status {
        0 => Ok(()),
        _ => Err(PortError::NotTaken { device: device.to_string(), reason: error_text(status) }),
    }
}

fn port_by_name(name: &CStr) -> Option<u16> {
    let mut port = 0;
    // SAFETY: a NUL-terminated name; the result is ours.
    (unsafe { sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut port) } == 0).then_some(port)
}

fn c_string(text: &str, device: &Device) -> Result<CString, PortError> {
    CString::new(text).map_err(|_| DeviceError::Unreadable(device.to_string()).into())
}

fn text(raw: *const std::ffi::c_char) -> String {
    if raw.is_null() {
        return String::new();
    }
    // SAFETY: not null, and the driver's name is a static NUL-terminated string.
    unsafe { CStr::from_ptr(raw) }.to_string_lossy().into_owned()
}

/// The argument by which a driver gets more queues.
fn more_queues(driver: &str) -> &'static str {
    match driver {
        "net_af_packet" => " (qpairs=N in its device string)",
        "net_af_xdp" => " (queue_count=N in its device string, on an interface with that many)",
        _ => "",
    }
}
