//! Containers with a terminal.

use conmon::{CONSOLE, Reply, Request};

use crate::bundle::{Runtime, Wish};
use crate::client::Client;
use crate::container::Plan;
use crate::waiting::eventually;
use crate::with_each_runtime;

with_each_runtime! {
    a_terminal_prints_with_carriage_returns_and_has_the_size_it_is_given
    the_last_words_on_a_terminal_are_not_lost
    a_terminal_that_nobody_holds_open_is_read_again_later
}

fn wish(runtime: Runtime, script: &str) -> Wish {
    Wish { terminal: true, ..Wish::script(runtime, script) }
}

fn a_terminal_prints_with_carriage_returns_and_has_the_size_it_is_given(runtime: Runtime) {
    let script = "test -t 0 && test -t 2 && echo is a tty; echo err >&2; \
                  while [ \"$(stty size 2>/dev/null)\" != '40 120' ]; do sleep 0.02; done; stty size; exit 3";
    let container = Plan::new(wish(runtime, script)).create();
    assert!(!container.dir.join(CONSOLE).exists());
    container.start();
    container.wait_for_output("is a tty\r\nerr\r\n");
    let mut client = Client::connect(&container.dir);
    assert!(client.refused(&Request::CloseStdin).contains("terminal"));
    assert_eq!(client.ask(&Request::Resize { rows: 40, cols: 120 }), Reply::Ok);
    assert_eq!(container.wait_for_exit().code, 3);
    assert_eq!(container.output("stdout"), "is a tty\r\nerr\r\n40 120\r\n");
    assert_eq!(container.output("stderr"), "");
}

fn the_last_words_on_a_terminal_are_not_lost(runtime: Runtime) {
    for _ in 0..5 {
        let container = Plan::new(wish(runtime, "yes 0123456 | head -c 3200; printf end")).create();
        container.start();
        container.wait_for_exit();
        assert_eq!(container.output("stdout"), "0123456\r\n".repeat(400) + "end");
    }
}

fn a_terminal_that_nobody_holds_open_is_read_again_later(runtime: Runtime) {
    let script = "echo one; exec 0<&- 1>&- 2>&-; sleep 0.5; \
                  echo two > /dev/console; sleep 0.5; exit 6";
    let container = Plan::new(wish(runtime, script)).create();
    container.start();
    assert_eq!(container.wait_for_exit().code, 6);
    eventually("both lines", || container.output("stdout") == "one\r\ntwo\r\n");
}
