//! The range of NAT ports: source ports of translated flows.
//!
//! It must not overlap the kernel's ephemeral ports: a reply to a local connection would look like a reply to a flow.

use std::ops::RangeInclusive;

use vl3lb_common::snapshot::NatPorts;

/// The ephemeral port range of this network namespace.
pub(super) const LOCAL_PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// The valid values, for errors.
pub(super) const FORM: &str = "auto, or a range such as 10240-32767";

/// Lower ports are left to well-known services.
const LOWEST: u16 = 10_240;
/// `auto` needs at least this many ports.
const FEWEST: u16 = 1024;

/// Reads the text of [`LOCAL_PORT_RANGE`].
pub(super) fn parse_local_port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last)), None) if first <= last => Some(first..=last),
        _ => None,
    }
}

/// The largest range from [`LOWEST`] on that does not overlap `ephemeral`; with the kernel's default 32768-60999, the
/// range below it. `None` if there is no such range.
pub(super) fn choose(ephemeral: &RangeInclusive<u16>) -> Option<NatPorts> {
    let below = (LOWEST, ephemeral.start().saturating_sub(1));
    let above = (ephemeral.end().saturating_add(1).max(LOWEST), u16::MAX);
    [below, above]
        .into_iter()
        .filter(|&(first, last)| last >= first && last - first >= FEWEST && !ephemeral.contains(&last))
        .max_by_key(|&(first, last)| (last - first, std::cmp::Reverse(first)))
        .and_then(|(first, last)| NatPorts::new(first, last))
}

/// Reads `10240-32767`.
pub(super) fn parse(text: &str) -> Option<NatPorts> {
    let (first, last) = text.split_once('-')?;
    NatPorts::new(first.trim().parse().ok()?, last.trim().parse().ok()?)
}

/// Whether a port of `ports` is also one of `ephemeral`.
pub(super) fn overlap(ports: NatPorts, ephemeral: &RangeInclusive<u16>) -> bool {
    ports.first() <= *ephemeral.end() && *ephemeral.start() <= ports.last()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_uses_the_larger_range_beside_the_ephemeral_ports() {
        for (ephemeral, want) in [
            (32_768..=60_999, Some((10_240, 32_767))),
            (15_000..=40_000, Some((40_001, 65_535))),
            (1024..=20_000, Some((20_001, 65_535))),
            (40_000..=65_535, Some((10_240, 39_999))),
            (10_500..=65_000, None),
            (1..=65_535, None),
        ] {
            let got = choose(&ephemeral).map(|ports| (ports.first(), ports.last()));
            assert_eq!(got, want, "{ephemeral:?}");
        }
    }

    #[test]
    fn reads_the_kernels_file() {
        assert_eq!(parse_local_port_range("32768\t60999\n"), Some(32_768..=60_999));
        for bad in ["", "1", "9 1", "1 2 3", "a b"] {
            assert_eq!(parse_local_port_range(bad), None, "{bad}");
        }
    }
}
