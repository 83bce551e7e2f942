//! One call of the plugin, as a container runtime makes it: environment, JSON on standard input, an answer and an exit
//! code.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// A call that can be changed until it is made.
#[derive(Clone)]
pub(crate) struct Call {
    program: PathBuf,
    environment: BTreeMap<String, String>,
    config: Value,
    raw: Option<Vec<u8>>,
}

impl Call {
    pub(crate) fn new(program: &Path, command: &str, version: &str) -> Self {
        let call = Self {
            program: program.to_owned(),
            environment: BTreeMap::from([("CNI_COMMAND".to_owned(), command.to_owned())]),
            config: json!({ "cniVersion": version, "name": "cilium", "type": "cilium-cni" }),
            raw: None,
        };
        // GC is about nothing without a list.
        match command {
            "GC" => call.with("cni.dev/valid-attachments", json!([])),
            _ => call,
        }
    }

    /// Sets a variable.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> &mut Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The call with another value of a variable.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.set(name, value);
        self
    }

    /// The call without a variable.
    pub(crate) fn unset(mut self, name: &str) -> Self {
        self.environment.remove(name);
        self
    }

    /// The call with a key in the configuration.
    pub(crate) fn with(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    /// The call without a key in the configuration.
    pub(crate) fn without(mut self, key: &str) -> Self {
        if let Some(config) = self.config.as_object_mut() {
            config.remove(key);
        }
        self
    }

    /// The call with the result of ADD.
    pub(crate) fn after(self, result: &Value) -> Self {
        self.with("prevResult", result.clone())
    }

    /// The call with these bytes in place of a configuration.
    pub(crate) fn input(mut self, bytes: &[u8]) -> Self {
        self.raw = Some(bytes.to_vec());
        self
    }

    /// Calls the plugin and waits for its end. Nothing but what was set is in its environment.
    pub(crate) fn run(self) -> Answer {
        let mut child = Command::new(&self.program)
            .env_clear()
            .envs(&self.environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the plugin starts");
        let input = self.raw.unwrap_or_else(|| self.config.to_string().into_bytes());
        let mut stdin = child.stdin.take().expect("a pipe");
        let writer = std::thread::spawn(move || {
            // A plugin that has read enough may close its end.
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().expect("the plugin ends");
        writer.join().expect("written");
        let answer = Answer {
            call: format!("{:?}", self.environment),
            exit: output.status.code(),
            output: String::from_utf8(output.stdout).expect("UTF-8"),
        };
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(complaints, "", "on standard error: {answer:?}");
        answer
    }
}

/// What came back.
pub(crate) struct Answer {
    call: String,
    exit: Option<i32>,
    output: String,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { call, exit, output } = self;
        write!(f, "{call} ended with {exit:?} and said: {output}")
    }
}

impl Answer {
    pub(crate) fn succeeded(&self) -> bool {
        self.exit == Some(0)
    }

    /// The result of a call that succeeded.
    pub(crate) fn result(self) -> Value {
        assert_eq!(self.exit, Some(0), "{self:?}");
        serde_json::from_str(&self.output).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A call that succeeded and has nothing to say.
    pub(crate) fn silence(self) {
        assert_eq!((self.exit, self.output.as_str()), (Some(0), ""), "{self:?}");
    }

    /// The error of a call that failed: code and words.
    pub(crate) fn error(self) -> (u64, String) {
        self.error_in("1.1.0")
    }

    /// The same, in the words of a version: exactly the keys of the specification.
    pub(crate) fn error_in(self, version: &str) -> (u64, String) {
        assert_eq!(self.exit, Some(1), "{self:?}");
        let error: Value =
            serde_json::from_str(&self.output).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        let object = error.as_object().expect("an object");
        let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert!(
            keys == ["cniVersion", "code", "details", "msg"] || keys == ["cniVersion", "code", "msg"],
            "{self:?}"
        );
        assert_eq!(error["cniVersion"], version, "{self:?}");
        let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
        assert!(!text("msg").is_empty(), "{self:?}");
        let code = error["code"].as_u64().expect("a number");
        (code, format!("{} {}", text("msg"), text("details")))
    }
}
