//! Messages survive the wire, however it is cut, and no bytes whatever do harm.

#![allow(clippy::unwrap_used)]

use super::*;

/// A tiny generator (Marsaglia's xorshift64) so that failures repeat.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

const EXIT: Exit = Exit { code: 143, at_ns: -5, oom_killed: true, lost_bytes: 1 << 40 };

fn requests() -> Vec<Request> {
    vec![
        Request::Subscribe,
        Request::ReopenLog,
        Request::Resize { rows: 24, cols: 65_535 },
        Request::TakeExit,
        Request::CloseStdin,
        Request::Exec {
            argv: vec![b"/usr/bin/runc".to_vec(), Vec::new(), b"\xff".to_vec()],
            pid_file: "/run/x/pid".into(),
            timeout: Duration::from_millis(1234),
        },
        Request::Kill,
    ]
}

fn replies() -> Vec<Reply> {
    vec![
        Reply::Ok,
        Reply::Failed { message: "no such file (ä)".into() },
        Reply::Created { pid: 4711, start_time: u64::MAX },
        Reply::State { pid: 0, start_time: 0, exit: None },
        Reply::State { pid: 1, start_time: 2, exit: Some(EXIT) },
        Reply::Exited(EXIT),
        Reply::ExecStarted { pid: i32::MAX },
        Reply::ExecExited { code: 7, at_ns: i64::MAX },
    ]
}

#[test]
fn every_message_is_read_back_from_a_stream_cut_anywhere() {
    let stream: Vec<u8> = requests().iter().flat_map(|r| r.encode().unwrap()).collect();
    for step in 1..stream.len() {
        let (mut buffer, mut read) = (Vec::new(), Vec::new());
        for piece in stream.chunks(step) {
            buffer.extend_from_slice(piece);
            while let Some(request) = Request::decode(&mut buffer).unwrap() {
                read.push(request);
            }
        }
        assert_eq!(read, requests());
        assert!(buffer.is_empty());
    }
    for reply in replies() {
        assert_eq!(Reply::decode(&mut reply.encode()).unwrap(), Some(reply));
    }
}

#[test]
fn a_message_of_the_other_direction_is_refused_and_the_next_one_read() {
    let mut buffer = Reply::Ok.encode();
    buffer.extend(Request::Kill.encode().unwrap());
    assert_eq!(Request::decode(&mut buffer), Err(WireError::Kind(OK)));
    assert_eq!(Request::decode(&mut buffer), Ok(Some(Request::Kill)));
}

#[test]
fn an_impossible_length_is_refused_before_its_bytes_arrive() {
    for length in [0, MAX_FRAME as u32 + 1, u32::MAX] {
        let mut buffer = length.to_le_bytes().to_vec();
        assert_eq!(Request::decode(&mut buffer), Err(WireError::Length(length)));
        assert_eq!(Reply::decode(&mut buffer), Err(WireError::Length(length)));
    }
}

#[test]
fn a_payload_that_is_too_long_or_too_short_is_refused() {
    let mut long = vec![2, 0, 0, 0, SUBSCRIBE, 0];
    assert_eq!(Request::decode(&mut long), Err(WireError::Payload));
    let mut short = vec![4, 0, 0, 0, RESIZE, 1, 0, 1];
    assert_eq!(Request::decode(&mut short), Err(WireError::Payload));
    let mut argument_beyond_the_frame = vec![9, 0, 0, 0, EXEC, 1, 0, 0, 0, 255, 255, 255, 255];
    assert_eq!(Request::decode(&mut argument_beyond_the_frame), Err(WireError::Payload));
}

#[test]
fn an_exec_that_no_monitor_would_take_is_refused() {
    let exec = |argv: Vec<Vec<u8>>, pid_file: &str| Request::Exec {
        argv,
        pid_file: pid_file.into(),
        timeout: Duration::from_secs(1),
    };
    assert_eq!(exec(vec![], "/p").encode(), Err(WireError::Value("argv")));
    assert_eq!(exec(vec![vec![]; MAX_EXEC_ARGS + 1], "/p").encode(), Err(WireError::Value("argv")));
    assert!(matches!(exec(vec![vec![b'a'; MAX_FRAME]], "/p").encode(), Err(WireError::Length(_))));
    let mut relative = exec(vec![b"r".to_vec()], "p").encode().unwrap();
    assert_eq!(Request::decode(&mut relative), Err(WireError::Value("pid_file")));
    let mut zero_byte = exec(vec![b"r\0".to_vec()], "/p").encode().unwrap();
    assert_eq!(Request::decode(&mut zero_byte), Err(WireError::Value("argv")));
}

#[test]
fn a_long_message_is_cut_at_a_character() {
    let message = "ä".repeat(MAX_MESSAGE);
    let reply = Reply::decode(&mut Reply::Failed { message }.encode()).unwrap().unwrap();
    let Reply::Failed { message } = reply else { panic!("{reply:?}") };
    assert_eq!(message, "ä".repeat(MAX_MESSAGE / 2));
}

#[test]
fn random_and_damaged_bytes_never_panic_nor_grow_the_buffer() {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut whole: Vec<Vec<u8>> = requests().iter().map(|r| r.encode().unwrap()).collect();
    whole.extend(replies().iter().map(Reply::encode));
    for _ in 0..200_000 {
        let mut bytes = whole[random.below(whole.len())].clone();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] = random.next() as u8,
                1 => bytes[at] ^= 1 << random.below(8),
                2 => bytes.truncate(at + 1),
                _ => bytes.insert(at, random.next() as u8),
            }
        }
        let (length, capacity) = (bytes.len(), bytes.capacity());
        let mut copy = bytes.clone();
        if let Ok(Some(request)) = Request::decode(&mut bytes) {
            assert!(matches!(Request::decode(&mut request.encode().unwrap()), Ok(Some(_))));
        }
        if let Ok(Some(reply)) = Reply::decode(&mut copy) {
            assert_eq!(Reply::decode(&mut reply.encode()), Ok(Some(reply)));
        }
        assert!(bytes.len() <= length && bytes.capacity() == capacity);
    }
}
