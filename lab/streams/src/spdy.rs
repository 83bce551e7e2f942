//! SPDY/3.1, the server side: what `kubectl` before 1.31 and client-go's SPDY executor speak after `Upgrade: SPDY/3.1`.

mod dictionary;
pub mod frame;
pub mod headers;
pub mod session;
mod window;
