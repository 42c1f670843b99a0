//! What a scraper sees.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::{Metrics, serve};

fn lines(metrics: &Metrics, prefix: &str) -> Vec<String> {
    let text = metrics.to_text().unwrap();
    text.lines().filter(|line| line.starts_with(prefix)).map(ToOwned::to_owned).collect()
}

#[test]
fn an_operation_counts_once_with_its_code_and_its_time() {
    let metrics = Metrics::new("1.2.3", "abc").unwrap();
    let timed = metrics.begin("StopContainer");
    assert_eq!(
        lines(&metrics, "crisol_operations_in_flight"),
        ["crisol_operations_in_flight{operation=\"StopContainer\"} 1"]
    );
    timed.end("Ok");
    assert_eq!(
        lines(&metrics, "crisol_operations"),
        [
            "crisol_operations_in_flight{operation=\"StopContainer\"} 0",
            "crisol_operations_total{code=\"Ok\",operation=\"StopContainer\"} 1"
        ]
    );
    assert_eq!(
        lines(&metrics, "crisol_operation_duration_seconds_count"),
        ["crisol_operation_duration_seconds_count{operation=\"StopContainer\"} 1"]
    );
}

#[test]
fn a_handler_that_was_dropped_counts_as_cancelled() {
    let metrics = Metrics::new("1.2.3", "abc").unwrap();
    drop(metrics.begin("PullImage"));
    assert_eq!(
        lines(&metrics, "crisol_operations_total"),
        ["crisol_operations_total{code=\"Cancelled\",operation=\"PullImage\"} 1"]
    );
}

#[test]
fn latencies_fall_into_buckets() {
    let metrics = Metrics::new("1.2.3", "abc").unwrap();
    metrics.operation("ExecSync", "Ok", Duration::from_millis(30));
    let buckets = lines(&metrics, "crisol_operation_duration_seconds_bucket");
    let at = |bound: &str| {
        let bound = format!("le=\"{bound}\"");
        buckets.iter().find(|line| line.contains(&bound)).unwrap().ends_with(" 1")
    };
    assert!(!at("0.025") && at("0.05") && at("+Inf"), "{buckets:?}");
}

#[test]
fn gauges_and_counters_have_the_values_they_were_given() {
    let metrics = Metrics::new("1.2.3", "abc").unwrap();
    metrics.set_pods("ready", 3);
    metrics.set_pods("ready", 2);
    metrics.set_containers("running", 5);
    metrics.oom_killed();
    metrics.pulled(1000);
    metrics.pulled(24);
    metrics.pull_ended("ok");
    metrics.set_owed(4);
    metrics.set_leaks("mount", 1);
    metrics.set_network_ready(true);
    for line in [
        "crisol_pods{state=\"ready\"} 2",
        "crisol_containers{state=\"running\"} 5",
        "crisol_container_oom_kills_total 1",
        "crisol_image_pulled_bytes_total 1024",
        "crisol_image_pulls_total{result=\"ok\"} 1",
        "crisol_owed_cleanups 4",
        "crisol_leaks{kind=\"mount\"} 1",
        "crisol_network_ready 1",
    ] {
        assert_eq!(lines(&metrics, line), [line]);
    }
}

#[test]
fn the_process_reports_about_itself() {
    let metrics = Metrics::new("1.2.3", "abc").unwrap();
    let value = |name: &str| -> f64 {
        let line = lines(&metrics, name).pop().unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(value("process_resident_memory_bytes ") > 100_000.0);
    assert!(value("process_open_fds ") >= 3.0);
    assert!(value("process_start_time_seconds ") > 1_600_000_000.0);
}

/// A server on a free port of loopback; dropping the sender ends it.
async fn server() -> (std::net::SocketAddr, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
    let listener = serve::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let metrics = Arc::new(Metrics::new("1.2.3", "abc").unwrap());
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(serve::serve(listener, metrics, async move {
        stopped.await.ok();
    }));
    (address, stop, serving)
}

async fn request(address: std::net::SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn metrics_are_served_over_http_and_nothing_else_is() {
    let (address, _stop, _serving) = server().await;
    let close = "Host: x\r\nConnection: close\r\n\r\n";
    let answer = request(address, &format!("GET /metrics HTTP/1.1\r\n{close}")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    assert!(answer.contains("crisol_build_info{"), "{answer}");
    let answer = request(address, &format!("GET / HTTP/1.1\r\n{close}")).await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    let answer = request(address, &format!("POST /metrics HTTP/1.1\r\n{close}")).await;
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET, HEAD"), "{answer}");
}

#[tokio::test]
async fn a_stopped_server_leaves_no_connection_open() {
    let (address, stop, serving) = server().await;
    // Says nothing, and is answered nothing.
    let mut silent = TcpStream::connect(address).await.unwrap();
    drop(stop);
    serving.await.unwrap();
    let mut rest = Vec::new();
    // Reset or end of file, depending on whether the connection was accepted yet.
    let end = tokio::time::timeout(Duration::from_secs(5), silent.read_to_end(&mut rest)).await;
    assert!(end.is_ok(), "the connection is still open");
    assert!(rest.is_empty());
}

#[tokio::test]
async fn silent_connections_do_not_keep_a_scraper_out() {
    let (address, _stop, _serving) = server().await;
    let mut silent = Vec::new();
    for _ in 0..600 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let head = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    // None of them has reached its deadline by then.
    let answer = tokio::time::timeout(Duration::from_secs(3), request(address, head)).await;
    assert!(answer.expect("an answer").starts_with("HTTP/1.1 200 OK\r\n"));
    drop(silent);
}

#[tokio::test]
async fn an_address_in_use_is_an_error_that_names_it() {
    let (address, _stop, _serving) = server().await;
    let error = serve::listen(address).await.unwrap_err();
    assert_eq!(error.to_string(), format!("listen on {address} for metrics"));
}
