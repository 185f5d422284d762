//! The TCP echo and HTTP server: one thread follows all of its connections by epoll.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, accept_with, bind, listen, recv, send,
    socket_with, sockopt,
};

use super::{LOOK, http, stopped};

const BACKLOG: i32 = 4096;
/// Events taken at once.
const EVENTS: usize = 256;
/// The listener's number among the events; connections count from 1.
const LISTENER: u64 = 0;
/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

/// A listener that shares its port with those of other threads.
pub(super) fn open(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// One thread's connections.
#[derive(Debug)]
pub(super) struct Server {
    listener: OwnedFd,
    epoll: OwnedFd,
    connections: HashMap<u64, Connection>,
    next: u64,
    answer: Arc<[u8]>,
    chunk: Vec<u8>,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    /// `None` until the first bytes tell.
    http: Option<bool>,
    /// HTTP: the part of a head that has arrived. Echo: nothing.
    input: Vec<u8>,
    output: Vec<u8>,
    /// Bytes of `output` that are sent.
    sent: usize,
    /// No more is read: the other side is done, or asked to close.
    ending: bool,
}

impl Server {
    pub(super) fn new(listener: OwnedFd, answer: Arc<[u8]>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(
            &epoll,
            &listener,
            epoll::EventData::new_u64(LISTENER),
            epoll::EventFlags::IN,
        )?;
        Ok(Self {
            listener,
            epoll,
            connections: HashMap::new(),
            next: LISTENER + 1,
            answer,
            chunk: vec![0; CHUNK],
        })
    }

    /// Serves until `stop`.
    pub(super) fn serve(&mut self, stop: &AtomicBool) {
        let look = Timespec::try_from(LOOK).expect("a short time");
        while !stopped(stop) {
            let mut events = [MaybeUninit::uninit(); EVENTS];
            let Ok((events, _)) = epoll::wait(&self.epoll, &mut events[..], Some(&look)) else {
                continue;
            };
            for event in events {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    number => self.advance(number),
                }
            }
        }
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // A client that gave up, or no descriptor left: the next one may fare better.
        while let Ok(socket) = accept_with(&self.listener, flags) {
            let number = self.next;
            self.next += 1;
            let watched = sockopt::set_tcp_nodelay(&socket, true).and_then(|()| {
                let events = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
                epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(number), events)
            });
            if watched.is_ok() {
                self.connections.insert(number, Connection::new(socket));
            }
        }
    }

    fn advance(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        if !connection.advance(&mut self.chunk, &self.answer) {
            self.connections.remove(&number);
        }
    }
}

impl Connection {
    const fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            http: None,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            ending: false,
        }
    }

    /// Reads and writes as far as the kernel lets it. Returns whether the connection goes on.
    fn advance(&mut self, chunk: &mut [u8], answer: &[u8]) -> bool {
        loop {
            match self.write() {
                Ok(true) => {}
                // The kernel says when there is room again.
                Ok(false) => return true,
                Err(_) => return false,
            }
            if self.ending {
                return false;
            }
            match recv(&self.socket, &mut *chunk, RecvFlags::DONTWAIT) {
                Ok((0, _)) => self.ending = true,
                Ok((len, _)) => {
                    if !self.take(&chunk[..len], answer) {
                        return false;
                    }
                }
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// Makes the answer to bytes that arrived. Returns whether they make sense.
    fn take(&mut self, bytes: &[u8], answer: &[u8]) -> bool {
        if self.http == Some(false) {
            self.output.extend_from_slice(bytes);
            return true;
        }
        self.input.extend_from_slice(bytes);
        if self.http.is_none() {
            self.http = http::is_http(&self.input);
        }
        match self.http {
            None => {}
            Some(false) => self.output.append(&mut self.input),
            Some(true) => {
                while let Some((len, close)) = http::head(&self.input) {
                    self.input.drain(..len);
                    self.output.extend_from_slice(answer);
                    self.ending |= close;
                }
            }
        }
        self.input.len() <= http::MAX_HEAD
    }

    /// Sends what waits. Returns whether all of it is sent.
    fn write(&mut self) -> Result<bool, Errno> {
        while self.sent < self.output.len() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match send(&self.socket, &self.output[self.sent..], flags) {
                Ok(len) => self.sent += len,
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        self.sent = 0;
        Ok(true)
    }
}
