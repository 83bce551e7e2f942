//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums are folded to 16 bits and not inverted; the checksum field holds the inverse. Words are read in network order,
//! so that the value is the same on every machine.

/// Adds two sums, carry around.
#[must_use]
#[inline]
pub const fn add(a: u16, b: u16) -> u16 {
    fold((a as u32).wrapping_add(b as u32))
}

/// Folds a sum of 16-bit words to 16 bits.
#[must_use]
#[inline]
pub const fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff).wrapping_add(sum >> 16);
    (once & 0xffff).wrapping_add(once >> 16) as u16
}

/// Sum of some bytes; an odd last byte is the high half of a word.
#[must_use]
#[inline]
pub fn sum(bytes: &[u8]) -> u16 {
    let mut total = 0u32;
    let mut words = bytes.chunks_exact(2);
    for word in &mut words {
        if let &[high, low] = word {
            // 65535 words of 65535 fit in 32 bits; no packet has more.
            total = total.wrapping_add(u16::from_be_bytes([high, low]) as u32);
        }
    }
    if let &[high] = words.remainder() {
        total = total.wrapping_add(u16::from_be_bytes([high, 0]) as u32);
    }
    fold(total)
}

/// Sum of the IPv6 pseudo-header (RFC 8200 §8.1).
#[must_use]
#[inline]
pub fn pseudo_header(src: &abi::Addr, dst: &abi::Addr, len: u16, protocol: u8) -> u16 {
    add(
        add(sum(&src.0), sum(&dst.0)),
        add(len, u16::from_be_bytes([0, protocol])),
    )
}

/// A checksum field after one 16-bit word that it covers has changed (RFC 1624 equation 3).
#[must_use]
#[inline]
pub const fn update(field: [u8; 2], old: [u8; 2], new: [u8; 2]) -> [u8; 2] {
    let sum = add(
        add(!u16::from_be_bytes(field), !u16::from_be_bytes(old)),
        u16::from_be_bytes(new),
    );
    (!sum).to_be_bytes()
}
