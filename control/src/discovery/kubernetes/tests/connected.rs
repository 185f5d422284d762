//! Pods where their connections to the vL3 network say, from a scripted source of connections.

use tokio::sync::watch;

use super::super::{Connection, Connections};
use super::following::Following;
use super::*;
use crate::kubernetes::testing::ApiServer;

/// A configuration as it will be accepted once there is a source.
fn nsm() -> Config {
    let mut config = config("{}", FINANCE);
    let kubernetes = config.kubernetes.as_mut().unwrap();
    kubernetes.address_from = AddressFrom::Nsm;
    config
}

/// `[NAMESPACE/]POD[@NODE] ADDRESS...` each.
fn connections(all: &[&str]) -> Arc<Connections> {
    let connection = |text: &&str| {
        let mut words = text.split(' ');
        let client = words.next().unwrap();
        let (pod, node) = client.split_once('@').unwrap_or((client, ""));
        let (namespace, pod) = pod.split_once('/').unwrap_or(("", pod));
        let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Connection {
            pod: pod.to_owned(),
            namespace: known(namespace),
            node: known(node),
            addresses: words.map(|address| address.parse().unwrap()).collect(),
        }
    };
    Arc::new(all.iter().map(connection).collect())
}

fn on(node: &str, pod: Value) -> Arc<PodRecord> {
    let pod = with(pod, "/spec/nodeName", json!(node));
    Arc::new(read_from(&pod, AddressFrom::Nsm))
}

fn backends(collected: &Assembled) -> Vec<String> {
    collected.desired.services[0].backends.iter().map(shown).collect()
}

#[test]
fn a_pod_has_the_addresses_of_its_connection_and_waits_without_one() {
    let mut assembly = assembly(&nsm());
    let pods = ["a", "b", "c", "d"].map(|name| on("node-1", ready(name, "10.0.0.1")));
    assembly.replace_pods(new(&pods));
    assembly.replace_connections(connections(&[
        "a@node-1 172.16.1.2 2001:db8::2",
        // One for each family, the path of one unknown.
        "b 172.16.1.3",
        "b@node-1 2001:db8::3",
        // Of a pod of that name which was elsewhere.
        "c@node-2 172.16.1.4",
        "other@node-1 172.16.1.5",
    ]));
    let collected = assembly.assemble();
    assert_eq!(
        backends(&collected),
        [
            "172.16.1.2:8081 1 NewFlows",
            "[2001:db8::2]:8081 1 NewFlows",
            "172.16.1.3:8081 1 NewFlows",
            "[2001:db8::3]:8081 1 NewFlows",
        ]
    );
    let waiting = "pod web/c and 1 more: ready, but not connected to the vL3 network yet";
    assert_eq!(collected.desired.problems, [waiting]);
    assert!(collected.problems.is_empty(), "{:?}", collected.problems);
}

#[test]
fn an_address_that_moves_to_another_connection_belongs_to_its_pod() {
    let mut assembly = assembly(&nsm());
    let newer = with(
        ready("b", "10.0.0.2"),
        "/metadata/creationTimestamp",
        json!("2026-11-24T09:00:00Z"),
    );
    assembly.replace_pods(new(&[on("node-1", ready("a", "10.0.0.1")), on("node-1", newer)]));
    assembly.replace_connections(connections(&["a 172.16.1.2"]));
    assert_eq!(backends(&assembly.assemble()), ["172.16.1.2:8081 1 NewFlows"]);
    assembly.replace_connections(connections(&["a 172.16.1.2", "b 172.16.1.2"]));
    let collected = assembly.assemble();
    assert_eq!(
        backends(&collected),
        ["172.16.1.2:8081 1 Dead", "172.16.1.2:8081 1 NewFlows"]
    );
    assembly.replace_connections(connections(&["b 172.16.1.2"]));
    let collected = assembly.assemble();
    let address = [172, 16, 1, 2].into();
    let instances = &collected.desired.instances;
    assert!(instances.is_replaced(address, Some(&Arc::from("uid-a"))));
    assert!(!instances.is_replaced(address, Some(&Arc::from("uid-b"))));
}

#[tokio::test]
async fn sets_are_sent_once_all_connections_are_known() {
    let server = ApiServer::start().await;
    server.apply(&ready("a", "10.0.0.1"));
    server.apply(&ready("b", "10.0.0.2"));
    let (source, receiver) = watch::channel(None);
    let client = server.config();
    let connect = |source: super::super::Kubernetes<_>| source.with_connections(receiver);
    let mut following = Following::start_with(server, client, nsm(), None, connect);
    following.status(|status| status.events >= 1).await;
    assert_eq!(*following.desired.borrow(), None);
    assert!(!following.status(|_| true).await.synced);

    source.send_replace(Some(connections(&["a 172.16.1.2"])));
    following.backends(&["172.16.1.2"]).await;
    following.synced().await;
    source.send_replace(Some(connections(&["a 172.16.1.4", "b 172.16.1.3"])));
    following.backends(&["172.16.1.3", "172.16.1.4"]).await;
    following.server.delete("pods", "web", "b");
    following.backends(&["172.16.1.4"]).await;
    // A pod that is connected before it is seen.
    source.send_replace(Some(connections(&["a 172.16.1.4", "c 172.16.1.5"])));
    following.server.apply(&ready("c", "10.0.0.3"));
    following.backends(&["172.16.1.4", "172.16.1.5"]).await;
}
