//! The example of the documentation, with its commands.

use vl3lb_tests::cluster::Cluster;

#[test]
fn the_example_works_with_its_four_commands() {
    let cluster = Cluster::shared();
    cluster.shell("kubectl apply -k deploy/examples/vl3-lb");
    cluster.wait_for_pod("type=vl3-client");
    cluster.shell("kubectl wait --for=condition=ready --timeout=2m pod -l type=vl3-client -n ns-vl3-lb");
    let answer =
        cluster.shell("kubectl exec deployments/finance-client -n ns-vl3-lb -- curl -s finance.vl3-lb:8080");
    assert!(answer.starts_with("Hello! I'm finance-server-"), "{answer}");
    cluster.shell("kubectl delete ns ns-vl3-lb");
}
