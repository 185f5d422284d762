//! `vl3-lb top` in a real terminal: shows a running balancer, obeys its keys, says when the balancer is gone, and leaves
//! the terminal as it was.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use rustix::process::{Pid, Signal, kill_process};
use vl3lb_testbed::addresses::Family;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::{Balancer, binary};
use vl3lb_tests::client::text;
use vl3lb_tests::config::service;
use vl3lb_tests::server::greeting;
use vl3lb_tests::socket::connect_tcp;
use vl3lb_tests::terminal::Terminal;
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

use crate::finance;

/// The command that shows this balancer.
fn command(balancer: &Balancer, arguments: &str) -> String {
    let socket = balancer.config_path().with_file_name("admin.sock");
    format!(
        "{} --socket {} top {arguments}",
        binary().display(),
        socket.display()
    )
}

/// The row of the table that begins with `name`, without the mark of the highlighted row.
fn row<'a>(screen: &'a str, name: &str) -> Option<&'a str> {
    let mut rows = screen.lines().map(|line| line.trim_start_matches(['>', ' ']));
    rows.find(|row| row.starts_with(name))
}

#[test]
fn top_follows_a_balancer_and_obeys_its_keys() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let _servers = finance::echo_servers(&topology);
    let config = finance::config(&topology, "auto").service(service("ledger", "TCP", 9000, 9000, &[]));
    let mut balancer = Balancer::start(&topology.balancer, &config);
    let terminal = Terminal::start(&topology.balancer.netns, 160, 40);
    terminal.type_line(&command(&balancer, "-d 200ms"));
    terminal.wait_until("both services, and rates", |screen| {
        screen.contains("DEGRADED")
            && row(screen, "finance").is_some_and(|row| row.contains(" ok "))
            && row(screen, "ledger").is_some_and(|row| row.contains(" down "))
            && screen.contains("rates over 0.")
    });
    assert_eq!(
        terminal.modes(),
        (true, false),
        "a screen of its own, without a cursor"
    );
    let names = |screen: &str| {
        let places = ["finance", "ledger"].map(|name| screen.find(&format!(" {name} ")));
        places[0] < places[1]
    };
    assert!(
        !names(&terminal.screen()),
        "what is down comes first: {}",
        terminal.screen()
    );

    // A flow appears, and the backend that has it.
    let node = &topology.clients[0];
    let from = SocketAddr::new(node.address(Family::V4), 40_000);
    let to = SocketAddr::new(Family::V4.balancer(), finance::PORT);
    let mut stream = node.netns.run(|| connect_tcp(from, to, wait::STEP)).unwrap();
    greeting(&mut stream).unwrap();
    terminal.wait_until("the flow", |screen| {
        row(screen, "finance").is_some_and(|row| row.split_whitespace().nth(6) == Some("1"))
    });

    terminal.press(&["s"]);
    terminal.wait_until("the order by name", |screen| {
        screen.contains("sort name") && names(screen)
    });
    terminal.press(&["r"]);
    terminal.wait_until("the reverse order", |screen| {
        screen.contains("sort name reversed") && !names(screen)
    });
    terminal.press(&["/"]);
    terminal.wait_until("the field of the filter", |screen| screen.contains("filter: _"));
    terminal.press(&["fin", "Enter"]);
    terminal.wait_until("the filtered services", |screen| {
        screen.contains("services 1 of 2") && row(screen, "ledger").is_none()
    });
    terminal.press(&["Enter"]);
    terminal.wait_until("the backends of the service", |screen| {
        screen.contains("service finance") && screen.contains("NOTE") && screen.contains("backends 6 of 6")
    });
    terminal.press(&["Enter"]);
    terminal.wait_until("all about a backend", |screen| {
        screen.contains("next hop") && screen.contains("NAT ports") && screen.contains("backend finance ")
    });
    terminal.press(&["Escape"]);
    terminal.wait_until("its list again", |screen| screen.contains("backends 6 of 6"));
    terminal.press(&["Tab"]);
    terminal.wait_until("all backends that match", |screen| {
        let head: Vec<_> = screen.lines().take(4).collect();
        let head = head.join("\n");
        head.contains("backends 6 of 6") && !head.contains("service finance")
    });
    terminal.press(&["1"]);
    terminal.wait_until("a line per worker", |screen| screen.contains("worker 0  core "));
    terminal.press(&["?"]);
    terminal.wait_until("the help", |screen| screen.contains("next sort key"));
    terminal.press(&["?"]);
    terminal.press(&["p"]);
    terminal.wait_until("the pause", |screen| screen.contains("PAUSED at "));
    terminal.press(&["p"]);
    terminal.wait_until("no pause", |screen| !screen.contains("PAUSED"));

    // A window of any size: what does not fit is left out.
    terminal.resize(60, 15);
    terminal.wait_until("a narrow screen", |screen| {
        screen.contains("STATE")
            && !screen.contains("WEIGHT")
            && screen.lines().all(|line| line.chars().count() <= 60)
    });
    terminal.resize(160, 40);
    terminal.wait_until("the wide one", |screen| screen.contains("WEIGHT"));

    // An open flow would delay the end.
    drop(stream);
    balancer.terminate();
    terminal.wait_until("words on what is gone, over the last state", |screen| {
        screen.starts_with("GONE ")
            && screen.contains("balancer not running")
            && row(screen, "finance").is_some()
    });
    balancer.restart();
    terminal.wait_until("the balancer again", |screen| {
        !screen.contains("GONE") && screen.contains("rates over 0.")
    });
    terminal.press(&["q"]);
    terminal.wait_for_prompt();
}

