//! How a client is told what came of its exec or attach: the bytes on the error stream.

use bytes::Bytes;
use serde_json::json;

/// How the outcome is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As words, and nothing for a success: protocols 1 to 3.
    Words,
    /// As a Kubernetes Status in JSON: protocols 4 and 5.
    Json,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ended by itself; of a process, with status 0.
    Success,
    /// The process ended with another status, or with 128 + a signal.
    Exit(i32),
    /// It could not be done, or not to the end.
    Failure(String),
}

impl Outcome {
    /// What goes on the error stream; nothing if it is empty.
    ///
    /// kubectl and client-go read the exit status from the cause with the reason `ExitCode`
    /// (apimachinery's metav1.Status).
    pub fn encode(&self, form: Form) -> Bytes {
        match (form, self) {
            (Form::Words, Self::Success) => Bytes::new(),
            (Form::Words, _) => self.words().into(),
            (Form::Json, Self::Success) => {
                json!({ "metadata": {}, "status": "Success" }).to_string().into()
            }
            (Form::Json, Self::Exit(code)) => json!({
                "metadata": {},
                "status": "Failure",
                "message": self.words(),
                "reason": "NonZeroExitCode",
                "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
                "code": 500,
            })
            .to_string()
            .into(),
            (Form::Json, Self::Failure(message)) => json!({
                "metadata": {},
                "status": "Failure",
                "message": message,
                "reason": "InternalError",
                "details": { "causes": [{ "message": message }] },
                "code": 500,
            })
            .to_string()
            .into(),
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Success => String::new(),
            Self::Exit(code) => format!("command terminated with exit code {code}"),
            Self::Failure(message) => message.clone(),
        }
    }
}

impl From<i32> for Outcome {
    fn from(code: i32) -> Self {
        if code == 0 { Self::Success } else { Self::Exit(code) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_in_the_cause_that_clients_read() {
        let status: serde_json::Value =
            serde_json::from_slice(&Outcome::from(7).encode(Form::Json)).expect("JSON");
        assert_eq!((&status["status"], &status["code"]), (&json!("Failure"), &json!(500)));
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"], json!([{ "reason": "ExitCode", "message": "7" }]));
        let success = Outcome::from(0).encode(Form::Json);
        assert_eq!(success, r#"{"metadata":{},"status":"Success"}"#);
    }

    #[test]
    fn older_protocols_are_told_in_words_and_only_of_failures() {
        assert!(Outcome::Success.encode(Form::Words).is_empty());
        assert_eq!(Outcome::Exit(7).encode(Form::Words), "command terminated with exit code 7");
        assert_eq!(Outcome::Failure("no \"x\"".into()).encode(Form::Words), "no \"x\"");
    }
}
