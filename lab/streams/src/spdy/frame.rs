//! SPDY/3.1 frames as bytes: pure, bounded, no IO. Header blocks stay compressed here, see `headers`.
//!
//! Layout (SPDY/3 draft, section 2.2), big-endian: control frames are `1|version:15 type:16 flags:8 length:24`,
//! data frames `0|stream:31 flags:8 length:24`.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The longest frame accepted. Peers cut data into pieces of at most 64 KiB; header blocks are far smaller.
pub const MAX_FRAME: usize = 1 << 20;
/// The flag that ends the sender's half of a stream.
pub const FLAG_FIN: u8 = 1;
const VERSION: u16 = 3;
const HEADER: usize = 8;
const STREAM_MASK: u32 = 0x7fff_ffff;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Bytes of a stream.
    Data {
        /// The stream.
        stream: u32,
        /// Whether the sender is done with it.
        fin: bool,
        /// The bytes.
        data: Bytes,
    },
    /// A new stream.
    SynStream {
        /// Its number: odd from clients, even from servers.
        stream: u32,
        /// The stream it belongs to, 0 for none.
        associated: u32,
        /// 0 is the most urgent, 7 the least.
        priority: u8,
        /// `FLAG_FIN` and unidirectional (2).
        flags: u8,
        /// Compressed header block.
        headers: Bytes,
    },
    /// The answer to a new stream.
    SynReply {
        /// The stream.
        stream: u32,
        /// Whether the sender is done with it.
        fin: bool,
        /// Compressed header block.
        headers: Bytes,
    },
    /// The end of a stream in both directions.
    RstStream {
        /// The stream.
        stream: u32,
        /// Why, see [`Rst`].
        status: u32,
    },
    /// Settings of the connection, as (id, value).
    Settings(Vec<(u32, u32)>),
    /// To be echoed by the side that did not choose the number.
    Ping(u32),
    /// No further streams are accepted.
    GoAway {
        /// The last stream that was accepted.
        last_stream: u32,
        /// 0 = OK, 1 = protocol error, 2 = internal error.
        status: u32,
    },
    /// More headers of a stream.
    Headers {
        /// The stream.
        stream: u32,
        /// Whether the sender is done with it.
        fin: bool,
        /// Compressed header block.
        headers: Bytes,
    },
    /// Room for more bytes.
    WindowUpdate {
        /// The stream, 0 for the connection.
        stream: u32,
        /// How many bytes more.
        delta: u32,
    },
    /// A control frame of another type: skipped, as the draft asks.
    Unknown(u16),
}

/// Reasons to reset a stream (SPDY/3 draft, section 2.6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Rst {
    /// The frame is not allowed here.
    ProtocolError = 1,
    /// The stream is unknown.
    InvalidStream = 2,
    /// The stream is not accepted.
    RefusedStream = 3,
    /// The sender no longer wants the stream.
    Cancel = 5,
    /// More bytes than the window allows.
    FlowControlError = 7,
}

/// Why bytes are not a frame. All of them end the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`MAX_FRAME`].
    #[error("frame of {0} bytes exceeds the limit")]
    TooLong(usize),
    /// A control frame of another version.
    #[error("SPDY version {0} instead of 3")]
    Version(u16),
    /// The payload is shorter or longer than its type asks.
    #[error("control frame of type {0} has a wrong length")]
    Length(u16),
    /// Stream 0 where a stream is needed.
    #[error("frame for stream 0")]
    StreamZero,
}

/// Takes one frame from the front of `buffer`; `None` until all of it is there.
///
/// # Errors
/// When the bytes cannot become a frame, whatever follows.
pub fn decode(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let Some(header) = buffer.get(..HEADER) else {
        return Ok(None);
    };
    let mut header = header;
    let first = header.get_u32();
    let flags_and_length = header.get_u32();
    let flags = (flags_and_length >> 24) as u8;
    let length = (flags_and_length & 0x00ff_ffff) as usize;
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length));
    }
    if first & !STREAM_MASK != 0 && (first >> 16) as u16 & 0x7fff != VERSION {
        return Err(FrameError::Version((first >> 16) as u16 & 0x7fff));
    }
    if buffer.len() < HEADER + length {
        return Ok(None);
    }
    buffer.advance(HEADER);
    let payload = buffer.split_to(length).freeze();
    if first & !STREAM_MASK != 0 {
        return control(first as u16, flags, payload).map(Some);
    }
    if first == 0 {
        return Err(FrameError::StreamZero);
    }
    Ok(Some(Frame::Data {
        stream: first,
        fin: flags & FLAG_FIN != 0,
        data: payload,
    }))
}

