//! The rules that kube-proxy writes for `ClusterIP` services over IPv6, in its nftables and in its iptables mode: what is
//! there without Seta. Shapes as its own tests expect them (kubernetes `pkg/proxy/{nftables,iptables}/proxier_test.go`);
//! only the hashes in names of chains are numbers here.

use std::{
    fmt::{self, Write as _},
    io::Write as _,
    net::{Ipv6Addr, SocketAddrV6},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// Where services have their addresses, the largest range that Kubernetes takes.
pub(crate) const SERVICE_CIDR: &str = "fd00:10:96::/108";
/// Where pods have theirs, on all nodes.
const POD_CIDR: &str = "fd00:10:244::/56";
/// Port of every service.
pub(crate) const PORT: u16 = 80;
/// The bit of `iptables.masqueradeBit`.
const MASQUERADE: &str = "0x4000";
/// Loading takes longer than that: the rules do not suit this machine.
const DEADLINE: Duration = Duration::from_secs(300);

/// A service of type `ClusterIP` with one TCP port.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// From 1; stands in all names.
    pub(crate) number: u32,
    /// Its address.
    pub(crate) address: Ipv6Addr,
    /// Pods behind it.
    pub(crate) endpoints: Vec<SocketAddrV6>,
}

impl Service {
    fn name(&self) -> String {
        format!("default/service-{}", self.number)
    }
}

/// How rules get into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    /// `nft`.
    Nftables,
    /// `ip6tables-restore` of the nf_tables back end, which kube-proxy's image takes on most machines.
    IptablesNft,
    /// `ip6tables-restore` of the legacy back end.
    IptablesLegacy,
}

impl Mode {
    pub(crate) const ALL: [Self; 3] = [Self::Nftables, Self::IptablesNft, Self::IptablesLegacy];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::IptablesNft => "iptables (nft)",
            Self::IptablesLegacy => "iptables (legacy)",
        }
    }

    /// Short, for names of namespaces.
    pub(crate) fn tag(self) -> &'static str {
        match self {
            Self::Nftables => "nft",
            Self::IptablesNft => "ipt",
            Self::IptablesLegacy => "old",
        }
    }

    fn command(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Nftables => ("nft", &["-f", "-"]),
            Self::IptablesNft => ("ip6tables-nft-restore", &["-w", "5", "--noflush", "--counters"]),
            Self::IptablesLegacy => (
                "ip6tables-legacy-restore",
                &["-w", "5", "--noflush", "--counters"],
            ),
        }
    }

    /// The program that loads the rules, if this machine has it.
    pub(crate) fn program(self) -> Option<PathBuf> {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .chain([PathBuf::from("/usr/sbin")])
            .map(|directory| directory.join(self.command().0))
            .find(|program| program.exists())
    }

    fn rules(self, services: &[Service]) -> String {
        let mut text = String::new();
        let result = match self {
            Self::Nftables => nftables(&mut text, services),
            Self::IptablesNft | Self::IptablesLegacy => iptables(&mut text, services),
        };
        // Writing to a string does not fail.
        debug_assert!(result.is_ok());
        text
    }

    /// Puts the rules into a namespace; how long the kernel and the program took.
    pub(crate) fn load(self, netns: &Path, services: &[Service]) -> Result<Duration> {
        let program = self
            .program()
            .with_context(|| format!("there is no {}", self.command().0))?;
        let rules = self.rules(services);
        let started = Instant::now();
        let mut child = Command::new("timeout")
            .arg(DEADLINE.as_secs().to_string())
            .arg("nsenter")
            .arg(format!("--net={}", netns.display()))
            .arg(&program)
            .args(self.command().1)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let written = child
            .stdin
            .take()
            .context("standard input")?
            .write_all(rules.as_bytes());
        let output = child.wait_with_output().context("wait")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let start: String = said.chars().take(600).collect();
            bail!("{}: {}: {start}", program.display(), output.status);
        }
        written.context("hand over the rules")?;
        Ok(started.elapsed())
    }
}

