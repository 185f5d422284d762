//! Connections through the balancer, to servers that say their name and echo.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vl3lb_testbed::{Netns, OrPanic};

use super::balancer::{PORT, TARGET_PORT};
use super::server::MeshServer;
use crate::socket::connect_tcp;
use crate::wait;

/// Time between two messages.
const PACE: Duration = Duration::from_millis(5);
const MESSAGE: &[u8; 64] = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// An open connection that carries a message and its echo all the time.
#[derive(Debug)]
pub struct Traffic {
    /// The name of the server.
    pub server: String,
    echoes: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<Duration>>>,
}

impl Traffic {
    /// Opens a connection from a pod to the service at `address`.
    pub fn start(pod: &Netns, address: IpAddr) -> Self {
        Self::start_to(pod, SocketAddr::new(address, PORT))
    }

    /// Opens a connection from a pod to a server of its own, past the balancer.
    pub fn start_directly(pod: &Netns, server: &MeshServer<'_>) -> Self {
        Self::start_to(pod, SocketAddr::new(server.address(), TARGET_PORT))
    }

    fn start_to(pod: &Netns, target: SocketAddr) -> Self {
        let (mut stream, server) = open(pod, target, wait::STEP)
            .unwrap_or_else(|error| panic!("connect from {} to {target}: {error}", pod.label()));
        let (echoes, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let shared = (Arc::clone(&echoes), Arc::clone(&stop));
        let thread = pod
            .spawn("traffic", move || {
                let mut longest = Duration::ZERO;
                while !shared.1.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    exchange(&mut stream)?;
                    longest = longest.max(begin.elapsed());
                    shared.0.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(PACE);
                }
                Ok(longest)
            })
            .or_panic();
        Self {
            server,
            echoes,
            stop,
            thread: Some(thread),
        }
    }

    /// Waits until `count` more messages came back; panics if the connection broke or stands still.
    pub fn goes_on(&self, count: u64) {
        let goal = self.echoes.load(Ordering::Relaxed) + count;
        wait::until(
            &format!("{count} more echoes of {}", self.server),
            wait::STEP,
            || {
                let now = self.echoes.load(Ordering::Relaxed);
                assert!(
                    now >= goal || !self.thread.as_ref().is_some_and(JoinHandle::is_finished),
                    "the connection to {} broke after {now} echoes",
                    self.server
                );
                (now >= goal)
                    .then_some(())
                    .ok_or_else(|| format!("{now} of {goal}"))
            },
        );
    }

    /// Ends it; panics if it broke. The longest time that an echo took.
    pub fn finish(mut self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it ends once");
        let result = thread.join().expect("the traffic does not panic");
        result.unwrap_or_else(|error| panic!("the connection to {} broke: {error}", self.server))
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A broken connection is reported by the test that fails.
            thread.join().ok();
        }
    }
}

/// TCP segments that the pods' kernels sent again so far.
pub fn retransmissions<'a>(pods: impl IntoIterator<Item = &'a Netns>) -> u64 {
    let of = |pod: &Netns| {
        let text = pod.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp"));
        let text = text.expect("read the counters of TCP");
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
        let mut counters = names.split(' ').zip(values.split(' '));
        let (_, count) = counters
            .find(|(name, _)| *name == "RetransSegs")
            .expect("the kernel counts retransmissions");
        count.parse::<u64>().expect("a number")
    };
    pods.into_iter().map(of).sum()
}

/// Opens a connection to the service, and returns the name that its server says.
pub fn ask(pod: &Netns, address: IpAddr) -> io::Result<String> {
    ask_within(pod, address, wait::STEP)
}

/// The same with a limit of connecting, and of the answer.
pub fn ask_within(pod: &Netns, address: IpAddr, limit: Duration) -> io::Result<String> {
    open(pod, SocketAddr::new(address, PORT), limit).map(|(_, server)| server)
}

/// Opens connections until each of the servers has answered, and fails at any that is not answered by one of them.
pub fn wait_all_answer(pod: &Netns, address: IpAddr, servers: &[MeshServer<'_>]) {
    let expected: BTreeSet<String> = servers.iter().map(|server| server.name().to_owned()).collect();
    let mut answered = BTreeSet::new();
    wait::until("an answer of each server", wait::STEP, || {
        let server = ask(pod, address).unwrap_or_else(|error| panic!("connect to {address}: {error}"));
        assert!(
            expected.contains(&server),
            "{server} answers, which is none of {expected:?}"
        );
        answered.insert(server);
        (answered == expected)
            .then_some(())
            .ok_or_else(|| format!("{answered:?}"))
    });
}

fn open(pod: &Netns, target: SocketAddr, limit: Duration) -> io::Result<(BufReader<TcpStream>, String)> {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let stream = pod.run(|| connect_tcp(SocketAddr::new(any, 0), target, limit))?;
    let mut stream = BufReader::new(stream);
    let mut name = String::new();
    stream.read_line(&mut name)?;
    if name.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((stream, name.trim_end().to_owned()))
}

fn exchange(stream: &mut BufReader<TcpStream>) -> io::Result<()> {
    stream.get_mut().write_all(MESSAGE)?;
    let mut echo = [0; MESSAGE.len()];
    stream.read_exact(&mut echo)?;
    if echo != *MESSAGE {
        return Err(io::Error::other("the echo is not the message"));
    }
    Ok(())
}
