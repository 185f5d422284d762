use super::super::inventory::{LONG_DOWN, REOPENING, UNCONFIRMED};
use super::*;

fn server(number: u8) -> Wire {
    Wire::new(
        &format!("server-{number}"),
        "nse-0",
        &[&format!("172.16.1.{number}/32")],
    )
}

#[test]
fn clients_with_the_labels_of_backups_are_backups() {
    let mut scene = Scene::new();
    scene.service.backup_selector = Selector::parse("tier=standby");
    scene.replace("nse-0", [server(1), server(2).label("tier", "standby")]);
    let backups: Vec<_> = scene.specs().iter().map(|backend| backend.backup).collect();
    assert_eq!(backups, [false, true]);
}

#[test]
fn a_lost_stream_keeps_all_backends_and_its_successor_goes_on() {
    let mut scene = Scene::new();
    scene.replace("nse-0", [server(1), server(2)]);
    scene.lose("nse-0");
    scene.advance(UNCONFIRMED * 100);
    assert_eq!(scene.backends(), ["172.16.1.1", "172.16.1.2"]);
    assert_eq!(scene.inventory.monitored().count(), 1, "it is monitored again");
    scene.replace("nse-0", [server(1), server(2)]);
    scene.update("nse-0", [server(3)]);
    assert_eq!(scene.backends(), ["172.16.1.1", "172.16.1.2", "172.16.1.3"]);
}

#[test]
fn a_new_list_replaces_the_old_one_after_a_time_to_heal() {
    let mut scene = Scene::new();
    scene.replace("nse-0", [server(1), server(2)]);
    scene.lose("nse-0");
    scene.replace("nse-0", [server(2)]);
    assert_eq!(scene.backends(), ["172.16.1.1", "172.16.1.2"]);
    scene.advance(UNCONFIRMED);
    assert_eq!(scene.backends(), ["172.16.1.2"]);
}

#[test]
fn backends_outlive_a_restarted_manager_that_knows_nothing_until_clients_heal() {
    let mut scene = Scene::new();
    scene.replace("nse-0", [server(1), server(2)]);
    let instances: Vec<_> = scene.specs();
    scene.lose("nse-0");
    // Neither endpoint nor forwarder have registered again.
    scene.list(vec![]);
    scene.replace("nse-0", []);
    scene.advance(Duration::from_secs(30));
    assert_eq!(scene.specs(), instances);
    scene.list(vec![local("nse-0")]);
    // A client that healed has another id at the manager.
    let healed = |number: u8| {
        let mut wire = server(number);
        wire.0.id = format!("new-{number}");
        wire
    };
    scene.update("nse-0", [healed(1), healed(2)]);
    assert_eq!(scene.specs(), instances, "flows go on");
    scene.advance(UNCONFIRMED);
    assert_eq!(scene.specs(), instances);
}

#[test]
fn a_client_that_heals_with_another_address_leaves_the_old_one_at_once() {
    let mut scene = Scene::new();
    scene.replace("nse-0", [server(1)]);
    let old = scene.instance();
    scene.replace("nse-0", []);
    let mut moved = Wire::new("server-1", "nse-0", &["172.16.1.9/32"]);
    moved.0.id = "new".to_owned();
    scene.update("nse-0", [moved]);
    assert_eq!(scene.backends(), ["172.16.1.9"]);
    scene.advance(REOPENING);
    assert!(scene.is_dead(&old), "its flows end");
}

#[test]
fn a_deleted_connection_leaves_at_once_and_unknown_ones_change_nothing() {
    let mut scene = Scene::new();
    scene.replace("nse-0", [server(1), server(2)]);
    scene.delete("nse-0", "server-1");
    assert_eq!(scene.backends(), ["172.16.1.2"]);
    let revision = scene.inventory.revision();
    scene.delete("nse-0", "server-7");
    scene.delete("nse-7", "server-2");
    scene.inventory.delete("nse-0", ["nonsense"], scene.now);
    assert_eq!(scene.inventory.revision(), revision, "nothing to publish");
    assert_eq!(scene.backends(), ["172.16.1.2"]);
}

