//! For every call: its turn only after recovery, its deadline, its duration, and one log line when
//! it failed.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{HeaderMap, Request, Response};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::metrics::Metrics;

use super::status;

/// Names of all RPCs, so that nothing a client sends becomes the label of a metric.
const RPCS: [&str; 43] = [
    "Version",
    "RunPodSandbox",
    "StopPodSandbox",
    "RemovePodSandbox",
    "PodSandboxStatus",
    "ListPodSandbox",
    "StreamPodSandboxes",
    "CreateContainer",
    "StartContainer",
    "StopContainer",
    "RemoveContainer",
    "ListContainers",
    "StreamContainers",
    "ContainerStatus",
    "UpdateContainerResources",
    "ReopenContainerLog",
    "ExecSync",
    "Exec",
    "Attach",
    "PortForward",
    "ContainerStats",
    "ListContainerStats",
    "StreamContainerStats",
    "PodSandboxStats",
    "ListPodSandboxStats",
    "StreamPodSandboxStats",
    "UpdateRuntimeConfig",
    "Status",
    "CheckpointContainer",
    "CheckpointPod",
    "RestorePod",
    "GetContainerEvents",
    "ListMetricDescriptors",
    "ListPodSandboxMetrics",
    "StreamPodSandboxMetrics",
    "RuntimeConfig",
    "UpdatePodSandboxResources",
    "ListImages",
    "StreamImages",
    "ImageStatus",
    "PullImage",
    "RemoveImage",
    "ImageFsInfo",
];

/// What is answered while pods and containers are still being found: who we are, and the driver of
/// control groups, which the kubelet asks for a few times at its own start and then never again.
const ALWAYS: [&str; 2] =
    ["/runtime.v1.RuntimeService/Version", "/runtime.v1.RuntimeService/RuntimeConfig"];

/// Calls that have not been answered; a stream is answered when it begins. A cheap clone.
#[derive(Clone, Default)]
pub struct Unanswered(Arc<AtomicUsize>);

impl Unanswered {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }

    fn call(&self) -> Asked {
        self.0.fetch_add(1, Ordering::AcqRel);
        Asked(self.clone())
    }
}

/// One of them, until it is dropped.
struct Asked(Unanswered);

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Wraps the services.
#[derive(Clone)]
pub struct Calls {
    recovered: watch::Receiver<bool>,
    metrics: Arc<Metrics>,
    unanswered: Unanswered,
}

impl Calls {
    /// Lets calls through once `recovered` is true.
    pub fn new(recovered: watch::Receiver<bool>, metrics: Arc<Metrics>) -> Self {
        Self { recovered, metrics, unanswered: Unanswered::default() }
    }

    /// What has not been answered.
    pub fn unanswered(&self) -> Unanswered {
        self.unanswered.clone()
    }
}

impl<S> Layer<S> for Calls {
    type Service = Called<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Called { inner, calls: self.clone() }
    }
}

/// A wrapped service.
#[derive(Clone)]
pub struct Called<S> {
    inner: S,
    calls: Calls,
}

impl<S> Service<Request<Body>> for Called<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        if !ALWAYS.contains(&path) && !*self.calls.recovered.borrow() {
            return Box::pin(std::future::ready(Ok(status::starting().into_http())));
        }
        let asked = path.rsplit('/').next().unwrap_or(path);
        let rpc = RPCS.iter().find(|rpc| **rpc == asked).copied().unwrap_or("unknown");
        let (metrics, asked) = (self.calls.metrics.clone(), self.calls.unanswered.call());
        // The service that said it was ready is the one to call; its clone waits for its turn.
        let ready = self.inner.clone();
        // The library knows deadlines too, but calls one that passed Cancelled. Its clock starts
        // when this function is back, so ours, which runs already, is never behind.
        let patience = patience(request.headers()).unwrap_or(Duration::MAX);
        let answer = std::mem::replace(&mut self.inner, ready).call(request);
        let answer = tokio::time::timeout(patience, answer);
        Box::pin(async move {
            let _asked = asked;
            let (timed, began) = (metrics.begin(rpc), Instant::now());
            let answer = answer.await.unwrap_or_else(|_| Ok(status::late().into_http()))?;
            let took = began.elapsed();
            // A call that failed has its status in the headers; a stream's comes too late for us.
            let failed = Status::from_header_map(answer.headers());
            let code = failed.as_ref().map_or(Code::Ok, Status::code);
            timed.end(status::name(code));
            let took_ms = took.as_millis();
            match failed {
                Some(status) if code != Code::Ok => {
                    tracing::warn!(rpc, took_ms, ?code, error = status.message(), "request failed");
                }
                _ => tracing::debug!(rpc, took_ms, "request done"),
            }
            Ok(answer)
        })
    }
}

/// How long the client waits for the answer: `grpc-timeout`, at most eight digits and a unit (gRPC
/// over HTTP/2, "Requests").
fn patience(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number = (1..=8).contains(&number.len()).then(|| number.parse().ok())??;
    match unit {
        "H" => Some(Duration::from_secs(number * 60 * 60)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Never answers.
    #[derive(Clone)]
    struct Silent;

    impl Service<Request<Body>> for Silent {
        type Response = Response<Body>;
        type Error = std::convert::Infallible;
        type Future = std::future::Pending<Result<Response<Body>, Self::Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            std::future::pending()
        }
    }

    #[tokio::test]
    async fn a_deadline_that_passed_is_called_so() {
        let (_recovered, receiver) = watch::channel(true);
        let mut service =
            Calls::new(receiver, Arc::new(Metrics::new("0", "test").expect("metrics")))
                .layer(Silent);
        let request = Request::builder()
            .uri("/runtime.v1.ImageService/PullImage")
            .header("grpc-timeout", "10m")
            .body(Body::empty())
            .expect("request");
        let answer = service.call(request).await.expect("an answer");
        let status = Status::from_header_map(answer.headers()).expect("a status");
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }

    #[test]
    fn deadlines_are_read_as_grpc_writes_them() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().expect("header"));
            patience(&headers)
        };
        assert_eq!(read("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(read("3M"), Some(Duration::from_secs(180)));
        assert_eq!(read("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(read("999853u"), Some(Duration::from_micros(999_853)));
        assert_eq!(read("1n"), Some(Duration::from_nanos(1)));
        for nonsense in ["", "m", "5", "5x", "-5m", "123456789m", "5\u{b5}"] {
            assert_eq!(read(nonsense), None, "{nonsense:?}");
        }
        assert_eq!(patience(&HeaderMap::new()), None);
    }
}
