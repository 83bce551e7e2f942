//! How many bytes may be sent: the flow control of SPDY/3.1 as arithmetic.
//!
//! The SPDY library under client-go and kubectl (moby/spdystream) neither sends WINDOW_UPDATE nor looks at it: taking the
//! initial 64 KiB seriously would hang every longer output. So the window binds only a connection whose peer has shown that
//! it does flow control, by a SETTINGS or WINDOW_UPDATE frame. Until then TCP is the brake. Bytes are counted all the time.

use std::collections::HashMap;

const INITIAL: i64 = 64 << 10;
/// Settings id of the initial window of streams.
const SETTING_INITIAL_WINDOW: u32 = 7;

/// A window that was given more than 2^31 - 1 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("flow-control window overflows")]
pub(super) struct Overflow;

#[derive(Debug)]
pub(super) struct Windows {
    enforced: bool,
    initial: i64,
    connection: i64,
    streams: HashMap<u32, i64>,
}

impl Windows {
    pub(super) fn new() -> Self {
        Self {
            enforced: false,
            initial: INITIAL,
            connection: INITIAL,
            streams: HashMap::new(),
        }
    }

    pub(super) fn open(&mut self, stream: u32) {
        self.streams.insert(stream, self.initial);
    }

    pub(super) fn close(&mut self, stream: u32) {
        self.streams.remove(&stream);
    }

    /// Takes up to `want` bytes; 0 means that the sender must wait for a grant.
    pub(super) fn take(&mut self, stream: u32, want: usize) -> usize {
        let Some(window) = self.streams.get_mut(&stream) else {
            return want;
        };
        let allowed = if self.enforced {
            self.connection.min(*window).max(0)
        } else {
            i64::MAX
        };
        let taken = i64::try_from(want).unwrap_or(i64::MAX).min(allowed);
        *window = window.saturating_sub(taken);
        self.connection = self.connection.saturating_sub(taken);
        usize::try_from(taken).unwrap_or(0)
    }

    /// WINDOW_UPDATE; stream 0 is the connection, unknown streams are over.
    pub(super) fn grant(&mut self, stream: u32, delta: u32) -> Result<(), Overflow> {
        self.enforced = true;
        let window = match stream {
            0 => &mut self.connection,
            _ => match self.streams.get_mut(&stream) {
                Some(window) => window,
                None => return Ok(()),
            },
        };
        *window = window.saturating_add(i64::from(delta));
        if *window > i64::from(i32::MAX) {
            Err(Overflow)
        } else {
            Ok(())
        }
    }

    /// SETTINGS: a new initial window moves those of open streams by the difference.
    pub(super) fn settings(&mut self, settings: &[(u32, u32)]) {
        for (_, value) in settings.iter().filter(|(id, _)| *id == SETTING_INITIAL_WINDOW) {
            self.enforced = true;
            let initial = i64::from(*value);
            for window in self.streams.values_mut() {
                *window = window.saturating_add(initial - self.initial);
            }
            self.initial = initial;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_without_flow_control_is_not_held_back() {
        let mut windows = Windows::new();
        windows.open(1);
        assert_eq!(windows.take(1, 1 << 20), 1 << 20);
    }

    #[test]
    fn a_peer_with_flow_control_is_obeyed() {
        let mut windows = Windows::new();
        windows.settings(&[(7, 100)]);
        windows.open(1);
        assert_eq!(windows.take(1, 80), 80);
        assert_eq!(windows.take(1, 80), 20);
        assert_eq!(windows.take(1, 80), 0);
        windows.grant(1, 50).unwrap();
        assert_eq!(windows.take(1, 80), 50);
        windows.settings(&[(7, 40)]);
        windows.grant(1, 70).unwrap();
        assert_eq!(
            windows.take(1, 80),
            10,
            "the smaller initial window counts against what was granted"
        );
        assert_eq!(windows.grant(1, 1 << 31 | 0x7fff_ffff), Err(Overflow));
        assert_eq!(windows.grant(9, 5), Ok(()), "a stream that is over");
    }
}
