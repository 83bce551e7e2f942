//! Destinations that pods reach with their own address: the file of Cilium's ip-masq-agent (key `config` of ConfigMap
//! `ip-masq-agent`), as prefixes for [`abi::names::PLAIN`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use abi::nat::PlainKey;
use ipnet::{IpNet, Ipv6Net};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::addr::to_abi;

/// Most prefixes that are taken; the map has room for as many (Cilium `pkg/maps/ipmasq`, `MaxEntriesIPv6`).
pub const MAX_PREFIXES: usize = 16_384;

/// IPv4 destinations that are not masqueraded when the file names none (Cilium `pkg/ipmasq/ipmasq.go`).
const DEFAULT_V4: [&str; 10] = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
];
const LINK_LOCAL_V4: &str = "169.254.0.0/16";
const LINK_LOCAL_V6: &str = "fe80::/10";

/// The file, which is YAML or JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    /// Destinations that see the pod's address.
    non_masquerade: Option<Vec<String>>,
    masq_link_local: bool,
    masq_link_local_v6: bool,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FileError {
    /// Another kind of value.
    #[error("{0}: {1}")]
    Value(String, String),
    /// No prefix.
    #[error("nonMasqueradeCIDRs: {0:?} is no prefix such as 2001:db8::/32")]
    Prefix(String),
    /// More than there is room for.
    #[error("nonMasqueradeCIDRs has {0} prefixes, at most {MAX_PREFIXES} are possible")]
    TooMany(usize),
}

impl File {
    /// From the keys of the file, with those that mean nothing here. As in Cilium, which reads it as Go reads JSON, names
    /// are not told apart by upper and lower case, and other keys (`resyncInterval` of Kubernetes' own agent) do no harm.
    ///
    /// # Errors
    /// [`FileError::Value`].
    pub fn new(keys: BTreeMap<String, Value>) -> Result<(Self, Vec<String>), FileError> {
        fn typed<T: DeserializeOwned + Default>(key: &str, value: Value) -> Result<T, FileError> {
            let value: Result<Option<T>, _> = serde_json::from_value(value);
            let value = value.map_err(|error| FileError::Value(key.to_owned(), error.to_string()))?;
            Ok(value.unwrap_or_default())
        }
        let (mut file, mut unknown) = (Self::default(), Vec::new());
        for (key, value) in keys {
            match key.to_ascii_lowercase().as_str() {
                "nonmasqueradecidrs" => file.non_masquerade = typed(&key, value)?,
                "masqlinklocal" => file.masq_link_local = typed(&key, value)?,
                "masqlinklocalipv6" => file.masq_link_local_v6 = typed(&key, value)?,
                _ => unknown.push(key),
            }
        }
        Ok((file, unknown))
    }

    /// Whether it asks for what no router does: packets from or to link-local addresses stay on their link (RFC 4291
    /// §2.5.6), so that there is nothing to masquerade.
    #[must_use]
    pub fn asks_for_link_local_v6(&self) -> bool {
        self.masq_link_local_v6
    }

    /// The prefixes that are not masqueraded. Bits behind the length count as zero.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn prefixes(&self) -> Result<BTreeSet<IpNet>, FileError> {
        let defaults = DEFAULT_V4.map(str::to_owned).to_vec();
        let named = self.non_masquerade.as_ref().unwrap_or(&defaults);
        let link_local = [
            (!self.masq_link_local).then_some(LINK_LOCAL_V4),
            (!self.masq_link_local_v6).then_some(LINK_LOCAL_V6),
        ];
        let all = named
            .iter()
            .map(String::as_str)
            .chain(link_local.into_iter().flatten());
        let prefixes = all
            .map(|text| match text.trim().parse::<IpNet>() {
                Ok(net) => Ok(net.trunc()),
                Err(_) => Err(FileError::Prefix(text.to_owned())),
            })
            .collect::<Result<BTreeSet<_>, _>>()?;
        if prefixes.len() > MAX_PREFIXES {
            return Err(FileError::TooMany(prefixes.len()));
        }
        Ok(prefixes)
    }
}

/// A prefix as the map has it: bits that count, and the address; IPv4 as IPv4-mapped.
#[must_use]
pub fn to_key(net: IpNet) -> Entry {
    let bits = match net {
        IpNet::V4(net) => 96 + u32::from(net.prefix_len()),
        IpNet::V6(net) => u32::from(net.prefix_len()),
    };
    (bits, to_abi(net.addr()).0)
}

/// A key of the map as people write it.
#[must_use]
pub fn from_key(bits: u32, key: PlainKey) -> Option<IpNet> {
    let bits = u8::try_from(bits).ok()?;
    match crate::addr::from_abi(abi::Addr(key)) {
        // ::ffff:0:0/90 is an IPv6 prefix that happens to hold all of IPv4.
        IpAddr::V4(addr) if bits >= 96 => IpNet::new(addr.into(), bits - 96).ok(),
        _ => Ipv6Net::new(key.into(), bits).ok().map(IpNet::V6),
    }
}

