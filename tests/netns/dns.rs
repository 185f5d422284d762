//! The balancer's DNS server resolves the names of its services.

use vl3lb_testbed::addresses::Family;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client::{DnsAnswer, dig};
use vl3lb_tests::topology::{Shape, Topology};

use crate::finance;

#[test]
fn names_of_services_resolve_over_udp_and_tcp() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let config = finance::config(&topology, "auto");
    let _balancer = Balancer::start(&topology.balancer, &config);
    let client = &topology.clients[0].netns;
    let [v4, v6] = Family::BOTH.map(Family::balancer);
    for server in [v4, v6] {
        for transport in ["+notcp", "+tcp"] {
            let query = |query: &[&str]| dig(client, server, &[query, &[transport]].concat());
            expect(&query(&["finance.vl3-lb", "A"]), "NOERROR", &[&v4.to_string()]);
            expect(&query(&["finance.vl3-lb", "AAAA"]), "NOERROR", &[&v6.to_string()]);
            expect(&query(&["FINANCE.vl3-LB", "A"]), "NOERROR", &[&v4.to_string()]);
            expect(&query(&["-x", &v4.to_string()]), "NOERROR", &["finance.vl3-lb."]);
            expect(&query(&["-x", &v6.to_string()]), "NOERROR", &["finance.vl3-lb."]);
            // The name exists, but not with this type.
            expect(&query(&["finance.vl3-lb", "MX"]), "NOERROR", &[]);
            expect(&query(&["nosuch.vl3-lb", "A"]), "NXDOMAIN", &[]);
            expect(&query(&["example.org", "A"]), "REFUSED", &[]);
        }
    }
}

fn expect(answer: &DnsAnswer, status: &str, records: &[&str]) {
    let data: Vec<&str> = answer.records.iter().map(|(_, data)| data.as_str()).collect();
    assert_eq!((answer.status.as_str(), data.as_slice()), (status, records));
    for (ttl, _) in &answer.records {
        assert!(*ttl <= 60, "a time to live of {ttl} s hides changes");
    }
}
