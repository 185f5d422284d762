//! DNS over TCP (RFC 7766): one connection.

use std::net::SocketAddr;

use futures_util::StreamExt;
use hickory_proto::op::{Header, Message, MessageType, ResponseCode, SerialMessage};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use hickory_server::net::runtime::TokioTime;
use hickory_server::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_server::net::tcp::TcpStream as MessageStream;
use hickory_server::net::xfer::{DnsStreamHandle, Protocol};
use hickory_server::net::{BufDnsStreamHandle, NetError};
use hickory_server::server::{Request, RequestHandler, ResponseHandle, TimeoutStream};
use tokio::net::TcpStream;
use tracing::debug;
use vl3lb_common::Duration;

use super::handler::Handler;
use crate::connections::Requests;

/// A connection without a complete query is closed after this time (RFC 7766 section 6.2.3).
const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// Responses of one connection that wait for the client.
const WAITING_RESPONSES: usize = 16;

/// Answers the queries of one connection, one after the other, until the client closes it or is idle.
pub(super) async fn connection(stream: TcpStream, peer: SocketAddr, handler: Handler, requests: Requests) {
    let stream = AsyncIoTokioAsStd(stream);
    let (messages, responses) = MessageStream::from_stream_with_buffer_size(stream, peer, WAITING_RESPONSES);
    let mut messages = TimeoutStream::new(messages, IDLE_LIMIT);
    while let Some(message) = messages.next().await {
        match message {
            Ok(message) => {
                let _busy = requests.begin();
                let (bytes, _) = message.into_parts();
                respond(bytes, peer, &handler, responses.clone()).await;
            }
            Err(error) => {
                debug!("read DNS queries of {peer}: {error}");
                return;
            }
        }
    }
}

/// Answers one message; one that is no query, or has no header, gets no answer.
async fn respond(bytes: Vec<u8>, peer: SocketAddr, handler: &Handler, mut responses: BufDnsStreamHandle) {
    let Ok(header) = Header::read(&mut BinDecoder::new(&bytes)) else {
        return;
    };
    if header.metadata.message_type != MessageType::Query {
        return;
    }
    match Request::from_bytes(bytes, peer, Protocol::Tcp) {
        Ok(request) => {
            let responses = ResponseHandle::new(peer, responses, Protocol::Tcp);
            handler.handle_request::<_, TokioTime>(&request, responses).await;
        }
        Err(error) => {
            debug!("read a DNS query of {peer}: {error}");
            let metadata = header.metadata;
            let response = Message::error_msg(metadata.id, metadata.op_code, ResponseCode::FormErr);
            let sent = response.to_vec().map_err(NetError::from);
            let sent = sent.and_then(|bytes| responses.send(SerialMessage::new(bytes, peer)));
            if let Err(error) = sent {
                debug!("answer {peer}: {error}");
            }
        }
    }
}
