use proptest::prelude::*;

use super::*;

fn parse(pairs: &[(&str, &str)]) -> Result<(AgentConfig, Vec<Warning>), Problems> {
    AgentConfig::parse(
        &pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
    )
}

/// The effective configuration of the demo (cilium.md §4.1).
const DEMO: [(&str, &str); 21] = [
    ("debug", "true"),
    ("enable-ipv4", "false"),
    ("enable-ipv6", "true"),
    ("routing-mode", "native"),
    ("auto-direct-node-routes", "true"),
    ("ipv6-native-routing-cidr", "fd00:10::/32"),
    ("enable-bpf-masquerade", "true"),
    ("kube-proxy-replacement", "true"),
    ("enable-ipv6-masquerade", "true"),
    ("enable-ipv6-big-tcp", "false"),
    ("ipam", "kubernetes"),
    ("cluster-name", "kind-kind"),
    ("cluster-id", "0"),
    ("identity-allocation-mode", "crd"),
    ("enable-policy", "default"),
    ("monitor-aggregation", "medium"),
    ("monitor-aggregation-interval", "5s"),
    ("monitor-aggregation-flags", "all"),
    ("enable-hubble", "true"),
    ("hubble-listen-address", ":4244"),
    ("hubble-disable-tls", "false"),
];

#[test]
fn the_demo() {
    let (config, warnings) = parse(&DEMO).unwrap();
    assert!(config.debug && config.enable_ipv6 && !config.enable_ipv4 && config.auto_direct_node_routes);
    assert_eq!(
        config.ipv6_native_routing_cidr,
        Some("fd00:10::/32".parse().unwrap())
    );
    assert_eq!(config.cluster_name, "kind-kind");
    assert_eq!(config.monitor_aggregation, Aggregation::Medium);
    assert_eq!(config.families().collect::<Vec<_>>(), [Family::V6]);
    let texts: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        ["enable-hubble is not in effect: flows are not served yet",]
    );
}

#[test]
fn nothing_configured() {
    let (config, warnings) = parse(&[]).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.health_port, 9879);
    assert_eq!(config.prometheus, None);
    assert_eq!(config.ct_timeouts.tcp, Duration::from_secs(8000));
    let expected = abi::Config {
        node_namespace: 77,
        host_ifindex: 4,
        router_v6: abi::Addr([1; 16]),
        ..abi::Config::default()
    };
    let router = crate::addr::from_abi(abi::Addr([1; 16]));
    assert_eq!(
        config.datapath(&[router], 4, 77),
        expected,
        "the datapath's defaults are the same"
    );
}

#[test]
fn all_problems_at_once() {
    let problems = parse(&[
        ("routing-mode", "tunnel"),
        ("enable-ipv4", "true"),
        ("ipam", "cluster-pool"),
        ("debug", "yes"),
        ("monitor-aggregation-interval", "5"),
        ("bpf-map-dynamic-size-ratio", "1.5"),
        ("labels", "k8s:("),
        ("ipv6-native-routing-cidr", "10.0.0.0/8"),
    ])
    .unwrap_err();
    let keys: Vec<&str> = problems.0.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "routing-mode",
            "ipam",
            "debug",
            "ipv6-native-routing-cidr",
            "monitor-aggregation-interval",
            "bpf-map-dynamic-size-ratio",
            "labels",
            "enable-ipv4",
        ]
    );
    let text = problems.to_string();
    assert!(
        text.contains("routing-mode=\"tunnel\": tunnels are not implemented yet (allowed: native)"),
        "{text}"
    );
    assert!(
        text.contains("enable-ipv4=\"true\": IPv4 is not implemented yet (allowed: false)"),
        "{text}"
    );
}

