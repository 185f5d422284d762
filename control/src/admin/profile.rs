//! `/debug/pprof/profile`: a CPU profile of this process, at the path where Go programs have theirs.

use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Admin;
use super::error::ApiError;
use super::params::ProfileParams;
use crate::profile::{ProfileError, SUPPORTED};

pub(super) async fn profile(
    State(admin): State<Admin>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let ProfileParams { seconds } = ProfileParams::parse(query.as_deref())?;
    let taken = admin.profiler.take(Duration::from_secs(seconds)).await;
    let profile = taken.map_err(refused)?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"profile.pb\""),
    ];
    Ok((headers, profile).into_response())
}

fn refused(error: ProfileError) -> ApiError {
    let (status, hint) = match error {
        ProfileError::Off if SUPPORTED => (
            StatusCode::FORBIDDEN,
            Some(
                "`admin: {profile: true}` in the configuration, or NSM_PPROF_ENABLED=true, and a restart allow them",
            ),
        ),
        ProfileError::Off => (
            StatusCode::FORBIDDEN,
            Some("this vl3-lb was built without the feature profile"),
        ),
        ProfileError::Busy => (
            StatusCode::CONFLICT,
            Some("wait until it is over, 2 minutes at most"),
        ),
        ProfileError::Abandoned | ProfileError::Failed(_) => (StatusCode::INTERNAL_SERVER_ERROR, None),
    };
    ApiError {
        status,
        error: format!("profile: {error}"),
        hint: hint.map(str::to_owned),
    }
}
