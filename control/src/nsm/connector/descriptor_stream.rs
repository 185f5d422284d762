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
///
/// The kernel ends a read where a descriptor came along. So a short read does not mean that nothing is left, as
/// [`UnixStream`]'s own `poll_read` assumes, which would wait for an edge that never comes.
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
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(context))?;
            match self.stream.try_read(buffer.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(length) => {
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for DescriptorStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Some(descriptor) = self.unsent.clone().filter(|_| !bytes.is_empty()) else {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
            return Poll::Ready(match written {
                // The peer is gone, and the bytes with it. Why it is gone may be the last that it sent (a TLS alert
                // about our certificate): the reader finds that, or the end of the stream.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(bytes.len()),
                written => written,
            });
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn bytes_after_a_descriptor_of_the_other_side_are_read() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let descriptor: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        // As grpcfd sends: one byte with the descriptor, then the rest.
        send(&theirs, b"a", &descriptor).unwrap();
        assert_eq!(theirs.try_write(b"bcd").unwrap(), 3);
        let mut stream = DescriptorStream::new(ours, None);
        let mut bytes = [0; 4];
        timeout(std::time::Duration::from_secs(10), stream.read_exact(&mut bytes))
            .await
            .expect("all is there already")
            .unwrap();
        assert_eq!(&bytes, b"abcd");
    }
}