/// A prefix as the map has it.
pub type Entry = (u32, PlainKey);

/// A step from one list to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Adds a prefix.
    Insert(Entry),
    /// Takes one away.
    Remove(Entry),
}

/// The steps from what the map has to what is wanted, never with more than `max` entries at a time. Where both lists have
/// room, new prefixes come first: a destination that is excepted before and after, by another prefix, is so in between.
#[must_use]
pub fn steps(have: &BTreeSet<Entry>, want: &BTreeSet<Entry>, max: u32) -> Vec<Step> {
    let inserts = want.difference(have).copied().map(Step::Insert);
    let removes = have.difference(want).copied().map(Step::Remove);
    if have.union(want).count() <= usize::try_from(max).unwrap_or(usize::MAX) {
        inserts.chain(removes).collect()
    } else {
        removes.chain(inserts).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefixes(json: &str) -> Result<Vec<String>, FileError> {
        let (file, _) = File::new(serde_json::from_str(json).unwrap())?;
        Ok(file.prefixes()?.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_file_means_what_ciliums_means() {
        assert_eq!(
            prefixes(r#"{"nonMasqueradeCIDRs": ["2001:db8::1/32", "10.0.0.0/8"], "masqLinkLocal": true}"#)
                .unwrap(),
            ["10.0.0.0/8", "2001:db8::/32", "fe80::/10"]
        );
        assert_eq!(
            prefixes(r#"{"nonMasqueradeCIDRs": [], "masqLinkLocal": true, "masqLinkLocalIPv6": true}"#)
                .unwrap(),
            [""; 0]
        );
        let defaults = prefixes("{}").unwrap();
        assert_eq!(defaults.len(), DEFAULT_V4.len() + 2);
        assert_eq!(
            prefixes(r#"{"nonMasqueradeCIDRs": ["2001:db8::"]}"#),
            Err(FileError::Prefix("2001:db8::".to_owned()))
        );
    }

    #[test]
    fn names_are_read_as_go_reads_them_and_unknown_ones_are_told() {
        let read = |json: &str| File::new(serde_json::from_str(json).unwrap());
        let (file, unknown) =
            read(r#"{"NonMasqueradeCidrs": ["fd00::/8"], "masqLinkLocal": null, "resyncInterval": "60s"}"#)
                .unwrap();
        assert_eq!(unknown, ["resyncInterval"]);
        assert_eq!(file.non_masquerade, Some(vec!["fd00::/8".to_owned()]));
        assert!(!file.masq_link_local);
        let error = read(r#"{"masqLinkLocalIPv6": "yes"}"#).unwrap_err().to_string();
        assert!(error.starts_with("masqLinkLocalIPv6: "), "{error}");
        assert!(read(r#"{"nonMasqueradeCIDRs": "fd00::/8"}"#).is_err());
    }

    #[test]
    fn too_many_are_refused() {
        let file = File {
            non_masquerade: Some(
                (0..=MAX_PREFIXES)
                    .map(|n| format!("2001:db8:{n:x}::/48"))
                    .collect(),
            ),
            masq_link_local: true,
            masq_link_local_v6: true,
        };
        assert_eq!(file.prefixes(), Err(FileError::TooMany(MAX_PREFIXES + 1)));
    }

    proptest! {
        #[test]
        fn one_list_follows_another_within_the_room_there_is(
            have in proptest::collection::btree_set(0u8..16, 0..=8),
            want in proptest::collection::btree_set(0u8..16, 0..=8),
        ) {
            const MAX: u32 = 8;
            let entries = |list: &BTreeSet<u8>| list.iter().map(|n| (128, [*n; 16])).collect::<BTreeSet<Entry>>();
            let (mut now, want) = (entries(&have), entries(&want));
            let has_room = now.union(&want).count() <= MAX as usize;
            let kept: BTreeSet<Entry> = now.intersection(&want).copied().collect();
            let mut removed = false;
            for step in steps(&now.clone(), &want, MAX) {
                match step {
                    Step::Insert(entry) => {
                        prop_assert!(now.insert(entry) && !(has_room && removed));
                    }
                    Step::Remove(entry) => {
                        removed = true;
                        prop_assert!(now.remove(&entry));
                    }
                }
                prop_assert!(now.len() <= MAX as usize && now.is_superset(&kept));
            }
            prop_assert_eq!(now, want);
        }

        #[test]
        fn keys_come_back(addr: u128, v4: u32, bits in 0u8..=128, bits4 in 0u8..=32) {
            let v6 = IpNet::new(IpAddr::V6(addr.into()), bits).unwrap().trunc();
            let v4 = IpNet::new(IpAddr::V4(v4.into()), bits4).unwrap().trunc();
            for net in [v6, v4] {
                let (bits, key) = to_key(net);
                prop_assert_eq!(from_key(bits, key), Some(net));
            }
        }
    }
}
