//! The section `flowLog`: where closed flows are logged.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Serialize, Serializer};
use serde_json::Value;
use vl3lb_common::Duration;

use super::error::ConfigError;
use super::node::{self, Section};
use super::{duration, names};

/// Where and how flows are logged: to a file, to a collector, or to both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct FlowLog {
    /// JSON lines; `None`: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FlowLogFile>,
    /// A file longer than so many megabytes (10^6 bytes) is rotated.
    pub max_megabytes: u32,
    /// Rotated files that are kept.
    pub keep_files: u32,
    /// IPFIX over UDP; `None`: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collector: Option<SocketAddr>,
    /// RFC 7011 section 3.1; 0: none.
    pub observation_domain: u32,
    /// Templates are sent again at this interval (RFC 7011 section 8.4).
    #[serde(serialize_with = "duration::serialize")]
    pub template_interval: Duration,
    /// Each so-manieth opened flow is logged too; 0: none.
    pub sample_opened: u32,
}

/// The target of JSON lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlowLogFile {
    Stdout,
    Path(PathBuf),
}

impl FlowLogFile {
    const FORM: &'static str = "stdout, or an absolute path";

    fn parse(text: &str) -> Option<Self> {
        match text {
            "stdout" => Some(Self::Stdout),
            path if path.starts_with('/') && !path.ends_with('/') => Some(Self::Path(path.into())),
            _ => None,
        }
    }
}

impl std::fmt::Display for FlowLogFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

impl Serialize for FlowLogFile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whether one host may have it, this one included.
const fn is_host(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast()
}

/// The port of IPFIX over UDP (RFC 7011 section 10.3.4).
const IPFIX_PORT: u16 = 4739;
const INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

impl FlowLog {
    /// Reads the mapping at `path`.
    pub(super) fn read(path: &str, value: &Value, errors: &mut Vec<ConfigError>) -> Option<Self> {
        let known = [
            "file",
            "maxMegabytes",
            "keepFiles",
            "collector",
            "observationDomain",
            "templateInterval",
            "sampleOpened",
        ];
        let before = errors.len();
        let mut section = Section::new(path, Some(value), &known, errors);
        if !value.is_object() {
            return None;
        }
        let number = |section: &mut Section<'_>, key: &str, first: u32, last: u32, default: u32| {
            let number = section.optional(key, &format!("{first}-{last}"), |value| {
                u32::try_from(node::number(value, first.into()..=last.into())?).ok()
            });
            number.unwrap_or(default)
        };
        let log = Self {
            file: section.optional_text("file", FlowLogFile::FORM, FlowLogFile::parse),
            max_megabytes: number(&mut section, "maxMegabytes", 1, 1_000_000, 100),
            keep_files: number(&mut section, "keepFiles", 1, 1000, 5),
            collector: section.optional_text(
                "collector",
                "the address of an IPFIX collector, with or without its UDP port (4739)",
                |text| names::socket_address(text, IPFIX_PORT).filter(|socket| is_host(socket.ip())),
            ),
            observation_domain: number(&mut section, "observationDomain", 0, u32::MAX, 0),
            template_interval: section
                .optional(
                    "templateInterval",
                    "a duration from 1s to 1h, such as 60s",
                    |value| {
                        duration::parse(&node::text(value)?)
                            .ok()
                            .filter(|time| INTERVALS.contains(time))
                    },
                )
                .unwrap_or(Duration::from_secs(60)),
            sample_opened: number(&mut section, "sampleOpened", 0, 1_000_000_000, 0),
        };
        if log.file.is_none() && log.collector.is_none() && errors.len() == before {
            errors.push(ConfigError::new(
                path,
                node::shown(value),
                "file, collector, or both",
            ));
        }
        Some(log)
    }
}
