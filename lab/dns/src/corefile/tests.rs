use super::*;

fn with(directives: &str) -> Result<Config, CorefileError> {
    Config::parse(&format!(".:53 {{\n{directives}\n}}\n"))
}

#[test]
fn what_kubeadm_writes() {
    let text = "\
.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa { # the cluster
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf 2001:db8::1 [2001:db8::2]:5353 {
       max_concurrent 10
    }
    cache 30 {
       disable success cluster.local
    }
    loop
    reload
    loadbalance
}
";
    let config = Config::parse(text).unwrap();
    assert_eq!(config.port, 53);
    assert_eq!(
        config.kubernetes.domain,
        Name::from_ascii("cluster.local.").unwrap()
    );
    assert_eq!(
        (
            config.kubernetes.reverse.len(),
            config.kubernetes.fallthrough.len()
        ),
        (2, 2)
    );
    assert_eq!(
        (config.kubernetes.ttl, config.kubernetes.pods),
        (30, Pods::Insecure)
    );
    assert_eq!(
        config.health,
        Some(("[::]:8080".parse().unwrap(), Duration::from_secs(5)))
    );
    assert_eq!(config.ready, Some("[::]:8181".parse().unwrap()));
    assert_eq!(config.prometheus, Some("[::]:9153".parse().unwrap()));
    let forward = config.forward.unwrap();
    assert_eq!(
        forward.to,
        [
            Upstream::File("/etc/resolv.conf".into()),
            Upstream::Server("[2001:db8::1]:53".parse().unwrap()),
            Upstream::Server("[2001:db8::2]:5353".parse().unwrap()),
        ]
    );
    assert_eq!(forward.max_concurrent, 10);
    assert!(config.rotate);
    assert_eq!(config.without_effect, ["cache", "loop", "reload"]);
}

#[test]
fn where_the_file_does_not_say() {
    let config = with("kubernetes cluster.local").unwrap();
    assert_eq!(
        (config.kubernetes.ttl, config.kubernetes.pods),
        (TTL, Pods::Disabled)
    );
    assert_eq!((config.health, config.forward), (None, None));
    assert!(config.kubernetes.fallthrough.is_empty() && !config.rotate);
    let config = with("kubernetes cluster.local {\nfallthrough\n}").unwrap();
    assert_eq!(config.kubernetes.fallthrough, [Name::root()]);
}

#[test]
fn what_is_refused_and_where() {
    let rows = [
        ("", "`kubernetes` is missing"),
        ("kubernetes", "domain is missing"),
        ("kubernetes a b", "line 2: only one domain"),
        (
            "kubernetes a {\nttl 9999\n}",
            "line 3: ttl is a number from 0 to 3600",
        ),
        ("kubernetes a {\npods some\n}", "line 3: unknown mode \"some\""),
        ("kubernetes a {\nnothing\n}", "line 3: unknown option \"nothing\""),
        ("kubernetes a\nwhoami", "line 3: unknown directive \"whoami\""),
        (
            "kubernetes a\nforward example.com 1.1.1.1",
            "line 3: only `forward . ",
        ),
        ("kubernetes a\nforward . tls://1.1.1.1", "neither the address"),
        ("kubernetes a\nforward .", "1 to 15 servers"),
        (
            "kubernetes a\nhealth {\nlameduck soon\n}",
            "line 4: \"soon\" is not a time",
        ),
        ("kubernetes a\nready nowhere", "not an address to listen at"),
        ("kubernetes a {", "a block does not end"),
        ("}\n}", "a block ends that did not begin"),
        ("{", "a block without a name"),
        ("kubernetes { a", "belongs at the end"),
    ];
    for (directives, expected) in rows {
        let error = with(directives).unwrap_err().to_string();
        assert!(error.contains(expected), "{directives:?}: {error}");
    }
    for text in [
        "",
        "example.com {\n}",
        ".:x {\n}",
        ".",
        ". {\nkubernetes a\n}\n. {\n}",
    ] {
        assert!(Config::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn servers_of_a_resolv_conf() {
    let text = "search a\nnameserver 127.0.0.53\nnameserver ::1\n#nameserver 1.1.1.1\nnameserver 10.0.0.1\n\
                nameserver 2001:db8::1 x\nnameserver fe80::1%eth0\nnameserver\n";
    let servers: Vec<String> = resolv_servers(text).iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["10.0.0.1:53", "[2001:db8::1]:53"]);
}
