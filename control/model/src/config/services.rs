//! The keys of services.

use super::reader::{Reader, Refusal};
use super::values;
use crate::service::{Mode, Settings};

/// What the configuration says of services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceConfig {
    /// `bpf-lb-algorithm`, `bpf-lb-mode` and `enable-svc-source-range-check`.
    pub settings: Settings,
    /// `bpf-lb-acceleration`.
    pub acceleration: Acceleration,
    /// `node-port-range`: first and last.
    pub node_ports: (u16, u16),
    /// `node-port-bind-protection`: processes of the node cannot take node ports.
    pub bind_protection: bool,
    /// `bpf-lb-map-max`: frontends; the tables of backends and of members grow with it. `None`: as built.
    pub map_max: Option<u32>,
}

/// Whether packets to services turn round in the driver of a native device (XDP) where that is possible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acceleration {
    /// Nowhere.
    #[default]
    Disabled,
    /// On every native device; one that cannot is an error.
    Native,
    /// On those that can.
    BestEffort,
}

/// Cilium's defaults.
const NODE_PORTS: (u16, u16) = (30_000, 32_767);

pub(super) fn read(r: &mut Reader<'_>, enabled: bool) -> ServiceConfig {
    let config = ServiceConfig {
        settings: Settings {
            maglev: r.with("bpf-lb-algorithm", algorithm, false),
            mode: r.with("bpf-lb-mode", mode, Mode::Snat),
            check_source_ranges: r.bool("enable-svc-source-range-check", true),
        },
        acceleration: r.with("bpf-lb-acceleration", acceleration, Acceleration::Disabled),
        node_ports: r.with("node-port-range", port_range, NODE_PORTS),
        bind_protection: r.bool("node-port-bind-protection", true),
        map_max: r.with("bpf-lb-map-max", values::entries, None),
    };
    r.with("bpf-lb-maglev-table-size", maglev_size, ());
    if !enabled && config.acceleration != Acceleration::Disabled {
        r.no_effect("bpf-lb-acceleration", "it needs kube-proxy-replacement: true");
    }
    if enabled {
        // Each of them is part of replacing kube-proxy; to leave one out is not possible.
        for key in [
            "enable-node-port",
            "enable-external-ips",
            "enable-host-port",
            "enable-session-affinity",
        ] {
            if r.value(key).is_some() && !r.bool(key, true) {
                r.no_effect(key, "it is part of kube-proxy-replacement: true");
            }
        }
    }
    config
}

fn algorithm(text: &str) -> Result<bool, Refusal> {
    match text {
        "random" => Ok(false),
        "maglev" => Ok(true),
        _ => values::refuse("random, maglev", "not a balancing algorithm"),
    }
}

fn acceleration(text: &str) -> Result<Acceleration, Refusal> {
    const ALLOWED: &str = "disabled, native, best-effort";
    match text {
        "disabled" => Ok(Acceleration::Disabled),
        "native" => Ok(Acceleration::Native),
        "best-effort" => Ok(Acceleration::BestEffort),
        "testing-only" => values::refuse(ALLOWED, "generic XDP breaks the programs behind it"),
        _ => values::refuse(ALLOWED, "not a kind of acceleration"),
    }
}

fn mode(text: &str) -> Result<Mode, Refusal> {
    match text {
        "snat" => Ok(Mode::Snat),
        "dsr" => Ok(Mode::Dsr),
        "hybrid" => Ok(Mode::Hybrid),
        "annotation" => Ok(Mode::Annotation),
        _ => values::refuse("snat, dsr, hybrid, annotation", "not a mode of forwarding"),
    }
}

fn port_range(text: &str) -> Result<(u16, u16), Refusal> {
    const ALLOWED: &str = "first,last such as 30000,32767";
    let parsed = text.split_once(',').and_then(|(first, last)| {
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        // Translation takes its ports from above the range.
        (0 < first && first <= last && last < u16::MAX).then_some((first, last))
    });
    parsed.map_or_else(|| values::refuse(ALLOWED, "not a range of ports below 65535"), Ok)
}

fn maglev_size(text: &str) -> Result<(), Refusal> {
    if text.parse() == Ok(abi::service::MAGLEV_SIZE) {
        Ok(())
    } else {
        values::refuse("16381", "tables of other sizes are not implemented")
    }
}
