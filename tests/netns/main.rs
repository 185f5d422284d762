//! Black-box tests of the binary in network namespaces. They need root, and VL3LB_BIN and VL3PERF_BIN, the absolute
//! paths of the binaries. Each module covers one promise to users.

/// Defines one test per attachment: `on_attachments!(name: one = Attachment::ONE, ...)` calls the function
/// `name` with each.
macro_rules! on_attachments {
    // Every mode; `auto` on a TUN device is the companion mode.
    ($test:ident: every_mode $(, $name:ident = $attachment:expr)* $(,)?) => {
        on_attachments!($test:
            veth_auto = Attachment::VETH_AUTO,
            veth_native = Attachment::VETH_NATIVE,
            veth_generic = Attachment::VETH_GENERIC,
            veth_companion = Attachment::VETH_COMPANION,
            tun_auto = Attachment::TUN_AUTO,
            tun_generic = Attachment::TUN_GENERIC,
            $($name = $attachment,)*
        );
    };
    // Every mode on Ethernet, chosen by the configuration.
    ($test:ident: every_veth_mode $(, $name:ident = $attachment:expr)* $(,)?) => {
        on_attachments!($test:
            veth_native = Attachment::VETH_NATIVE,
            veth_generic = Attachment::VETH_GENERIC,
            veth_companion = Attachment::VETH_COMPANION,
            $($name = $attachment,)*
        );
    };
    ($test:ident: $($name:ident = $attachment:expr),+ $(,)?) => {
        mod $test {
            use vl3lb_tests::attachment::Attachment;
            $(
                #[test]
                fn $name() {
                    super::$test(&$attachment);
                }
            )+
        }
    };
}

mod affinity;
mod attachment;
mod attacker;
mod authority;
mod bulk;
mod capability;
mod capture;
mod check_kinds;
mod cli;
mod client_address;
mod compare;
mod config_change;
mod connections;
mod dns;
mod dnsdist;
mod events;
mod fastpath;
mod finance;
mod flood;
mod flow_log;
mod flows;
mod forged;
mod fragments;
mod grpc_health;
mod hairpin;
mod health;
mod http;
mod icmp;
mod idle;
mod iperf;
mod kernel;
mod lifecycle;
mod listen;
mod load;
mod local_clients;
mod local_ports;
mod long_download;
mod lookup;
mod malformed;
mod many_flows;
mod monitoring;
mod new_flows;
mod page;
mod pid_1;
mod pressure;
mod profile;
mod queues;
mod reject;
mod routing;
mod sctp;
mod source_port;
mod telemetry;
mod testbed;
mod time_wait;
mod top;
mod udp_segment;
