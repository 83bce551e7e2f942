//! Lists of translation: connections whose addresses or ports are changed, and destinations that see a pod's own.

use std::collections::BTreeSet;

use abi::{Addr, NatEntry, NatKey};
use api::tables::{Place, Translation};
use model::addr::from_abi;
use model::ipmasq::from_key;

use crate::agent::Agent;

const SECOND: u64 = 1_000_000_000;

/// Translations as they are in the kernel now.
pub(super) fn translations(agent: &Agent) -> anyhow::Result<Vec<Translation>> {
    let now = loader::monotonic_ns();
    let entries = agent.datapath.nat().nat.entries()?;
    Ok(entries
        .iter()
        .map(|(key, entry)| translation(key, entry, now))
        .collect())
}

/// Prefixes that are reached without masquerade, in order.
pub(super) fn plain(agent: &Agent) -> anyhow::Result<Vec<String>> {
    let prefixes = agent.datapath.nat().plain.dump()?.into_iter();
    let nets: BTreeSet<_> = prefixes.filter_map(|(bits, key)| from_key(bits, key)).collect();
    Ok(nets.iter().map(ToString::to_string).collect())
}

fn translation(key: &NatKey, entry: &NatEntry, now: u64) -> Translation {
    let seconds = |nanos: u64| i64::try_from(nanos / SECOND).unwrap_or(i64::MAX);
    let has = |flag| entry.flags & flag != 0;
    Translation {
        protocol: key.proto,
        direction: if has(NatEntry::REPLY) { "IN" } else { "OUT" }.to_owned(),
        source: place(key.src, key.src_port),
        destination: place(key.dst, key.dst_port),
        new_source: place(entry.src, entry.src_port),
        new_destination: place(entry.dst, entry.dst_port),
        service: has(NatEntry::SERVICE),
        host: has(NatEntry::HOST),
        dsr: has(NatEntry::DSR),
        age: now.saturating_sub(entry.created) / SECOND,
        remaining: seconds(entry.expires).saturating_sub(seconds(now)),
    }
}

fn place(addr: Addr, port: [u8; 2]) -> Place {
    Place {
        address: from_abi(addr).to_string(),
        port: u16::from_be_bytes(port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_goes_in() {
        let (key, mut entry) = (NatKey::default(), NatEntry::default());
        entry.flags = NatEntry::REPLY | NatEntry::SERVICE;
        entry.expires = 5 * SECOND;
        let told = translation(&key, &entry, 10 * SECOND);
        assert_eq!(
            (told.direction.as_str(), told.remaining, told.age),
            ("IN", -5, 10)
        );
        assert!(told.service && !told.host && !told.dsr);
    }
}