#[test]
fn single_values() {
    let bad = [
        ("enable-ipv6", "false"),
        ("cluster-name", "Kind"),
        ("cluster-name", "-kind"),
        ("cluster-name", "a-name-of-more-than-thirty-two-bytes"),
        ("cluster-id", "1"),
        ("cluster-id", "x"),
        ("monitor-aggregation", "some"),
        ("monitor-aggregation-flags", "syn,xyz"),
        ("monitor-aggregation-interval", "0s"),
        ("bpf-ct-global-tcp-max", "1023"),
        ("bpf-ct-global-any-max", "16777217"),
        ("bpf-ct-timeout-regular-tcp", "-1s"),
        ("devices", "eth0 a/b"),
        ("devices", "+"),
        ("devices", "sixteen-bytes-xx"),
        ("mtu", "1279"),
        ("agent-health-port", "0"),
        ("agent-health-port", "65536"),
        ("prometheus-serve-addr", "9962"),
        ("prometheus-serve-addr", ":0"),
        ("enable-wireguard", "true"),
        ("datapath-mode", "netkit"),
        ("enable-policy", "always"),
    ];
    for (key, value) in bad {
        let problems = parse(&[(key, value)]).unwrap_err();
        assert_eq!(problems.0.len(), 1, "{key}={value}: {problems}");
        assert_eq!(
            (problems.0[0].key.as_str(), problems.0[0].value.as_str()),
            (key, value)
        );
        assert!(!problems.0[0].allowed.is_empty() && !problems.0[0].reason.is_empty());
    }
    let good = [
        ("prometheus-serve-addr", ""),
        ("prometheus-serve-addr", "[::1]:9962"),
        ("monitor-aggregation", "maximum"),
        ("monitor-aggregation", "none"),
        ("devices", "eth+ enp0s3"),
        ("mtu", "0"),
        ("enable-wireguard", "false"),
        ("bpf-ct-global-tcp-max", "0"),
        ("labels", "k8s:app !k8s:version"),
    ];
    for (key, value) in good {
        assert!(parse(&[(key, value)]).is_ok(), "{key}={value}");
    }
    let flags = |text| {
        parse(&[("monitor-aggregation-flags", text)])
            .unwrap()
            .0
            .monitor_flags
    };
    assert_eq!(
        (flags("syn,fin,rst"), flags("all"), flags("ack psh")),
        (0x07, 0xff, 0x18)
    );
    let devices = parse(&[("devices", "eth+ enp0s3")]).unwrap().0.devices;
    let matches = |name: &str| devices.iter().any(|pattern| pattern.matches(name));
    assert!(matches("eth0") && matches("enp0s3") && !matches("enp0s31") && !matches("wlan0"));
}

#[test]
fn unknown_keys_are_reported() {
    let (_, warnings) = parse(&[
        ("enable-ipv6-masquerad", "true"),
        ("my-own-key", "1"),
        ("hubble-anything", "x"),
    ])
    .unwrap();
    assert_eq!(
        warnings,
        [
            Warning::Unknown {
                key: "enable-ipv6-masquerad".into(),
                nearest: Some("enable-ipv6-masquerade")
            },
            Warning::Unknown {
                key: "my-own-key".into(),
                nearest: None
            },
        ]
    );
}

#[test]
fn durations_as_go_spells_them() {
    let rows = [
        ("5s", Some(5_000)),
        ("2h13m20s", Some(8_000_000)),
        ("100ms", Some(100)),
        ("1.5h", Some(5_400_000)),
        ("0", Some(0)),
        ("0s", Some(0)),
        ("1m0.5s", Some(60_500)),
        ("", None),
        ("5", None),
        ("s", None),
        ("-5s", None),
        ("5x", None),
        ("1.2.3s", None),
        ("99999999999999999999h", None),
    ];
    for (text, millis) in rows {
        assert_eq!(parse_duration(text), millis.map(Duration::from_millis), "{text}");
    }
}

#[test]
fn sizes_of_tables() {
    const GIB: u64 = 1 << 30;
    let sizes = |pairs: &[(&str, &str)], memory| {
        let MapSizes { ct_tcp, ct_any, nat } = parse(pairs).unwrap().0.map_sizes(memory);
        (ct_tcp, ct_any, nat)
    };
    assert_eq!(
        sizes(&[], GIB),
        (131_072, 65_536, 131_072),
        "a small machine: not below the minimum"
    );
    let (tcp, any, nat) = sizes(&[], 256 * GIB);
    assert!(
        tcp > 524_288 && tcp < 4_000_000 && any == tcp / 2 && nat == tcp,
        "{tcp} {any} {nat}"
    );
    // What they take together is what the ratio allows.
    let connection = size_of::<abi::CtKey>() + size_of::<abi::CtEntry>();
    let translation = size_of::<abi::NatKey>() + size_of::<abi::NatEntry>();
    let bytes = (tcp + any) as usize * connection + nat as usize * translation;
    let allowed = 256.0 * GIB as f64 * 0.0025;
    assert!(
        (0.99..=1.0).contains(&(bytes as f64 / allowed)),
        "{bytes} of {allowed}"
    );
    assert_eq!(sizes(&[], u64::MAX), (1 << 24, 1 << 24, 1 << 24));
    assert_eq!(
        sizes(&[("bpf-map-dynamic-size-ratio", "0")], 64 * GIB),
        (524_288, 262_144, 524_288)
    );
    assert_eq!(sizes(&[("bpf-nat-global-max", "4096")], 64 * GIB).2, 4096);
    assert_eq!(sizes(&[("bpf-ct-global-tcp-max", "2048")], 64 * GIB).0, 2048);
}

