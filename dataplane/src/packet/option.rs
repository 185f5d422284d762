//! IPv4 options (RFC 791 section 3.1), as far as they decide whose a packet is.

use vl3lb_common::DropReason;

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;

/// Checks the options of a header, `options` of at most 40 bytes. A source route with addresses left means that the
/// destination in the header is not the packet's last: such a packet is the kernel's to refuse or to send on, like one
/// with a routing header of IPv6 that has segments left. The steer program judges in the same way.
///
/// Errors: `UnsupportedProtocol` for a source route that is not at its end, `Malformed` for an option that is longer
/// than the header or shorter than its own type and length.
#[cold]
pub(super) fn check(options: &[u8]) -> Result<(), DropReason> {
    let mut rest = options;
    while let [kind, after @ ..] = rest {
        match *kind {
            END => return Ok(()),
            NO_OPERATION => rest = after,
            kind => {
                let length = usize::from(*after.first().ok_or(DropReason::Malformed)?);
                if length < 2 {
                    return Err(DropReason::Malformed);
                }
                let option = rest.get(..length).ok_or(DropReason::Malformed)?;
                if matches!(kind, LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE) {
                    let pointer = usize::from(*option.get(2).ok_or(DropReason::Malformed)?);
                    if pointer <= length {
                        return Err(DropReason::UnsupportedProtocol);
                    }
                }
                rest = &rest[length..];
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_routes_with_addresses_left_are_unsupported() {
        use DropReason::{Malformed, UnsupportedProtocol};
        let cases: [(&str, &[u8], Result<(), DropReason>); 14] = [
            ("none", &[], Ok(())),
            ("no operation", &[1, 1, 1, 1], Ok(())),
            (
                "loose, all left",
                &[131, 7, 4, 10, 0, 0, 1, 0],
                Err(UnsupportedProtocol),
            ),
            (
                "strict, all left",
                &[137, 7, 4, 10, 0, 0, 1, 0],
                Err(UnsupportedProtocol),
            ),
            (
                "behind others",
                &[1, 148, 4, 0, 0, 131, 7, 4, 9, 9, 9, 9],
                Err(UnsupportedProtocol),
            ),
            (
                "one of two left",
                &[131, 11, 8, 10, 0, 0, 1, 10, 0, 0, 2, 0],
                Err(UnsupportedProtocol),
            ),
            ("at its end", &[131, 7, 8, 10, 0, 0, 1, 0], Ok(())),
            ("behind the end of the list", &[0, 131, 7, 4, 10, 0, 0, 1], Ok(())),
            ("record route", &[7, 7, 4, 0, 0, 0, 0, 0], Ok(())),
            ("longer than the header", &[68, 9, 5, 0], Err(Malformed)),
            ("without a length", &[1, 1, 1, 131], Err(Malformed)),
            ("of length 1", &[131, 1, 4, 0], Err(Malformed)),
            ("of length 0", &[68, 0, 0, 0], Err(Malformed)),
            (
                "a source route without a pointer",
                &[1, 1, 131, 2],
                Err(Malformed),
            ),
        ];
        for (what, options, want) in cases {
            assert_eq!(check(options), want, "{what}");
        }
    }
}
