#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use tokio_stream::StreamExt;

use super::*;

type Text = Events<String, String>;

struct Bench {
    events: Text,
    metrics: Arc<Metrics>,
    pod: PodId,
}

impl Bench {
    fn new() -> Self {
        let metrics = Arc::new(Metrics::new("1", "c").unwrap());
        Self { events: Text::new(metrics.clone()), metrics, pod: PodId::random() }
    }

    fn pod(&self, text: &str, what: Option<What>) {
        self.events.of_pods().publish(self.pod, &Arc::new(text.to_owned()), what);
    }

    fn container(&self, id: ContainerId, text: &str, what: Option<What>) {
        let record = Arc::new(text.to_owned());
        self.events.of_containers().publish((self.pod, id), &record, what);
    }
}

fn shown(event: &Event<String, String>) -> (What, String, Vec<String>) {
    let containers = event.containers.iter().map(|record| record.to_string()).collect();
    (event.what, event.pod.to_string(), containers)
}

#[tokio::test]
async fn an_event_has_the_last_record_of_the_pod_and_of_all_its_containers() {
    let bench = Bench::new();
    let mut heard = bench.events.listen().unwrap();
    let (one, two) = (ContainerId::from_bytes([1; 32]), ContainerId::from_bytes([2; 32]));
    bench.pod("ready", Some(What::Created));
    bench.container(one, "one created", Some(What::Created));
    bench.container(one, "one starting", None);
    bench.container(two, "two created", Some(What::Created));
    bench.container(one, "one gone", Some(What::Deleted));
    bench.pod("stopped", Some(What::Stopped));
    let mut seen = Vec::new();
    let mut last = 0;
    for _ in 0..5 {
        let event = heard.next().await.unwrap().unwrap();
        assert!(event.at_ns >= last, "time goes back");
        last = event.at_ns;
        seen.push(shown(&event));
    }
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        seen,
        [
            (What::Created, "ready".to_owned(), texts(&[])),
            (What::Created, "ready".to_owned(), texts(&["one created"])),
            (What::Created, "ready".to_owned(), texts(&["one starting", "two created"])),
            (What::Deleted, "ready".to_owned(), texts(&["one gone", "two created"])),
            (What::Stopped, "stopped".to_owned(), texts(&["two created"])),
        ]
    );
}

#[tokio::test]
async fn who_does_not_read_is_cut_off_and_nobody_else_is() {
    let bench = Bench::new();
    let mut idle = bench.events.listen().unwrap();
    let mut busy = bench.events.listen().unwrap();
    for number in 0..=QUEUE {
        bench.pod(&number.to_string(), Some(What::Started));
        let event = busy.next().await.unwrap().unwrap();
        assert_eq!(*event.pod, number.to_string());
    }
    assert_eq!(idle.next().await.unwrap().unwrap_err(), Ended::Overflow);
    assert!(idle.next().await.is_none());
    bench.pod("later", Some(What::Stopped));
    assert_eq!(*busy.next().await.unwrap().unwrap().pod, "later");
    let text = bench.metrics.to_text().unwrap();
    assert!(text.contains("crisol_event_listeners_dropped_total 1\n"), "{text}");
}

#[tokio::test]
async fn closing_ends_every_stream_and_lets_nobody_in() {
    let bench = Bench::new();
    let mut heard = bench.events.listen().unwrap();
    bench.events.close();
    assert_eq!(heard.next().await.unwrap().unwrap_err(), Ended::Closed);
    assert_eq!(bench.events.listen().err(), Some(Ended::Closed));
}

#[test]
fn listeners_are_bounded_and_those_that_left_do_not_count() {
    let bench = Bench::new();
    let mut all: Vec<_> = (0..MAX_LISTENERS).map(|_| bench.events.listen().unwrap()).collect();
    assert_eq!(bench.events.listen().err(), Some(Ended::TooMany));
    all.pop();
    assert!(bench.events.listen().is_ok());
}

#[test]
fn the_board_forgets_what_is_deleted() {
    let bench = Bench::new();
    let id = ContainerId::random();
    bench.pod("pod", Some(What::Created));
    bench.container(id, "container", Some(What::Created));
    bench.container(id, "container", Some(What::Deleted));
    bench.pod("pod", Some(What::Deleted));
    assert!(bench.events.lock().pods.is_empty());
}
