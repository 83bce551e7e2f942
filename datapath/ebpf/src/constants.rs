//! Load-time constants.

use core::mem::MaybeUninit;

use abi::Config;

/// A `Config` in read-only data. The loader overwrites it before the load and freezes it, so that the verifier knows
/// its content and removes what it switches off.
#[repr(transparent)]
struct Constants(MaybeUninit<Config>);

// In a section of its own, so that its content can be read back from the kernel: it is the whole of that map.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".rodata.config")]
static CONFIG: Constants = Constants(MaybeUninit::new(Config::DEFAULT));

/// The constants as they were set by the loader.
#[inline(always)]
pub(crate) fn config() -> &'static Config {
    let mut address = CONFIG.0.as_ptr();
    // The compiler knows the content of an immutable static and would put the defaults in place of every read.
    // SAFETY: the assembly is empty; it only hides where the address comes from.
    unsafe {
        core::arch::asm!("/* {0} */", inout(reg) address, options(pure, nomem, nostack, preserves_flags))
    };
    // SAFETY: the static always holds an initialised `Config`; any bytes are a valid one.
    unsafe { &*address }
}
