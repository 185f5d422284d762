//! As much of HTTP/1.1 as a load generator needs: any request without a body gets the same answer.

/// The longest head of a request.
pub(super) const MAX_HEAD: usize = 16 * 1024;

/// The answer to every request, with a body of `body` bytes.
pub(super) fn answer(body: usize) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nServer: vl3-perf\r\nContent-Type: text/plain\r\nContent-Length: {body}\r\n\r\n"
    )
    .into_bytes();
    answer.resize(answer.len() + body, b'x');
    answer
}

/// Whether a connection that begins with these bytes speaks HTTP; `None` if they are too few to tell.
pub(super) fn is_http(start: &[u8]) -> Option<bool> {
    const METHODS: [&[u8]; 2] = [b"GET ", b"HEAD "];
    let mut undecided = false;
    for method in METHODS {
        let shared = start.len().min(method.len());
        if start[..shared] == method[..shared] {
            if shared == method.len() {
                return Some(true);
            }
            undecided = true;
        }
    }
    if undecided { None } else { Some(false) }
}

/// The first complete head in `bytes`: its length, and whether the connection ends after its answer.
pub(super) fn head(bytes: &[u8]) -> Option<(usize, bool)> {
    let len = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..len]).to_ascii_lowercase();
    let close = text.contains("\r\nconnection: close") || text.contains(" http/1.0\r\n");
    Some((len, close))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_told_from_other_bytes_as_soon_as_possible() {
        for (start, expected) in [
            (&b""[..], None),
            (b"G", None),
            (b"GET", None),
            (b"GET ", Some(true)),
            (b"HEAD / HTTP/1.1", Some(true)),
            (b"GOT ", Some(false)),
            (b"\0\0\0\0", Some(false)),
        ] {
            assert_eq!(is_http(start), expected, "{start:?}");
        }
    }

    #[test]
    fn a_head_ends_with_an_empty_line() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\nHost: x\r\n"[..], None),
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET", Some((27, false))),
            (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", Some((37, true))),
            (b"GET / HTTP/1.0\r\n\r\n", Some((18, true))),
        ] {
            assert_eq!(head(bytes), expected);
        }
    }
}
