//! Clients that misbehave harm nobody but themselves.

use std::io::{Read, Write};

use conmon::{Reply, Request};
use rustix::process::{Pid, Signal, kill_process};

use crate::bundle::{Runtime, Wish};
use crate::client::Client;
use crate::container::Container;
use crate::waiting::eventually;

fn sleeper() -> Container {
    Container::run(Wish::script(Runtime::Crun, "exec sleep 1000"))
}

fn answers(container: &Container) -> bool {
    matches!(Client::subscribe(&container.dir).1, Reply::State { .. })
}

#[test]
fn a_frame_of_impossible_length_ends_the_connection() {
    let container = sleeper();
    for length in [0, 65 * 1024, u32::MAX] {
        let mut client = Client::connect(&container.dir);
        client.stream.write_all(&length.to_le_bytes()).unwrap();
        assert_eq!(client.receive(), None);
    }
    assert!(answers(&container));
}

#[test]
fn an_unknown_kind_is_refused_and_the_connection_goes_on() {
    let container = sleeper();
    let mut client = Client::connect(&container.dir);
    client.stream.write_all(&[1, 0, 0, 0, 99]).unwrap();
    let expected = Reply::Failed { message: "message kind 99 is unknown".to_owned() };
    assert_eq!(client.receive(), Some(expected));
    assert!(matches!(client.ask(&Request::Subscribe), Reply::State { .. }));
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let container = sleeper();
    let mut client = Client::connect(&container.dir);
    for byte in Request::Subscribe.encode().unwrap() {
        client.stream.write_all(&[byte]).unwrap();
    }
    assert!(matches!(client.receive(), Some(Reply::State { .. })));
    let refused = client.refused(&Request::Resize { rows: 1, cols: 1 });
    assert_eq!(refused, "the container has no terminal");
}

#[test]
fn a_client_that_does_not_read_is_dropped() {
    let container = sleeper();
    let mut client = Client::connect(&container.dir);
    let requests = Request::Subscribe.encode().unwrap().repeat(1000);
    let mut sent = 0;
    while client.stream.write_all(&requests).is_ok() {
        sent += 1;
        assert!(sent < 10_000, "the monitor takes in requests without end");
    }
    assert!(answers(&container));
}

#[test]
fn who_has_gone_makes_room_before_its_going_is_noticed() {
    let container = sleeper();
    let mut clients: Vec<Client> = (0..64).map(|_| Client::connect(&container.dir)).collect();
    for client in &mut clients {
        assert!(matches!(client.ask(&Request::Subscribe), Reply::State { .. }));
    }
    let monitor = Pid::from_child(&container.monitor);
    // All of it happens while the monitor does not look.
    kill_process(monitor, Signal::STOP).unwrap();
    clients.truncate(44);
    clients.extend((0..20).map(|_| Client::connect(&container.dir)));
    clients[44..].iter_mut().for_each(|client| client.send(&Request::Subscribe));
    kill_process(monitor, Signal::CONT).unwrap();
    for (number, client) in clients[44..].iter_mut().enumerate() {
        assert!(matches!(client.receive(), Some(Reply::State { .. })), "newcomer {number}");
    }
}

#[test]
fn there_are_only_so_many_clients_and_a_place_becomes_free() {
    let container = sleeper();
    let mut clients: Vec<Client> = (0..64).map(|_| Client::connect(&container.dir)).collect();
    for client in &mut clients {
        assert!(matches!(client.ask(&Request::Subscribe), Reply::State { .. }));
    }
    let mut surplus = Client::connect(&container.dir);
    assert_eq!(surplus.stream.read(&mut [0]).unwrap_or(0), 0);
    clients.truncate(63);
    eventually("a place is free", || {
        let mut client = Client::connect(&container.dir);
        client.stream.write_all(&Request::Subscribe.encode().unwrap()).is_ok()
            && client.receive().is_some()
    });
}
