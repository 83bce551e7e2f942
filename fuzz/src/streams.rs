//! `lab/streams`: what clients send on an upgraded connection.

use bytes::{Bytes, BytesMut};
use lab_streams::channel::{self, Encoding};
use lab_streams::spdy::frame::{self, Frame};
use lab_streams::spdy::headers::{HeaderDecoder, HeaderEncoder};
use lab_streams::{Purpose, negotiate};

/// A connection: frames, with the header blocks inside them. Every frame is written and read back as it was.
pub fn streams_spdy(data: &[u8]) {
    let mut buffer = BytesMut::from(data);
    let mut decoder = HeaderDecoder::new();
    while let Ok(Some(frame)) = frame::decode(&mut buffer) {
        let mut wire = BytesMut::new();
        frame::encode(&frame, &mut wire);
        if !matches!(frame, Frame::Unknown(_)) {
            assert_eq!(
                frame::decode(&mut wire),
                Ok(Some(frame.clone())),
                "read back differently"
            );
        }
        if let Frame::SynStream { headers, .. }
        | Frame::SynReply { headers, .. }
        | Frame::Headers { headers, .. } = frame
            && decoder.decode(&headers).is_err()
        {
            return;
        }
    }
}

/// One header block. The input is what lies inside the compression, as a fuzzer finds no way through zlib; the bytes
/// are also tried as they are.
pub fn streams_headers(data: &[u8]) {
    let _ = HeaderDecoder::new().decode(data);
    let headers: Vec<(String, String)> = String::from_utf8_lossy(data)
        .lines()
        .take(200)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let encoded = HeaderEncoder::new().and_then(|mut encoder| encoder.encode(&headers));
    let Ok(block) = encoded else { return };
    if let Ok(read) = HeaderDecoder::new().decode(&block) {
        assert_eq!(read.len(), headers.len(), "headers lost or found");
    }
}

/// A WebSocket message of the channel protocols.
pub fn streams_message(data: &[u8]) {
    let message = Bytes::copy_from_slice(data);
    for encoding in [Encoding::Binary, Encoding::Base64] {
        for has_close in [false, true] {
            if let Ok(channel::Incoming::Data(number, bytes)) = channel::decode(&message, encoding, has_close)
                && encoding == Encoding::Base64
            {
                let again = channel::encode(number, &bytes, encoding);
                assert_eq!(again, message, "written differently");
            }
        }
    }
}

/// The headers of a request to upgrade: `name: value` lines.
pub fn streams_handshake(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let header = |wanted: &str| -> Vec<String> {
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .filter(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.trim().to_owned())
            .collect()
    };
    for purpose in [Purpose::RemoteCommand, Purpose::PortForward] {
        match negotiate(header, purpose) {
            Ok(handshake) => assert!(!handshake.headers.is_empty(), "an answer without headers"),
            Err(error) => assert!(matches!(error.status(), 400 | 403), "an unknown refusal"),
        }
    }
}
