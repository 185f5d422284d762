//! Descriptors under the bytes of a connection.

use std::fs::File;
use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::request;
use crate::nsm::connector::NetworkNamespace;
use crate::nsm::connector::descriptor_stream::DescriptorStream;
use crate::nsm::testing::Node;

#[test]
fn a_namespace_is_called_by_device_and_inode() {
    let namespace = NetworkNamespace::own().unwrap();
    let metadata = std::fs::metadata("/proc/self/ns/net").unwrap();
    assert_eq!(
        namespace.inode_url(),
        format!("inode://{}/{}", metadata.dev(), metadata.ino())
    );
    let missing = NetworkNamespace::open("/run/netns/none".as_ref()).unwrap_err();
    assert_eq!(missing.to_string(), "open the network namespace /run/netns/none");
}

/// The descriptors that come with one read.
fn receive(stream: &UnixStream, bytes: &mut [u8]) -> (usize, Vec<OwnedFd>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [std::io::IoSliceMut::new(bytes)];
    let received = recvmsg(stream, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
    let descriptors = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
        _ => Vec::new(),
    });
    (received.bytes, descriptors.collect())
}

#[tokio::test]
async fn the_first_write_passes_the_descriptor_and_no_other_one() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let file = File::open("/proc/self/ns/net").unwrap();
    let inode = file.metadata().unwrap().ino();
    let mut stream = DescriptorStream::new(ours, Some(Arc::new(file.into())));
    let mut bytes = [0; 16];
    for (sent, descriptors) in [(&b"hello"[..], 1), (b"again", 0)] {
        stream.write_all(sent).await.unwrap();
        theirs.readable().await.unwrap();
        let (length, received) = receive(&theirs, &mut bytes);
        assert_eq!(&bytes[..length], sent);
        assert_eq!(received.len(), descriptors);
        for descriptor in received {
            assert_eq!(File::from(descriptor).metadata().unwrap().ino(), inode);
        }
    }
}

/// The pipe has no writer any more once all copies of its descriptor are closed.
#[tokio::test]
async fn descriptors_that_a_server_sends_are_closed() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut stream = DescriptorStream::new(ours, None);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let descriptors = [writer.as_fd(); 20];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(20))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
    sendmsg(
        &theirs,
        &[IoSlice::new(b"hello")],
        &mut ancillary,
        SendFlags::empty(),
    )
    .unwrap();
    drop(writer);
    let mut bytes = [0; 16];
    assert_eq!(stream.read(&mut bytes).await.unwrap(), 5);
    assert_eq!(&bytes[..5], b"hello");
    assert_eq!(reader.read(&mut bytes).unwrap(), 0, "the end of the pipe");
}

#[tokio::test]
async fn a_request_without_the_descriptor_waits_for_its_deadline() {
    let node = Node::start();
    let target = node.manager.url().parse().unwrap();
    let namespace = NetworkNamespace::own().unwrap();
    let session = node.connector().connect(&target).await.unwrap();
    let mut request = tonic::Request::new(request(&namespace));
    request.set_timeout(std::time::Duration::from_millis(50));
    let status = session.network_service().request(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status}");
}

#[tokio::test]
async fn the_last_words_of_a_closed_peer_are_read() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut stream = DescriptorStream::new(ours, None);
    theirs.write_all(b"why").await.unwrap();
    drop(theirs);
    stream.write_all(b"hello").await.unwrap();
    let mut read = Vec::new();
    stream.read_to_end(&mut read).await.unwrap();
    assert_eq!(read, b"why");
}
