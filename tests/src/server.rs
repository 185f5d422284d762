//! Servers that run as threads in a namespace and answer with their name.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::payload;
use vl3lb_testbed::{Netns, OrPanic};

/// Time between two checks whether to stop.
const STOP_CHECK: Duration = Duration::from_millis(50);

/// A running TCP server, on all addresses of its namespace, both families. Dropping it closes its
/// connections.
#[derive(Debug)]
pub struct TcpServer {
    stop: Arc<AtomicBool>,
    connections: Arc<Connections>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Connections {
    accepted: AtomicU64,
    open: Mutex<HashMap<u64, TcpStream>>,
}

impl TcpServer {
    /// An HTTP/1.1 server with the paths
    /// `/` (answers `Hello! I'm NAME`), `/bytes/N` (N bytes of [`payload`]) and, by POST or PUT, `/upload`
    /// (answers length and SHA-256 of the body).
    pub fn http(netns: &Netns, name: &str, port: u16) -> Self {
        let name = name.to_owned();
        Self::start(netns, port, move |stream| serve_http(&name, stream))
    }

    /// A server that sends its name and a newline, and then sends back what it receives.
    pub fn echo(netns: &Netns, name: &str, port: u16) -> Self {
        let greeting = format!("{name}\n");
        Self::start(netns, port, move |mut stream| {
            stream.write_all(greeting.as_bytes())?;
            io::copy(&mut stream.try_clone()?, &mut stream)?;
            Ok(())
        })
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.connections.accepted.load(Ordering::Relaxed)
    }

    fn start(
        netns: &Netns,
        port: u16,
        serve: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = netns.run(|| {
            TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
                .unwrap_or_else(|error| panic!("listen on TCP port {port} in {}: {error}", netns.label()))
        });
        listener.set_nonblocking(true).expect("set non-blocking");
        let stop = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(Connections::default());
        let accepting = (Arc::clone(&stop), Arc::clone(&connections));
        let thread = netns
            .spawn("tcp-server", move || {
                accept(&listener, &accepting.0, &accepting.1, &Arc::new(serve));
            })
            .or_panic();
        Self {
            stop,
            connections,
            thread: Some(thread),
        }
    }
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("a TCP server panicked");
        }
        for stream in self.connections.open.lock().expect("no holder panics").values() {
            // The peer may have closed it already.
            stream.shutdown(Shutdown::Both).ok();
        }
    }
}

fn accept<S>(listener: &TcpListener, stop: &AtomicBool, connections: &Arc<Connections>, serve: &Arc<S>)
where
    S: Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
{
    while !stop.load(Ordering::Relaxed) {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_readable(listener);
                continue;
            }
            // The client closed the connection while it was in the queue.
            Err(_) => continue,
        };
        stream.set_nonblocking(false).expect("set blocking");
        stream.set_nodelay(true).expect("set TCP_NODELAY");
        let number = connections.accepted.fetch_add(1, Ordering::Relaxed);
        let handle = stream.try_clone().expect("duplicate a socket");
        connections
            .open
            .lock()
            .expect("no holder panics")
            .insert(number, handle);
        let (connections, serve) = (Arc::clone(connections), Arc::clone(serve));
        std::thread::spawn(move || {
            // The client reports a broken connection.
            serve(stream).ok();
            connections.open.lock().expect("no holder panics").remove(&number);
        });
    }
}

fn wait_readable(listener: &TcpListener) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let timeout = Timespec::try_from(STOP_CHECK).expect("a short time");
    poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&timeout)).expect("poll a listener");
}

fn serve_http(name: &str, stream: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    while let Some(request) = Request::read(&mut reader)? {
        let path = request.path.split('?').next().unwrap_or_default();
        if let Some(length) = path.strip_prefix("/bytes/").and_then(|n| n.parse().ok()) {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")?;
            payload::write(&mut stream, length)?;
        } else {
            let body = if path == "/upload" {
                let (length, sum) = payload::hash(&mut reader, request.length)?;
                format!("{length} {sum}\n")
            } else {
                format!("Hello! I'm {name}\n")
            };
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )?;
        }
        if request.close {
            return Ok(());
        }
    }
    Ok(())
}

struct Request {
    path: String,
    length: u64,
    close: bool,
}

impl Request {
    /// `None` at the end of the connection.
    fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
        let mut request = Self {
            path,
            length: 0,
            close: false,
        };
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let header = line.trim().to_ascii_lowercase();
            match header.split_once(':') {
                Some(("content-length", value)) => request.length = value.trim().parse().unwrap_or(0),
                Some(("connection", value)) => request.close = value.trim() == "close",
                Some(_) => {}
                None if header.is_empty() => return Ok(Some(request)),
                None => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }
}

/// A running UDP server that sends each datagram back with `NAME:` before it, and records the sizes of all.
#[derive(Debug)]
pub struct UdpServer {
    stop: Arc<AtomicBool>,
    sizes: Arc<Mutex<Vec<usize>>>,
    thread: Option<JoinHandle<()>>,
}

impl UdpServer {
    /// Starts it on all addresses of the namespace, both families.
    pub fn echo(netns: &Netns, name: &str, port: u16) -> Self {
        let socket = netns.run(|| {
            UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))
                .unwrap_or_else(|error| panic!("bind UDP port {port} in {}: {error}", netns.label()))
        });
        socket.set_read_timeout(Some(STOP_CHECK)).expect("set a time-out");
        let stop = Arc::new(AtomicBool::new(false));
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let (stopping, seen, prefix) = (Arc::clone(&stop), Arc::clone(&sizes), format!("{name}:"));
        let thread = netns
            .spawn("udp-server", move || {
                let mut buffer = vec![0; 65_536];
                while !stopping.load(Ordering::Relaxed) {
                    let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                        continue;
                    };
                    seen.lock().expect("no holder panics").push(length);
                    let mut answer = prefix.clone().into_bytes();
                    answer.extend_from_slice(&buffer[..length]);
                    // The client may have gone.
                    socket.send_to(&answer, from).ok();
                }
            })
            .or_panic();
        Self {
            stop,
            sizes,
            thread: Some(thread),
        }
    }

    /// The sizes of all datagrams so far, in the order of their arrival.
    pub fn sizes(&self) -> Vec<usize> {
        self.sizes.lock().expect("no holder panics").clone()
    }
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("a UDP server panicked");
        }
    }
}

/// Reads the name that an echo server sends first.
pub fn greeting(stream: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    // Byte by byte, so that nothing after the line is taken.
    while line.len() < 100 {
        stream.read_exact(&mut byte)?;
        if byte == *b"\n" {
            break;
        }
        line.push(byte[0]);
    }
    String::from_utf8(line).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
