//! An interface at which something is already: another balancer, what a killed one left, or another's names.

use vl3lb_testbed::tun::TunKind;
use vl3lb_testbed::veth::VethEnd;

use super::super::*;
use super::attach::{assert_untouched, framed, link_names, not_ours, send};
use crate::testing::netns::{in_namespace, tun, veth_pair};

#[test]
fn a_second_balancer_on_the_same_interface_is_refused() {
    in_namespace(|| {
        veth_pair(&VethEnd::new("peer", 1), &VethEnd::new("nsm-1", 1), 1500);
        let link = LinkInfo::inspect("nsm-1").unwrap();
        let first = Steer::attach(&link, Mode::Companion, None, FastPathConfig::default()).unwrap();
        let error = Steer::attach(&link, Mode::Companion, None, FastPathConfig::default()).unwrap_err();
        assert!(matches!(error, SetupError::AlreadyServed { .. }), "{error}");
        drop(first);
        let _first = Steer::attach(&link, Mode::Native, None, FastPathConfig::default()).unwrap();
        let error = Steer::attach(&link, Mode::Native, None, FastPathConfig::default()).unwrap_err();
        assert!(matches!(error, SetupError::XdpBusy { .. }), "{error}");
    });
}

#[test]
fn a_pair_that_a_killed_process_left_is_replaced() {
    in_namespace(|| {
        veth_pair(&VethEnd::new("peer", 1), &VethEnd::new("nsm-1", 1), 1500);
        let link = LinkInfo::inspect("nsm-1").unwrap();
        // As after kill -9: the pair is there, no program is.
        let left = Companion::create(&link, 1, Purpose::Interface).unwrap();
        let old = left.near_index();
        std::mem::forget(left);
        let steer = Steer::attach(&link, Mode::Companion, None, FastPathConfig::default()).unwrap();
        assert_ne!(steer.companion.as_ref().unwrap().near_index(), old);
        drop(steer);
        assert_untouched();
    });
}

#[test]
fn an_interface_that_has_the_name_of_the_pair_is_not_touched() {
    in_namespace(|| {
        let [_device] = tun("nsm-1", TunKind::VnetHeader);
        veth_pair(&VethEnd::new("lbf-nsm-1", 1), &VethEnd::new("other", 1), 1500);
        let link = LinkInfo::inspect("nsm-1").unwrap();
        let error = Steer::attach(&link, Mode::Companion, None, FastPathConfig::default()).unwrap_err();
        assert!(matches!(error, SetupError::CompanionNameTaken { .. }), "{error}");
        let steer = Steer::attach(&link, Mode::Auto, None, FastPathConfig::default()).unwrap();
        assert_eq!(steer.mode(), AttachMode::Generic);
        assert!(
            steer.reason().contains("another interface is called lbf-nsm-1"),
            "{}",
            steer.reason()
        );
        assert!(steer.refuses().contains("udp_super_packet"));
        drop(steer);
        assert!(link_names().contains(&"lbf-nsm-1".to_owned()));
    });
}

#[test]
fn before_tcx_a_filter_of_a_killed_process_is_replaced() {
    in_namespace(|| {
        veth_pair(&VethEnd::new("peer", 1), &VethEnd::new("nsm-1", 1), 1500);
        let link = LinkInfo::inspect("nsm-1").unwrap();
        let mut killed = Programs::load(&link, 1, 1, 0).unwrap();
        killed.attach_clsact().unwrap();
        let mut next = Programs::load(&link, 1, 1, 0).unwrap();
        next.attach_clsact().unwrap();
        send("peer", &framed("nsm-1", &not_ours()));
        assert_eq!(next.counters().read().passed, 1);
        assert_eq!(killed.counters().read().passed, 0);
    });
}
