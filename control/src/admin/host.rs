//! The Host of requests on loopback.
//!
//! A web page of anybody's can have its own name resolve to 127.0.0.1, and then read what a browser on this host may read
//! (DNS rebinding). Its requests have that name in Host.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;

/// Rejects requests with a name other than `localhost` in Host: 403.
pub(super) async fn loopback_only(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST);
    let host = host.map(|host| host.to_str().unwrap_or_default());
    match host {
        Some(host) if !is_loopback_name(host) => rejected(host).into_response(),
        _ => next.run(request).await,
    }
}

fn rejected(host: &str) -> ApiError {
    ApiError {
        status: StatusCode::FORBIDDEN,
        error: format!("Host {host:?} is not a name of this listener, allowed: localhost, an address"),
        hint: Some("admin.listen is a loopback address, which is for programs on this host".to_owned()),
    }
}

/// `localhost` or an address, with or without a port: RFC 9110, section 7.2. An address cannot be rebound.
fn is_loopback_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bracketed = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    name.eq_ignore_ascii_case("localhost") || bracketed.unwrap_or(name).parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localhost_and_addresses_are_names_of_loopback() {
        for host in [
            "localhost",
            "LOCALHOST:9090",
            "127.0.0.1",
            "127.0.0.1:9090",
            "[::1]",
            "[::1]:9090",
            "10.0.0.1:80",
        ] {
            assert!(is_loopback_name(host), "{host}");
        }
        for host in [
            "",
            ":9090",
            "evil.example",
            "evil.example:9090",
            "localhost.evil.example",
            "127.0.0.1.evil.example:9090",
            "[::1",
            "localhost:80:evil",
        ] {
            assert!(!is_loopback_name(host), "{host}");
        }
    }
}
