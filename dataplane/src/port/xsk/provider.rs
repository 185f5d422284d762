//! AF_XDP sockets on the vL3 interface, fed by the steer programs.

use std::fmt::Debug;
use std::sync::Arc;

use vl3lb_common::dataplane::{AttachMode, Attachment, LinkChange, Steered};
use vl3lb_common::next_hop::Link;

use super::{Layout, XskPort};
use crate::config::{Config, FastPathConfig, Mode, ZeroCopy};
use crate::error::SetupError;
use crate::link::LinkInfo;
use crate::packet::Framing;
use crate::port::provider::{Attached, PortProvider, SteerCounters, Steering};
use crate::steer::{Counters, Rules, Steer};

/// Opens AF_XDP ports on one interface, found by its name at each attachment.
#[derive(Debug, Clone)]
pub struct AfXdp {
    interface: String,
    mode: Mode,
    zero_copy: ZeroCopy,
    frames: u32,
    fast_path: FastPathConfig,
}

impl AfXdp {
    /// For the interface, the mode and the packet memory in `config`.
    pub fn new(config: &Config) -> Self {
        Self {
            interface: config.interface.clone(),
            mode: config.mode,
            zero_copy: config.zero_copy,
            frames: config.frames,
            fast_path: config.fast_path,
        }
    }
}

impl PortProvider for AfXdp {
    type Port = XskPort;
    type Steering = Steer;

    fn attach(&self, workers: Option<u16>) -> Result<Attached<XskPort, Steer>, SetupError> {
        let link = LinkInfo::inspect(&self.interface)?;
        let mut steer = Steer::attach(&link, self.mode, workers, self.fast_path)?;
        let workers = workers.unwrap_or_else(|| u16::try_from(steer.queues()).unwrap_or(u16::MAX));
        let [receive, transmit] = [steer.receive_interface(), steer.transmit_interface()].map(str::to_owned);
        let layout = Layout {
            receive: &receive,
            receive_queues: steer.queues(),
            transmit: &transmit,
            transmit_queues: link.transmit_queues,
            workers,
            frames: self.frames,
            zero_copy: self.zero_copy,
        };
        let mut ports = XskPort::open(layout)?;
        for (queue, socket) in ports.iter().flat_map(XskPort::receivers) {
            steer.register_socket(queue, socket)?;
        }
        let local_clients = match serve_local(&link, &mut steer, &mut ports, layout) {
            Ok(()) => String::new(),
            Err(error) => {
                steer.end_local();
                XskPort::end_local(&mut ports);
                error.to_string()
            }
        };
        let attachment = Attachment {
            interface: link.name,
            index: link.index,
            link: link.link,
            driver: link.driver,
            mtu: link.mtu,
            mode: steer.mode(),
            zero_copy: ports.iter().all(XskPort::is_zero_copy),
            reason: steer.reason().to_owned(),
            refuses: steer.refuses().to_owned(),
            receive_queues: link.receive_queues,
            transmit_queues: link.transmit_queues,
            cores: Vec::new(),
            fast_path: steer.fast_path().clone(),
            local_clients,
        };
        let (fast_path, shed) = (steer.fast_memory(), Some(steer.shed_memory()));
        Ok(Attached {
            ports,
            steering: steer,
            attachment,
            fast_path,
            shed,
        })
    }

    fn link_change(&self, attachment: &Attachment) -> Option<LinkChange> {
        match LinkInfo::inspect(&self.interface) {
            Err(error) if error.is_interface_missing() => Some(LinkChange::Gone),
            // Down, or with an MTU that cannot work: the attachment stays good for when it is not.
            Err(_) => None,
            Ok(now) if now.index != attachment.index || now.link.name() != attachment.link.name() => {
                Some(LinkChange::Replaced)
            }
            // The companion pair has queues of its own.
            Ok(now)
                if attachment.mode != AttachMode::Companion
                    && (now.receive_queues != attachment.receive_queues
                        || now.transmit_queues != attachment.transmit_queues) =>
            {
                Some(LinkChange::Queues)
            }
            Ok(_) => None,
        }
    }
}

/// Makes the way for clients in this network namespace.
fn serve_local(
    link: &LinkInfo,
    steer: &mut Steer,
    ports: &mut [XskPort],
    layout: Layout<'_>,
) -> Result<(), SetupError> {
    let header_len = match link.link {
        Link::Ethernet(_) => Framing::Ethernet.header_len(),
        Link::RawIp => Framing::RawIp.header_len(),
    };
    let interface = steer.prepare_local(link)?;
    let (socket, cookies) = XskPort::serve_local(ports, layout, &interface, header_len)?;
    steer.begin_local(socket, &cookies)
}

impl Steering for Steer {
    fn restrict(&mut self, rules: &Rules) -> Result<(), SetupError> {
        Self::restrict(self, rules)
    }

    fn allow(&mut self, rules: &Rules) -> Result<(), SetupError> {
        Self::allow(self, rules)
    }

    fn hold(self) -> Option<Box<dyn Debug + Send>> {
        let hold = Self::hold(self)?;
        Some(Box::new(hold))
    }

    fn set_link(&mut self, link: Link, mtu: u16) -> Result<(), SetupError> {
        Self::set_link(self, link, mtu)
    }

    fn counters(&self) -> Arc<dyn SteerCounters> {
        Arc::new(Self::counters(self))
    }
}

impl SteerCounters for Counters {
    fn read(&self) -> Steered {
        Self::read(self)
    }
}
