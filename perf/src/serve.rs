//! `vl3-perf serve`: an echo server over UDP and TCP on one port, the other end of `load` and `latency`.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Failure;

/// The longest datagram.
const LONGEST_DATAGRAM: usize = 65_536;
/// Bytes that may wait in a UDP socket, if the kernel allows it (net.core.rmem_max).
const SOCKET_BUFFER: usize = 4 << 20;
/// Pause after a connection could not be accepted, as when there are no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Echo server over UDP and TCP: the other end of load and latency
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ServeArgs {
    /// Where to listen, over UDP and TCP: ADDRESS:PORT, or :PORT for all addresses of both families
    #[arg(value_name = "LISTEN", value_parser = parse_listen)]
    listen: SocketAddr,

    /// Threads; each UDP flow stays with one of them
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256), default_value_t = 1)]
    threads: u32,
}

/// Serves until SIGINT or SIGTERM.
///
/// # Errors
///
/// The address cannot be bound.
pub(crate) fn run(args: &ServeArgs) -> Result<(), Failure> {
    runtime::Builder::new_multi_thread()
        .worker_threads(args.threads as usize)
        .enable_all()
        .build()
        .and_then(|runtime| runtime.block_on(serve(args)))
        .map_err(Failure::system(format!(
            "listen on {} over UDP and TCP",
            args.listen
        )))
}

async fn serve(args: &ServeArgs) -> io::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // One socket per thread, between which the kernel distributes flows: threads that share a socket would reorder them.
    for _ in 0..args.threads {
        tokio::spawn(echo_datagrams(udp_socket(args.listen)?));
    }
    tokio::spawn(accept(TcpListener::bind(args.listen).await?));
    eprintln!("serve  {} over UDP and TCP until Ctrl-C", args.listen);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// A socket that shares its port with those of other threads.
fn udp_socket(listen: SocketAddr) -> io::Result<UdpSocket> {
    let family = if listen.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::DGRAM, flags, None)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER)?;
    sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER)?;
    bind(&socket, &listen)?;
    UdpSocket::from_std(socket.into())
}

async fn echo_datagrams(socket: UdpSocket) {
    let mut buffer = vec![0; LONGEST_DATAGRAM];
    loop {
        // An error is an ICMP error about an earlier reply.
        if let Ok((len, peer)) = socket.recv_from(&mut buffer).await {
            // A reply that cannot be sent is lost, and the other side counts it.
            socket.send_to(&buffer[..len], peer).await.ok();
        }
    }
}

async fn accept(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(echo_stream(stream));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn echo_stream(mut stream: TcpStream) {
    stream.set_nodelay(true).ok();
    let (mut reader, mut writer) = stream.split();
    // However it ends, the connection is closed.
    tokio::io::copy(&mut reader, &mut writer).await.ok();
}

/// `:5000` is port 5000 on all addresses of both families.
fn parse_listen(text: &str) -> Result<SocketAddr, ListenError> {
    let address = match text.strip_prefix(':') {
        Some(port) => format!("[::]:{port}"),
        None => text.to_owned(),
    };
    address.parse().map_err(|_| ListenError)
}

#[derive(Debug, thiserror::Error)]
#[error("allowed are ADDRESS:PORT, [ADDRESS]:PORT and :PORT")]
struct ListenError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_means_all_addresses() {
        for (text, address) in [
            (":5000", Some("[::]:5000")),
            ("0.0.0.0:5000", Some("0.0.0.0:5000")),
            ("[::1]:5000", Some("[::1]:5000")),
            ("5000", None),
            ("localhost:5000", None),
        ] {
            let expected = address.map(|address| address.parse().unwrap());
            assert_eq!(parse_listen(text).ok(), expected, "{text}");
        }
    }
}
