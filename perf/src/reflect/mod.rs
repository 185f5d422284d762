//! `vl3-perf reflect`: the other end of a load, on AF_XDP. What comes to one address and port goes back where it
//! came from, addresses and ports swapped.
//!
//! It does what any AF_XDP program must do and nothing else, so it is also the bound for every balancer on
//! the same link in the same mode.

mod turner;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use vl3lb_common::snapshot::NatPorts;
use vl3lb_common::{Protocol, ServiceKey};
use vl3lb_dataplane::config::ZeroCopy;
use vl3lb_dataplane::error::SetupError;
use vl3lb_dataplane::link::{Link, LinkInfo};
use vl3lb_dataplane::packet::Framing;
use vl3lb_dataplane::steer::Rules;

use crate::attachment::{Wanted, attach};
use crate::failure::Failure;
use crate::interrupt;
use crate::load::target::{self, Permit};
use crate::session::args::AttachMode;

/// Frames of 4 KiB for each queue.
const FRAMES: u32 = 4096;
/// How often to look whether to end.
const LOOK: Duration = Duration::from_millis(100);

/// Send back what arrives, on AF_XDP: the bare reflector, and the other end of tcp-packets
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ReflectArgs {
    /// The interface that packets come in and go out through
    #[arg(value_name = "INTERFACE")]
    interface: String,

    /// What to answer for, over UDP and TCP: addresses of this interface with a port
    #[arg(value_name = "ADDRESS:PORT", required = true)]
    listen: Vec<SocketAddr>,

    /// How to attach to the interface
    #[arg(long, value_enum, default_value_t = AttachMode::Auto)]
    mode: AttachMode,

    /// CPU cores, one for each queue in turns [default: none in particular]
    #[arg(long, value_name = "CORE", value_delimiter = ',')]
    core: Vec<usize>,
}

/// Reflects until a signal, then says how much.
///
/// # Errors
///
/// The interface cannot be attached to.
pub(crate) fn run(args: &ReflectArgs) -> Result<(), Failure> {
    for listen in &args.listen {
        target::check(*listen, Permit::Anywhere)?;
    }
    let stop = interrupt::flag()?;
    let link = setup(LinkInfo::inspect(&args.interface))?;
    let wanted = Wanted {
        mode: args.mode.into(),
        queues: None,
        frames: FRAMES,
        zero_copy: ZeroCopy::Auto,
    };
    let (steer, ports) = setup(attach(&link, wanted, |workers| rules(&args.listen, workers)))?;
    let framing = match link.link {
        Link::Ethernet(_) => Framing::Ethernet,
        Link::RawIp => Framing::RawIp,
    };
    eprintln!(
        "reflect  {} in {} mode, {} queues, until Ctrl-C ({})",
        link.name,
        steer.mode().name(),
        ports.len(),
        steer.reason()
    );
    let counts: Arc<[AtomicU64; 2]> = Arc::default();
    let threads: Vec<_> = ports
        .into_iter()
        .enumerate()
        .map(|(queue, port)| {
            let core = args.core.get(queue % args.core.len().max(1)).copied();
            let (stop, counts) = (Arc::clone(&stop), Arc::clone(&counts));
            thread::spawn(move || {
                if let Some(id) = core {
                    core_affinity::set_for_current(core_affinity::CoreId { id });
                }
                turner::turn(port, framing, &stop, &counts);
            })
        })
        .collect();
    wait(&stop);
    // First, so that nothing new arrives.
    drop(steer);
    for thread in threads {
        thread
            .join()
            .map_err(|_| Failure::new("a reflecting thread has panicked; see above"))?;
    }
    let [reflected, dropped] = [0, 1].map(|index| counts[index].load(Ordering::Relaxed));
    eprintln!("reflect  {reflected} reflected, {dropped} without an answer");
    Ok(())
}

/// Everything that comes to one of `listen`.
fn rules(listen: &[SocketAddr], workers: u16) -> Rules {
    let services: HashSet<_> = listen
        .iter()
        .flat_map(|listen| {
            [Protocol::Udp, Protocol::Tcp].map(|protocol| ServiceKey {
                address: listen.ip(),
                port: listen.port(),
                protocol,
            })
        })
        .collect();
    Rules {
        services,
        addresses: Vec::new(),
        // Without addresses of its own there are no NAT ports, whatever their range: only services count.
        nat_ports: NatPorts::new(1, u16::MAX).expect("a range"),
        workers,
    }
}

fn wait(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(LOOK);
    }
}

fn setup<T>(result: Result<T, SetupError>) -> Result<T, Failure> {
    result.map_err(|error| Failure::new(error.to_string()))
}