#[test]
fn top_restores_the_terminal_however_it_ends() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let balancer = Balancer::start(&topology.balancer, &finance::config(&topology, "auto"));
    let terminal = Terminal::start(&topology.balancer.netns, 120, 30);
    let settings = balancer.config_path().with_file_name("settings");
    let settings = settings.display();
    terminal.type_line(&format!("stty -g >{settings}"));
    let signal = |signal: Signal| {
        let child = i32::try_from(terminal.child()).ok().and_then(Pid::from_raw);
        kill_process(child.expect("the process of top"), signal).expect("signal it");
    };
    let ways: [(&str, u8, &dyn Fn()); 5] = [
        ("q", 0, &|| terminal.press(&["q"])),
        ("Ctrl-C", 130, &|| terminal.press(&["C-c"])),
        ("SIGINT", 130, &|| signal(Signal::INT)),
        ("SIGTERM", 143, &|| signal(Signal::TERM)),
        ("SIGHUP", 143, &|| signal(Signal::HUP)),
    ];
    for (name, status, end) in ways {
        terminal.wait_for_prompt();
        terminal.type_line(&format!(
            "clear; {}; echo status $? settings $(stty -g | cmp - {settings} && echo same)",
            command(&balancer, "")
        ));
        terminal.wait_until("the screen of top", |screen| {
            screen.contains("finance") && screen.contains("q quit")
        });
        assert_eq!(terminal.modes(), (true, false), "{name}");
        end();
        let said = format!("status {status} settings same");
        terminal.wait_until(&format!("the shell after {name}"), |screen| {
            screen.lines().any(|line| line == said)
        });
        assert_eq!(terminal.modes(), (false, true), "{name}");
    }
}

/// Without room for another thread, such as the one that reads keys, the standard library panics: the terminal is another
/// user's, who may have one process only.
#[test]
fn a_panic_is_reported_on_the_restored_terminal() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let folder = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o755))
        .tempdir();
    let folder = folder.expect("make a temporary directory");
    let program = folder.path().join("vl3-lb");
    std::fs::copy(binary(), &program).expect("copy the program");
    let terminal = Terminal::start(&topology.balancer.netns, 160, 30);
    let settings = folder.path().join("settings");
    let settings = settings.display();
    terminal.type_line(&format!("stty -g >{settings}"));
    terminal.wait_for_prompt();
    terminal.type_line(&format!(
        "clear; RUST_BACKTRACE=0 setpriv --reuid 64321 --regid 64321 --clear-groups prlimit --nproc=1 {} top; \
         echo status $? settings $(stty -g | cmp - {settings} && echo same)",
        program.display()
    ));
    terminal.wait_until("the report and the shell", |screen| {
        let line = |wanted: &str| screen.lines().position(|line| line.contains(wanted));
        let report = line("thread 'main'").filter(|_| line("failed to spawn thread").is_some());
        report.is_some() && report < line("status 101 settings same")
    });
    assert_eq!(terminal.modes(), (false, true), "the first screen, with a cursor");
    terminal.wait_for_prompt();
}

#[test]
fn colours_are_an_addition_that_can_be_switched_off() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let config = finance::config(&topology, "auto").service(service("ledger", "TCP", 9000, 9000, &[]));
    let balancer = Balancer::start(&topology.balancer, &config);
    let terminal = Terminal::start(&topology.balancer.netns, 120, 30);
    // Red, as SGR parameters: of 16 colours, or of 256.
    let is_colored = |screen: &str| screen.contains("[31m") || screen.contains("38;5;1m");
    for (environment, colored) in [("", true), ("NO_COLOR=1 ", false)] {
        terminal.type_line(&format!("clear; {environment}{}", command(&balancer, "")));
        terminal.wait_until("the word of the state", |screen| {
            row(screen, "ledger").is_some_and(|row| row.contains(" down "))
        });
        let screen = terminal.colored_screen();
        assert_eq!(is_colored(&screen), colored, "{environment}: {screen:?}");
        terminal.press(&["q"]);
        terminal.wait_for_prompt();
    }
}

#[test]
fn batches_are_blocks_of_text_that_need_no_terminal() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let mut balancer = Balancer::start(&topology.balancer, &finance::config(&topology, "auto"));
    let output = balancer.cli(&["top", "-b", "-n", "2", "-d", "200ms"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let blocks = String::from_utf8_lossy(&output.stdout).into_owned();
    let rows: Vec<Vec<&str>> = blocks
        .lines()
        .filter(|line| line.starts_with("finance "))
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows.len(), 2, "{blocks}");
    // New flows per second: unknown in the first sample, none in the second.
    assert_eq!([rows[0][7], rows[1][7]], ["-", "0"], "{blocks}");
    assert!(!blocks.contains('\u{1b}'), "{blocks:?}");

    let output = balancer.cli(&["top"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(
        text(&output).contains("no terminal") && text(&output).contains("top -b"),
        "{}",
        text(&output)
    );
    balancer.terminate();
    let output = balancer.cli(&["top", "-b"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
}
