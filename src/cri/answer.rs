//! Every answer on its way out: none is larger than a message may be.
//!
//! The kubelet and crictl refuse a larger one with words about bytes that help nobody, and the
//! kubelet then knows no pod at all. So an answer is measured here, before it is sent, and the error
//! says what to ask for instead. The layout test sees to it that no answer is made elsewhere.

use prost::Message;
use tokio_stream::Iter;
use tonic::{Response, Status};

use super::status::too_large;

/// The kubelet and crictl send and accept messages up to this, in bytes.
pub const MAX_MESSAGE: usize = 16 << 20;

/// What a method of a service gives back.
pub(super) type Reply<T> = Result<Response<T>, Status>;

/// A stream of replies that exists as a whole already.
pub(super) type Replies<T> = Iter<std::vec::IntoIter<Result<T, Status>>>;

/// An answer about one thing.
pub(super) fn answer<T: Message>(message: T) -> Reply<T> {
    let instead = "ask without verbose, or for a part of it by its own id";
    fits(message, instead).map(Response::new)
}

/// An answer about all there are, for which there is the RPC `stream` as well: it has no limit for
/// all of them together.
pub(super) fn list<T: Message>(message: T, stream: &'static str) -> Reply<T> {
    let instead = format!("use {stream}, which sends them one by one, or a filter");
    fits(message, &instead).map(Response::new)
}

/// An answer that never ends, or whose parts are made later.
pub(super) fn live<T>(stream: T) -> Reply<T> {
    Ok(Response::new(stream))
}

/// One message for each.
pub(super) fn each<T: Message>(messages: impl Iterator<Item = T>) -> Reply<Replies<T>> {
    let messages: Vec<_> = messages.map(part).collect();
    live(tokio_stream::iter(messages))
}

/// A message of a stream.
pub(super) fn part<T: Message>(message: T) -> Result<T, Status> {
    fits(message, "ask for the status of each pod and container by its id")
}

fn fits<T: Message>(message: T, instead: &str) -> Result<T, Status> {
    match message.encoded_len() {
        bytes if bytes > MAX_MESSAGE => Err(too_large(bytes, MAX_MESSAGE, instead)),
        _ => Ok(message),
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;
    use tonic::Code;

    use super::*;
    use crate::cri::pb;

    fn pod(bytes: usize) -> pb::PodSandbox {
        let annotations = [("a".to_owned(), "x".repeat(bytes))].into();
        pb::PodSandbox { annotations, ..Default::default() }
    }

    /// As many pods as are asked for, in a message of so many bytes.
    fn pods(count: usize, bytes: usize) -> pb::ListPodSandboxResponse {
        let mut all = pb::ListPodSandboxResponse { items: vec![pod(bytes / count); count] };
        let over = all.encoded_len() - bytes;
        let last = all.items.last_mut().and_then(|pod| pod.annotations.get_mut("a"));
        let last = last.expect("a pod");
        last.truncate(last.len() - over);
        all
    }

    #[tokio::test]
    async fn a_list_that_no_message_holds_names_the_stream_which_has_them_all() {
        let all = pods(100, MAX_MESSAGE);
        assert_eq!(all.encoded_len(), MAX_MESSAGE);
        assert_eq!(list(all, "StreamPodSandboxes").expect("it fits").into_inner().items.len(), 100);

        let all = pods(100, MAX_MESSAGE + 1);
        let refused = list(all.clone(), "StreamPodSandboxes").expect_err("a byte too many");
        assert_eq!(refused.code(), Code::ResourceExhausted);
        for word in ["16777217", "16777216", "StreamPodSandboxes"] {
            assert!(refused.message().contains(word), "{refused}");
        }

        let message = |pod: &pb::PodSandbox| pb::StreamPodSandboxesResponse {
            pod_sandboxes: vec![pod.clone()],
        };
        let streamed = each(all.items.iter().map(message)).expect("a stream").into_inner();
        let streamed: Vec<_> = streamed.collect::<Result<Vec<_>, _>>().await.expect("each fits");
        assert_eq!(
            streamed.into_iter().flat_map(|m| m.pod_sandboxes).collect::<Vec<_>>(),
            all.items
        );
    }

    #[test]
    fn an_answer_about_one_that_no_message_holds_says_what_to_do() {
        let status = pb::PodSandboxStatusResponse {
            info: [("info".to_owned(), "x".repeat(MAX_MESSAGE))].into(),
            ..Default::default()
        };
        let refused = answer(status).expect_err("too large");
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.message().contains("without verbose"), "{refused}");
    }
}
