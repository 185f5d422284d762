//! Creates AF_XDP sockets.
#![expect(unsafe_code, reason = "socket creation and getsockopt; see the folder's docs")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread;

use vl3lb_common::Duration;
use xsk_rs::config::{BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig};
use xsk_rs::socket::Fd;
use xsk_rs::{CompQueue, FillQueue, RxQueue, Socket, TxQueue};

use crate::capability;
use crate::config::ZeroCopy;
use crate::error::SetupError;

use super::memory::{Memory, os_error};

/// The four rings of one socket.
pub(super) struct Rings {
    pub(super) rx: RxQueue,
    pub(super) tx: TxQueue,
    pub(super) fill: FillQueue,
    pub(super) completion: CompQueue,
}

/// The queue and the options of a socket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Binding<'a> {
    pub(super) interface: &'a str,
    pub(super) queue: u32,
    /// Size of the receive and transmit rings, a power of two.
    pub(super) ring: u32,
    pub(super) zero_copy: ZeroCopy,
}

/// The kernel frees the queue of a closed socket a little later (xp_release_deferred), so a new socket
/// may find it taken: binding is tried for half a second.
const RELEASE_ATTEMPTS: usize = 25;
const RELEASE_PAUSE: Duration = Duration::from_millis(20);

/// Binds a socket. Several descriptors per packet are asked for where the kernel knows them (since
/// Linux 6.6). The kernel takes the flags of the first socket of a memory for all of them.
///
/// # Errors
///
/// The interface or queue does not exist or is taken, a right is missing, or zero-copy is
/// forced where the driver has none.
pub(super) fn bind(memory: &Memory, binding: Binding<'_>) -> Result<Rings, SetupError> {
    let flags = BindFlags::XDP_USE_NEED_WAKEUP
        | match binding.zero_copy {
            // Without either flag the kernel tries zero-copy first.
            ZeroCopy::Auto => BindFlags::empty(),
            ZeroCopy::On => BindFlags::XDP_ZEROCOPY,
            ZeroCopy::Off => BindFlags::XDP_COPY,
        };
    let attempt = || match create(memory, binding, flags | BindFlags::XDP_USE_SG) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => create(memory, binding, flags),
        other => other,
    };
    let mut result = attempt();
    for _ in 0..RELEASE_ATTEMPTS {
        match &result {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                thread::sleep(RELEASE_PAUSE);
                result = attempt();
            }
            _ => break,
        }
    }
    result.map_err(|cause| refusal(binding, cause))
}

/// The error behind the kernel's refusal of a socket.
fn refusal(binding: Binding<'_>, cause: io::Error) -> SetupError {
    let Binding {
        interface,
        queue,
        zero_copy,
        ..
    } = binding;
    let advice = match cause.raw_os_error() {
        Some(libc::EPERM) => {
            return capability::denied(&format!("bind an AF_XDP socket to queue {queue} of {interface}"));
        }
        Some(libc::EBUSY) => "; another AF_XDP socket has this queue: is another balancer running?",
        Some(libc::EOPNOTSUPP | libc::EINVAL) if zero_copy == ZeroCopy::On => {
            "; the driver has no zero-copy: use zeroCopy: auto"
        }
        Some(libc::ENOBUFS) => {
            "; RLIMIT_MEMLOCK is too low: raise it (ulimit -l, LimitMEMLOCK=) or add CAP_IPC_LOCK"
        }
        _ => "",
    };
    SetupError::BindSocket {
        interface: interface.to_owned(),
        queue,
        mode: match zero_copy {
            ZeroCopy::Auto => "",
            ZeroCopy::On => " in zero-copy mode",
            ZeroCopy::Off => " in copy mode",
        },
        cause,
        advice,
    }
}

fn create(memory: &Memory, binding: Binding<'_>, flags: BindFlags) -> io::Result<Rings> {
    let invalid =
        |error: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidInput, error.to_string());
    let ring = QueueSize::new(binding.ring).map_err(|error| invalid(&error))?;
    let interface: Interface = binding.interface.parse().map_err(|error| invalid(&error))?;
    let config = SocketConfig::builder()
        .rx_queue_size(ring)
        .tx_queue_size(ring)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(flags)
        .build();
    // SAFETY: the library loads no program (INHIBIT_PROG_LOAD), so it may share this queue.
    let created = unsafe { Socket::new(config, memory.umem(), &interface, binding.queue) };
    let (tx, rx, others) = created.map_err(|error| os_error(&error))?;
    // Another socket over this memory has them, if it is bound to the same queue.
    let (fill, completion) = others.ok_or_else(|| io::Error::from_raw_os_error(libc::EBUSY))?;
    Ok(Rings {
        rx,
        tx,
        fill,
        completion,
    })
}

/// The socket's descriptor, for as long as its queue is borrowed.
#[inline]
pub(super) fn descriptor(fd: &Fd) -> BorrowedFd<'_> {
    // SAFETY: the queue that lends `fd` keeps the socket open.
    unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) }
}

/// Whether the kernel and the driver exchange our own frames with the device (XDP_OPTIONS).
pub(super) fn is_zero_copy(fd: &Fd) -> io::Result<bool> {
    let mut options = libc::xdp_options { flags: 0 };
    let mut len: libc::socklen_t = size_of_val(&options).try_into().expect("four bytes");
    // SAFETY: `options` and `len` live across the call, and `len` is the size of `options`.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_OPTIONS,
            (&raw mut options).cast(),
            &raw mut len,
        )
    };
    if result == 0 {
        Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
    } else {
        Err(io::Error::last_os_error())
    }
}
