//! What the CNI plugin asks of the agent. The plugin adds nothing but the JSON of the CNI specification.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One interface of one sandbox: the key of every CNI request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
}

/// ADD.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AddRequest {
    /// Which interface.
    pub attachment: Attachment,
    /// `CNI_NETNS`: path of the sandbox's network namespace.
    pub netns: String,
    /// Key and value pairs of `CNI_ARGS` (`K8S_POD_NAME` …).
    pub args: BTreeMap<String, String>,
    /// MTU that the configuration asks for; 0: the agent's choice.
    pub mtu: u32,
}

/// What ADD made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AddResponse {
    /// Endpoint number.
    pub endpoint_id: u32,
    /// The host-side device.
    pub host: Interface,
    /// The device in the sandbox.
    pub container: Interface,
    /// Addresses with prefix length and their gateway.
    pub addresses: Vec<Address>,
    /// Routes of the sandbox.
    pub routes: Vec<Route>,
}

/// A device that ADD made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its MAC, `aa:bb:…`.
    pub mac: String,
    /// Its MTU, bytes.
    pub mtu: u32,
}

/// An address of the sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Address {
    /// With prefix length, for example `fd00:10:244::6321/128`.
    pub address: String,
    /// The router.
    pub gateway: String,
}

/// A route of the sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Route {
    /// Destination prefix.
    pub dst: String,
    /// Next hop; empty: on the link.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gw: String,
    /// Route MTU, bytes; 0: that of the device.
    pub mtu: u32,
}

/// CHECK.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckRequest {
    /// Which interface.
    pub attachment: Attachment,
    /// Path of the sandbox's network namespace.
    pub netns: String,
    /// Addresses of the previous result, with prefix length.
    pub addresses: Vec<String>,
}

/// GC: everything that is not listed goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GcRequest {
    /// `cni.dev/valid-attachments`.
    pub valid: Vec<Attachment>,
}

/// Error codes of the CNI specification, and ours from 100.
pub mod code {
    /// The requested version of the specification is not supported.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field of the configuration is not supported.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is unknown; the runtime need not clean up.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// An environment variable is missing or wrong.
    pub const BAD_ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO: u32 = 5;
    /// JSON could not be decoded.
    pub const DECODE: u32 = 6;
    /// The configuration is invalid.
    pub const BAD_CONFIG: u32 = 7;
    /// Try again later.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: the plugin cannot serve ADD.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: the plugin cannot serve ADD, and existing containers may have limited connectivity.
    pub const LIMITED: u32 = 51;
    /// The interface already exists.
    pub const EXISTS: u32 = 100;
    /// The block of addresses is used up.
    pub const NO_ADDRESS: u32 = 101;
    /// The kernel refused.
    pub const KERNEL: u32 = 102;
    /// CHECK found something else than ADD had left.
    pub const CHECK_FAILED: u32 = 103;
}
