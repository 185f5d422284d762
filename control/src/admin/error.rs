//! Requests that fail.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::api::Report;
use crate::config::ConfigError;

/// The response to a failed request: status, cause and remedy.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) error: String,
    pub(super) hint: Option<String>,
}

impl ApiError {
    /// 404: a service is named that does not exist.
    pub(super) fn no_service(endpoint: &str, name: &str, report: &Report) -> Self {
        let have: Vec<_> = report
            .services
            .iter()
            .map(|service| service.name.as_str())
            .collect();
        Self {
            status: StatusCode::NOT_FOUND,
            error: format!("{endpoint}: no service {name:?} (have: {})", have.join(", ")),
            hint: Some("`vl3-lb services` lists them; `*` is a wildcard".to_owned()),
        }
    }

    /// 503: try again later.
    pub(super) fn unavailable(error: String, hint: &str) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            error,
            hint: Some(hint.to_owned()),
        }
    }

    /// 500: `attempt` failed.
    pub(super) fn internal(attempt: &str, cause: &dyn std::error::Error) -> Self {
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            error: format!("{attempt}: {cause}"),
            hint: None,
        }
    }
}

impl From<ConfigError> for ApiError {
    fn from(error: ConfigError) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            error: error.to_string(),
            hint: None,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body {
            error: String,
            hint: Option<String>,
        }
        let body = Body {
            error: self.error,
            hint: self.hint,
        };
        (self.status, Json(body)).into_response()
    }
}
