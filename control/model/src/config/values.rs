//! How single values are spelt.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::Aggregation;
use super::reader::Refusal;

/// Most entries of any table (Cilium `LimitTableMax`).
pub(super) const MAX_ENTRIES: u32 = 1 << 24;
/// Fewest entries of a table (Cilium `LimitTableMin`).
const MIN_ENTRIES: u32 = 1 << 10;

/// Every TCP flag, wire bits.
pub(super) const ALL_TCP_FLAGS: u8 = 0xff;

pub(super) fn refuse<T>(allowed: &'static str, reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal {
        allowed,
        reason: reason.into(),
    })
}

/// The spellings of Go's `strconv.ParseBool`.
pub(super) fn boolean(text: &str) -> Result<bool, Refusal> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => refuse("true, false", "not a boolean"),
    }
}

/// Parses a duration as Go spells it: `5s`, `2h13m20s`, `1.5h`, `100ms`; `0` needs no unit. `None` when it is none, or
/// negative.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

pub(super) fn positive_duration(text: &str) -> Result<Duration, Refusal> {
    const ALLOWED: &str = "a duration above zero such as 5s or 2h13m20s";
    match parse_duration(text) {
        Some(duration) if !duration.is_zero() => Ok(duration),
        Some(_) => refuse(ALLOWED, "must be above zero"),
        None => refuse(ALLOWED, "not a duration"),
    }
}

pub(super) fn cluster_name(text: &str) -> Result<String, Refusal> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let edge = |c: Option<char>| c.is_some_and(|c| c != '-');
    if text.len() <= 32 && text.chars().all(inner) && edge(text.chars().next()) && edge(text.chars().last()) {
        Ok(text.to_owned())
    } else {
        refuse(
            "at most 32 lower-case letters, digits and hyphens, starting and ending without a hyphen",
            "not a cluster name",
        )
    }
}

/// Cluster ids above 0 shift the identities (`clusterID << 16`), which nothing here does yet.
pub(super) fn cluster_id(text: &str) -> Result<u8, Refusal> {
    match text.parse::<u32>() {
        Ok(0) => Ok(0),
        Ok(_) => refuse("0", "cluster mesh is not implemented yet"),
        Err(error) => refuse("0", error.to_string()),
    }
}

pub(super) fn aggregation(text: &str) -> Result<Aggregation, Refusal> {
    match text.to_ascii_lowercase().as_str() {
        "none" | "disabled" | "false" | "0" => Ok(Aggregation::None),
        "lowest" | "1" => Ok(Aggregation::Lowest),
        "low" | "2" => Ok(Aggregation::Low),
        "medium" | "3" => Ok(Aggregation::Medium),
        "max" | "maximum" | "4" => Ok(Aggregation::Maximum),
        _ => refuse("none, lowest, low, medium, maximum", "not an aggregation level"),
    }
}

pub(super) fn tcp_flags(text: &str) -> Result<u8, Refusal> {
    let mut flags = 0;
    for name in text.split([',', ' ']).filter(|name| !name.is_empty()) {
        flags |= match name.to_ascii_lowercase().as_str() {
            "all" => ALL_TCP_FLAGS,
            "fin" => 0x01,
            "syn" => 0x02,
            "rst" => 0x04,
            "psh" => 0x08,
            "ack" => 0x10,
            "urg" => 0x20,
            "ece" => 0x40,
            "cwr" => 0x80,
            _ => {
                return refuse(
                    "all, or a list of fin, syn, rst, psh, ack, urg, ece, cwr",
                    format!("{name:?} is not a TCP flag"),
                );
            }
        };
    }
    Ok(flags)
}

pub(super) fn ratio(text: &str) -> Result<f64, Refusal> {
    match text.parse::<f64>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        Ok(_) => refuse("a number from 0 (off) to 1", "out of range"),
        Err(error) => refuse("a number from 0 (off) to 1", error.to_string()),
    }
}

pub(super) fn entries(text: &str) -> Result<Option<u32>, Refusal> {
    const ALLOWED: &str = "1024 to 16777216 entries";
    match text.parse::<u32>() {
        // Cilium's chart writes 0 for "by the ratio".
        Ok(0) => Ok(None),
        Ok(entries) if (MIN_ENTRIES..=MAX_ENTRIES).contains(&entries) => Ok(Some(entries)),
        Ok(_) => refuse(ALLOWED, "out of range"),
        Err(error) => refuse(ALLOWED, error.to_string()),
    }
}

/// IPv6 needs links of at least 1280 bytes (RFC 8200 §5).
pub(super) fn mtu(text: &str) -> Result<Option<u32>, Refusal> {
    const ALLOWED: &str = "0 (that of the device), or 1280 to 65535 bytes";
    match text.parse::<u32>() {
        Ok(0) => Ok(None),
        Ok(mtu) if (1280..=65535).contains(&mtu) => Ok(Some(mtu)),
        Ok(_) => refuse(ALLOWED, "out of range"),
        Err(error) => refuse(ALLOWED, error.to_string()),
    }
}

/// `:9962` (every address, as Go means it), `[::1]:9962` or `127.0.0.1:9962`.
pub(super) fn listen_address(text: &str) -> Result<Option<SocketAddr>, Refusal> {
    const ALLOWED: &str = "[address]:port, such as :9962 or [::1]:9962";
    let parsed = match text.strip_prefix(':') {
        Some(port) => port
            .parse()
            .ok()
            .map(|port| SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)),
        None => text.parse().ok(),
    };
    match parsed {
        Some(addr) if addr.port() != 0 => Ok(Some(addr)),
        _ => refuse(ALLOWED, "not an address to listen on"),
    }
}

/// A device name, or the start of one followed by `+`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePattern(String);

impl DevicePattern {
    /// Whether a device has that name.
    #[must_use]
    pub fn matches(&self, device: &str) -> bool {
        match self.0.strip_suffix('+') {
            Some(start) => device.starts_with(start),
            None => device == self.0,
        }
    }
}

impl std::fmt::Display for DevicePattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

pub(super) fn devices(text: &str) -> Result<Vec<DevicePattern>, Refusal> {
    const ALLOWED: &str =
        "device names of at most 15 bytes, separated by spaces or commas; a trailing + is a wildcard";
    let names = text.split([',', ' ']).filter(|name| !name.is_empty());
    names
        .map(|name| {
            // IFNAMSIZ is 16 with the terminating zero; the kernel refuses '/' and white space.
            let bare = name.strip_suffix('+').unwrap_or(name);
            if bare.is_empty() || bare.len() > 15 || bare.contains(['/', '+']) {
                return refuse(ALLOWED, format!("{name:?} is not a device name"));
            }
            Ok(DevicePattern(name.to_owned()))
        })
        .collect()
}
