//! The loaded tc or XDP program, run on packets by BPF_PROG_TEST_RUN.

use std::sync::Arc;

use aya::TestRun;
use aya::programs::TestRunOptions;
use vl3lb_common::MacAddr;
use vl3lb_common::addr::to_octets;
use vl3lb_common::dataplane::FastPathPackets;
use vl3lb_common::hash::OwnerKey;

use super::super::*;
use super::classify::require_root;
use crate::fastpath::{FastTable, Hop, Promotion};
use crate::flow::Direction;
use crate::packet::{self, ChecksumPolicy, Framing, Translation};
use crate::port::Frame;
use crate::testing::builder::{self, Addresses, MACS, Tcp};
use crate::testing::frame;

pub(super) const BACKEND_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xbe]);
pub(super) const KEY: u64 = 7;

/// The addresses of a flow. BPF_PROG_TEST_RUN takes the protocol out of bytes 12 and 13, which a raw-IP packet has in its
/// source address.
pub(super) struct Ends {
    pub(super) client: &'static str,
    pub(super) local: &'static str,
    pub(super) nat: &'static str,
    pub(super) backend: &'static str,
}

pub(super) const V4: Ends = Ends {
    client: "8.0.1.100:40000",
    local: "172.16.1.103:8080",
    nat: "172.16.1.103:20000",
    backend: "8.0.1.2:8081",
};
pub(super) const V6: Ends = Ends {
    client: "[2001:db8:86dd::64]:40000",
    local: "[2001:db8::67]:8080",
    nat: "[2001:db8::67]:20000",
    backend: "[2001:db8:86dd::2]:8081",
};

/// The program that a packet goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    Tc,
    Xdp,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Did {
    /// Sent out of the interface.
    Sent,
    Dropped,
    /// Left to the worker or to the kernel.
    Left,
}

pub(super) struct Bench {
    pub(super) hook: Hook,
    pub(super) programs: Programs,
    pub(super) table: FastTable,
    pub(super) framing: Framing,
}

impl Bench {
    pub(super) fn new(hook: Hook, framing: Framing) -> Self {
        require_root();
        let link = LinkInfo {
            name: "test".to_owned(),
            index: 1,
            link: match framing {
                Framing::RawIp => Link::RawIp,
                Framing::Ethernet => Link::Ethernet(MACS.1),
            },
            driver: "veth".to_owned(),
            mtu: 1500,
            receive_queues: 1,
            transmit_queues: 1,
            super_packets: true,
        };
        let mut programs = Programs::load(&link, 1, 1, 64).unwrap();
        programs
            .set_config(
                NatPorts::new(10_240, 32_767).unwrap(),
                1,
                &OwnerKey::from_seed(KEY),
            )
            .unwrap();
        let memory = Arc::new(programs.fast_memory(64).unwrap());
        Self {
            hook,
            programs,
            table: FastTable::new(memory, OwnerKey::from_seed(KEY), (0, 1), 16),
            framing,
        }
    }

    pub(super) fn packet(
        &self,
        ends: &Ends,
        direction: Direction,
        protocol: u8,
        tcp: &Tcp<'_>,
        payload: &[u8],
    ) -> Vec<u8> {
        let (from, to) = match direction {
            Direction::In => (ends.client, ends.local),
            Direction::Out => (ends.backend, ends.nat),
        };
        let addresses = match self.framing {
            Framing::Ethernet => Addresses::ethernet(from, to),
            Framing::RawIp => Addresses::raw(from, to),
        };
        if protocol == 6 {
            builder::tcp(addresses, tcp, payload)
        } else {
            builder::udp(addresses, payload)
        }
    }

    /// What a worker makes of a packet.
    pub(super) fn translated(&self, ends: &Ends, direction: Direction, packet: &[u8]) -> Vec<u8> {
        let socket = |text: &str| -> std::net::SocketAddr { text.parse().unwrap() };
        let (from, to, mac) = match direction {
            Direction::In => (ends.nat, ends.backend, BACKEND_MAC),
            Direction::Out => (ends.local, ends.client, MACS.0),
        };
        let (from, to) = (socket(from), socket(to));
        let mut frames = [frame(packet)];
        let parsed = packet::parse(packet, packet.len(), self.framing).unwrap();
        if self.framing == Framing::Ethernet {
            packet::set_macs(frames[0].bytes_mut(), mac, MACS.1);
        }
        let to = Translation {
            source: to_octets(from.ip()),
            destination: to_octets(to.ip()),
            source_port: from.port(),
            destination_port: to.port(),
        };
        packet::translate(&mut frames, &parsed, &to, ChecksumPolicy::Update).unwrap();
        frames[0].bytes().to_vec()
    }

    /// Runs the program on a packet, whose segment size is `segment` if it is a super-packet (tc only).
    pub(super) fn run(&mut self, packet: &[u8], segment: u32) -> (Did, Vec<u8>) {
        // struct __sk_buff: gso_size is its last but one word but three.
        let mut context = [0_u8; 192];
        context[176..180].copy_from_slice(&segment.to_ne_bytes());
        let mut out = vec![0; packet.len() + 64];
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        options.data_out = Some(&mut out);
        let (result, sent, dropped) = match self.hook {
            Hook::Tc => {
                options.ctx_in = Some(&context);
                (
                    self.programs.tc(program::STEER_TC).unwrap().test_run(options),
                    7,
                    2,
                )
            }
            Hook::Xdp => {
                assert_eq!(segment, 0, "XDP has no super-packets");
                let program = self.programs.xdp(program::STEER_XDP).unwrap();
                (program.test_run(options), 3, 1)
            }
        };
        let result = result.unwrap();
        out.truncate(result.data_size_out as usize);
        let did = match result.return_value {
            action if action == sent => Did::Sent,
            action if action == dropped => Did::Dropped,
            _ => Did::Left,
        };
        (did, out)
    }

    pub(super) fn counted(&self) -> FastPathPackets {
        self.programs.counters().read().fast_path
    }
}

pub(super) fn promotion(ends: &Ends, protocol: u8) -> Promotion {
    let socket = |text: &str| -> std::net::SocketAddr { text.parse().unwrap() };
    let hop = |mac| Hop {
        mac,
        is_learned: false,
        mtu: 1500,
    };
    Promotion {
        client: to_octets(socket(ends.client).ip()),
        local: to_octets(socket(ends.local).ip()),
        backend: to_octets(socket(ends.backend).ip()),
        client_port: socket(ends.client).port(),
        service_port: socket(ends.local).port(),
        nat_port: socket(ends.nat).port(),
        backend_port: socket(ends.backend).port(),
        protocol,
        hops: [hop(BACKEND_MAC), hop(MACS.0)],
        ends: [1_000, 5_000],
        windows: [0xffff, 0xffff],
        is_unreplied: false,
    }
}