#[test]
fn a_refresh_without_a_change_is_nothing_to_publish() {
    let mut scene = Scene::new();
    scene.replace("nse-0", [server(1), server(2)]);
    let revision = scene.inventory.revision();
    scene.update(
        "nse-0",
        [server(1).subject("spiffe://k8s.nsm/ns/web/pod/server-1")],
    );
    scene.replace("nse-0", [server(1), server(2)]);
    scene.list(vec![local("nse-0")]);
    assert_eq!(scene.inventory.revision(), revision);
    scene.update("nse-0", [server(1).label("app", "ledger")]);
    assert_ne!(scene.inventory.revision(), revision);
}

#[test]
fn flows_of_a_closed_client_end_unless_it_connects_again() {
    let mut scene = Scene::new();
    scene.replace("nse-0", [server(1)]);
    let instance = scene.instance();
    scene.delete("nse-0", "server-1");
    assert!(!scene.is_dead(&instance), "it may select another endpoint");
    assert!(scene.backends().is_empty());
    scene.update("nse-0", [server(1)]);
    scene.advance(REOPENING * 2);
    assert!(!scene.is_dead(&instance));
    assert_eq!(scene.instance(), instance, "its flows go on");
    scene.delete("nse-0", "server-1");
    scene.advance(REOPENING);
    assert!(scene.is_dead(&instance));
    scene.advance(Duration::from_secs(600));
    assert!(!scene.is_dead(&instance), "nothing is kept for ever");
    assert_eq!(scene.inventory.deadline(scene.now), None);
}

#[test]
fn no_state_of_a_connection_removes_its_backend() {
    for state in [State::Down, State::RefreshRequested, State::ReselectRequested] {
        let mut scene = Scene::new();
        scene.replace("nse-0", [server(1), server(2)]);
        scene.update("nse-0", [server(1).state(state)]);
        assert_eq!(scene.backends(), ["172.16.1.1", "172.16.1.2"], "{state:?}");
        scene.replace("nse-0", [server(1).state(state), server(2)]);
        assert_eq!(scene.backends(), ["172.16.1.1", "172.16.1.2"], "{state:?}");
    }
}

#[test]
fn without_health_checks_a_connection_that_is_down_for_long_gives_way_to_working_ones() {
    let mut scene = Scene::new();
    scene.replace("nse-0", [server(1).state(State::Down), server(2)]);
    scene.advance(LONG_DOWN);
    assert_eq!(scene.backends(), ["(172.16.1.1)", "172.16.1.2"]);
    scene.service.health_check = Some(HealthCheck::tcp());
    assert_eq!(scene.backends(), ["172.16.1.1", "172.16.1.2"], "checks judge");
    scene.service.health_check = None;
    scene.update("nse-0", [server(2).state(State::Down)]);
    scene.advance(LONG_DOWN);
    assert_eq!(
        scene.backends(),
        ["172.16.1.1", "172.16.1.2"],
        "there is nothing better"
    );
    scene.update("nse-0", [server(1)]);
    assert_eq!(scene.backends(), ["172.16.1.1", "(172.16.1.2)"]);
}

#[test]
fn all_terms_of_a_selector_must_match_and_labels_may_change() {
    let mut scene = Scene::new();
    scene.service = service("app=finance,tier=web");
    scene.replace("nse-0", [server(1), server(2).label("tier", "web")]);
    assert_eq!(scene.backends(), ["172.16.1.2"]);
    scene.update(
        "nse-0",
        [server(1).label("tier", "web"), server(2).label("tier", "db")],
    );
    assert_eq!(scene.backends(), ["172.16.1.1"]);
}

#[test]
fn every_address_family_is_a_backend() {
    let mut scene = Scene::new();
    let both = Wire::new("server-1", "nse-0", &["2001:db8::1/128", "172.16.1.1/32"]);
    scene.replace("nse-0", [both, Wire::new("server-2", "nse-0", &[])]);
    assert_eq!(scene.backends(), ["172.16.1.1", "2001:db8::1"]);
}

