//! `/etc/resolv.conf` of a pod, as the kubelet puts it together: the pod's DNS policy, its `dnsConfig`, and the node's own
//! file. Pure.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{PodDNSConfig, PodSpec};

/// What Kubernetes lets through (`pkg/apis/core/validation`): name servers, search domains, and characters of all search
/// domains with the blanks between them. The rest is left out.
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_LENGTH: usize = 2048;

/// What a `resolv.conf` says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Resolver {
    servers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

/// The text for a pod. `dns` are the cluster's name servers, `domain` its domain, `node` the text of the node's own file.
pub(crate) fn resolv_conf(
    spec: &PodSpec,
    namespace: &str,
    dns: &[IpAddr],
    domain: &str,
    node: &str,
) -> String {
    let host_network = spec.host_network == Some(true);
    let of_node = Resolver::parse(node);
    let mut resolver = match spec.dns_policy.as_deref() {
        Some("None") => Resolver::default(),
        Some("Default") => of_node,
        // Pods of the host's network live with the host, unless they ask for the cluster.
        None | Some("ClusterFirst") if host_network => of_node,
        // Without a server of the cluster there is only the node's.
        _ if dns.is_empty() => of_node,
        _ => of_node.cluster_first(namespace, dns, domain),
    };
    if let Some(config) = &spec.dns_config {
        resolver.add(config);
    }
    resolver.limit();
    resolver.text()
}

impl Resolver {
    /// Reads a file. Of several `search` lines the last one counts, as for the resolver.
    fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => resolver.servers.extend(words.next().map(str::to_owned)),
                // The root as a search domain is what is tried in the end anyway.
                Some("search") => {
                    resolver.searches = words.filter(|word| *word != ".").map(str::to_owned).collect();
                }
                Some("options") => resolver.options = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        resolver
    }

    /// The cluster's servers and domains before the node's domains; options of the node do not count.
    fn cluster_first(self, namespace: &str, dns: &[IpAddr], domain: &str) -> Self {
        let mut searches = vec![
            format!("{namespace}.svc.{domain}"),
            format!("svc.{domain}"),
            domain.to_owned(),
        ];
        searches.extend(self.searches);
        Self {
            servers: dns.iter().map(IpAddr::to_string).collect(),
            searches,
            options: vec!["ndots:5".to_owned()],
        }
    }

    /// Adds what the pod itself asks for; an option takes the place of one with the same name.
    fn add(&mut self, config: &PodDNSConfig) {
        self.servers.extend(config.nameservers.iter().flatten().cloned());
        self.searches.extend(config.searches.iter().flatten().cloned());
        for option in config.options.iter().flatten() {
            let Some(name) = option.name.as_deref().filter(|name| !name.is_empty()) else {
                continue;
            };
            let text = match option.value.as_deref().filter(|value| !value.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name.to_owned(),
            };
            let same = |known: &&mut String| known.split(':').next() == Some(name);
            match self.options.iter_mut().find(same) {
                Some(known) => *known = text,
                None => self.options.push(text),
            }
        }
    }

    /// Leaves out repetitions, and what is too much.
    fn limit(&mut self) {
        for list in [&mut self.servers, &mut self.searches] {
            let mut seen = HashSet::new();
            list.retain(|entry| seen.insert(entry.clone()));
        }
        self.servers.truncate(MAX_SERVERS);
        self.searches.truncate(MAX_SEARCHES);
        let mut length = 0;
        let fitting = self.searches.iter().take_while(|domain| {
            length += domain.len() + 1;
            // There is no blank after the last one.
            length <= MAX_SEARCH_LENGTH + 1
        });
        let fitting = fitting.count();
        self.searches.truncate(fitting);
    }

    /// In the order in which container runtimes write it.
    fn text(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            let _ = writeln!(text, "search {}", self.searches.join(" "));
        }
        for server in &self.servers {
            let _ = writeln!(text, "nameserver {server}");
        }
        if !self.options.is_empty() {
            let _ = writeln!(text, "options {}", self.options.join(" "));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NODE: &str = "# by hand\nnameserver 2001:db8::53\nsearch example.com .\noptions rotate\n";
    const CLUSTER: &str = "search ns.svc.c svc.c c example.com\nnameserver fd00:10:96::a\noptions ndots:5\n";
    const OF_NODE: &str = "search example.com\nnameserver 2001:db8::53\noptions rotate\n";

    fn written(spec: &Value, dns: &[&str]) -> String {
        let mut all = json!({"containers": []});
        all.as_object_mut()
            .unwrap()
            .extend(spec.as_object().unwrap().clone());
        let spec: PodSpec = serde_json::from_value(all).unwrap();
        let dns: Vec<IpAddr> = dns.iter().map(|text| text.parse().unwrap()).collect();
        resolv_conf(&spec, "ns", &dns, "c", NODE)
    }

    #[test]
    fn the_policy_decides_whose_it_is() {
        let dns = &["fd00:10:96::a"][..];
        let rows = [
            (json!({}), dns, CLUSTER),
            (json!({"dnsPolicy": "ClusterFirst"}), dns, CLUSTER),
            (json!({"hostNetwork": true}), dns, OF_NODE),
            (
                json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
                dns,
                CLUSTER,
            ),
            (json!({"dnsPolicy": "ClusterFirstWithHostNet"}), dns, CLUSTER),
            (json!({"dnsPolicy": "Default"}), dns, OF_NODE),
            (json!({"dnsPolicy": "None"}), dns, ""),
            (json!({}), &[], OF_NODE),
        ];
        for (spec, dns, expected) in rows {
            assert_eq!(written(&spec, dns), expected, "{spec}");
        }
    }

    #[test]
    fn the_pods_own_wishes_are_added() {
        let config = json!({
            "nameservers": ["fd00:10:96::a", "2001:db8::1", "2001:db8::2", "2001:db8::3"],
            "searches": ["c", "more.example.com"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}, {"name": ""}],
        });
        assert_eq!(
            written(&json!({"dnsConfig": config}), &["fd00:10:96::a"]),
            "search ns.svc.c svc.c c example.com more.example.com\nnameserver fd00:10:96::a\n\
             nameserver 2001:db8::1\nnameserver 2001:db8::2\noptions ndots:2 edns0\n"
        );
        assert_eq!(
            written(
                &json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["2001:db8::1"]}}),
                &[]
            ),
            "nameserver 2001:db8::1\n"
        );
    }

    #[test]
    fn too_much_is_left_out() {
        let searches: Vec<String> = (0..40).map(|number| format!("d{number}.example.com")).collect();
        let text = written(
            &json!({"dnsPolicy": "None", "dnsConfig": {"searches": searches}}),
            &[],
        );
        assert_eq!(text.split_whitespace().count(), 1 + MAX_SEARCHES);
        let long: Vec<String> = ('a'..='z').map(|letter| letter.to_string().repeat(200)).collect();
        let text = written(
            &json!({"dnsPolicy": "None", "dnsConfig": {"searches": long}}),
            &[],
        );
        assert_eq!(
            text.split_whitespace().count(),
            1 + 10,
            "10 of 201 are 2010, 11 are 2211"
        );
    }
}
