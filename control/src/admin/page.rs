//! `/` and `/state`: the status page, and the part of it that changes.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use tokio::sync::Mutex;

use super::Admin;
use super::error::ApiError;
use crate::page::{self, SCRIPT, STYLE, View};

/// A rendered state serves all viewers for this long.
const FRESH: Duration = Duration::from_millis(500);
/// Events on the page.
const EVENTS: usize = 20;

/// The browser takes style and script of this page alone, and sends requests to this balancer alone.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let policy = format!(
        "default-src 'none'; style-src '{}'; script-src '{}'; connect-src 'self'; img-src data:; form-action 'self'; \
         base-uri 'none'; frame-ancestors 'none'",
        source(STYLE),
        source(SCRIPT)
    );
    HeaderValue::try_from(policy).expect("it is ASCII")
});

/// A hash source: Content Security Policy Level 3, section 2.3.1.
fn source(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(digest(&SHA256, text.as_bytes())))
}

/// The rendered state for all viewers without a filter.
#[derive(Debug, Clone, Default)]
pub(super) struct LastState(Arc<Mutex<Option<(Instant, Rendered)>>>);

/// A rendered part and its entity tag.
#[derive(Debug, Clone)]
struct Rendered {
    html: Bytes,
    tag: HeaderValue,
}

impl Rendered {
    fn new(html: String) -> Self {
        let tag = format!(
            "\"{}\"",
            STANDARD.encode(&digest(&SHA256, html.as_bytes()).as_ref()[..12])
        );
        Self {
            html: html.into(),
            tag: HeaderValue::try_from(tag).expect("base64 is ASCII"),
        }
    }
}

/// The page.
pub(super) async fn page(
    State(admin): State<Admin>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let rendered = render(&admin, filter(query.as_deref()), |view| {
        page::document(view).into_string()
    })
    .await?;
    Ok(respond(rendered))
}

/// The part that changes. 304 where the client has it.
pub(super) async fn state(
    State(admin): State<Admin>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let render = |filter| render(&admin, filter, |view| page::state(view).into_string());
    let filter = filter(query.as_deref());
    let rendered = if filter.is_empty() {
        // Viewers who come meanwhile wait for the same one.
        let mut last = admin.last_state.0.lock().await;
        match &*last {
            Some((at, rendered)) if at.elapsed() < FRESH => rendered.clone(),
            _ => {
                let rendered = render(filter).await?;
                *last = Some((Instant::now(), rendered.clone()));
                rendered
            }
        }
    } else {
        render(filter).await?
    };
    if headers.get(header::IF_NONE_MATCH) == Some(&rendered.tag) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, rendered.tag)]).into_response());
    }
    Ok(respond(rendered))
}

/// The parameter `service`; empty without one.
fn filter(query: Option<&str>) -> String {
    let parameters = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let mut values = parameters
        .filter(|(name, _)| name == "service")
        .map(|(_, value)| value);
    values.next().unwrap_or_default().into_owned()
}

/// Renders off the runtime's threads.
async fn render(
    admin: &Admin,
    filter: String,
    render: impl FnOnce(View<'_>) -> String + Send + 'static,
) -> Result<Rendered, ApiError> {
    let report = admin.report().await?;
    let reporter = Arc::clone(&admin.reporter);
    let work = move || {
        let events = reporter.events().kept();
        let html = render(View {
            report: &report,
            measures: &reporter.measures(),
            events: &events[events.len().saturating_sub(EVENTS)..],
            filter: &filter,
        });
        Rendered::new(html)
    };
    admin.blocking("render the status page", work).await
}

fn respond(rendered: Rendered) -> Response {
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        ),
        (header::CONTENT_SECURITY_POLICY, POLICY.clone()),
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::ETAG, rendered.tag),
    ];
    (headers, rendered.html).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_is_a_query_parameter() {
        for (query, wanted) in [
            (None, ""),
            (Some(""), ""),
            (Some("service="), ""),
            (Some("a=b&service=fin%20ance&service=x"), "fin ance"),
        ] {
            assert_eq!(filter(query), wanted);
        }
    }

    #[test]
    fn a_script_cannot_end_its_element() {
        assert!(!SCRIPT.contains("</script"));
        assert!(!STYLE.contains("</style"));
    }
}
