//! The capabilities that attaching needs.

use rustix::thread::{CapabilitySet, CapabilitySets};
use vl3lb_testbed::tun::TunKind;
use vl3lb_testbed::veth::VethEnd;

use super::super::*;
use super::attach::rules;
use crate::testing::netns::{in_namespace, tun, veth_pair};

/// Keeps these capabilities only, for the rest of the thread.
fn drop_capabilities_but(kept: CapabilitySet) {
    // Found out once for the whole process, with the rights of whoever comes first.
    aya::features();
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets).unwrap();
}

#[test]
fn three_capabilities_are_enough_for_every_mode() {
    in_namespace(|| {
        let [_device] = tun("tun0", TunKind::Plain);
        veth_pair(&VethEnd::new("peer", 1), &VethEnd::new("nsm-1", 1), 1500);
        drop_capabilities_but(CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW | CapabilitySet::BPF);
        for (interface, mode) in [
            ("nsm-1", Mode::Native),
            ("nsm-1", Mode::Generic),
            ("nsm-1", Mode::Companion),
            ("tun0", Mode::Generic),
            ("tun0", Mode::Companion),
        ] {
            let link = LinkInfo::inspect(interface).unwrap();
            let mut steer = Steer::attach(&link, mode, None, FastPathConfig::default()).unwrap();
            steer.prepare_local(&link).unwrap();
            steer.allow(&rules(steer.queues())).unwrap();
            let has_fast_path = steer.fast_path().flows > 0;
            let reason = &steer.fast_path().reason;
            assert_eq!(has_fast_path, mode == Mode::Companion, "{mode:?}: {reason}");
        }
    });
}

#[test]
fn a_missing_capability_is_named() {
    in_namespace(|| {
        veth_pair(&VethEnd::new("peer", 1), &VethEnd::new("nsm-1", 1), 1500);
        let link = LinkInfo::inspect("nsm-1").unwrap();
        drop_capabilities_but(CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW);
        let error = Steer::attach(&link, Mode::Auto, None, FastPathConfig::default())
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("load the steer programs for nsm-1: operation not permitted: missing CAP_BPF"),
            "{error}"
        );
    });
}
