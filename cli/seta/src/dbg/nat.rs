//! `bpf nat list` and `bpf ipmasq list`.

use api::path;
use api::tables::{Place, Translation};
use clap::{Args, Subcommand, ValueEnum};

use super::bpf::protocol;
use super::lists::socket;
use super::output::row;
use super::question::Question;

#[derive(Debug, Subcommand)]
pub(crate) enum Nat<F: Args> {
    /// List all NAT mapping entries
    List {
        /// Only this protocol
        #[arg(long, value_enum)]
        protocol: Option<Protocol>,
        #[command(flatten)]
        flags: F,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
    Icmp,
    Icmpv6,
}

impl Protocol {
    fn number(self) -> u8 {
        match self {
            Self::Icmp => 1,
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Icmpv6 => 58,
            Self::Sctp => 132,
        }
    }
}

/// The NAT table, or what one protocol has in it.
pub(super) fn translations(only: Option<Protocol>) -> Question {
    let query = only.map_or(String::new(), |only| format!("?protocol={}", only.number()));
    Question::lines(format!("{}{query}", path::BPF_NAT), line)
}

/// `TCP OUT [src]:p -> [dst]:p XLATE_SRC [x]:p Created=5sec ago NeedsCT=0`: what is changed is named.
fn line(entry: &Translation) -> String {
    let place = |place: &Place| socket(&place.address, place.port);
    let mut line = format!(
        "{} {} {} -> {}",
        protocol(entry.protocol),
        entry.direction,
        place(&entry.source),
        place(&entry.destination)
    );
    for (name, before, after) in [
        ("XLATE_SRC", &entry.source, &entry.new_source),
        ("XLATE_DST", &entry.destination, &entry.new_destination),
    ] {
        if before != after {
            line += &format!(" {name} {}", place(after));
        }
    }
    let kinds = [
        (entry.service, "Service"),
        (entry.host, "Host"),
        (entry.dsr, "DSR"),
    ];
    let kinds: Vec<&str> = kinds
        .into_iter()
        .filter(|(is, _)| *is)
        .map(|(_, name)| name)
        .collect();
    let kinds = if kinds.is_empty() {
        "Masquerade".to_owned()
    } else {
        kinds.join(" ")
    };
    // Ours is never bound to an entry of conntrack: each has its own times.
    line + &format!(
        " Created={}sec ago (remaining: {} sec(s)) NeedsCT=0 [ {kinds} ]",
        entry.age, entry.remaining
    )
}

/// Prefixes, one a line.
pub(super) fn plain(list: Vec<String>) -> Vec<Vec<String>> {
    let mut table = vec![row(["IP PREFIX/ADDRESS"])];
    table.extend(list.into_iter().map(|prefix| vec![prefix]));
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(address: &str, port: u16) -> Place {
        Place {
            address: address.into(),
            port,
        }
    }

    fn masqueraded() -> Vec<Translation> {
        let (pod, node, world) = (
            place("fd00::1", 40_000),
            place("fc00::2", 32_768),
            place("2001:db8::9", 80),
        );
        let first = Translation {
            protocol: 6,
            direction: "OUT".into(),
            source: pod.clone(),
            destination: world.clone(),
            new_source: node.clone(),
            new_destination: world.clone(),
            age: 5,
            remaining: 60,
            ..Translation::default()
        };
        let answer = Translation {
            direction: "IN".into(),
            source: world.clone(),
            destination: node,
            new_source: world,
            new_destination: pod,
            ..first.clone()
        };
        vec![first, answer]
    }

    #[test]
    fn entries_are_in_ciliums_words() {
        let lines: Vec<String> = masqueraded().iter().map(line).collect();
        assert_eq!(
            lines,
            [
                "TCP OUT [fd00::1]:40000 -> [2001:db8::9]:80 XLATE_SRC [fc00::2]:32768 Created=5sec ago (remaining: 60 sec(s)) NeedsCT=0 [ Masquerade ]",
                "TCP IN [2001:db8::9]:80 -> [fc00::2]:32768 XLATE_DST [fd00::1]:40000 Created=5sec ago (remaining: 60 sec(s)) NeedsCT=0 [ Masquerade ]",
            ]
        );
    }

    #[test]
    fn the_agent_picks_out_a_protocol() {
        assert_eq!(translations(None).path, "/v1/bpf/nat");
        assert_eq!(
            translations(Some(Protocol::Icmpv6)).path,
            "/v1/bpf/nat?protocol=58"
        );
    }
}
