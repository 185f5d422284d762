//! The UMEM: packet memory that all workers and the kernel share.
#![expect(unsafe_code, reason = "turns descriptors into memory; see the folder's docs")]

use std::error::Error;
use std::io;
use std::num::NonZeroU32;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam::queue::ArrayQueue;
use xsk_rs::config::{FrameSize, QueueSize, UmemConfig};
use xsk_rs::{FrameDesc, Umem};

use crate::capability;
use crate::error::SetupError;

use super::XskFrame;

/// Size of a chunk, which holds one frame.
const CHUNK: u32 = 4096;

/// Packet memory in chunks of 4 KiB, divided evenly among the workers.
#[derive(Debug)]
pub(super) struct Memory {
    umem: Umem,
    /// Address at which the UMEM is mapped.
    base: usize,
    frames_per_worker: usize,
    /// One descriptor per chunk, as made: with the normal start of a packet.
    made: Box<[FrameDesc]>,
    /// Frames on their way back, by owner. Each ring has room for all frames of its owner, so a push
    /// cannot fail.
    returns: Box<[ArrayQueue<FrameDesc>]>,
    /// Frames of ports that are closed.
    retired: AtomicUsize,
}

impl Memory {
    /// Maps and registers `workers` times `frames_per_worker` chunks. `ring` is the size of each
    /// fill and completion ring, a power of two. Returns the memory and each worker's frames.
    ///
    /// # Errors
    ///
    /// No memory, or no right to use AF_XDP or to lock that much memory.
    pub(super) fn new(
        workers: u16,
        frames_per_worker: u32,
        ring: u32,
    ) -> Result<(Arc<Self>, Vec<Vec<FrameDesc>>), SetupError> {
        let bytes = u64::from(workers) * u64::from(frames_per_worker) * u64::from(CHUNK);
        let refused = |cause: io::Error| refusal(bytes, cause);
        let invalid = |error: &dyn std::fmt::Display| {
            refused(io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))
        };
        let ring = QueueSize::new(ring).map_err(|error| invalid(&error))?;
        let config = UmemConfig::builder()
            .frame_size(FrameSize::new(CHUNK).map_err(|error| invalid(&error))?)
            .fill_queue_size(ring)
            .comp_queue_size(ring)
            .build()
            .map_err(|error| invalid(&error))?;
        let frames = u32::from(workers)
            .checked_mul(frames_per_worker)
            .and_then(NonZeroU32::new)
            .ok_or_else(|| invalid(&"the number of frames must be from 1 to 4,294,967,295"))?;
        let (umem, made) = Umem::new(config, frames, false).map_err(|error| refused(os_error(&error)))?;