#[test]
fn keys_of_services() {
    let parse = |pairs: &[(&str, &str)]| {
        let map = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        AgentConfig::parse(&map)
    };
    let (config, warnings) = parse(&[
        ("kube-proxy-replacement", "true"),
        ("bpf-lb-algorithm", "maglev"),
        ("bpf-lb-mode", "snat"),
        ("bpf-lb-dsr-dispatch", "opt"),
        ("bpf-lb-maglev-table-size", "16381"),
        ("node-port-range", "30000,31000"),
        ("node-port-bind-protection", "false"),
        ("enable-svc-source-range-check", "false"),
        ("bpf-lb-map-max", "4096"),
        ("enable-host-port", "false"),
    ])
    .unwrap();
    let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        ["enable-host-port is not in effect: it is part of kube-proxy-replacement: true"]
    );
    let settings = config.services.settings;
    assert!(settings.maglev && !settings.check_source_ranges);
    assert_eq!(settings.mode, crate::service::Mode::Snat);
    assert_eq!(config.services.map_max, Some(4096));
    let constants = config.datapath(&[], 1, 77);
    assert_eq!(
        (constants.nat_ports, constants.node_namespace),
        ([31_001, 65_535], 0)
    );
    for (key, value) in [
        ("bpf-lb-algorithm", "round-robin"),
        ("bpf-lb-mode", "ipvs"),
        ("bpf-lb-dsr-dispatch", "geneve"),
        ("bpf-lb-maglev-table-size", "65521"),
        ("node-port-range", "30000-32767"),
        ("node-port-range", "32767,30000"),
        ("node-port-range", "1,65535"),
        ("bpf-lb-map-max", "17"),
    ] {
        let problems = parse(&[(key, value)]).unwrap_err();
        assert_eq!(problems.0.len(), 1, "{key}={value}");
        assert_eq!(problems.0[0].key, key);
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(values in proptest::collection::vec(".{0,12}", DEMO.len())) {
        let map = DEMO.iter().zip(values).map(|((key, _), value)| ((*key).to_owned(), value)).collect();
        if let Err(problems) = AgentConfig::parse(&map) {
            prop_assert!(!problems.0.is_empty());
        }
    }

    #[test]
    fn a_duration_is_a_sum(hours in 0u64..1000, minutes in 0u64..1000, seconds in 0u64..1000) {
        let text = format!("{hours}h{minutes}m{seconds}s");
        prop_assert_eq!(parse_duration(&text), Some(Duration::from_secs(hours * 3600 + minutes * 60 + seconds)));
    }
}

#[test]
fn a_native_prefix_of_no_bits_leaves_nothing_to_masquerade() {
    for (cidr, masquerade, warned) in [
        ("fd00:10::/32", 1, false),
        ("::/0", 0, true),
        ("8000::/1", 1, false),
    ] {
        let keys = [
            ("enable-bpf-masquerade", "true"),
            ("ipv6-native-routing-cidr", cidr),
        ];
        let (config, warnings) = parse(&keys).unwrap();
        assert_eq!(config.datapath(&[], 1, 0).masquerade_v6, masquerade, "{cidr}");
        let told = warnings
            .iter()
            .any(|warning| warning.to_string().contains("enable-bpf-masquerade"));
        assert_eq!(told, warned, "{cidr}: {warnings:?}");
    }
}

#[test]
fn masquerade_that_nobody_does_is_told() {
    for (bpf, v6, warned) in [
        ("false", "true", true),
        ("false", "false", false),
        ("true", "true", false),
    ] {
        let keys = [
            ("enable-bpf-masquerade", bpf),
            ("enable-ipv6-masquerade", v6),
            ("ipv6-native-routing-cidr", "fd00:10::/32"),
        ];
        let (_, warnings) = parse(&keys).unwrap();
        assert_eq!(!warnings.is_empty(), warned, "{bpf} {v6}: {warnings:?}");
    }
}

#[test]
fn the_file_of_ip_masq_agent_can_be_elsewhere() {
    let path = |keys: &[(&str, &str)]| parse(keys).unwrap().0.ip_masq_agent_config_path;
    assert_eq!(path(&[]), "/etc/config/ip-masq-agent");
    assert_eq!(path(&[("ip-masq-agent-config-path", "/etc/masq")]), "/etc/masq");
}

#[test]
fn acceleration_is_read_and_needs_services() {
    let with = |value, services| {
        parse(&[
            ("bpf-lb-acceleration", value),
            ("kube-proxy-replacement", services),
        ])
        .unwrap()
    };
    assert_eq!(
        with("native", "true").0.services.acceleration,
        Acceleration::Native
    );
    assert_eq!(
        with("best-effort", "true").0.services.acceleration,
        Acceleration::BestEffort
    );
    assert!(with("native", "true").1.is_empty() && with("disabled", "false").1.is_empty());
    assert_eq!(with("native", "false").1.len(), 1);
    let refused = parse(&[("bpf-lb-acceleration", "testing-only")]).unwrap_err();
    assert!(
        refused.to_string().contains("disabled, native, best-effort"),
        "{refused}"
    );
}
