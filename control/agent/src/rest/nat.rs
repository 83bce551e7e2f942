//! Lists of translation: connections whose addresses or ports are changed, and destinations that see a pod's own.

use std::collections::BTreeSet;

use abi::{Addr, NatEntry, NatKey};
use api::tables::{Place, Translation};
use model::addr::from_abi;
use model::ipmasq::from_key;

use super::dump::List;
use crate::agent::Agent;

const SECOND: u64 = 1_000_000_000;

/// Translations as they are in the kernel now, or those of one protocol; both halves of a pair beside each other.
pub(super) fn translations(agent: &Agent, only: Option<u8>, list: &mut List) -> anyhow::Result<()> {
    let now = loader::monotonic_ns();
    let table = &agent.datapath.nat().nat;
    for batch in table.batches() {
        for half in batch? {
            if only.is_none_or(|only| half.0.proto == only) {
                for (key, entry) in pair(half, |key| table.get(key))? {
                    list.push(&translation(&key, &entry, now))?;
                }
            }
        }
    }
    Ok(())
}

type Half = (NatKey, NatEntry);

/// What is listed where a half stands: it and the answers to it. Of those without the other half, it alone; nothing of
/// answers whose other half lists them.
fn pair<E>(half: Half, get: impl FnOnce(&NatKey) -> Result<Option<NatEntry>, E>) -> Result<Vec<Half>, E> {
    let is_reply = |entry: &NatEntry| entry.flags & NatEntry::REPLY != 0;
    let key = other_half(half);
    let other = get(&key)?.map(|entry| (key, entry));
    Ok(
        match other.filter(|other| is_reply(&other.1) != is_reply(&half.1) && other_half(*other) == half.0) {
            None => vec![half],
            Some(_) if is_reply(&half.1) => Vec::new(),
            Some(other) => vec![half, other],
        },
    )
}

/// The key of what comes back.
fn other_half((key, entry): Half) -> NatKey {
    NatKey {
        src: entry.dst,
        dst: entry.src,
        src_port: entry.dst_port,
        dst_port: entry.src_port,
        ..key
    }
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
    fn every_half_is_listed_once_and_pairs_stand_together() {
        let addr = |last| Addr([last; 16]);
        let half = |from: (u8, u8), to: (u8, u8), flags| {
            let key = NatKey {
                src: addr(from.0),
                dst: addr(from.1),
                ..NatKey::default()
            };
            let mut entry = NatEntry::default();
            (entry.src, entry.dst, entry.flags) = (addr(to.0), addr(to.1), flags);
            (key, entry)
        };
        let (first, answer) = (half((1, 9), (2, 9), 0), half((9, 2), (9, 1), NatEntry::REPLY));
        // Alone: one whose answers are gone, answers that outlived it, one whose answers belong to the first.
        let alone = [
            half((3, 9), (4, 9), 0),
            half((9, 5), (9, 6), NatEntry::REPLY),
            half((7, 9), (2, 9), 0),
        ];
        let table: Vec<Half> = [first, answer].into_iter().chain(alone).collect();
        let get = |key: &NatKey| table.iter().find(|half| half.0 == *key).map(|half| half.1);
        let listed = |half| pair(half, |key| Ok::<_, ()>(get(key))).unwrap();
        assert_eq!(listed(first), [first, answer]);
        assert_eq!(listed(answer), []);
        for half in alone {
            assert_eq!(listed(half), [half]);
        }
    }

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
