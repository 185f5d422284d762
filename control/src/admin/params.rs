//! Query parameters: filters, order and limit.

use std::time::Duration;

use vl3lb_common::capture::MAX_SNAP_LENGTH;

use super::error::ApiError;
use crate::api::LookupClient;
use crate::config::ConfigError;
use crate::config::duration;
use crate::observe::capture::{CapturePoint, CaptureRequest};
use crate::observe::filter::{BackendFilter, EventFilter, FlowFilter, PacketFilter, ServiceFilter};
use crate::observe::flows::FlowOrder;
use crate::profile;

/// Flows of one list at most; a stream has no limit.
const MAX_LIMIT: usize = 100_000;

/// Passes each parameter of a query to `take`, which returns whether it is one of the `known`.
fn each(
    query: Option<&str>,
    known: &str,
    mut take: impl FnMut(&str, &str) -> Result<bool, ConfigError>,
) -> Result<(), ApiError> {
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        if !take(&name, &value)? {
            return Err(
                ConfigError::new(name.as_ref(), format!("unknown parameter (value {value})"), known).into(),
            );
        }
    }
    Ok(())
}

fn one_of(name: &str, value: &str, allowed: &[&'static str]) -> Result<&'static str, ConfigError> {
    allowed
        .iter()
        .find(|&&word| word == value)
        .copied()
        .ok_or_else(|| ConfigError::new(name, value, allowed.join(", ")))
}

fn limit(name: &str, value: &str) -> Result<usize, ConfigError> {
    let number = value.parse().ok().filter(|&number| number <= MAX_LIMIT);
    number.ok_or_else(|| ConfigError::new(name, value, format!("0-{MAX_LIMIT}")))
}

/// Parameters of a list of services.
#[derive(Debug, Default)]
pub(super) struct ServiceParams {
    pub(super) filter: ServiceFilter,
    pub(super) sort: Option<&'static str>,
}

impl ServiceParams {
    pub(super) const SORTS: [&'static str; 6] = ["flows", "new", "pps", "bps", "drops", "name"];

    pub(super) fn parse(query: Option<&str>) -> Result<Self, ApiError> {
        let mut params = Self::default();
        each(query, "service, state, sort", |name, value| match name {
            "sort" => {
                params.sort = Some(one_of(name, value, &Self::SORTS)?);
                Ok(true)
            }
            _ => params.filter.add(name, value),
        })?;
        Ok(params)
    }
}

/// Parameters of a list of backends.
#[derive(Debug, Default)]
pub(super) struct BackendParams {
    pub(super) filter: BackendFilter,
    pub(super) sort: Option<&'static str>,
}

impl BackendParams {
    pub(super) const SORTS: [&'static str; 6] = ["flows", "new", "pps", "bps", "failures", "service"];

    pub(super) fn parse(query: Option<&str>) -> Result<Self, ApiError> {
        let mut params = Self::default();
        each(query, "service, state, node, sort", |name, value| match name {
            "sort" => {
                params.sort = Some(one_of(name, value, &Self::SORTS)?);
                Ok(true)
            }
            _ => params.filter.add(name, value),
        })?;
        Ok(params)
    }
}

/// Parameters of a lookup, both required.
#[derive(Debug)]
pub(super) struct LookupParams {
    pub(super) service: String,
    pub(super) client: LookupClient,
}

impl LookupParams {
    pub(super) fn parse(query: Option<&str>) -> Result<Self, ApiError> {
        let (mut service, mut client) = (None, None);
        each(query, "service, client", |name, value| {
            match name {
                "service" => service = Some(value.to_owned()),
                "client" => {
                    let parsed = value.parse();
                    client = Some(parsed.map_err(|()| ConfigError::new(name, value, LookupClient::ALLOWED))?);
                }
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        let missing = |name: &str, allowed: &str| ConfigError::new(name, "missing", allowed);
        Ok(Self {
            service: service.ok_or_else(|| missing("service", "the name of a service"))?,
            client: client.ok_or_else(|| missing("client", LookupClient::ALLOWED))?,
        })
    }
}

/// Parameters of a list or stream of flows.
#[derive(Debug, Default)]
pub(super) struct FlowParams {
    pub(super) filter: FlowFilter,
    pub(super) order: FlowOrder,
    /// The number of flows, or, with `follow`, of flow events.
    pub(super) limit: Option<usize>,
    /// Stream all flows, in no order.
    pub(super) all: bool,
    /// Stream flows as they open and close.
    pub(super) follow: bool,
}

impl FlowParams {
    pub(super) fn parse(query: Option<&str>) -> Result<Self, ApiError> {
        let mut params = Self::default();
        let mut sorted = false;
        let known = "service, backend, client, port, nat-port, proto, state, older, idle, worker, sort, limit, all, \
                     follow";
        each(query, known, |name, value| {
            match name {
                "sort" => {
                    params.order = FlowOrder::from_name(value).ok_or_else(|| {
                        ConfigError::new(name, value, "activity, age, idle, bytes, packets")
                    })?;
                    sorted = true;
                }
                "limit" => params.limit = Some(limit(name, value)?),
                "follow" => params.follow = one_of(name, value, &["true", "false"])? == "true",
                "all" => params.all = one_of(name, value, &["true", "false"])? == "true",
                _ => return params.filter.add(name, value),
            }
            Ok(true)
        })?;
        if params.follow && (sorted || params.all) {
            let allowed = "false with sort or all: a stream of new flows is in order of time, and endless";
            return Err(ConfigError::new("follow", "true", allowed).into());
        }
        Ok(params)
    }
}

/// Parameters of a list or stream of events.
#[derive(Debug, Default)]
pub(super) struct EventParams {
    pub(super) filter: EventFilter,
    /// The number of newest events.
    pub(super) limit: Option<usize>,
    /// Stream new events, too.
    pub(super) follow: bool,
}

impl EventParams {
    pub(super) fn parse(query: Option<&str>) -> Result<Self, ApiError> {
        let mut params = Self::default();
        each(query, "service, since, limit, follow", |name, value| {
            match name {
                "limit" => params.limit = Some(limit(name, value)?),
                "follow" => params.follow = one_of(name, value, &["true", "false"])? == "true",
                _ => return params.filter.add(name, value),
            }
            Ok(true)
        })?;
        Ok(params)
    }
}

/// Parameters of a profile.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ProfileParams {
    pub(super) seconds: u64,
}

impl ProfileParams {
    pub(super) fn parse(query: Option<&str>) -> Result<Self, ApiError> {
        let range = profile::SECONDS;
        // As Go programs do.
        let mut seconds = 30;
        each(query, "seconds", |name, value| {
            if name != "seconds" {
                return Ok(false);
            }
            let given = value.parse().ok().filter(|given| range.contains(given));
            seconds = given
                .ok_or_else(|| ConfigError::new(name, value, format!("{}-{}", range.start(), range.end())))?;
            Ok(true)
        })?;
        Ok(Self { seconds })
    }
}

/// The longest capture.
const LONGEST_CAPTURE: Duration = Duration::from_secs(3_600);
/// Bytes of an Ethernet header and the longest headers without options behind it.
const LEAST_SNAP_LENGTH: usize = 14 + 40;

/// Parameters of a capture.
#[derive(Debug)]
pub(super) struct CaptureParams {
    pub(super) request: CaptureRequest,
    /// The filters as they were given.
    pub(super) text: String,
}

impl CaptureParams {
    pub(super) fn parse(query: Option<&str>) -> Result<Self, ApiError> {
        let mut request = CaptureRequest {
            filter: PacketFilter::default(),
            sample: 1,
            snap_length: 128,
            payload: false,
            point: CapturePoint::Both,
            count: None,
            duration: Duration::from_secs(30),
        };
        let mut text = Vec::new();
        let known =
            "service, backend, client, port, proto, drops, sample, count, duration, snaplen, payload, at";
        each(query, known, |name, value| {
            let refused = |allowed: &str| ConfigError::new(name, value, allowed);
            match name {
                "sample" => {
                    let sample = value.parse().ok().filter(|&sample| sample > 0);
                    request.sample = sample.ok_or_else(|| refused("1-4294967295"))?;
                }
                "count" => {
                    let count = value.parse().ok().filter(|&count: &u64| count > 0);
                    request.count = Some(count.ok_or_else(|| refused("1 or more"))?);
                }
                "duration" => {
                    let duration = duration::parse(value).ok();
                    let duration = duration.filter(|time| !time.is_zero() && *time <= LONGEST_CAPTURE);
                    request.duration = duration.ok_or_else(|| refused("1ms-1h"))?;
                }
                "snaplen" => {
                    let range = LEAST_SNAP_LENGTH..=MAX_SNAP_LENGTH;
                    let length = value.parse().ok().filter(|length| range.contains(length));
                    request.snap_length =
                        length.ok_or_else(|| refused(&format!("{LEAST_SNAP_LENGTH}-{MAX_SNAP_LENGTH}")))?;
                }
                "payload" => request.payload = one_of(name, value, &["true", "false"])? == "true",
                "at" => {
                    request.point = match one_of(name, value, &["in", "out", "both"])? {
                        "in" => CapturePoint::In,
                        "out" => CapturePoint::Out,
                        _ => CapturePoint::Both,
                    };
                }
                _ => {
                    text.push(format!("{name}={value}"));
                    return request.filter.add(name, value);
                }
            }
            Ok(true)
        })?;
        if request.sample > 1 {
            text.push(format!("sample={}", request.sample));
        }
        Ok(Self {
            request,
            text: text.join(" "),
        })
    }
}
