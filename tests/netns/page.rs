//! The status page in a real browser.

use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::{Value, json};
use vl3lb_testbed::addresses::Family;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::browser::Browser;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::topology::{Shape, Topology};

use crate::finance::{self, PORT, TARGET_PORT};

const PAGE: &str = "http://127.0.0.1:9090/";

fn topology() -> Topology {
    Topology::build(&Shape {
        servers: 2,
        ..Shape::of(&Attachment::VETH_AUTO)
    })
}

/// The service `finance` with checks, whose dead backends are found within seconds.
fn checked(topology: &Topology) -> Config {
    let backends: Vec<IpAddr> = topology
        .servers
        .iter()
        .map(|node| node.address(Family::V4))
        .collect();
    let mut finance = service("finance", "TCP", PORT, TARGET_PORT, &backends);
    finance["healthCheck"] = json!({"tcp": {}, "interval": "1s", "timeout": "500ms", "rise": 1, "fall": 2});
    Config::new(Attachment::VETH_AUTO.mode).service(finance)
}

/// Whether a row of the page begins with `name` and its state is `state`.
fn row(name: &str, state: &str) -> String {
    format!(
        "return [...document.querySelectorAll('#services tr.edge')].some(row =>
            row.cells[0].textContent === '{name}' && row.cells[1].textContent.endsWith(' {state}'))"
    )
}

/// Nothing on the console; requests to a balancer that has ended are not listed.
fn assert_console_is_empty(browser: &Browser<'_>) {
    assert_eq!(browser.console(), Vec::<Value>::new());
}

#[test]
fn the_page_follows_a_backend_that_dies_and_greys_when_the_balancer_is_gone() {
    let topology = topology();
    let mut servers = finance::http_servers(&topology);
    let mut balancer = Balancer::start(&topology.balancer, &checked(&topology));
    let browser = Browser::start(&topology.balancer.netns);
    browser.open(PAGE);
    let [one, two] = [0, 1].map(|server| {
        let address = topology.servers[server].address(Family::V4);
        format!("{address}:{TARGET_PORT}")
    });
    // A table in a closed element is not seen, but there.
    browser.wait_until(
        "both backends up",
        &format!("{}()", function(&[row(&one, "up"), row(&two, "up")])),
    );
    browser.wait_until("the service ok", &row("finance", "ok"));
    let summary = "document.querySelector('#services summary')";
    browser.script(&format!("{summary}.click(); {summary}.focus()"));
    assert!(browser.text().contains(&one), "{}", browser.text());

    drop(servers.remove(0));
    browser.wait_until("the backend down", &row(&one, "down"));
    browser.wait_until("the service degraded", &row("finance", "degraded"));
    browser.wait_until(
        "the verdict",
        "return document.getElementById('verdict').textContent.includes('DEGRADED')",
    );
    // What the reader has opened stays open, and the keyboard stays where it was.
    assert!(browser.text().contains(&one), "{}", browser.text());
    assert_eq!(
        browser.script(&format!("return document.activeElement === {summary}")),
        true
    );
    assert_console_is_empty(&browser);

    // The policy keeps out what is not the page's own.
    let foreign = "const script = document.createElement('script');
        script.textContent = 'window.foreign = true';
        document.body.append(script);
        return window.foreign === undefined";
    assert_eq!(browser.script(foreign), true);
    let refused = browser.console();
    assert!(
        refused
            .iter()
            .any(|line| line.to_string().contains("Content Security Policy")),
        "{refused:?}"
    );

    balancer.terminate();
    browser.wait_until("a grey page", "return document.body.classList.contains('stale')");
    assert!(browser.text().contains("STALE since"), "{}", browser.text());
    balancer.restart();
    browser.wait_until(
        "a page in colour",
        "return !document.body.classList.contains('stale')",
    );
}

/// The body of a function that is true if those of all `scripts` are.
fn function(scripts: &[String]) -> String {
    let parts: Vec<String> = scripts
        .iter()
        .map(|script| format!("(() => {{ {script} }})()"))
        .collect();
    format!("return (() => {})", parts.join(" && "))
}

#[test]
fn none_and_500_services_are_shown_and_found() {
    let topology = topology();
    let balancer = Balancer::start(&topology.balancer, &Config::new(Attachment::VETH_AUTO.mode));
    let browser = Browser::start(&topology.balancer.netns);
    browser.open(PAGE);
    assert!(
        browser.text().contains("No service is configured."),
        "{}",
        browser.text()
    );

    let backends = [topology.servers[0].address(Family::V4)];
    let mut config = Config::new(Attachment::VETH_AUTO.mode);
    for number in 0..500 {
        let name = format!("service-{number:03}");
        config = config.service(service(&name, "TCP", 10_000 + number, TARGET_PORT, &backends));
    }
    balancer.replace_config(&config);
    browser.wait_until(
        "200 rows",
        "return document.querySelectorAll('#services > table > tbody > tr.edge').length === 200",
    );
    assert!(browser.text().contains("300 more"), "{}", browser.text());
    browser.script(
        "const field = document.getElementById('service');
         field.value = '499';
         field.dispatchEvent(new Event('input', {bubbles: true}))",
    );
    browser.wait_until(
        "the one row that is wanted",
        "const rows = document.querySelectorAll('#services > table > tbody > tr.edge');
         return rows.length === 1 && rows[0].cells[0].textContent === 'service-499'",
    );
    // Without the script, the same field is part of the address.
    browser.open(&format!("{PAGE}?service=service-123"));
    assert_eq!(
        browser.script("return document.querySelectorAll('#services > table > tbody > tr.edge').length"),
        1
    );
    assert_console_is_empty(&browser);
}

/// Each rule of axe-core, with light and dark colours, while all is well and while a backend is down.
#[test]
fn an_accessibility_checker_finds_no_violation() {
    let path = std::env::var_os("VL3LB_AXE").map(PathBuf::from);
    let path = path.expect("VL3LB_AXE, the path of axe.min.js: `./run test netns` sets it");
    let axe = std::fs::read_to_string(path).expect("read axe-core");
    let topology = topology();
    let mut servers = finance::http_servers(&topology);
    let _balancer = Balancer::start(&topology.balancer, &checked(&topology));
    let browser = Browser::start(&topology.balancer.netns);
    browser.open(PAGE);
    browser.wait_until("the service ok", &row("finance", "ok"));
    assert_accessible(&browser, &axe);
    drop(servers.remove(0));
    browser.wait_until("the service degraded", &row("finance", "degraded"));
    assert_accessible(&browser, &axe);
}

fn assert_accessible(browser: &Browser<'_>, axe: &str) {
    for open in [false, true] {
        // The page replaces its parts; they hold still while they are checked.
        browser.script(&format!(
            "document.querySelectorAll('details').forEach(details => details.open = {open});
             if (document.getElementById('pause').getAttribute('aria-pressed') !== 'true')
                 document.getElementById('pause').click()"
        ));
        for dark in [false, true] {
            browser.set_dark(dark);
            let found = browser.asynchronous_script(&format!(
                "{axe}; const done = arguments[arguments.length - 1];
                 axe.run().then(found => done({{
                     rules: found.passes.length,
                     violations: found.violations.map(rule => [rule.id, rule.help, rule.nodes.map(node => node.html)]),
                 }}), error => done(String(error)))"
            ));
            assert_eq!(found["violations"], json!([]), "dark: {dark}, open: {open}");
            assert!(found["rules"].as_u64() > Some(10), "{found}");
        }
    }
    browser.script("document.getElementById('pause').click()");
}
