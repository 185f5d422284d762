use super::*;
use crate::api::{Report, Service, ServiceState};
use crate::observe::report::fixture;

fn view<'a>(report: &'a Report, events: &'a [Event], filter: &'a str) -> View<'a> {
    View {
        report,
        measures: &[],
        events,
        filter,
    }
}

fn whole(report: &Report) -> String {
    document(view(report, &[], "")).into_string()
}

fn part(report: &Report, filter: &str) -> String {
    state(view(report, &[], filter)).into_string()
}

/// The report of the fixture with `count` services.
fn with_services(count: usize) -> Report {
    let mut report = fixture::report();
    let model = report.services[0].clone();
    report.services = (0..count)
        .map(|number| Service {
            name: format!("service-{number:03}"),
            ..model.clone()
        })
        .collect();
    report
}

#[test]
fn each_service_is_a_row_with_its_backends_in_place() {
    let report = fixture::report();
    let html = whole(&report);
    for service in &report.services {
        assert!(
            html.contains(&format!("<th scope=\"row\">{}</th>", service.name)),
            "{}",
            service.name
        );
    }
    for backend in &report.backends {
        assert!(html.contains(&format!("<th scope=\"row\">{}</th>", backend.endpoint())));
    }
    let down = report
        .services
        .iter()
        .filter(|service| service.state == ServiceState::Down);
    assert!(down.count() > 0);
    assert!(html.contains("x down"));
}

#[test]
fn the_page_has_everything_that_it_needs_and_is_small() {
    let html = whole(&fixture::report());
    assert!(html.len() < 60_000, "{} bytes", html.len());
    assert!(!html.contains("src="), "it loads something");
    let elsewhere = html.replace("http://www.w3.org/2000/svg", "");
    assert!(
        !elsewhere.contains("http://") && !elsewhere.contains("https://") && !elsewhere.contains("//cdn")
    );
    assert!(!html.contains(" style="), "the policy forbids it");
    let changing = part(&fixture::report(), "");
    assert!(changing.len() < 20_000, "{} bytes", changing.len());
}

#[test]
fn an_empty_balancer_and_one_with_500_services_have_a_page() {
    assert!(part(&with_services(0), "").contains("No service is configured."));
    let many = part(&with_services(500), "");
    assert!(many.contains("service-199") && !many.contains("service-200"));
    assert!(many.contains("300 more: filter by name"));
    assert!(many.len() < 400_000, "{} bytes", many.len());
}

#[test]
fn the_filter_finds_services_by_a_part_of_their_names() {
    let report = with_services(500);
    let found = part(&report, "-42");
    assert!(found.contains("service-420") && !found.contains("service-042<"));
    assert!(part(&report, "SERVICE-499").contains("service-499"));
    assert!(part(&report, "ledger").contains("No service has such a name; there are 500."));
}

#[test]
fn texts_from_elsewhere_are_escaped() {
    let mut report = fixture::report();
    let hostile = "</p><script>alert(1)</script>\"'&";
    report.status.instance = hostile.to_owned();
    report.services[0].name = hostile.to_owned();
    report.backends[0].pod = Some(hostile.to_owned());
    report.status.warnings[0].text = hostile.to_owned();
    let html = document(view(&report, &[], hostile)).into_string();
    assert_eq!(html.matches("<script>").count(), 1, "the page's own");
    assert!(!html.contains("alert(1)</script>"));
}

#[test]
fn the_title_counts_the_problems() {
    let mut report = fixture::report();
    report.status.not_ready_reason = None;
    let count = problem_count(&report.status);
    assert!(count > 0);
    assert_eq!(
        title(&report.status),
        format!("({count}) {} vl3-lb", report.status.instance)
    );
    report.status.warnings.clear();
    assert_eq!(
        title(&report.status),
        format!("{} vl3-lb", report.status.instance)
    );
    assert!(part(&report, "").contains("No problems"));
}

#[test]
fn drops_have_their_remedy_and_the_most_frequent_is_first() {
    let report = fixture::report();
    let html = drops(&report.status).into_string();
    let mut rates = Vec::new();
    for drop in report
        .status
        .totals
        .drops
        .iter()
        .filter(|drop| drop.packets_total > 0)
    {
        let at = html
            .find(&format!("<th scope=\"row\">{}</th>", drop.reason))
            .expect("a row");
        rates.push((at, drop.packets_per_second.unwrap_or_default()));
    }
    assert!(!rates.is_empty());
    rates.sort_by_key(|&(at, _)| at);
    assert!(rates.is_sorted_by(|a, b| a.1 >= b.1), "{rates:?}");
    assert!(html.contains(DropReason::NoBackend.remedy()));
}

#[test]
fn the_newest_change_is_first() {
    let report = fixture::report();
    let mut events = fixture::event_list(&report).envelope.items;
    "the oldest change".clone_into(&mut events.first_mut().expect("events").text);
    "the newest change".clone_into(&mut events.last_mut().expect("events").text);
    let html = state(view(&report, &events, "")).into_string();
    let at = |text| html.find(text).expect("its text");
    assert!(at("the newest change") < at("the oldest change"));
}
