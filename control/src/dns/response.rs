//! The parts of a response, and the limit of its size.

use hickory_proto::op::{Edns, Message, Metadata, ResponseCode};
use hickory_proto::rr::Record;
use hickory_proto::serialize::binary::BinEncoder;
use hickory_server::zone_handler::{MessageRequest, MessageResponseBuilder};

/// A UDP response is at most this many times as long as its query, because the source of a query may be forged: nobody
/// gains by having the balancer send to a victim (RFC 9000 section 8.1 has the same limit).
pub(super) const AMPLIFICATION: usize = 3;

/// The parts of a response.
#[derive(Default)]
pub(super) struct Response {
    pub(super) code: ResponseCode,
    pub(super) authoritative: bool,
    pub(super) recursion_available: bool,
    pub(super) truncated: bool,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
    pub(super) soa: Option<Record>,
    pub(super) additionals: Vec<Record>,
}

impl Response {
    pub(super) fn of(code: ResponseCode) -> Self {
        Self {
            code,
            ..Self::default()
        }
    }

    /// Removes all records; the client repeats its query over TCP.
    pub(super) fn truncate(&mut self) {
        *self = Self {
            code: self.code,
            authoritative: self.authoritative,
            recursion_available: self.recursion_available,
            truncated: true,
            ..Self::default()
        };
    }

    /// Shortens the response to `limit` bytes. Of the own zone's addresses the first ones remain, as a part of them is as
    /// good as all; of the others none, see [`Self::truncate`].
    pub(super) fn shorten(&mut self, request: &MessageRequest, edns: Option<&Edns>, limit: usize) {
        while self.len(request, edns) > limit {
            if self.authoritative && self.answers.len() > 1 {
                self.answers.pop();
            } else if self.authoritative && self.soa.take().is_some() {
                // The negative answer is not cached.
            } else {
                self.truncate();
                return;
            }
        }
    }

    /// Bytes on the wire, as it is sent: the names of records are not compressed by that of the question. Unlimited if it
    /// cannot be encoded, which sending reports.
    fn len(&self, request: &MessageRequest, edns: Option<&Edns>) -> usize {
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = edns {
            builder.edns(edns);
        }
        let metadata = Metadata::response_from_request(&request.metadata);
        let message = builder.build(
            metadata,
            &self.answers,
            &self.authorities,
            &self.soa,
            &self.additionals,
        );
        let mut bytes = Vec::with_capacity(512);
        let emitted = message.destructive_emit(&mut BinEncoder::new(&mut bytes));
        emitted.map_or(usize::MAX, |_| bytes.len())
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
