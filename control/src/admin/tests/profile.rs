//! CPU profiles over HTTP.

use axum::body::Body;
use tower::ServiceExt;

use super::*;

const PATH: &str = "/debug/pprof/profile";

async fn get(routes: Router, query: &str) -> (StatusCode, Bytes) {
    let request = Request::get(format!("{PATH}{query}"));
    let response = routes.oneshot(request.body(Body::empty()).unwrap()).await;
    let (head, body) = response.unwrap().into_parts();
    (head.status, body.collect().await.unwrap().to_bytes())
}

#[tokio::test]
async fn profiles_are_for_operators_who_have_allowed_them() {
    let served = Served::start().await;
    let (status, body) = served.get(PATH).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(body.contains("switched off"), "{body}");
    let remedy = if cfg!(feature = "profile") {
        "admin: {profile: true}"
    } else {
        "without the feature"
    };
    assert!(body.contains(remedy), "{body}");
    for (query, error) in [
        ("?seconds=0", "seconds: 0, allowed 1-120"),
        ("?seconds=121", "seconds: 121, allowed 1-120"),
        (
            "?second=1",
            "second: unknown parameter (value 1), allowed seconds",
        ),
    ] {
        let (status, body) = served.get(&format!("{PATH}{query}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(body.contains(error), "{body}");
    }
    let stream = TcpStream::connect(served.probes).await.unwrap();
    let (status, ..) = exchange(TokioIo::new(stream), Method::GET, PATH).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "where only probes and metrics are");
}

#[cfg(feature = "profile")]
mod taken {
    use std::hint::black_box;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use futures_util::FutureExt;
    use prost::Message;

    use super::*;
    use crate::profile::proto::Profile;

    /// Uses CPU time until it is switched off.
    #[inline(never)]
    fn burn_for_the_profile(on: &AtomicBool) {
        let mut sum = 0_u64;
        while on.load(Ordering::Relaxed) {
            sum = black_box(sum.wrapping_add(1));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_profile_names_functions_and_threads_and_is_one_at_a_time() {
        // The first profile would make its own folder that of the whole process, other tests included.
        tempfile::env::override_temp_dir(&std::env::temp_dir()).ok();
        let folder = tempfile::tempdir().unwrap();
        let live = live(1);
        let profiler = Profiler::new(true, &folder.path().join("admin.sock"));
        let admin = Admin::new(Arc::clone(&live.reporter), Metrics::default(), profiler);
        let turn = |admin: &Admin| get(routes(admin.clone()), "?seconds=1");
        let on = Arc::new(AtomicBool::new(true));
        let burning = {
            let on = Arc::clone(&on);
            let thread = std::thread::Builder::new().name("burner".to_owned());
            thread.spawn(move || burn_for_the_profile(&on)).unwrap()
        };
        // Begun, and abandoned.
        assert!(turn(&admin).now_or_never().is_none());
        // The first one of two begins as soon as the abandoned one has ended.
        let (encoded, beside) = loop {
            let ((status, body), beside) = tokio::join!(turn(&admin), turn(&admin));
            match status {
                StatusCode::OK => break (body, beside),
                StatusCode::CONFLICT => tokio::time::sleep(Duration::from_millis(10)).await,
                _ => panic!("{status}: {body:?}"),
            }
        };
        let (status, body) = beside;
        assert_eq!(status, StatusCode::CONFLICT);
        let body = String::from_utf8_lossy(&body).into_owned();
        assert!(body.contains("another profile is being taken"), "{body}");
        on.store(false, Ordering::Relaxed);
        burning.join().unwrap();

        let profile = Profile::decode(encoded).unwrap();
        let text = |index: i64| profile.string_table[usize::try_from(index).unwrap()].as_str();
        assert_eq!(text(0), "");
        let units: Vec<_> = profile
            .sample_type
            .iter()
            .map(|kind| (text(kind.kind), text(kind.unit)))
            .collect();
        assert_eq!(units, [("samples", "count"), ("cpu", "nanoseconds")]);
        assert_eq!(profile.period, 10_000_000);
        assert!(profile.duration_nanos >= 1_000_000_000);
        // The time of the burner is in its function, which is innermost.
        let name = |id: u64| text(profile.function[usize::try_from(id).unwrap() - 1].name);
        let burnt = profile.sample.iter().filter(|sample| {
            let innermost = &profile.location[usize::try_from(sample.location_id[0]).unwrap() - 1];
            let is_burner = innermost
                .line
                .iter()
                .any(|line| name(line.function_id).contains("burn_for_the_profile"));
            let thread = text(sample.label[0].text);
            assert!(!is_burner || thread == "burner", "{thread}");
            is_burner
        });
        let samples: i64 = burnt.map(|sample| sample.value[0]).sum();
        assert!(samples > 0, "{:?}", profile.string_table);

        drop(admin);
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            0,
            "no file is left"
        );
    }
}
