//! One query, from the listener to the response.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Record};
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::time::Instant;
use tracing::debug;

use super::stats::DnsStats;
use super::upstream::Upstream;
use super::zone::{Answer, Zone, ZoneData};
use crate::peers::PeersReceiver;
use crate::publisher::CurrentReceiver;

/// The state that all listeners share.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) zone: Zone,
    pub(super) upstream: Upstream,
    pub(super) current: CurrentReceiver,
    pub(super) peers: PeersReceiver,
    /// Number of queries so far: the round-robin cursor of answers.
    pub(super) cursor: AtomicUsize,
    pub(super) stats: Arc<DnsStats>,
}

/// Answers the queries of one listener.
#[derive(Debug, Clone)]
pub(super) struct Handler(pub(super) Arc<Service>);

/// The parts of a response.
#[derive(Default)]
struct Response {
    code: ResponseCode,
    authoritative: bool,
    recursion_available: bool,
    truncated: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    soa: Option<Record>,
    additionals: Vec<Record>,
}

/// The largest datagram that is sent: the size of DNS flag day 2020.
const MAX_PAYLOAD: u16 = 1232;

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut response_handle: R,
    ) -> ResponseInfo {
        let started = Instant::now();
        let response = self.0.respond(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = response.code;
        metadata.authoritative = response.authoritative;
        metadata.recursion_available = response.recursion_available;
        metadata.truncation = response.truncated;
        // RFC 6891 section 7: an OPT record is answered by one.
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(512, MAX_PAYLOAD));
            edns.set_version(0);
            edns
        });
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let message = builder.build(
            metadata,
            &response.answers,
            &response.authorities,
            &response.soa,
            &response.additionals,
        );
        let sent = response_handle.send_response(message).await;
        self.0.stats.count(response.code, started.elapsed());
        sent.unwrap_or_else(|error| {
            debug!("answer {}: {error}", request.src());
            let mut metadata = metadata;
            metadata.response_code = ResponseCode::ServFail;
            ResponseInfo::from(hickory_proto::op::Header {
                metadata,
                counts: hickory_proto::op::HeaderCounts::default(),
            })
        })
    }
}

impl Service {
    async fn respond(&self, request: &Request) -> Response {
        if request.metadata.message_type != MessageType::Query || request.metadata.op_code != OpCode::Query {
            return Response::of(ResponseCode::NotImp);
        }
        let Ok(info) = request.request_info() else {
            return Response::of(ResponseCode::FormErr);
        };
        let query = info.query.original();
        if query.query_class() != DNSClass::IN {
            return Response::of(ResponseCode::Refused);
        }
        let current = self.current.borrow().clone();
        let peers = self.peers.borrow().clone();
        let data = ZoneData {
            current: current.as_deref(),
            peers: &peers,
            cursor: self.cursor.fetch_add(1, Ordering::Relaxed),
        };
        let answer = self.zone.answer(query.name(), query.query_type(), data);
        let negative = |code, soa| Response {
            authoritative: true,
            soa: Some(soa),
            ..Response::of(code)
        };
        match answer {
            Answer::Records(answers) => Response {
                authoritative: true,
                answers,
                ..Response::of(ResponseCode::NoError)
            },
            Answer::NoData(soa) => negative(ResponseCode::NoError, soa),
            Answer::NoName(soa) => negative(ResponseCode::NXDomain, soa),
            Answer::NotReady => Response::of(ResponseCode::ServFail),
            Answer::OtherZone if self.upstream.is_configured() => {
                let tcp = request.protocol() != Protocol::Udp;
                let answer = self.upstream.ask(request.as_slice(), tcp).await;
                answer.map_or_else(|| Response::of(ResponseCode::ServFail), Response::from)
            }
            Answer::OtherZone => Response::of(ResponseCode::Refused),
        }
    }
}

impl Response {
    fn of(code: ResponseCode) -> Self {
        Self {
            code,
            ..Self::default()
        }
    }
}

impl From<Message> for Response {
    fn from(message: Message) -> Self {
        Self {
            code: message.metadata.response_code,
            authoritative: false,
            recursion_available: message.metadata.recursion_available,
            truncated: message.metadata.truncation,
            answers: message.answers,
            authorities: message.authorities,
            soa: None,
            additionals: message.additionals,
        }
    }
}
