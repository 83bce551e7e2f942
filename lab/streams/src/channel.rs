//! Messages of the `channel.k8s.io` WebSocket subprotocols: the first byte says which channel. Pure.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;

/// Standard input.
pub const STDIN: u8 = 0;
/// Standard output.
pub const STDOUT: u8 = 1;
/// Standard error.
pub const STDERR: u8 = 2;
/// How the command ended.
pub const ERROR: u8 = 3;
/// Terminal sizes.
pub const RESIZE: u8 = 4;
/// Version 5: the next byte names a channel that its sender will write no more.
pub const CLOSE: u8 = 255;

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Binary messages.
    Binary,
    /// Text messages, the channel as a digit, the rest in base64.
    Base64,
}

/// What a client's message means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// Bytes for a channel.
    Data(u8, Bytes),
    /// The client is done with a channel.
    Close(u8),
}

/// A message that means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// No channel byte.
    #[error("message without a channel")]
    Empty,
    /// Text where binary was agreed, or the reverse.
    #[error("channel is not a digit")]
    Channel,
    /// Not base64.
    #[error("message is not base64")]
    Base64,
}

/// Reads a client's message.
///
/// # Errors
/// See [`MessageError`]; the connection cannot go on.
pub fn decode(message: &Bytes, encoding: Encoding, has_close: bool) -> Result<Incoming, MessageError> {
    let first = *message.first().ok_or(MessageError::Empty)?;
    let rest = message.slice(1..);
    match encoding {
        Encoding::Binary if first == CLOSE && has_close => rest
            .first()
            .copied()
            .map(Incoming::Close)
            .ok_or(MessageError::Empty),
        Encoding::Binary => Ok(Incoming::Data(first, rest)),
        Encoding::Base64 => {
            let channel = first
                .checked_sub(b'0')
                .filter(|channel| *channel < 10)
                .ok_or(MessageError::Channel)?;
            let data = BASE64_STANDARD.decode(&rest).map_err(|_| MessageError::Base64)?;
            Ok(Incoming::Data(channel, data.into()))
        }
    }
}

/// Writes a message for the client.
#[must_use]
pub fn encode(channel: u8, data: &[u8], encoding: Encoding) -> Bytes {
    let mut message = Vec::with_capacity(data.len() + 1);
    match encoding {
        Encoding::Binary => {
            message.push(channel);
            message.extend_from_slice(data);
        }
        Encoding::Base64 => {
            message.push(b'0' + channel % 10);
            message.extend_from_slice(BASE64_STANDARD.encode(data).as_bytes());
        }
    }
    message.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(channel in 0u8..10, data: Vec<u8>) {
            for encoding in [Encoding::Binary, Encoding::Base64] {
                let message = encode(channel, &data, encoding);
                let got = decode(&message, encoding, true).unwrap();
                prop_assert_eq!(got, Incoming::Data(channel, data.clone().into()));
            }
        }

        #[test]
        fn garbage_is_data_or_an_error(message: Vec<u8>, close: bool) {
            let message = Bytes::from(message);
            let _ = decode(&message, Encoding::Binary, close);
            let _ = decode(&message, Encoding::Base64, close);
        }
    }

    #[test]
    fn close_is_known_from_version_5_on() {
        let message = Bytes::from_static(&[CLOSE, STDIN]);
        assert_eq!(
            decode(&message, Encoding::Binary, true),
            Ok(Incoming::Close(STDIN))
        );
        assert_eq!(
            decode(&message, Encoding::Binary, false),
            Ok(Incoming::Data(CLOSE, Bytes::from_static(&[0])))
        );
        assert_eq!(
            decode(&Bytes::from_static(&[CLOSE]), Encoding::Binary, true),
            Err(MessageError::Empty)
        );
    }
}
