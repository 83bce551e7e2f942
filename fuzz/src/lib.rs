//! One function per parser of outside bytes. libFuzzer feeds them (`fuzz_targets/`), and the committed corpora are
//! replayed through the same functions on stable (`tests/replay.rs`). A finding is a panic, an endless loop or an
//! assertion that does not hold.
//!
//! What is private to its room is reached through that room's `fuzz` module.
#![forbid(unsafe_code)]

mod cli;
mod control;
mod streams;

pub use cli::{seta_set, seta_values};
pub use control::{api_body, cni_request, loader_event, model_config, model_labels, model_state};
pub use flow::fuzz::record as flow_record;
pub use lab_apiserver::fuzz::{
    body as apiserver_body, definition as apiserver_definition, kubeconfig as apiserver_kubeconfig,
    managed as apiserver_managed, patch as apiserver_patch, path as apiserver_path,
    selector as apiserver_selector,
};
pub use lab_dns::fuzz::{corefile as dns_corefile, query as dns_query};
pub use lab_kubelet::fuzz::{
    cni as kubelet_cni, log as kubelet_log, proc as kubelet_proc, runtime as kubelet_runtime,
    text as kubelet_text,
};
pub use lab_streams::fuzz::resize as streams_resize;
pub use sim::fuzz::{packet, stages};
pub use streams::{streams_handshake, streams_headers, streams_message, streams_spdy};

/// A target: what it does with its input.
pub type Target = fn(&[u8]);

/// Every target under the name of its file in `fuzz_targets/` and of its directory in `corpus/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("packet", packet),
    ("stages", stages),
    ("streams_spdy", streams_spdy),
    ("streams_headers", streams_headers),
    ("streams_message", streams_message),
    ("streams_handshake", streams_handshake),
    ("streams_resize", streams_resize),
    ("loader_event", loader_event),
    ("flow_record", flow_record),
    ("cni_request", cni_request),
    ("api_body", api_body),
    ("model_config", model_config),
    ("model_labels", model_labels),
    ("model_state", model_state),
    ("apiserver_body", apiserver_body),
    ("apiserver_patch", apiserver_patch),
    ("apiserver_managed", apiserver_managed),
    ("apiserver_definition", apiserver_definition),
    ("apiserver_selector", apiserver_selector),
    ("apiserver_path", apiserver_path),
    ("apiserver_kubeconfig", apiserver_kubeconfig),
    ("dns_query", dns_query),
    ("dns_corefile", dns_corefile),
    ("kubelet_log", kubelet_log),
    ("kubelet_text", kubelet_text),
    ("kubelet_proc", kubelet_proc),
    ("kubelet_cni", kubelet_cni),
    ("kubelet_runtime", kubelet_runtime),
    ("seta_set", seta_set),
    ("seta_values", seta_values),
];