fn control(kind: u16, flags: u8, mut payload: Bytes) -> Result<Frame, FrameError> {
    let at_least = |length: usize, payload: &Bytes| {
        if payload.len() < length {
            Err(FrameError::Length(kind))
        } else {
            Ok(())
        }
    };
    let exactly = |length: usize, payload: &Bytes| {
        if payload.len() == length {
            Ok(())
        } else {
            Err(FrameError::Length(kind))
        }
    };
    let some = |stream: u32| {
        if stream == 0 {
            Err(FrameError::StreamZero)
        } else {
            Ok(stream)
        }
    };
    let fin = flags & FLAG_FIN != 0;
    Ok(match kind {
        1 => {
            at_least(10, &payload)?;
            let stream = some(payload.get_u32() & STREAM_MASK)?;
            let associated = payload.get_u32() & STREAM_MASK;
            let priority = payload.get_u8() >> 5;
            payload.advance(1); // credential slot, unused
            Frame::SynStream {
                stream,
                associated,
                priority,
                flags,
                headers: payload,
            }
        }
        2 | 8 => {
            at_least(4, &payload)?;
            let stream = some(payload.get_u32() & STREAM_MASK)?;
            if kind == 2 {
                Frame::SynReply {
                    stream,
                    fin,
                    headers: payload,
                }
            } else {
                Frame::Headers {
                    stream,
                    fin,
                    headers: payload,
                }
            }
        }
        3 => {
            exactly(8, &payload)?;
            Frame::RstStream {
                stream: some(payload.get_u32() & STREAM_MASK)?,
                status: payload.get_u32(),
            }
        }
        4 => {
            at_least(4, &payload)?;
            let count = payload.get_u32() as usize;
            if payload.len() / 8 != count || !payload.len().is_multiple_of(8) {
                return Err(FrameError::Length(kind));
            }
            // The byte before the id holds flags about storing settings: nothing is stored here.
            Frame::Settings(
                (0..count)
                    .map(|_| (payload.get_u32() & 0x00ff_ffff, payload.get_u32()))
                    .collect(),
            )
        }
        6 => {
            exactly(4, &payload)?;
            Frame::Ping(payload.get_u32())
        }
        7 => {
            exactly(8, &payload)?;
            Frame::GoAway {
                last_stream: payload.get_u32() & STREAM_MASK,
                status: payload.get_u32(),
            }
        }
        9 => {
            exactly(8, &payload)?;
            Frame::WindowUpdate {
                stream: payload.get_u32() & STREAM_MASK,
                delta: payload.get_u32() & STREAM_MASK,
            }
        }
        other => Frame::Unknown(other),
    })
}

/// Appends a frame's bytes. `Unknown` has none. Payloads must be below 2^24 bytes; the session cuts data far below.
pub fn encode(frame: &Frame, out: &mut BytesMut) {
    match frame {
        Frame::Data { stream, fin, data } => {
            out.put_u32(stream & STREAM_MASK);
            out.put_u32(u32::from(*fin) << 24 | length(data.len()));
            out.put_slice(data);
        }
        Frame::SynStream {
            stream,
            associated,
            priority,
            flags,
            headers,
        } => {
            head(1, *flags, 10 + headers.len(), out);
            out.put_u32(stream & STREAM_MASK);
            out.put_u32(associated & STREAM_MASK);
            out.put_u8(priority << 5);
            out.put_u8(0);
            out.put_slice(headers);
        }
        Frame::SynReply { stream, fin, headers } | Frame::Headers { stream, fin, headers } => {
            let kind = if matches!(frame, Frame::SynReply { .. }) {
                2
            } else {
                8
            };
            head(kind, u8::from(*fin), 4 + headers.len(), out);
            out.put_u32(stream & STREAM_MASK);
            out.put_slice(headers);
        }
        Frame::RstStream { stream, status } => pair(3, *stream, *status, out),
        Frame::Settings(settings) => {
            head(4, 0, 4 + 8 * settings.len(), out);
            out.put_u32(length(settings.len()));
            for (id, value) in settings {
                out.put_u32(id & 0x00ff_ffff);
                out.put_u32(*value);
            }
        }
        Frame::Ping(id) => {
            head(6, 0, 4, out);
            out.put_u32(*id);
        }
        Frame::GoAway { last_stream, status } => pair(7, *last_stream, *status, out),
        Frame::WindowUpdate { stream, delta } => pair(9, *stream, delta & STREAM_MASK, out),
        Frame::Unknown(_) => {}
    }
}

