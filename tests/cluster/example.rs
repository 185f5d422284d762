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

    let pods = cluster.shell(
        "kubectl get pods -n ns-vl3-lb -l app.kubernetes.io/name=vl3-lb -o 'jsonpath={.items[*].metadata.name}'",
    );
    let status = cluster.shell("deploy/kubectl-vl3_lb -n ns-vl3-lb status");
    for pod in pods.split_whitespace() {
        let of_pod: Vec<&str> = status.lines().filter(|line| line.starts_with(pod)).collect();
        assert!(
            of_pod.iter().any(|line| line.contains("READY")),
            "{pod}: {status}"
        );
        // All ports but the ephemeral ones of the manifest and those of services.
        let check =
            format!("deploy/kubectl-vl3_lb -n ns-vl3-lb -p {pod} check --config /etc/vl3-lb/lb.yaml 2>&1");
        let check = cluster.shell(&check);
        assert!(check.contains("allow 6246"), "{check}");
        for (path, code) in [("metrics", "200"), ("api/v1/flows", "404"), ("", "404")] {
            let request = format!(
                "kubectl exec deployments/finance-client -n ns-vl3-lb -- curl -s -o /dev/null -w '%{{http_code}}' \
                 http://$(kubectl get pod {pod} -n ns-vl3-lb -o 'jsonpath={{.status.podIP}}'):9090/{path}"
            );
            assert_eq!(
                cluster.shell(&request).trim(),
                code,
                "/{path} of {pod} from another pod"
            );
        }
    }
    let refused = cluster.shell("deploy/kubectl-vl3_lb -n default status 2>&1 || echo \"exit $?\"");
    assert!(
        refused.contains("no running pod has the labels") && refused.contains("exit 3"),
        "{refused}"
    );
    cluster.shell("kubectl delete ns ns-vl3-lb");
}