/// One transaction of `nft`, as in a first sync.
fn nftables(out: &mut String, services: &[Service]) -> fmt::Result {
    let port = "ipv6_addr . inet_proto . inet_service : verdict";
    let node_port = "inet_proto . inet_service : verdict";
    writeln!(
        out,
        "add table ip6 kube-proxy {{ comment \"rules for kube-proxy\" ; }}"
    )?;
    for set in ["cluster-ips", "nodeport-ips"] {
        writeln!(out, "add set ip6 kube-proxy {set} {{ type ipv6_addr ; }}")?;
    }
    for (map, key) in [
        ("firewall-ips", port),
        ("no-endpoint-nodeports", node_port),
        ("no-endpoint-services", port),
        ("service-ips", port),
        ("service-nodeports", node_port),
    ] {
        writeln!(out, "add map ip6 kube-proxy {map} {{ type {key} ; }}")?;
    }
    for chain in [
        "cluster-ips-check",
        "filter-prerouting-pre-dnat { type filter hook prerouting priority -110 ; }",
        "filter-output-pre-dnat { type filter hook output priority -110 ; }",
        "filter-forward { type filter hook forward priority 0 ; }",
        "filter-input { type filter hook input priority 0 ; }",
        "filter-output { type filter hook output priority 0 ; }",
        "firewall-check",
        "mark-for-masquerade",
        "masquerading",
        "nat-output { type nat hook output priority -100 ; }",
        "nat-postrouting { type nat hook postrouting priority 100 ; }",
        "nat-prerouting { type nat hook prerouting priority -100 ; }",
        "nodeport-endpoints-check",
        "reject-chain",
        "services",
        "service-endpoints-check",
    ] {
        writeln!(out, "add chain ip6 kube-proxy {chain}")?;
    }
    let unallocated = format!("cluster-ips-check ip6 daddr {{ {SERVICE_CIDR} }} drop");
    let mark = format!("mark-for-masquerade mark set mark or {MASQUERADE}");
    let unmarked = format!("masquerading mark and {MASQUERADE} == 0 return");
    let unmark = format!("masquerading mark set mark xor {MASQUERADE}");
    for rule in [
        "cluster-ips-check ip6 daddr @cluster-ips reject",
        &unallocated,
        "filter-prerouting-pre-dnat ct state new jump firewall-check",
        "filter-forward ct state new jump service-endpoints-check",
        "filter-forward ct state new jump cluster-ips-check",
        "filter-input ct state new jump nodeport-endpoints-check",
        "filter-input ct state new jump service-endpoints-check",
        "filter-output ct state new jump service-endpoints-check",
        "filter-output-pre-dnat ct state new jump firewall-check",
        "filter-output ct state new jump cluster-ips-check",
        "firewall-check ip6 daddr . meta l4proto . th dport vmap @firewall-ips",
        &mark,
        &unmarked,
        &unmark,
        "masquerading masquerade fully-random",
        "nat-output jump services",
        "nat-postrouting jump masquerading",
        "nat-prerouting jump services",
        "nodeport-endpoints-check ip6 daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports",
        "reject-chain reject",
        "services ip6 daddr . meta l4proto . th dport vmap @service-ips",
        "services ip6 daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports",
        "service-endpoints-check ip6 daddr . meta l4proto . th dport vmap @no-endpoint-services",
    ] {
        writeln!(out, "add rule ip6 kube-proxy {rule}")?;
    }
    for service in services {
        let (name, address) = (service.name(), service.address);
        let chain = format!("service-{:08}-{name}/tcp/", service.number);
        writeln!(out, "add chain ip6 kube-proxy {chain}")?;
        let mut choices = Vec::new();
        for (slot, endpoint) in service.endpoints.iter().enumerate() {
            let dotted = endpoint.ip().to_string().replace(':', ".");
            let target = format!(
                "endpoint-{:08}-{name}/tcp/__{dotted}/{}",
                service.number,
                endpoint.port()
            );
            writeln!(out, "add chain ip6 kube-proxy {target}")?;
            writeln!(
                out,
                "add rule ip6 kube-proxy {target} ip6 saddr {} jump mark-for-masquerade",
                endpoint.ip()
            )?;
            writeln!(
                out,
                "add rule ip6 kube-proxy {target} meta l4proto tcp dnat to {endpoint}"
            )?;
            choices.push(format!("{slot} : goto {target}"));
        }
        writeln!(
            out,
            "add rule ip6 kube-proxy {chain} ip6 daddr {address} ip6 saddr != {POD_CIDR} jump mark-for-masquerade"
        )?;
        writeln!(
            out,
            "add rule ip6 kube-proxy {chain} numgen random mod {} vmap {{ {} }}",
            choices.len(),
            choices.join(" , ")
        )?;
        writeln!(out, "add element ip6 kube-proxy cluster-ips {{ {address} }}")?;
        writeln!(
            out,
            "add element ip6 kube-proxy service-ips {{ {address} . tcp . {PORT} : goto {chain} }}"
        )?;
    }
    Ok(())
}

