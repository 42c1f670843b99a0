//! Stop signals: the interface counts them its own way.

use super::{Field, Mistakes};
use crate::container::signal;
use crate::container::spec::StopSignal;
use crate::cri::pb;

/// The stop signal asked for; none = the image's. The wire has the number only: the names of the
/// enumeration have changed between versions of Kubernetes, the numbers have not.
pub(super) fn stop_signal(
    mistakes: &mut Mistakes,
    field: &Field<'_>,
    number: i32,
) -> Option<StopSignal> {
    match pb::Signal::try_from(number) {
        Ok(pb::Signal::RuntimeDefault) => None,
        Ok(signal) => Some(StopSignal { cri: number, name: kernel_name(signal) }),
        Err(_) => {
            mistakes.add(field, format_args!("{number} is not a signal"));
            None
        }
    }
}

/// The signal that ends a container, for its status: the one that was asked for, else the one that
/// the image or nobody chose, by the kernel's number.
pub(super) fn stop_signal_into_pb(asked: Option<&StopSignal>, in_force: u8) -> i32 {
    let names = |number: &i32| {
        let signal = pb::Signal::try_from(*number).ok();
        signal.is_some_and(|s| signal::number(&kernel_name(s)) == Some(in_force))
    };
    let found = || (1..=pb::Signal::Sigrtmax.into()).find(names).unwrap_or_default();
    asked.map_or_else(found, |asked| asked.cri)
}

/// `SIGTERM`, `SIGRTMIN+3`, `SIGRTMAX-1`.
fn kernel_name(signal: pb::Signal) -> String {
    let name = signal.as_str_name();
    let name = name.strip_prefix("SIGNAL_").unwrap_or(name);
    name.replacen("MINUS", "-", 1).replacen("PLUS", "+", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_the_interface_is_a_signal_of_the_kernel() {
        let mut mistakes = Mistakes::default();
        let field = Field::root("stop_signal");
        let mut names = Vec::new();
        for number in 1..=65 {
            let found = stop_signal(&mut mistakes, &field, number).expect("a signal");
            assert_eq!(found.cri, number);
            assert!(signal::number(&found.name).is_some(), "{}", found.name);
            names.push(found.name);
        }
        let at = |n: usize| names[n - 1].as_str();
        assert_eq!((at(13), at(23), at(35)), ("SIGKILL", "SIGTERM", "SIGRTMIN"));
        assert_eq!((at(38), at(64), at(65)), ("SIGRTMIN+3", "SIGRTMAX-1", "SIGRTMAX"));
        assert_eq!(stop_signal(&mut mistakes, &field, 0), None);
        assert!(mistakes.finish(()).is_ok());
    }

    #[test]
    fn the_signal_in_force_is_reported_by_the_interfaces_number() {
        assert_eq!(stop_signal_into_pb(None, signal::TERM), 23);
        assert_eq!(stop_signal_into_pb(None, 10), 29, "SIGUSR1");
        assert_eq!(stop_signal_into_pb(None, 37), 38, "SIGRTMIN+3");
        assert_eq!(stop_signal_into_pb(None, 64), 65, "SIGRTMAX");
        // One of two names of the same signal stays what was asked for.
        let asked = StopSignal { cri: 12, name: "SIGIOT".to_owned() };
        assert_eq!(stop_signal_into_pb(Some(&asked), 6), 12);
        for number in 1..=31 {
            assert_ne!(stop_signal_into_pb(None, number), 0, "signal {number}");
        }
    }

    #[test]
    fn a_number_beyond_the_enumeration_is_refused() {
        for number in [-1, 66, 200, i32::MAX] {
            let mut mistakes = Mistakes::default();
            stop_signal(&mut mistakes, &Field::root("stop_signal"), number);
            assert!(mistakes.finish(()).is_err(), "{number}");
        }
    }
}
