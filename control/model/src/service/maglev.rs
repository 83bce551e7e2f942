//! Maglev: a table from hashes to backends that is the same on every node, and changes little when backends do
//! (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, §3.4).

use abi::Addr;
use abi::service::MAGLEV_SIZE;

/// Every backend has its own order of preference for the entries; they take turns in claiming the next one that is
/// free. The order depends on address and port alone, so that nodes agree whatever slots the backends have.
///
/// `backends` must be sorted (whose turn is first decides close calls) and without duplicates. Empty: all zero.
#[must_use]
pub fn table(backends: &[(Addr, [u8; 2])]) -> Box<[u16; MAGLEV_SIZE]> {
    const FREE: u16 = u16::MAX;
    let mut table = vec![FREE; MAGLEV_SIZE];
    let mut turns: Vec<Turn> = backends.iter().take(usize::from(FREE)).map(Turn::new).collect();
    let mut free = if turns.is_empty() { 0 } else { MAGLEV_SIZE };
    while free > 0 {
        for (slot, turn) in turns.iter_mut().enumerate() {
            loop {
                let next = turn.advance();
                if let Some(entry) = table.get_mut(next).filter(|entry| **entry == FREE) {
                    *entry = slot as u16;
                    break;
                }
            }
            free -= 1;
            if free == 0 {
                break;
            }
        }
    }
    let mut sized = Box::new([0; MAGLEV_SIZE]);
    for (entry, slot) in sized.iter_mut().zip(table) {
        *entry = if slot == FREE { 0 } else { slot };
    }
    sized
}

/// Entries of the table and a few more: the next even power of two.
const DOMAIN_BITS: u32 = 14;
const HALF_BITS: u32 = DOMAIN_BITS / 2;
const HALF: u32 = (1 << HALF_BITS) - 1;
const _: () = assert!(MAGLEV_SIZE <= 1 << DOMAIN_BITS);

/// A backend's order of preference: a keyed permutation of the entries.
///
/// The paper takes `offset + n * skip`. Where the steps of two backends are small multiples of each other they follow
/// each other through the whole table, and a third that goes moves a third of what they have; one set of three in some
/// hundred thousand is like that (a property test found one). A Feistel network of four rounds has no steps.
struct Turn {
    keys: [u32; 4],
    tried: u32,
}

impl Turn {
    fn new((addr, port): &(Addr, [u8; 2])) -> Self {
        let halves = |seed| {
            let hash = hash(addr, *port, seed);
            [hash as u32, (hash >> 32) as u32]
        };
        let ([a, b], [c, d]) = (halves(0x7365_7461_2d6f_6666), halves(0x7365_7461_2d73_6b69));
        Self {
            keys: [a, b, c, d],
            tried: 0,
        }
    }

    fn advance(&mut self) -> usize {
        loop {
            let entry = self.permute(self.tried) as usize;
            self.tried = (self.tried + 1) & ((1 << DOMAIN_BITS) - 1);
            if entry < MAGLEV_SIZE {
                return entry;
            }
        }
    }

    fn permute(&self, number: u32) -> u32 {
        let (mut left, mut right) = (number >> HALF_BITS, number & HALF);
        for key in self.keys {
            // The finish of MurmurHash3 for 32 bits.
            let mut mixed = (right ^ key).wrapping_mul(0x85eb_ca6b);
            mixed = (mixed ^ (mixed >> 13)).wrapping_mul(0xc2b2_ae35);
            (left, right) = (right, left ^ ((mixed ^ (mixed >> 16)) & HALF));
        }
        left << HALF_BITS | right
    }
}

/// Part of what nodes have to agree on: it must never change. FNV-1a over address and port, with the finish of
/// MurmurHash3, without which neighbouring addresses would have neighbouring hashes.
fn hash(addr: &Addr, port: [u8; 2], seed: u64) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ seed;
    for byte in addr.0.iter().chain(&port) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn backends(numbers: &BTreeSet<u16>) -> Vec<(Addr, [u8; 2])> {
        let addr = |number: u16| {
            let mut addr = [0xfd; 16];
            addr[14..].copy_from_slice(&number.to_be_bytes());
            Addr(addr)
        };
        numbers.iter().map(|number| (addr(*number), [0, 80])).collect()
    }

    #[test]
    fn nodes_agree_for_ever() {
        let table = table(&backends(&BTreeSet::from([1, 2, 3])));
        assert_eq!(table[..12], [0, 2, 2, 1, 1, 1, 2, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn no_backends_and_too_many() {
        assert!(table(&[]).iter().all(|slot| *slot == 0));
        let many: BTreeSet<u16> = (0..20_000).collect();
        let used: BTreeSet<u16> = table(&backends(&many)).iter().copied().collect();
        assert_eq!(used.len(), MAGLEV_SIZE, "each entry another backend");
    }

    /// The paper gives no bound but figures: with a hundred entries per backend a loss moves few others.
    #[test]
    fn on_average_a_loss_moves_one_entry_in_fifty_of_others() {
        let before = backends(&(0..100).collect());
        let old = table(&before);
        let mut moved = 0;
        for gone in 0..before.len() {
            let mut after = before.clone();
            after.remove(gone);
            let new = table(&after);
            let entries = old
                .iter()
                .zip(new.iter())
                .map(|(o, n)| (usize::from(*o), usize::from(*n)));
            moved += entries
                .filter(|(o, n)| *o != gone && before[*o] != after[*n])
                .count();
        }
        assert!(
            moved * 50 <= MAGLEV_SIZE * before.len(),
            "{moved} in {} losses",
            before.len()
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Shares differ by one entry at most; and when a backend goes, little changes but what it had (§5.3).
        #[test]
        fn balanced_and_hardly_disturbed(
            numbers in proptest::collection::btree_set(any::<u16>(), 2..120),
            gone: proptest::sample::Index,
        ) {
            let before = backends(&numbers);
            let old = table(&before);
            let mut shares = vec![0usize; before.len()];
            for slot in old.iter() {
                shares[usize::from(*slot)] += 1;
            }
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            prop_assert!(most - least <= 1, "{least} to {most}");

            let gone = gone.index(before.len());
            let mut after = before.clone();
            after.remove(gone);
            let new = table(&after);
            let moved = old.iter().zip(new.iter()).filter(|(o, n)| {
                usize::from(**o) != gone && before[usize::from(**o)] != after[usize::from(**n)]
            });
            let moved = moved.count();
            prop_assert!(moved * 100 <= MAGLEV_SIZE * 4, "{moved} of {MAGLEV_SIZE} entries of other backends moved");
        }
    }
}
