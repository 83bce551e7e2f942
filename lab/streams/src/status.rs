//! How a remote command ended, as the error stream tells it.

use serde_json::json;

/// The end of a remote command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Exit code 0.
    Success,
    /// Another exit code; 128 + n for signal n.
    Exit(i32),
    /// It could not be run.
    Failed(String),
}

impl Outcome {
    /// A `Status` object, as protocol version 4 and later ask.
    #[must_use]
    pub fn to_status(&self) -> Vec<u8> {
        let status = match self {
            Self::Success => json!({"metadata": {}, "status": "Success"}),
            Self::Exit(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": self.to_text(),
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Failed(message) => json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("Internal error occurred: {message}"),
                "reason": "InternalError",
                "details": {"causes": [{"message": message}]},
                "code": 500,
            }),
        };
        status.to_string().into_bytes()
    }

    /// Plain text, as protocol versions before 4 ask; empty for success.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::Success => String::new(),
            Self::Exit(code) => {
                format!("command terminated with non-zero exit code: exit status {code}")
            }
            Self::Failed(message) => message.clone(),
        }
    }
}
