//! The server in this process, driven from outside: by raw HTTP and by the real `kubectl`.

mod kubectl;
mod rest;
mod support;
