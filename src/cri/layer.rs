//! For every call: its turn only after recovery, its duration, and one log line when it failed.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{Request, Response};
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

/// Wraps the services.
#[derive(Clone)]
pub struct Calls {
    recovered: watch::Receiver<bool>,
    metrics: Arc<Metrics>,
}

impl Calls {
    /// Lets calls through once `recovered` is true.
    pub fn new(recovered: watch::Receiver<bool>, metrics: Arc<Metrics>) -> Self {
        Self { recovered, metrics }
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
        let metrics = self.calls.metrics.clone();
        // The service that said it was ready is the one to call; its clone waits for its turn.
        let ready = self.inner.clone();
        let answer = std::mem::replace(&mut self.inner, ready).call(request);
        Box::pin(async move {
            let (timed, began) = (metrics.begin(rpc), Instant::now());
            let answer = answer.await?;
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
