//! Small file helpers, and a pod's hosts file. Blocking: for threads.

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

/// `/etc/hosts` of a pod, as the kubelet writes it. A pod with a subdomain has a full name in the cluster's `domain`.
pub(crate) fn hosts(
    spec: &PodSpec,
    namespace: &str,
    domain: &str,
    name: &str,
    addresses: &[IpAddr],
) -> String {
    let mut text = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
                    fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
        .to_owned();
    let full = match spec
        .subdomain
        .as_deref()
        .filter(|subdomain| !subdomain.is_empty())
    {
        Some(subdomain) => format!("{name}.{subdomain}.{namespace}.svc.{domain}\t{name}"),
        None => name.to_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_names_the_pod() {
        let mut spec = PodSpec::default();
        let address = ["fd00::1".parse().unwrap()];
        let text = hosts(&spec, "ns", "c", "web", &address);
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n") && text.ends_with("fd00::1\tweb\n"));
        spec.subdomain = Some("sub".into());
        let text = hosts(&spec, "ns", "c", "web", &address);
        assert!(text.ends_with("fd00::1\tweb.sub.ns.svc.c\tweb\n"), "{text}");
    }
}
