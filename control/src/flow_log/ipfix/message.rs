//! Messages: a header, the templates now and then, and sets of records (RFC 7011 section 3).

use std::time::UNIX_EPOCH;

use super::record::{self, Kind};
use crate::api::{FlowEvent, Time};

/// The longest message: what any path of IPv6 takes, 1,280 bytes, less the headers of IPv6 and UDP. RFC 7011 section 10.3.3
/// asks for messages no longer than the path takes.
pub(super) const LONGEST: usize = 1280 - 40 - 8;
/// RFC 7011 section 3.1.
const VERSION: u16 = 10;
const HEADER: usize = 16;
/// The set identifier of templates (RFC 7011 section 3.3.2).
const TEMPLATES: u16 = 2;

/// One datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) bytes: Vec<u8>,
    /// Flows in it.
    pub(crate) records: u64,
}

/// Packs flows into messages.
#[derive(Debug)]
pub(crate) struct Packer {
    domain: u32,
    /// Records so far, modulo 2^32 (RFC 7011 section 3.1).
    sequence: u32,
}

impl Packer {
    pub(crate) const fn new(domain: u32) -> Self {
        Self { domain, sequence: 0 }
    }

    /// The messages for the flows of `events`; the first one has the templates if they are due.
    pub(crate) fn pack<'a>(
        &mut self,
        events: impl Iterator<Item = &'a FlowEvent>,
        now: Time,
        templates: bool,
    ) -> Vec<Message> {
        let mut messages = Vec::new();
        let mut draft = Draft::new(templates);
        let mut bytes = Vec::new();
        for event in events {
            bytes.clear();
            let Some(kind) = record::write(event, &mut bytes) else {
                continue;
            };
            if !draft.has_room(kind, bytes.len()) {
                messages.push(self.finish(draft, now));
                draft = Draft::new(false);
            }
            draft.push(kind, &bytes);
        }
        if draft.bytes.len() > HEADER {
            messages.push(self.finish(draft, now));
        }
        messages
    }

    fn finish(&mut self, draft: Draft, now: Time) -> Message {
        let Draft {
            mut bytes, records, ..
        } = draft;
        let seconds = now.0.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        let header = [
            VERSION.to_be_bytes().as_slice(),
            &length.to_be_bytes(),
            // Until 2106 (RFC 7011 section 3.1).
            &u32::try_from(seconds).unwrap_or(u32::MAX).to_be_bytes(),
            &self.sequence.to_be_bytes(),
            &self.domain.to_be_bytes(),
        ]
        .concat();
        bytes[..HEADER].copy_from_slice(&header);
        self.sequence = self.sequence.wrapping_add(records);
        Message {
            bytes,
            records: records.into(),
        }
    }
}

/// A message that is being written.
struct Draft {
    bytes: Vec<u8>,
    records: u32,
    /// The kind of the last set, and where it begins.
    set: Option<(Kind, usize)>,
}

impl Draft {
    fn new(templates: bool) -> Self {
        let mut draft = Self {
            bytes: vec![0; HEADER],
            records: 0,
            set: None,
        };
        if templates {
            let start = draft.begin(TEMPLATES);
            for kind in Kind::ALL {
                kind.write_template(&mut draft.bytes);
            }
            draft.end(start);
        }
        draft
    }

    fn has_room(&self, kind: Kind, length: usize) -> bool {
        let set = if self.set.is_some_and(|(last, _)| last == kind) {
            0
        } else {
            4
        };
        self.bytes.len() + set + length <= LONGEST
    }

    fn push(&mut self, kind: Kind, record: &[u8]) {
        let start = match self.set {
            Some((last, start)) if last == kind => start,
            _ => self.begin(kind.template()),
        };
        self.set = Some((kind, start));
        self.bytes.extend_from_slice(record);
        self.end(start);
        self.records += 1;
    }

    /// Begins a set: identifier and length (RFC 7011 section 3.3.2).
    fn begin(&mut self, id: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend(id.to_be_bytes());
        self.bytes.extend([0; 2]);
        start
    }

    /// Sets the length of the set that begins at `start`.
    fn end(&mut self, start: usize) {
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start + 2..start + 4].copy_from_slice(&length.to_be_bytes());
    }
}
