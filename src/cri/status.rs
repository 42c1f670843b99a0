//! Our errors as gRPC statuses. The only file that knows status codes.

use tonic::{Code, Status};

use crate::error::{Classify, Kind, chain};

/// The code for what a caller can do about an error.
const fn code(kind: Kind) -> Code {
    match kind {
        Kind::Invalid => Code::InvalidArgument,
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::WrongState | Kind::Refused => Code::FailedPrecondition,
        Kind::Exhausted => Code::ResourceExhausted,
        // The kubelet counts exactly this code of ExecSync as a failed probe.
        Kind::TimedOut => Code::DeadlineExceeded,
        Kind::Superseded => Code::Aborted,
        Kind::Unavailable => Code::Unavailable,
        Kind::Denied => Code::PermissionDenied,
        Kind::DataLoss => Code::DataLoss,
        Kind::Unsupported => Code::Unimplemented,
        Kind::NamedByFirstWord => Code::Unknown,
        Kind::Internal => Code::Internal,
    }
}

/// The code's name, as metrics have it.
pub const fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "Ok",
        Code::Cancelled => "Cancelled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// Longest message: it travels in a header, and the kubelet puts it into an event.
const MAX_MESSAGE: usize = 4096;

/// Turns any of our errors into a status.
pub fn status<E: Classify + 'static>(error: impl std::ops::Deref<Target = E>) -> Status {
    let mut message = chain(&*error);
    message.truncate(message.floor_char_boundary(MAX_MESSAGE));
    Status::new(code(error.kind()), message)
}

/// The request can never succeed as it is.
pub fn invalid(message: impl Into<String>) -> Status {
    Status::new(code(Kind::Invalid), message)
}

/// The answer has more bytes than a message may have; what to ask for instead.
pub fn too_large(bytes: usize, max: usize, instead: &str) -> Status {
    let message = format!("the answer has {bytes} bytes, a message at most {max}: {instead}");
    Status::new(code(Kind::Exhausted), message)
}

/// The daemon is still finding its containers.
pub fn starting() -> Status {
    Status::new(code(Kind::Unavailable), "starting: pods and containers are being found again")
}

/// The client said how long it would wait, and that is over.
pub fn late() -> Status {
    Status::new(code(Kind::TimedOut), "no answer within the client's deadline; the work goes on")
}
