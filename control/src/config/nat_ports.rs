//! The range of NAT ports: source ports of translated flows.
//!
//! The kernel's ephemeral ports are left out of it, like ports of programs (`local_ports`): a reply to a local connection
//! would look like a reply to a flow.

use std::ops::RangeInclusive;

use vl3lb_common::PortSet;
use vl3lb_common::snapshot::NatPorts;

/// The ephemeral port range of this network namespace.
pub(super) const LOCAL_PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// The valid values, for errors.
pub(super) const FORM: &str = "auto, or a range such as 10240-32767";

/// Lower ports are those of well-known services (RFC 6335 section 6); RFC 6056 section 3.2 takes all others.
const LOWEST: u16 = 1024;
/// `auto` needs at least this many ports.
const FEWEST: u32 = 1024;

/// Reads the text of [`LOCAL_PORT_RANGE`].
pub(super) fn parse_local_port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last)), None) if first <= last => Some(first..=last),
        _ => None,
    }
}

/// The ports from [`LOWEST`] on, without `ephemeral` at the beginning or end; in between, it is left out when ports are
/// handed out. `None` if too few are left.
pub(super) fn choose(ephemeral: &RangeInclusive<u16>) -> Option<NatPorts> {
    let first = if *ephemeral.start() <= LOWEST {
        ephemeral.end().checked_add(1)?.max(LOWEST)
    } else {
        LOWEST
    };
    let last = if *ephemeral.end() == u16::MAX {
        ephemeral.start().checked_sub(1)?
    } else {
        u16::MAX
    };
    let ports = NatPorts::new(first, last)?;
    (free(ports, ephemeral) >= FEWEST).then_some(ports)
}

/// Reads `10240-32767`.
pub(super) fn parse(text: &str) -> Option<NatPorts> {
    let (first, last) = text.split_once('-')?;
    NatPorts::new(first.trim().parse().ok()?, last.trim().parse().ok()?)
}

/// How many of `ports` are not `ephemeral`.
pub(super) fn free(ports: NatPorts, ephemeral: &RangeInclusive<u16>) -> u32 {
    let mut free = PortSet::from(ports.first()..=ports.last());
    free.remove_all(&PortSet::from(ephemeral.clone()));
    free.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_uses_all_that_the_ephemeral_ports_leave() {
        for (ephemeral, want) in [
            (32_768..=60_999, Some((1024, 65_535))),
            (63_488..=65_535, Some((1024, 63_487))),
            (1024..=20_000, Some((20_001, 65_535))),
            (1..=1023, Some((1024, 65_535))),
            (2047..=65_535, None),
            (2048..=65_535, Some((1024, 2047))),
            (1024..=64_512, None),
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
