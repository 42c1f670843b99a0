use proptest::prelude::*;

use super::*;

fn read(frame: &[u8]) -> Result<Control, Fault> {
    let (head, payload) = frame.split_first_chunk::<HEAD>().expect("a head");
    match Head::parse(*head)? {
        Head::Control { kind, flags, length } => {
            assert_eq!(length, payload.len());
            Control::parse(kind, flags, Bytes::copy_from_slice(payload))
        }
        Head::Data { .. } => panic!("a data frame"),
    }
}

fn written(write: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut bytes = BytesMut::new();
    write(&mut bytes);
    bytes
}

#[test]
fn what_is_written_is_read_again() {
    assert_eq!(read(&written(|to| ping(to, 7))), Ok(Control::Ping { id: 7 }));
    let reset = written(|to| super::reset(to, 3, Reason::Cancel));
    assert_eq!(read(&reset), Ok(Control::Reset { stream: 3 }));
    assert_eq!(reset[..], [0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 3, 0, 0, 0, 5]);
    assert_eq!(read(&written(|to| go_away(to, 9, GoAwayStatus::Ok))), Ok(Control::GoAway));
    let update = written(|to| window_update(to, 1, 4096));
    assert_eq!(read(&update), Ok(Control::WindowUpdate { stream: 1, delta: 4096 }));
    let reply = written(|to| syn_reply(to, 5, b"xyz"));
    assert_eq!(read(&reply), Ok(Control::SynReply { headers: Bytes::from_static(b"xyz") }));
    let head = written(|to| data(to, 5, 70_000, true));
    let head: [u8; HEAD] = head[..].try_into().expect("a head");
    assert_eq!(Head::parse(head), Ok(Head::Data { stream: 5, fin: true, length: 70_000 }));
}

#[test]
fn settings_are_counted_before_they_are_read() {
    let entry = |id: u8, value: u32| [&[0, 0, 0, id][..], &value.to_be_bytes()].concat();
    let frame = |count: u32, entries: &[Vec<u8>]| {
        Control::parse(4, 0, [count.to_be_bytes().to_vec(), entries.concat()].concat().into())
    };
    let both = [entry(4, 100), entry(7, 65_536)];
    assert_eq!(frame(2, &both), Ok(Control::Settings { window: Some(65_536) }));
    assert_eq!(frame(0, &[]), Ok(Control::Settings { window: None }));
    assert!(frame(u32::MAX, &both).is_err());
    assert!(frame(0x2000_0002, &both).is_err(), "a product that wraps around");
    assert!(frame(1, &both).is_err());
    assert!(frame(1, &[entry(7, 1 << 31)]).is_err());
}

#[test]
fn heads_of_another_version_and_of_endless_frames_are_faults() {
    assert!(Head::parse([0x80, 2, 0, 1, 0, 0, 0, 10]).is_err());
    assert!(Head::parse([0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]).is_err());
    assert!(Head::parse(*b"GET / HT").is_ok_and(|head| matches!(head, Head::Data { .. })));
}

#[test]
fn a_frame_has_the_length_of_its_kind() {
    for (kind, length) in [(1, 9), (2, 3), (3, 7), (3, 9), (6, 0), (6, 5), (7, 4), (8, 2), (9, 7)] {
        assert!(Control::parse(kind, 0, vec![0; length].into()).is_err(), "{kind} {length}");
    }
    assert_eq!(Control::parse(1000, 0, vec![0; 9].into()), Ok(Control::Unknown));
}

proptest! {
    #[test]
    fn any_bytes_are_a_frame_or_a_fault(head: [u8; HEAD], kind: u16, flags: u8, body: Vec<u8>) {
        Head::parse(head).ok();
        Control::parse(kind % 12, flags, body.into()).ok();
    }

    #[test]
    fn a_syn_stream_keeps_its_parts(stream in 0_u32..1 << 31, flags in 0_u8..4, block: Vec<u8>) {
        let payload = [&stream.to_be_bytes()[..], &[0; 6], &block].concat();
        let expected = Control::SynStream {
            stream,
            fin: flags & 1 != 0,
            unidirectional: flags & 2 != 0,
            headers: block.into(),
        };
        prop_assert_eq!(Control::parse(1, flags, payload.into()), Ok(expected));
    }
}
