//! A collector that is made of the same types gets what the balancer sends.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric, number_data_point};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};
use tracing_subscriber::layer::SubscriberExt;

use super::*;
use crate::config::Telemetry;
use crate::log::CONTROL_ACTION;
use crate::observe::report::fixture::{self, live};

/// What a collector has received.
struct Collector {
    address: SocketAddr,
    metrics: mpsc::UnboundedReceiver<ExportMetricsServiceRequest>,
    traces: mpsc::UnboundedReceiver<ExportTraceServiceRequest>,
}

struct Received<T>(mpsc::UnboundedSender<T>);

#[tonic::async_trait]
impl MetricsService for Received<ExportMetricsServiceRequest> {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.0.send(request.into_inner()).ok();
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl TraceService for Received<ExportTraceServiceRequest> {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.send(request.into_inner()).ok();
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (metrics_sender, metrics) = mpsc::unbounded_channel();
        let (traces_sender, traces) = mpsc::unbounded_channel();
        let server = tonic::transport::Server::builder()
            .add_service(MetricsServiceServer::new(Received(metrics_sender)))
            .add_service(TraceServiceServer::new(Received(traces_sender)));
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        tokio::spawn(server.serve_with_incoming(incoming));
        Self {
            address,
            metrics,
            traces,
        }
    }

    fn telemetry(&self) -> Telemetry {
        Telemetry {
            endpoint: Some(format!("http://{}", self.address).parse().unwrap()),
            interval: Duration::from_secs(1),
        }
    }
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<&str, &str> {
    fn text(attribute: &KeyValue) -> &str {
        let KeyValue {
            value: Some(value), ..
        } = attribute
        else {
            panic!("{attribute:?}")
        };
        match &value.value {
            Some(any_value::Value::StringValue(text)) => text,
            other => panic!("{other:?}"),
        }
    }
    attributes
        .iter()
        .map(|attribute| (attribute.key.as_str(), text(attribute)))
        .collect()
}

#[tokio::test]
async fn a_collector_gets_the_families_of_metrics() {
    let mut collector = Collector::start().await;
    let live = live(2);
    let export = MetricsExport::new(
        &collector.telemetry(),
        Metrics::default(),
        "finance-lb-7c9d",
        Arc::clone(&live.reporter),
    );
    let task = tokio::spawn(export.unwrap().expect("a collector is set").run());
    let received = collector.metrics.recv().await.expect("an export");
    task.abort();
    let [of_resource] = &received.resource_metrics[..] else {
        panic!("{received:?}")
    };
    let resource = of_resource.resource.as_ref().expect("a resource");
    assert_eq!(texts(&resource.attributes)["service.name"], "vl3-lb");
    assert_eq!(
        texts(&resource.attributes)["service.instance.id"],
        "finance-lb-7c9d"
    );
    let names: Vec<&str> = of_resource.scope_metrics[0]
        .metrics
        .iter()
        .map(|metric| metric.name.as_str())
        .collect();
    assert!(names.contains(&"vl3lb_service_flows"), "{names:?}");
}

#[tokio::test]
async fn a_collector_that_is_away_stops_nothing() {
    let mut collector = Collector::start().await;
    let live = live(1);
    let mut telemetry = collector.telemetry();
    // Nobody listens on port 1.
    telemetry.endpoint = Some("http://127.0.0.1:1".parse().unwrap());
    let away = MetricsExport::new(&telemetry, Metrics::default(), "a", Arc::clone(&live.reporter));
    let mut away = away.unwrap().expect("a collector is set");
    let error = away.export().await.unwrap_err();
    assert!(matches!(error, ExportError::Refused(_)), "{error}");
    let there = MetricsExport::new(
        &collector.telemetry(),
        Metrics::default(),
        "a",
        Arc::clone(&live.reporter),
    );
    there
        .unwrap()
        .expect("a collector is set")
        .export()
        .await
        .unwrap();
    assert!(collector.metrics.recv().await.is_some());
}

#[test]
fn values_labels_and_types_are_those_of_metrics() {
    let report = fixture::report();
    let all = families(&report, Metrics::default());
    let span = Span {
        start: SystemTime::UNIX_EPOCH + Duration::from_secs(1),
        now: SystemTime::UNIX_EPOCH + Duration::from_secs(2),
    };
    let request = metrics::request(&all, &resource("a"), span);
    let found = &request.resource_metrics[0].scope_metrics[0].metrics;
    let with_samples = all.iter().filter(|family| !family.samples().is_empty());
    assert_eq!(
        found
            .iter()
            .map(|metric| metric.name.as_str())
            .collect::<Vec<_>>(),
        with_samples.map(|family| family.name).collect::<Vec<_>>()
    );
    let metric = |name: &str| -> &Metric {
        let metric = found.iter().find(|metric| metric.name == name);
        metric.unwrap_or_else(|| panic!("no {name}"))
    };
    let Some(metric::Data::Sum(sum)) = &metric("vl3lb_service_flows_opened").data else {
        panic!("a counter is a sum")
    };
    assert!(sum.is_monotonic);
    let service = &report.services[0];
    let point = sum
        .data_points
        .iter()
        .find(|point| texts(&point.attributes)["service"] == service.name);
    let point = point.expect("its service");
    assert_eq!(
        point.value,
        Some(number_data_point::Value::AsInt(
            i64::try_from(service.flows_opened_total).unwrap()
        ))
    );
    assert_eq!(
        (point.start_time_unix_nano, point.time_unix_nano),
        (1_000_000_000, 2_000_000_000)
    );
    let histograms = found.iter().filter_map(|metric| match &metric.data {
        Some(metric::Data::Histogram(histogram)) => Some((metric, histogram)),
        _ => None,
    });
    let mut count = 0;
    for (metric, histogram) in histograms {
        count += 1;
        assert_eq!(metric.unit, "s", "{}", metric.name);
        for point in &histogram.data_points {
            assert_eq!(
                point.bucket_counts.len(),
                point.explicit_bounds.len() + 1,
                "{}",
                metric.name
            );
            assert_eq!(
                point.bucket_counts.iter().sum::<u64>(),
                point.count,
                "{}",
                metric.name
            );
        }
    }
    assert!(count > 0, "no histogram");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_spans_of_control_actions_only() {
    let mut collector = Collector::start().await;
    let endpoint = collector.telemetry().endpoint.unwrap();
    let traces = Traces::new(&endpoint, "finance-lb-7c9d").unwrap();
    let subscriber = tracing_subscriber::registry().with(traces.layer());
    tracing::subscriber::with_default(subscriber, || {
        let outer = tracing::info_span!(target: CONTROL_ACTION, "publish", generation = 7);
        outer.in_scope(|| {
            tracing::info_span!("of another target").in_scope(|| tracing::info!("a line"));
        });
    });
    // Its end sends what is left, and waits for that.
    spawn_blocking(move || drop(traces)).await.unwrap();
    let received = collector.traces.recv().await.expect("an export");
    let of_resource = &received.resource_spans[0];
    let resource = of_resource.resource.as_ref().expect("a resource");
    assert_eq!(
        texts(&resource.attributes)["service.instance.id"],
        "finance-lb-7c9d"
    );
    let [span] = &of_resource.scope_spans[0].spans[..] else {
        panic!("{received:?}")
    };
    assert_eq!(span.name, "publish");
    assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
    let generation = span
        .attributes
        .iter()
        .find(|attribute| attribute.key == "generation");
    let value = generation.and_then(|attribute| attribute.value.clone()?.value);
    assert_eq!(value, Some(any_value::Value::IntValue(7)));
    assert!(collector.traces.try_recv().is_err());
}
