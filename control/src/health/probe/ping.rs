//! ICMP echo, as ping sends it.

use std::net::IpAddr;

use super::Answer;
use crate::api::CheckResult;
use crate::icmp_echo::{EchoError, echo};

pub(super) async fn check(address: IpAddr) -> Result<(), Answer> {
    match echo(None, address).await {
        Ok(_) => Ok(()),
        Err(EchoError::Socket(error)) => Err(error.into()),
        Err(error @ EchoError::Forbidden(_)) => Err(Answer {
            result: CheckResult::Error,
            text: format!("error: {error}"),
        }),
    }
}
