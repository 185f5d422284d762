//! `vl3-perf serve`: the other end of a load. It sends back what it gets, over UDP and TCP on one port.
//!
//! A TCP connection that begins with an HTTP request gets an HTTP answer for each, so that wrk and curl can be
//! pointed at it too.

mod http;
mod tcp;
mod udp;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::failure::Failure;
use crate::interrupt;

/// How often a thread looks whether it should end.
const LOOK: Duration = Duration::from_millis(100);

/// Send back what arrives, as the other end of load and latency
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ServeArgs {
    /// Where to listen, over UDP and TCP: ADDRESS:PORT, or :PORT for all addresses of both families
    #[arg(value_name = "LISTEN", value_parser = parse_listen)]
    listen: SocketAddr,

    /// Threads for each of UDP and TCP
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256), default_value_t = 1)]
    threads: u32,

    /// Body of the answer to an HTTP request, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    http_body: usize,
}

/// Serves until a signal.
///
/// # Errors
///
/// The address cannot be listened at.
pub(crate) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let stop = interrupt::flag()?;
    let answer: Arc<[u8]> = http::answer(args.http_body).into();
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    for _ in 0..args.threads {
        let sockets = udp::open(args.listen).and_then(|udp| Ok((udp, tcp::open(args.listen)?)));
        let (udp, tcp) = sockets
            .map_err(|error| Failure::new(format!("listen at {} over UDP and TCP: {error}", args.listen)))?;
        let stopping = Arc::clone(&stop);
        threads.push(thread::spawn(move || udp::serve(&udp, &stopping)));
        let (stopping, answer) = (Arc::clone(&stop), Arc::clone(&answer));
        let mut server = tcp::Server::new(tcp, answer)
            .map_err(|error| Failure::new(format!("create an epoll instance: {error}")))?;
        threads.push(thread::spawn(move || server.serve(&stopping)));
    }
    eprintln!("serve  {} over UDP and TCP until Ctrl-C", args.listen);
    while !stop.load(Ordering::Relaxed) {
        if threads.iter().any(JoinHandle::is_finished) {
            return Err(Failure::new("a serving thread has ended; see above"));
        }
        thread::sleep(LOOK);
    }
    for thread in threads {
        thread
            .join()
            .map_err(|_| Failure::new("a serving thread has panicked; see above"))?;
    }
    Ok(())
}

/// `:5000` stands for the port on all addresses of both families.
fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let text = if text.starts_with(':') {
        format!("[::]{text}")
    } else {
        text.to_owned()
    };
    text.parse()
        .map_err(|_| "want ADDRESS:PORT, [ADDRESS]:PORT or :PORT".to_owned())
}

/// A flag that threads look at.
fn stopped(stop: &AtomicBool) -> bool {
    stop.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_means_all_addresses() {
        for (text, address) in [
            (":5000", Some("[::]:5000")),
            ("0.0.0.0:5000", Some("0.0.0.0:5000")),
            ("[::1]:5000", Some("[::1]:5000")),
            ("5000", None),
            ("localhost:5000", None),
        ] {
            let expected = address.map(|address| address.parse().unwrap());
            assert_eq!(parse_listen(text).ok(), expected, "{text}");
        }
    }
}
