//! End-to-end tests: the real lab, the real `kubectl`, the real kernel, driven as a user would, from a shell.
//!
//! [`walk::STEPS`] is the README's walk; `cargo xtask demo` shows it to people and `tests/walk.rs` proves it.

mod cluster;
pub mod shell;
pub mod walk;

pub use cluster::{client, server};
pub use shell::{Lab, Output};
