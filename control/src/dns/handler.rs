//! One query, from the listener to the response.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::{Edns, Header, HeaderCounts, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name};
use hickory_proto::serialize::binary::BinDecoder;
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::{MessageResponseBuilder, Queries};
use tokio::time::Instant;
use tracing::debug;

use super::forwarding::Forwarding;
use super::limit::{Decision, ResponseLimit};
use super::response::{AMPLIFICATION, Response};
use super::stats::DnsStats;
use super::zone::{Answer, Zone, ZoneData};
use crate::peers::PeersReceiver;
use crate::publisher::CurrentReceiver;

/// The state that all listeners share.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) zone: Zone,
    pub(super) forwarding: Forwarding,
    pub(super) limit: ResponseLimit,
    pub(super) current: CurrentReceiver,
    pub(super) peers: PeersReceiver,
    /// Number of queries so far: the round-robin cursor of answers.
    pub(super) cursor: AtomicUsize,
    pub(super) stats: Arc<DnsStats>,
}

/// Answers the queries of one listener.
#[derive(Debug, Clone)]
pub(super) struct Handler(pub(super) Arc<Service>);

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
        let datagram = request.protocol() == Protocol::Udp;
        let decision = if datagram {
            self.0.limit.decide(request.src().ip())
        } else {
            Decision::Send
        };
        self.0.stats.count_limited(decision);
        let mut response = match decision {
            Decision::Send => self.0.respond(request).await,
            Decision::Truncate => Response {
                truncated: true,
                ..Response::of(ResponseCode::NoError)
            },
            Decision::Drop => return not_sent(request, ResponseCode::Refused),
        };
        // RFC 6891 section 7: an OPT record is answered by one.
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(512, MAX_PAYLOAD));
            edns.set_version(0);
            edns
        });
        if datagram {
            let limit = request.as_slice().len() * AMPLIFICATION;
            response.shorten(request, edns.as_ref(), limit);
        }
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = response.code;
        metadata.authoritative = response.authoritative;
        metadata.recursion_available = response.recursion_available;
        metadata.truncation = response.truncated;
        let none = Queries::read(&mut BinDecoder::new(&[]), 0).expect("no question from no bytes");
        let question = if is_plain(request) {
            &request.queries
        } else {
            &none
        };
        let mut builder = MessageResponseBuilder::new(question, None);
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
            not_sent(request, ResponseCode::ServFail)
        })
    }
}

/// Whether the question can be repeated in a response: its names have no pointers. The first name of a message can only point
/// into the header (RFC 1035 section 4.1.4 wants a prior name), which is another one in the response.
fn is_plain(request: &Request) -> bool {
    let names = request
        .queries
        .queries()
        .iter()
        .map(|question| question.original().name());
    // Labels with a byte for the length of each, the root's, type and class.
    let length = |name: &Name| name.iter().map(|label| 1 + label.len()).sum::<usize>() + 1 + 4;
    let length: usize = names.map(length).sum();
    length == request.queries.as_bytes().len()
}

/// For a response that was not sent.
fn not_sent(request: &Request, code: ResponseCode) -> ResponseInfo {
    let mut metadata = Metadata::response_from_request(&request.metadata);
    metadata.response_code = code;
    ResponseInfo::from(Header {
        metadata,
        counts: HeaderCounts::default(),
    })
}

impl Service {
    async fn respond(&self, request: &Request) -> Response {
        if request.metadata.message_type != MessageType::Query || request.metadata.op_code != OpCode::Query {
            return Response::of(ResponseCode::NotImp);
        }
        let Some(info) = request.request_info().ok().filter(|_| is_plain(request)) else {
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
            Answer::OtherZone => self.forwarding.forward(request).await,
        }
    }
}
