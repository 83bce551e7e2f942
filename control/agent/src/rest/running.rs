//! What the programs on the node's devices do, by the constants that the kernel runs them with. Another agent may have
//! loaded them, so its own configuration is no answer.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use abi::Config;
use api::status::{Masquerading, Protocols};

/// How programs forward and translate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Running {
    /// `BPF`, `Legacy` (by the stack), `Mixed` while programs differ, `Unknown` when there are none that can be read.
    pub(super) host_routing: &'static str,
    /// Every program translates services packet by packet.
    pub(super) services: bool,
    /// What pods look like to the world; off unless every program does it.
    pub(super) masquerading: Masquerading,
}

impl Running {
    /// From the constants of each program.
    pub(super) fn new(constants: &BTreeMap<u32, Config>) -> Self {
        let all = |is: fn(&Config) -> bool| !constants.is_empty() && constants.values().all(is);
        let any = |is: fn(&Config) -> bool| constants.values().any(is);
        let by_bpf = |config: &Config| config.host_routing != 0;
        Self {
            host_routing: if constants.is_empty() {
                "Unknown"
            } else if all(by_bpf) {
                "BPF"
            } else if any(by_bpf) {
                "Mixed"
            } else {
                "Legacy"
            },
            services: all(|config| config.services != 0),
            masquerading: if all(|config| config.masquerade_v6 != 0) {
                masquerading(constants)
            } else {
                Masquerading::default()
            },
        }
    }
}

fn masquerading(constants: &BTreeMap<u32, Config>) -> Masquerading {
    let mut excluded: Vec<String> = constants.values().map(excluded).collect();
    excluded.sort();
    excluded.dedup();
    Masquerading {
        enabled: true,
        mode: "BPF".to_owned(),
        enabled_protocols: Protocols {
            ipv4: false,
            ipv6: true,
        },
        snat_exclusion_cidr_v6: excluded.join(","),
        // Decided by a table, not by the programs.
        ip_masq_agent: false,
    }
}

/// The destinations that see the pod's own address.
fn excluded(config: &Config) -> String {
    match config.native_v6_bits {
        0 => String::new(),
        bits => format!("{}/{bits}", Ipv6Addr::from(config.native_v6.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(configs: &[Config]) -> Running {
        Running::new(&(0..).zip(configs.iter().copied()).collect())
    }

    #[test]
    fn what_all_programs_do_is_told() {
        let native: Ipv6Addr = "fd00:10::".parse().unwrap();
        let on = Config {
            services: 1,
            masquerade_v6: 1,
            native_v6: abi::Addr(native.octets()),
            native_v6_bits: 32,
            ..Config::DEFAULT
        };
        let found = running(&[on, on]);
        assert_eq!(found.host_routing, "BPF");
        assert!(found.services && found.masquerading.enabled && found.masquerading.enabled_protocols.ipv6);
        assert_eq!(found.masquerading.snat_exclusion_cidr_v6, "fd00:10::/32");
        assert_eq!(found.masquerading.mode, "BPF");
    }

    #[test]
    fn what_only_some_do_is_not_promised() {
        let stack = Config {
            host_routing: 0,
            ..Config::DEFAULT
        };
        let services = Config {
            services: 1,
            ..Config::DEFAULT
        };
        let found = running(&[stack, services]);
        assert_eq!(found.host_routing, "Mixed");
        assert!(!found.services && !found.masquerading.enabled);
        assert_eq!(running(&[stack]).host_routing, "Legacy");
        assert_eq!(running(&[]).host_routing, "Unknown");
        assert!(!running(&[]).services);
    }
}
