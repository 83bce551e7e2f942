//! The server in this process, driven from outside: by raw HTTP and by the real `kubectl`.

#![expect(clippy::unwrap_used, reason = "in a test, what goes wrong ends it")]

mod kubectl;
mod kubelet;
mod objects;
mod refusals;
mod services;
mod support;
mod watch;
