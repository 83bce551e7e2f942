//! Small file helpers, and the files every pod gets: hosts, resolv.conf. Blocking: for threads.

use std::{fmt::Write as _, fs, io, net::IpAddr, path::Path};

use k8s_openapi::api::core::v1::PodSpec;

/// Writes so that a reader sees the old content or the new one.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    fs::write(&name, content)?;
    fs::rename(&name, path)
}

/// Removes a file or tree; absence is success.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// `/etc/hosts` of a pod, as the kubelet writes it.
pub(crate) fn hosts(spec: &PodSpec, name: &str, addresses: &[IpAddr]) -> String {
    let mut text = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
                    fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
        .to_owned();
    let full = match (&spec.hostname, &spec.subdomain) {
        (Some(hostname), Some(domain)) => format!("{hostname}.{domain}\t{hostname}"),
        (Some(hostname), None) => hostname.clone(),
        _ => name.to_owned(),
    };
    for address in addresses {
        let _ = writeln!(text, "{address}\t{full}");
    }
    let aliases = spec.host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let _ = writeln!(
            text,
            "{}\t{}",
            alias.ip,
            alias.hostnames.as_deref().unwrap_or_default().join("\t")
        );
    }
    text
}

/// `/etc/resolv.conf` of a pod, by its DNS policy. `node` is the node's own.
pub(crate) fn resolv_conf(
    spec: &PodSpec,
    namespace: &str,
    dns: &[IpAddr],
    domain: &str,
    node: &str,
) -> String {
    let host_network = spec.host_network == Some(true);
    let cluster_first = match spec.dns_policy.as_deref() {
        Some("ClusterFirstWithHostNet") => true,
        Some("ClusterFirst") | None => !host_network,
        _ => false,
    };
    let mut text = String::new();
    if spec.dns_policy.as_deref() != Some("None") {
        if !cluster_first || dns.is_empty() {
            text.push_str(node);
        } else {
            let _ = writeln!(text, "search {namespace}.svc.{domain} svc.{domain} {domain}");
            for server in dns {
                let _ = writeln!(text, "nameserver {server}");
            }
            text.push_str("options ndots:5\n");
        }
    }
    if let Some(config) = &spec.dns_config {
        for server in config.nameservers.as_deref().unwrap_or_default() {
            let _ = writeln!(text, "nameserver {server}");
        }
        if let Some(searches) = config.searches.as_deref().filter(|searches| !searches.is_empty()) {
            let _ = writeln!(text, "search {}", searches.join(" "));
        }
        for option in config.options.as_deref().unwrap_or_default() {
            let name = option.name.as_deref().unwrap_or_default();
            let _ = match &option.value {
                Some(value) => writeln!(text, "options {name}:{value}"),
                None => writeln!(text, "options {name}"),
            };
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_follows_the_policy() {
        let dns = ["fd00:10:96::a".parse().unwrap()];
        let cluster = "search ns.svc.c svc.c c\nnameserver fd00:10:96::a\noptions ndots:5\n";
        let rows = [
            (None, false, &dns[..], cluster),
            (None, true, &dns, "node\n"),
            (Some("ClusterFirstWithHostNet"), true, &dns, cluster),
            (Some("Default"), false, &dns, "node\n"),
            (Some("None"), false, &dns, ""),
            (None, false, &[], "node\n"),
        ];
        for (policy, host_network, dns, expected) in rows {
            let spec = PodSpec {
                dns_policy: policy.map(str::to_owned),
                host_network: Some(host_network),
                ..PodSpec::default()
            };
            assert_eq!(
                resolv_conf(&spec, "ns", dns, "c", "node\n"),
                expected,
                "{policy:?} {host_network}"
            );
        }
    }

    #[test]
    fn hosts_names_the_pod() {
        let text = hosts(&PodSpec::default(), "web", &["fd00::1".parse().unwrap()]);
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n") && text.ends_with("fd00::1\tweb\n"));
    }
}
