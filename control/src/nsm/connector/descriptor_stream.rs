//! Passing a descriptor under TLS.
//!
//! NSM servers read every byte of a Unix socket with `recvmsg` and keep the descriptors that come along
//! (github.com/edwarnicke/grpcfd); a message names one by device and inode. There is no framing: a descriptor may come
//! with any byte, so it goes with the first ones, those of the TLS ClientHello.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

/// A Unix stream that passes a descriptor with its first write.
///
/// It reads with `read(2)`, for which the kernel closes descriptors that the other side sends (`scm_recv` in
/// include/net/scm.h, without a control buffer): none of them can leak into this process.
#[derive(Debug)]
pub(super) struct DescriptorStream {
    stream: UnixStream,
    /// To be passed with the next write.
    unsent: Option<Arc<OwnedFd>>,
}

impl DescriptorStream {
    pub(super) fn new(stream: UnixStream, descriptor: Option<Arc<OwnedFd>>) -> Self {
        Self {
            stream,
            unsent: descriptor,
        }
    }
}

impl AsyncRead for DescriptorStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for DescriptorStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Some(descriptor) = self.unsent.clone().filter(|_| !bytes.is_empty()) else {
            return Pin::new(&mut self.stream).poll_write(context, bytes);
        };
        loop {
            ready!(self.stream.poll_write_ready(context))?;
            let stream = &self.stream;
            let sent = stream.try_io(Interest::WRITABLE, || send(stream, bytes, &descriptor));
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(sent) => {
                    self.unsent = None;
                    return Poll::Ready(Ok(sent));
                }
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

fn send(stream: &UnixStream, bytes: &[u8], descriptor: &OwnedFd) -> io::Result<usize> {
    let descriptors = [descriptor.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)),
        "the space of one descriptor"
    );
    let sent = sendmsg(
        stream,
        &[IoSlice::new(bytes)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    Ok(sent)
}
