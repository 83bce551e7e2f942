//! A small Kubernetes API server, as a library: one generic store, one table of kinds, no handler per kind.
//!
//! What it is for: the lab's cluster on one machine. It speaks enough of the Kubernetes REST API that `kubectl`
//! (1.20, 1.27 to 1.33) and kube-rs feel at home; it is not made for more than one process or for untrusted users.
//!
//! The way of a request: `http` accepts and authenticates, `rest` reads path, query and body and chooses the
//! media type of the answer, `api` does the work (admission, defaulting, validation, storing), `store` keeps
//! objects and the history that watches read. The in-process [`Client`] enters at `api`.
//!
//! What a kind is, is data: `kinds` is the table (names, columns, hooks), `schema/types.txt` its fields,
//! `schema/numbers.txt` their protobuf numbers, `schema` the merge keys. A custom resource definition adds a row at
//! run time (`crd`).
//!
//! Known limits: authorisation admits every authenticated user (`auth`); nothing is kept on disk except keys (`pki`); no admission or conversion webhooks, no CEL;
//! pages of a list are not one snapshot (but a watch from any page misses nothing).

#![forbid(unsafe_code)]

mod admission;
mod api;
mod auth;
mod bootstrap;
mod client;
mod config;
mod crd;
mod defaults;
mod discovery;
#[doc(hidden)]
pub mod fuzz;
mod http;
mod jsonpath;
mod kinds;
pub mod kubeconfig;
mod object;
mod openapi;
mod patch;
mod pki;
mod printers;
mod protobuf;
mod proxy;
mod quantity;
mod registry;
mod rest;
mod schema;
mod selector;
mod server;
mod status;
mod store;
mod table;
mod token;
mod validate;

pub use client::{
    Client, DeleteOptions, ListOptions, Object, ObjectList, Patch, Resource, ServedResource, WatchEvent,
};
pub use config::{Handle, KubeletResolver, ServeError, ServerConfig};
pub use pki::PkiError;
pub use server::serve;
pub use status::{Cause, Details, Status};
