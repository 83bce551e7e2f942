//! Addresses at the border to the datapath: [`std::net::IpAddr`] here, [`abi::Addr`] (network order, IPv4 mapped into
//! IPv6) there.

use std::net::{IpAddr, Ipv6Addr};

use abi::Addr;
use serde::{Deserialize, Serialize};

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub const fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Bits of an address of this family; also the prefix length of a single host.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The datapath's form of an address.
#[must_use]
pub const fn to_abi(addr: IpAddr) -> Addr {
    match addr {
        IpAddr::V4(v4) => Addr::from_v4(v4.octets()),
        IpAddr::V6(v6) => Addr(v6.octets()),
    }
}

/// An address as the datapath has it; IPv4-mapped ones become IPv4.
#[must_use]
pub fn from_abi(addr: Addr) -> IpAddr {
    let v6 = Ipv6Addr::from(addr.0);
    v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
}

/// A MAC address, printed as `02:00:5e:00:00:01`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Mac(pub [u8; 6]);

/// The text is not six colon-separated octets in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a MAC address (expected six octets such as 02:00:5e:00:00:01)")]
pub struct ParseMacError {
    text: String,
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::str::FromStr for Mac {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseMacError {
            text: text.to_owned(),
        };
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            // `from_str_radix` would take a sign, too.
            let is_octet = |part: &&str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            let part = parts.next().filter(is_octet).ok_or_else(error)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        if parts.next().is_some() {
            Err(error())
        } else {
            Ok(Self(octets))
        }
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl TryFrom<String> for Mac {
    type Error = ParseMacError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_to_the_datapath_and_back() {
        for text in [
            "::",
            "::1",
            "fd00:10:244::6321",
            "0.0.0.0",
            "10.244.1.7",
            "255.255.255.255",
        ] {
            let addr: IpAddr = text.parse().unwrap();
            assert_eq!(from_abi(to_abi(addr)), addr);
        }
        assert_eq!(
            to_abi("10.0.0.1".parse().unwrap()).0[10..],
            [0xff, 0xff, 10, 0, 0, 1]
        );
    }

    #[test]
    fn mac_addresses_parse_strictly() {
        let mac: Mac = "02:00:5e:00:0a:ff".parse().unwrap();
        assert_eq!(mac, Mac([2, 0, 0x5e, 0, 0x0a, 0xff]));
        assert_eq!(mac.to_string(), "02:00:5e:00:0a:ff");
        for bad in [
            "",
            "02:00:5e:00:0a",
            "02:00:5e:00:0a:ff:00",
            "2:0:5e:0:a:ff",
            "02-00-5e-00-0a-ff",
            "02:00:5e:00:0a:+f",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