        let frames_per_worker = frames_per_worker as usize;
        let mut first = made[0];
        let (data, _) = chunk(&umem, &mut first);
        let base = data.as_ptr() as usize - first.addr();
        let memory = Self {
            umem,
            base,
            frames_per_worker,
            returns: (0..workers).map(|_| ArrayQueue::new(frames_per_worker)).collect(),
            retired: AtomicUsize::new(0),
            made: made.into_boxed_slice(),
        };
        let parts = memory
            .made
            .chunks(frames_per_worker)
            .map(<[FrameDesc]>::to_vec)
            .collect();
        Ok((Arc::new(memory), parts))
    }

    /// The UMEM, to bind sockets to.
    pub(super) const fn umem(&self) -> &Umem {
        &self.umem
    }

    /// Number of frames.
    pub(super) fn frames(&self) -> usize {
        self.made.len()
    }

    /// The worker whose part of the memory `descriptor` lies in.
    #[inline]
    pub(super) fn owner(&self, descriptor: &FrameDesc) -> usize {
        descriptor.addr() / CHUNK as usize / self.frames_per_worker
    }

    /// Returns an unused frame to its owner.
    #[inline]
    pub(super) fn return_to_owner(&self, descriptor: FrameDesc) {
        // The ring has room for every frame of its owner, and a frame is in one place at a time.
        let pushed = self.returns[self.owner(&descriptor)].push(descriptor);
        debug_assert!(pushed.is_ok(), "a frame was returned twice");
    }

    /// The frames that others returned to `worker`.
    #[inline]
    pub(super) fn returned(&self, worker: usize) -> &ArrayQueue<FrameDesc> {
        &self.returns[worker]
    }

    /// Counts frames that a closed port held or had given to the kernel.
    pub(super) fn retire(&self, frames: usize) {
        self.retired.fetch_add(frames, Ordering::Relaxed);
    }

    /// Frames in someone's hands, after `accounted` are known to be elsewhere: 0 if none is lost.
    pub(super) fn outstanding(&self, accounted: usize) -> usize {
        let returned: usize = self.returns.iter().map(ArrayQueue::len).sum();
        let retired = self.retired.load(Ordering::Relaxed);
        self.frames().saturating_sub(accounted + returned + retired)
    }

    /// Makes a descriptor a frame in hand, with the packet that the kernel put there.
    ///
    /// # Safety
    ///
    /// `descriptor` describes a chunk of this memory, and the caller gives it up: neither a ring
    /// nor a free list nor another frame holds it any more.
    #[inline]
    pub(super) unsafe fn frame(&self, mut descriptor: FrameDesc) -> XskFrame {
        let len = descriptor.lengths().data();
        let (data, capacity) = chunk(&self.umem, &mut descriptor);
        #[expect(clippy::cast_possible_truncation, reason = "a chunk has 4096 bytes")]
        let (len, capacity) = (len.min(capacity) as u32, capacity as u32);
        // SAFETY: `chunk` returns the part of the chunk from the packet's start on; the memory
        // stays mapped while the frame exists (`Drop`); the caller vouches for exclusive use.
        unsafe { XskFrame::new(descriptor, data, len, capacity) }
    }

    /// Makes a free descriptor an empty frame in hand that starts where packets normally start.
    ///
    /// # Safety
    ///
    /// As for [`Self::frame`].
    #[inline]
    pub(super) unsafe fn empty_frame(&self, descriptor: FrameDesc) -> XskFrame {
        let made = self.made[descriptor.addr() / CHUNK as usize];
        // SAFETY: passed on to the caller; both describe the same chunk.
        unsafe { self.frame(made) }
    }

    /// Makes a frame in hand a descriptor for a ring, with the length of its packet.
    ///
    /// # Panics
    ///
    /// The frame belongs to another memory, which is a defect of the caller.
    #[inline]
    pub(super) fn descriptor(&self, frame: XskFrame) -> FrameDesc {
        let (address, data) = frame.position();
        assert_eq!(
            data.as_ptr() as usize - address,
            self.base,
            "a frame of another memory"
        );
        let (mut descriptor, len) = frame.into_descriptor();
        // SAFETY: the descriptor describes a chunk of this memory, which only the frame used, and
        // it has just been given up.
        let mut data = unsafe { self.umem.data_mut(&mut descriptor) };
        data.cursor().set_pos(len);
        descriptor
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let lost = self.outstanding(0);
        if lost > 0 {
            // One of them may still be in use: never unmap.
            std::mem::forget(self.umem.clone());
            tracing::warn!(
                lost,
                "frames of packet memory were not given back; it stays mapped"
            );
        }
    }
}

/// The part of a descriptor's chunk from the packet's start on.
#[inline]
fn chunk(umem: &Umem, descriptor: &mut FrameDesc) -> (NonNull<u8>, usize) {
    let len = descriptor.lengths().data();
    // SAFETY: descriptors come from this UMEM, and the slice made here is not read or written
    // before it is turned into a pointer again.
    let mut data = unsafe { umem.data_mut(descriptor) };
    let mut cursor = data.cursor();
    let capacity = cursor.buf_len();
    // The pointer must be good for the whole chunk, not only for the packet in it.
    cursor.set_pos(capacity);
    let pointer = NonNull::from(data.contents_mut()).cast();
    data.cursor().set_pos(len);
    (pointer, capacity)
}

/// The error behind the kernel's refusal of packet memory.
fn refusal(bytes: u64, cause: io::Error) -> SetupError {
    let mebibytes = bytes >> 20;
    let advice = match cause.raw_os_error() {
        Some(libc::EPERM) => {
            return capability::denied(&format!(
                "register {mebibytes} MiB of packet memory with the kernel"
            ));
        }
        // Without CAP_IPC_LOCK the memory is charged to the user.
        Some(libc::ENOBUFS) => {
            "; it exceeds RLIMIT_MEMLOCK: raise the limit (ulimit -l, LimitMEMLOCK=), add CAP_IPC_LOCK, or \
             lower frames"
        }
        Some(libc::ENOMEM) => "; raise the memory limit, or lower frames",
        Some(libc::EAFNOSUPPORT) => "; this kernel has no AF_XDP (CONFIG_XDP_SOCKETS)",
        _ => "",
    };
    SetupError::PacketMemory {
        mebibytes,
        cause,
        advice,
    }
}

/// The system's error behind one of xsk-rs.
pub(super) fn os_error(error: &(dyn Error + 'static)) -> io::Error {
    error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
        .and_then(io::Error::raw_os_error)
        .map_or_else(
            || io::Error::other(error.to_string()),
            io::Error::from_raw_os_error,
        )
}
