//! A synchronous rtnetlink socket: one request, one reply.
//!
//! Protocol: rtnetlink(7). The control side uses the asynchronous crate; here there is no runtime, and
//! only a handful of requests at start and end.

use std::io;

use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// An rtnetlink socket. It stays in the network namespace that it was opened in.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The interface called `name`, if there is one.
    pub(crate) fn link(&mut self, name: &str) -> io::Result<Option<LinkMessage>> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Ok(None);
        }
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.get(RouteNetlinkMessage::GetLink(request)) {
            Ok(RouteNetlinkMessage::NewLink(link)) => Ok(Some(link)),
            Ok(_) => Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a request and returns the first object of the reply.
    ///
    /// # Errors
    ///
    /// The kernel's error message, or a reply that cannot be parsed.
    pub(crate) fn get(&mut self, request: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        self.send(request, 0)?;
        for message in self.receive()? {
            match message.payload {
                NetlinkPayload::InnerMessage(answer) => return Ok(answer),
                NetlinkPayload::Error(error) => check(&error)?,
                _ => {}
            }
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "netlink request without a reply",
        ))
    }

    /// The names of all interfaces.
    pub(crate) fn link_names(&mut self) -> io::Result<Vec<String>> {
        self.send(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
        let mut names = Vec::new();
        loop {
            for message in self.receive()? {
                match message.payload {
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                        names.extend(name_of(&link).map(str::to_owned));
                    }
                    NetlinkPayload::Error(error) => check(&error)?,
                    NetlinkPayload::Done(_) => return Ok(names),
                    _ => {}
                }
            }
        }
    }

    /// Requests a change and waits for its acknowledgement. `flags` come on top of NLM_F_REQUEST and NLM_F_ACK.
    pub(crate) fn change(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(request, NLM_F_ACK | flags)?;
        for message in self.receive()? {
            if let NetlinkPayload::Error(error) = message.payload {
                return check(&error);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "netlink request without a reply",
        ))
    }

    fn send(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        Ok(())
    }

    /// The messages of the next datagram that belong to the latest request.
    fn receive(&mut self) -> io::Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
        let (datagram, _) = self.socket.recv_from_full()?;
        let mut messages = Vec::new();
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            // Messages are padded to four bytes.
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            if message.header.sequence_number == self.sequence {
                messages.push(message);
            }
        }
        Ok(messages)
    }
}

/// The interface's name in a link message.
pub(crate) fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

/// An error message without a code is an acknowledgement.
fn check(message: &ErrorMessage) -> io::Result<()> {
    match message.code {
        None => Ok(()),
        Some(_) => Err(message.to_io()),
    }
}