/// Input of `ip6tables-restore`, as in a first sync, with the jumps that kube-proxy adds one by one.
fn iptables(out: &mut String, services: &[Service]) -> fmt::Result {
    out.push_str(
        "*filter
:KUBE-NODEPORTS - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment \"kubernetes health check service ports\" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\" -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\" -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:KUBE-NODEPORTS - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
",
    );
    for service in services {
        writeln!(out, ":KUBE-SVC-{:016} - [0:0]", service.number)?;
        for slot in 0..service.endpoints.len() {
            writeln!(out, ":KUBE-SEP-{:012}{slot:04} - [0:0]", service.number)?;
        }
    }
    out.push_str(
        "-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
",
    );
    for service in services {
        let (number, name, address) = (service.number, service.name(), service.address);
        writeln!(
            out,
            "-A KUBE-SERVICES -m comment --comment \"{name} cluster IP\" -m tcp -p tcp -d {address} --dport {PORT} \
             -j KUBE-SVC-{number:016}"
        )?;
        writeln!(
            out,
            "-A KUBE-SVC-{number:016} -m comment --comment \"{name} cluster IP\" -m tcp -p tcp -d {address} \
             --dport {PORT} ! -s {POD_CIDR} -j KUBE-MARK-MASQ"
        )?;
        let count = service.endpoints.len();
        for (slot, endpoint) in service.endpoints.iter().enumerate() {
            write!(
                out,
                "-A KUBE-SVC-{number:016} -m comment --comment \"{name} -> {endpoint}\" "
            )?;
            // The last one takes what is left.
            if slot + 1 < count {
                let share = 1.0 / (count - slot) as f64;
                write!(out, "-m statistic --mode random --probability {share:.10} ")?;
            }
            writeln!(out, "-j KUBE-SEP-{number:012}{slot:04}")?;
            writeln!(
                out,
                "-A KUBE-SEP-{number:012}{slot:04} -m comment --comment {name} -s {} -j KUBE-MARK-MASQ",
                endpoint.ip()
            )?;
            writeln!(
                out,
                "-A KUBE-SEP-{number:012}{slot:04} -m comment --comment {name} -m tcp -p tcp -j DNAT \
                 --to-destination {endpoint}"
            )?;
        }
    }
    out.push_str(
        "-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this \
         chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\nCOMMIT\n",
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, SocketAddrV6};

    use super::{Mode, Service};

    fn service() -> Service {
        let pod = |last| SocketAddrV6::new(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, last), 8080, 0, 0);
        Service {
            number: 7,
            address: Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 7),
            endpoints: vec![pod(1), pod(2)],
        }
    }

    #[test]
    fn nftables_has_a_map_entry_a_chain_and_chains_of_endpoints() {
        let rules = Mode::Nftables.rules(&[service()]);
        for line in [
            "add element ip6 kube-proxy service-ips { fd00:10:96::7 . tcp . 80 : goto service-00000007-default/service-7/tcp/ }",
            "add rule ip6 kube-proxy service-00000007-default/service-7/tcp/ numgen random mod 2 vmap { \
             0 : goto endpoint-00000007-default/service-7/tcp/__fd00.10.244..1/8080 , \
             1 : goto endpoint-00000007-default/service-7/tcp/__fd00.10.244..2/8080 }",
            "add rule ip6 kube-proxy endpoint-00000007-default/service-7/tcp/__fd00.10.244..2/8080 \
             meta l4proto tcp dnat to [fd00:10:244::2]:8080",
        ] {
            assert!(rules.lines().any(|found| found == line), "{line}\n{rules}");
        }
    }

    #[test]
    fn iptables_has_a_line_per_service_and_a_die_per_endpoint_but_the_last() {
        let rules = Mode::IptablesNft.rules(&[service()]);
        let count = |text: &str| rules.lines().filter(|line| line.contains(text)).count();
        assert_eq!(
            count("-A KUBE-SERVICES -m comment --comment \"default/service-7 cluster IP\""),
            1
        );
        assert_eq!(
            count("--mode random --probability 0.5000000000 -j KUBE-SEP-0000000000070000"),
            1
        );
        assert_eq!(count("--to-destination [fd00:10:244::2]:8080"), 1);
        assert_eq!(count("COMMIT"), 2);
    }
}