fn pair(kind: u16, stream: u32, value: u32, out: &mut BytesMut) {
    head(kind, 0, 8, out);
    out.put_u32(stream & STREAM_MASK);
    out.put_u32(value);
}

fn head(kind: u16, flags: u8, len: usize, out: &mut BytesMut) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32(u32::from(flags) << 24 | length(len));
}

fn length(len: usize) -> u32 {
    (len as u32) & 0x00ff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from)
    }

    fn frames() -> impl Strategy<Value = Frame> {
        let stream = 1u32..=STREAM_MASK;
        prop_oneof![
            (stream.clone(), any::<bool>(), bytes()).prop_map(|(stream, fin, data)| Frame::Data {
                stream,
                fin,
                data
            }),
            (stream.clone(), 0..=STREAM_MASK, 0u8..8, 0u8..4, bytes()).prop_map(
                |(stream, associated, priority, flags, headers)| Frame::SynStream {
                    stream,
                    associated,
                    priority,
                    flags,
                    headers
                }
            ),
            (stream.clone(), any::<bool>(), bytes()).prop_map(|(stream, fin, headers)| Frame::SynReply {
                stream,
                fin,
                headers
            }),
            (stream.clone(), any::<bool>(), bytes()).prop_map(|(stream, fin, headers)| Frame::Headers {
                stream,
                fin,
                headers
            }),
            (stream.clone(), any::<u32>()).prop_map(|(stream, status)| Frame::RstStream { stream, status }),
            prop::collection::vec((0u32..1 << 24, any::<u32>()), 0..6).prop_map(Frame::Settings),
            any::<u32>().prop_map(Frame::Ping),
            (0..=STREAM_MASK, any::<u32>())
                .prop_map(|(last_stream, status)| Frame::GoAway { last_stream, status }),
            (0..=STREAM_MASK, 0..=STREAM_MASK)
                .prop_map(|(stream, delta)| Frame::WindowUpdate { stream, delta }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(sent in prop::collection::vec(frames(), 0..8), cut in 1usize..40) {
            let mut wire = BytesMut::new();
            sent.iter().for_each(|frame| encode(frame, &mut wire));
            // Arrives in pieces, as from a socket.
            let (mut buffer, mut got) = (BytesMut::new(), Vec::new());
            for piece in wire.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = decode(&mut buffer).unwrap() { got.push(frame); }
            }
            prop_assert_eq!(sent, got);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn garbage_ends_in_an_error_or_a_frame(garbage in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut buffer = BytesMut::from(&garbage[..]);
            while let Ok(Some(_)) = decode(&mut buffer) {}
        }

        #[test]
        fn garbage_behind_a_control_header_too(kind in 0u16..12, flags: u8, body in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut buffer = BytesMut::new();
            head(kind, flags, body.len(), &mut buffer);
            buffer.extend_from_slice(&body);
            let _ = decode(&mut buffer);
        }
    }

    #[test]
    fn limits() {
        let rows: [(&[u8], FrameError); 4] = [
            (
                &[0, 0, 0, 1, 0, 0xff, 0xff, 0xff],
                FrameError::TooLong(0x00ff_ffff),
            ),
            (&[0x80, 2, 0, 1, 0, 0, 0, 0], FrameError::Version(2)),
            (&[0x80, 3, 0, 3, 0, 0, 0, 0], FrameError::Length(3)),
            (&[0, 0, 0, 0, 0, 0, 0, 0], FrameError::StreamZero),
        ];
        for (bytes, error) in rows {
            assert_eq!(decode(&mut BytesMut::from(bytes)), Err(error), "{bytes:x?}");
        }
    }
}
