//! ttrpc's own framing: ten bytes (length of the body and number of the stream, four bytes each, the
//! most significant first; the type; flags), then the body. Pure.
//!
//! NRI has plain calls only: one request, one response with the same stream number. The numbers of a
//! caller are odd.

use prost::Message as _;

use super::wire::ttrpc as envelope;

/// Length of a header.
pub(super) const HEADER: usize = 10;

/// The longest body, by the protocol.
pub(super) const MAX_BODY: usize = 4 << 20;

const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

/// Codes of gRPC that plugins and we use.
pub(super) mod code {
    pub(in super::super) const UNKNOWN: i32 = 2;
    pub(in super::super) const INVALID_ARGUMENT: i32 = 3;
    pub(in super::super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(in super::super) const UNIMPLEMENTED: i32 = 12;
}

/// What is wrong with what came.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Malformed {
    /// Longer than the protocol allows.
    #[error("a message of {0} bytes, more than 4 MiB")]
    TooLong(u32),
    /// No type that plain calls have.
    #[error("a message of type {0}")]
    Type(u8),
    /// Not the envelope.
    #[error("a message that is no ttrpc envelope")]
    Envelope(#[from] prost::DecodeError),
}

/// One message.
#[derive(Debug, PartialEq)]
pub(super) enum Message {
    /// A call.
    Request(envelope::Request),
    /// Its answer.
    Response(envelope::Response),
}

/// One message and its stream, as bytes; none if it is longer than the protocol allows.
pub(super) fn encode(stream: u32, message: &Message) -> Option<Vec<u8>> {
    let (kind, body) = match message {
        Message::Request(request) => (REQUEST, request.encode_to_vec()),
        Message::Response(response) => (RESPONSE, response.encode_to_vec()),
    };
    if body.len() > MAX_BODY {
        return None;
    }
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend_from_slice(&u32::try_from(body.len()).ok()?.to_be_bytes());
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(&[kind, 0]);
    bytes.extend_from_slice(&body);
    Some(bytes)
}

/// Takes the bytes of one connection apart. Holds at most one message.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    bytes: Vec<u8>,
}

impl Decoder {
    /// Takes the next bytes; returns the messages that they complete, with their streams.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<(u32, Message)>, Malformed> {
        self.bytes.extend_from_slice(bytes);
        let (mut messages, mut at) = (Vec::new(), 0);
        while let Some(([l0, l1, l2, l3, s0, s1, s2, s3, kind, _flags], rest)) =
            self.bytes[at..].split_first_chunk::<HEADER>()
        {
            let (length, stream) = (
                u32::from_be_bytes([*l0, *l1, *l2, *l3]),
                u32::from_be_bytes([*s0, *s1, *s2, *s3]),
            );
            let body = usize::try_from(length).ok().filter(|length| *length <= MAX_BODY);
            let length = body.ok_or(Malformed::TooLong(length))?;
            let Some(body) = rest.get(..length) else { break };
            let message = match *kind {
                REQUEST => Message::Request(envelope::Request::decode(body)?),
                RESPONSE => Message::Response(envelope::Response::decode(body)?),
                other => return Err(Malformed::Type(other)),
            };
            messages.push((stream, message));
            at += HEADER + length;
        }
        self.bytes.drain(..at);
        if self.bytes.is_empty() {
            // A long message must not keep its memory until the next one.
            self.bytes = Vec::new();
        }
        Ok(messages)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(method: String, payload: Vec<u8>) -> Message {
        let service = "s".to_owned();
        Message::Request(envelope::Request { service, method, payload, ..Default::default() })
    }

    proptest! {
        #[test]
        fn messages_arrive_whole_however_the_stream_is_cut(
            sent in prop::collection::vec((any::<u32>(), ".{0,8}", prop::collection::vec(any::<u8>(), 0..6000)), 0..5),
            piece in 1usize..5000,
        ) {
            let sent: Vec<_> =
                sent.into_iter().map(|(stream, m, payload)| (stream, request(m, payload))).collect();
            let bytes: Vec<u8> = sent.iter()
                .flat_map(|(stream, message)| encode(*stream, message).expect("short")).collect();
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            for piece in bytes.chunks(piece) {
                got.extend(decoder.push(piece).expect("well-formed"));
            }
            prop_assert_eq!(got, sent);
            prop_assert!(decoder.bytes.is_empty());
        }

        #[test]
        fn any_bytes_are_messages_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            Decoder::default().push(&bytes).ok();
        }
    }

    #[test]
    fn a_body_longer_than_the_protocol_allows_is_refused_by_its_header_and_never_sent() {
        let mut header = (5u32 << 20).to_be_bytes().to_vec();
        header.extend([0, 0, 0, 1, REQUEST, 0]);
        assert_eq!(Decoder::default().push(&header), Err(Malformed::TooLong(5 << 20)));
        assert_eq!(encode(1, &request("m".to_owned(), vec![0; MAX_BODY])), None);
    }

    #[test]
    fn a_message_of_a_stream_is_refused() {
        let error = Decoder::default().push(&[0, 0, 0, 0, 0, 0, 0, 1, 3, 0]);
        assert_eq!(error, Err(Malformed::Type(3)));
    }
}
