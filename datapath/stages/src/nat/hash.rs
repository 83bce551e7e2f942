//! A hash of a connection that is the same on every node and at any time: balancing by Maglev's table needs that.
//!
//! Multiply, rotate and add over 32-bit words, finished by the mixer of MurmurHash3 (Appleby, public domain). It spreads;
//! it does not defend: a client can choose its backend as it can choose its port.

use abi::{Addr, NatKey};

const SEED: u32 = 0x5e7a_0001;

/// Hash of addresses, ports and protocol.
#[inline(never)]
#[must_use]
pub fn connection(key: &NatKey) -> u32 {
    let [a, b] = key.src_port;
    let [c, d] = key.dst_port;
    let hash = address(address(SEED, &key.src), &key.dst);
    let hash = step(hash, u32::from_be_bytes([a, b, c, d]));
    next(step(hash, u32::from(key.proto)))
}

/// Two words at a time, which needs little of the stack.
#[inline(never)]
fn address(hash: u32, addr: &Addr) -> u32 {
    let [high, low]: [u64; 2] = zerocopy::transmute!(*addr);
    let (high, low) = (u64::from_be(high), u64::from_be(low));
    let hash = step(step(hash, high.wrapping_shr(32) as u32), high as u32);
    step(step(hash, low.wrapping_shr(32) as u32), low as u32)
}

#[inline(always)]
fn step(hash: u32, word: u32) -> u32 {
    let word = word
        .wrapping_mul(0xcc9e_2d51)
        .rotate_left(15)
        .wrapping_mul(0x1b87_3593);
    (hash ^ word)
        .rotate_left(13)
        .wrapping_mul(5)
        .wrapping_add(0xe654_6b64)
}

/// A number that follows from another one and looks like chance.
#[inline(always)]
#[must_use]
pub fn next(hash: u32) -> u32 {
    let hash = hash.wrapping_add(0x9e37_79b9);
    let hash = (hash ^ hash.wrapping_shr(16)).wrapping_mul(0x85eb_ca6b);
    let hash = (hash ^ hash.wrapping_shr(13)).wrapping_mul(0xc2b2_ae35);
    hash ^ hash.wrapping_shr(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_spread_evenly() {
        let mut hits = [0u32; 16];
        for port in 0..16_000u16 {
            let key = NatKey {
                src: Addr([7; 16]),
                src_port: port.to_be_bytes(),
                proto: 6,
                ..NatKey::default()
            };
            if let Some(hit) = hits.get_mut((connection(&key) >> 28) as usize) {
                *hit += 1;
            }
        }
        assert!(hits.iter().all(|hit| (850..1150).contains(hit)), "{hits:?}");
    }
}
