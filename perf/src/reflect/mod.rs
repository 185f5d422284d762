//! `vl3-perf reflect`: the other end of a load, on AF_XDP. Packets to its addresses and ports go back to their source,
//! with addresses and ports swapped.
//!
//! It does what any AF_XDP program must do and nothing else, so it is also the bound for every balancer on the same
//! link in the same mode.

mod echo;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use vl3lb_common::hash::OwnerKey;
use vl3lb_common::snapshot::NatPorts;
use vl3lb_common::{Protocol, ServiceKey};
use vl3lb_dataplane::config::ZeroCopy;
use vl3lb_dataplane::{Framing, Link, LinkInfo, Rules};

use crate::attachment::{AttachMode, Ports, attach};
use crate::failure::Failure;
use crate::interrupt;
use crate::load::target;

/// Frames of 4 KiB for each queue.
const FRAMES: u32 = 4096;
/// Interval between two looks at the stop flag.
const POLL: Duration = Duration::from_millis(100);

/// Echo packets on AF_XDP: the bare reflector, and the other end of tcp-packets
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ReflectArgs {
    /// The interface to receive and send on
    #[arg(value_name = "INTERFACE")]
    interface: String,

    /// Addresses of this interface with a port, for UDP and TCP
    #[arg(value_name = "ADDRESS:PORT", required = true)]
    listen: Vec<SocketAddr>,

    /// How to attach to the interface
    #[arg(long, value_enum, default_value_t = AttachMode::Auto)]
    mode: AttachMode,

    /// CPU cores of the queues, in turn [default: any]
    #[arg(long, value_name = "CORE", value_delimiter = ',')]
    core: Vec<usize>,
}

/// Reflects until a signal, then prints counts.
///
/// # Errors
///
/// The interface cannot be attached to.
pub(crate) fn run(args: &ReflectArgs) -> Result<(), Failure> {
    for listen in &args.listen {
        target::check(*listen, true)?;
    }
    let stop = interrupt::flag()?;
    let link = LinkInfo::inspect(&args.interface)?;
    let ports = Ports {
        mode: args.mode.into(),
        queues: None,
        frames: FRAMES,
        zero_copy: ZeroCopy::Auto,
    };
    let (steer, ports) = attach(&link, ports, |workers| rules(&args.listen, workers))?;
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
                echo::echo(port, framing, &stop, &counts);
            })
        })
        .collect();
    wait(&stop);
    // First, so that no packets arrive any more.
    drop(steer);
    for thread in threads {
        thread.join().map_err(|_| Failure::Panicked("reflecting"))?;
    }
    let [reflected, dropped] = [0, 1].map(|index| counts[index].load(Ordering::Relaxed));
    eprintln!("reflect  {reflected} reflected, {dropped} without an answer");
    Ok(())
}

/// All packets to one of `listen`.
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
        // Without addresses there are no NAT ports: the range has no effect.
        nat_ports: NatPorts::new(1, u16::MAX).expect("a range"),
        kernel_ports: Arc::default(),
        workers,
        owner_key: OwnerKey::from_seed(0),
    }
}

fn wait(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(POLL);
    }
}
