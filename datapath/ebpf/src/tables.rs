//! The maps as [`Tables`].

use abi::{Addr, Bucket, CtEntry, CtKey, Endpoint, Peer};
use packet::protocol;
use stages::{TableFull, Tables};

use crate::{maps, skb::Skb, xdp::Frame};

/// [`Tables`] for a kind of hook.
macro_rules! tables_of {
    ($hook:ty) => {
        impl Tables for $hook {
            #[inline(always)]
            fn endpoint(&self, addr: &Addr) -> Option<Endpoint> {
                // SAFETY: copied out at once; user space writes endpoints whole, rarely, and an entry that is replaced while it
                // is read is read once with fields of both, as any packet in flight at that moment may be.
                unsafe { maps::ENDPOINTS.get(addr).copied() }
            }

            #[inline(always)]
            fn device(&self, ifindex: u32) -> Option<Addr> {
                // SAFETY: as in `endpoint`.
                unsafe { maps::DEVICES.get(ifindex).copied() }
            }

            #[inline(always)]
            fn peer(&self, addr: &Addr) -> Option<Peer> {
                // SAFETY: as in `endpoint`.
                unsafe { maps::IPCACHE.get(addr).copied() }
            }

            #[inline(always)]
            fn connection<R>(&mut self, key: &CtKey, with: impl FnOnce(&mut CtEntry) -> R) -> Option<R> {
                let entry = if key.proto == protocol::TCP {
                    maps::CT_TCP.get_ptr_mut(key)
                } else {
                    maps::CT_ANY.get_ptr_mut(key)
                };
                // SAFETY: the entry lives until the end of the RCU section that the program runs in. Two CPUs may update it at
                // once: a count can be lost and flags are only ever added, which conntrack bears.
                entry.map(|entry| with(unsafe { &mut *entry }))
            }

            #[inline(always)]
            fn add_connection(&mut self, key: &CtKey, entry: &CtEntry) -> Result<(), TableFull> {
                let added = if key.proto == protocol::TCP {
                    maps::CT_TCP.insert(key, entry, 0)
                } else {
                    maps::CT_ANY.insert(key, entry, 0)
                };
                added.map_err(|_| TableFull)
            }

            #[inline(always)]
            fn count(&mut self, slot: u32, bytes: u32) {
                if let Some(counter) = maps::METRICS.get_ptr_mut(slot) {
                    // SAFETY: the slot is this CPU's; programs of one CPU do not run at the same time but in softirq nesting,
                    // where a count can be lost at worst.
                    unsafe {
                        (*counter).packets = (*counter).packets.wrapping_add(1);
                        (*counter).bytes = (*counter).bytes.wrapping_add(u64::from(bytes));
                    }
                }
            }

            #[inline(always)]
            fn bucket<R>(&mut self, slot: u32, with: impl FnOnce(&mut Bucket) -> R) -> Option<R> {
                // SAFETY: as in `count`.
                maps::RATES
                    .get_ptr_mut(slot)
                    .map(|bucket| with(unsafe { &mut *bucket }))
            }
        }
    };
}

tables_of!(Skb);
tables_of!(Frame);