#[test]
fn the_balancers_own_connection_and_those_of_endpoints_are_no_backends() {
    let mut scene = Scene::new();
    scene.list(vec![local("nse-0"), remote("nse-1", "tcp://10.0.0.2:5001")]);
    let named = |name, number: u8| Wire::new(name, "nse-0", &[&format!("172.16.1.{number}/32")]);
    let kernel = named("x", 4).id("nse-0-kernel");
    let own_address = named("sidecar", 103);
    scene.replace(
        "nse-0",
        [
            named("finance-lb", 2),
            named("nse-0", 1),
            named("nse-1", 3),
            kernel,
            own_address,
            server(9),
        ],
    );
    assert_eq!(scene.backends(), ["172.16.1.9"]);
}

#[test]
fn an_endpoint_that_registers_again_is_monitored_once_and_its_old_clients_leave() {
    let mut scene = Scene::new();
    scene.replace("nse-0", [server(1), server(2)]);
    scene.inventory.unregister("nse-0", scene.now);
    scene.inventory.register(local("nse-0"), scene.now);
    assert_eq!(scene.inventory.monitored().count(), 1);
    scene.advance(UNCONFIRMED);
    assert_eq!(scene.backends(), ["172.16.1.1", "172.16.1.2"]);
    // At another node.
    scene
        .inventory
        .register(remote("nse-0", "tcp://10.0.0.2:5001"), scene.now);
    let managers: Vec<_> = scene
        .inventory
        .monitored()
        .map(|(_, manager)| manager.clone())
        .collect();
    assert_eq!(managers, [remote("", "tcp://10.0.0.2:5001").manager]);
    scene.replace("nse-0", [server(2)]);
    scene.advance(UNCONFIRMED);
    assert_eq!(scene.backends(), ["172.16.1.2"]);
}

#[test]
fn an_endpoint_that_is_gone_is_forgotten_with_its_clients() {
    let mut scene = Scene::new();
    scene.replace("nse-0", [server(1)]);
    scene.inventory.unregister("nse-0", scene.now);
    scene.lose("nse-0");
    assert_eq!(scene.backends(), ["172.16.1.1"]);
    assert_eq!(scene.inventory.deadline(scene.now), Some(scene.now + UNCONFIRMED));
    scene.advance(UNCONFIRMED);
    assert!(scene.backends().is_empty());
    assert_eq!(scene.inventory.monitored().count(), 0);
    assert_eq!(scene.inventory.deadline(scene.now), None);
}

#[test]
fn clients_that_the_manager_confirms_outlive_the_registration_of_their_endpoint() {
    let mut scene = Scene::new();
    scene.replace("nse-0", [server(1), server(2)]);
    // The registry was restarted, and endpoints register again some time.
    scene.list(vec![]);
    scene.update("nse-0", [server(2).state(State::Down)]);
    scene.advance(UNCONFIRMED * 10);
    assert_eq!(scene.backends(), ["172.16.1.1"], "what is down cannot heal");
    scene.delete("nse-0", "server-1");
    scene.advance(Duration::ZERO);
    assert_eq!(scene.inventory.monitored().count(), 0);
}

#[test]
fn a_connection_that_moves_to_another_endpoint_of_the_manager_leaves_the_first() {
    let mut scene = Scene::new();
    scene.list(vec![local("nse-0"), local("nse-1")]);
    scene.replace("nse-0", [server(1)]);
    scene.replace("nse-1", [Wire::new("server-1", "nse-1", &["172.16.2.1/32"])]);
    assert_eq!(scene.backends(), ["172.16.2.1"]);
}

#[test]
fn the_first_set_waits_for_every_manager_that_answers() {
    let mut inventory = Inventory::default();
    let now = Instant::now();
    assert!(!inventory.is_complete(), "the registry was not listed");
    inventory.list(vec![], now);
    assert!(inventory.is_complete(), "there is no endpoint");
    inventory.list(vec![local("nse-0"), remote("nse-1", "tcp://10.0.0.2:5001")], now);
    assert!(!inventory.is_complete());
    inventory.lose("nse-1", now);
    assert!(!inventory.is_complete(), "another answer may come");
    inventory.replace("nse-0", BTreeMap::new(), now);
    assert!(
        inventory.is_complete(),
        "a manager that does not answer holds up nobody"
    );
    let mut inventory = Inventory::default();
    inventory.list(vec![local("nse-0")], now);
    inventory.lose("nse-0", now);
    assert!(!inventory.is_complete(), "nothing is known about any client");
}
