//! Clock, routing table ([`crate::routes`]) and event ring as [`Env`].

use abi::{Config, event::CAPTURE};
use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_skb_load_bytes};
use stages::{Env, Route, RouteQuery};
use zerocopy::{Immutable, IntoBytes};

use crate::{
    constants, maps, routes,
    skb::Skb,
    xdp::{Frame, load},
};

/// Space for one record: whole, as the ring needs a constant size.
#[repr(C)]
struct Record<H> {
    header: H,
    data: [u8; CAPTURE],
}

/// [`Env`] for a kind of hook, and the helper that copies bytes out of its packets.
macro_rules! env_of {
    ($hook:ty, $load:path) => {
        impl Env for $hook {
            #[inline(always)]
            fn now(&self) -> u64 {
                // SAFETY: no arguments.
                unsafe { bpf_ktime_get_coarse_ns() }
            }

            #[inline(always)]
            fn config(&self) -> Config {
                *constants::config()
            }

            #[inline(always)]
            fn route(&mut self, query: &RouteQuery<'_>) -> Route {
                routes::find(self, self.as_ptr().cast(), query)
            }

            #[inline(always)]
            fn emit<H: IntoBytes + Immutable + 'static>(&mut self, kind: u8, header: &H, captured: u32) {
                let Some(mut record) = maps::EVENTS.reserve_untyped::<Record<H>>(0) else {
                    lost(kind);
                    return;
                };
                let target = record.as_mut_ptr();
                // SAFETY: the record has room for the header, and nobody else sees it before it is submitted.
                unsafe {
                    core::ptr::copy_nonoverlapping(core::ptr::from_ref(header), &raw mut (*target).header, 1)
                };
                let failed = if captured == 0 || captured > CAPTURE as u32 {
                    1
                } else {
                    // SAFETY: at most `CAPTURE` bytes are written, for which there is room.
                    unsafe {
                        $load(
                            self.as_ptr().cast(),
                            0,
                            (&raw mut (*target).data).cast(),
                            captured,
                        )
                    }
                };
                if failed == 0 {
                    record.submit(0);
                } else {
                    record.discard(0);
                    lost(kind);
                }
            }
        }
    };
}

env_of!(Skb, bpf_skb_load_bytes);
env_of!(Frame, load);

#[inline(always)]
fn lost(kind: u8) {
    if let Some(counter) = maps::EVENTS_LOST.get_ptr_mut(u32::from(kind)) {
        // SAFETY: the slot is this CPU's.
        unsafe { *counter = (*counter).wrapping_add(1) };
    }
}
