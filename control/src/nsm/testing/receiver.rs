//! The receiving side of descriptors, as github.com/edwarnicke/grpcfd reads a Unix socket.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

/// The descriptors that came on one connection, by device and inode.
#[derive(Debug, Clone, Default)]
pub(crate) struct Descriptors(Arc<Mutex<HashMap<(u64, u64), OwnedFd>>>);

impl Descriptors {
    /// Whether a descriptor of this name has come: `inode://DEVICE/INODE`.
    pub(crate) fn contains(&self, inode_url: &str) -> bool {
        let name = inode_url.strip_prefix("inode://").and_then(|name| {
            let (device, inode) = name.split_once('/')?;
            Some((device.parse().ok()?, inode.parse().ok()?))
        });
        name.is_some_and(|name| self.0.lock().expect("no panic").contains_key(&name))
    }

    fn keep(&self, descriptor: OwnedFd) -> io::Result<()> {
        let stat = rustix::fs::fstat(&descriptor)?;
        let key = (stat.st_dev, stat.st_ino);
        self.0.lock().expect("no panic").insert(key, descriptor);
        Ok(())
    }
}

/// A Unix stream that keeps all descriptors that come.
#[derive(Debug)]
pub(super) struct ReceivingStream {
    stream: UnixStream,
    descriptors: Descriptors,
}

impl ReceivingStream {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            descriptors: Descriptors::default(),
        }
    }

    pub(super) fn descriptors(&self) -> Descriptors {
        self.descriptors.clone()
    }
}

impl AsyncRead for ReceivingStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(context))?;
            let received = self.stream.try_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
                let mut ancillary = RecvAncillaryBuffer::new(&mut space);
                let unfilled = buffer.initialize_unfilled();
                let received = recvmsg(
                    &self.stream,
                    &mut [IoSliceMut::new(unfilled)],
                    &mut ancillary,
                    RecvFlags::CMSG_CLOEXEC,
                )?;
                for message in ancillary.drain() {
                    if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                        for descriptor in descriptors {
                            self.descriptors.keep(descriptor)?;
                        }
                    }
                }
                Ok(received.bytes)
            });
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(bytes) => {
                    buffer.advance(bytes);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for ReceivingStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
