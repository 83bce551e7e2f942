//! Which protocol a client and we agree on. Pure: headers in, headers out.

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::channel::Encoding;

/// What is spoken after `101 Switching Protocols`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// SPDY/3.1 with a remote command protocol of this version, 1 to 4.
    Spdy(u8),
    /// WebSocket with the channel protocol of this version: 1, 4 or 5.
    WebSocket {
        /// 1, 4 or 5.
        version: u8,
        /// How messages are written.
        encoding: Encoding,
    },
    /// SPDY/3.1 port-forward.
    SpdyForward,
    /// WebSocket whose binary messages carry a SPDY/3.1 connection (port-forward of kubectl 1.31 and later).
    TunnelledSpdyForward,
}

/// What the connection is to be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// exec and attach.
    RemoteCommand,
    /// port-forward.
    PortForward,
}

/// The agreement: answer `101` with these headers, then serve `protocol` on the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// What is spoken.
    pub protocol: Protocol,
    /// Headers of the answer.
    pub headers: Vec<(&'static str, String)>,
}

/// Why there is no agreement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Not a request to upgrade to SPDY or WebSocket: answer 400.
    #[error("unable to upgrade: missing upgrade headers in request")]
    NoUpgrade,
    /// No common version: answer 403.
    #[error("unable to upgrade: unable to negotiate protocol: client supports {0:?}")]
    NoCommonProtocol(Vec<String>),
}

impl HandshakeError {
    /// The HTTP status of the answer.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::NoUpgrade => 400,
            Self::NoCommonProtocol(_) => 403,
        }
    }
}

/// Finds the best common protocol. `header` gives all values of a request header (name in lower case).
///
/// # Errors
/// See [`HandshakeError`].
pub fn negotiate(
    header: impl Fn(&str) -> Vec<String>,
    purpose: Purpose,
) -> Result<Handshake, HandshakeError> {
    let tokens = |name: &str| -> Vec<String> {
        let values = header(name);
        values
            .iter()
            .flat_map(|value| value.split(','))
            .map(|token| token.trim().to_owned())
            .collect()
    };
    let has = |name: &str, wanted: &str| {
        tokens(name)
            .iter()
            .any(|token| token.eq_ignore_ascii_case(wanted))
    };
    if !has("connection", "upgrade") {
        return Err(HandshakeError::NoUpgrade);
    }
    if has("upgrade", "websocket") {
        let key = header("sec-websocket-key")
            .pop()
            .ok_or(HandshakeError::NoUpgrade)?;
        let offered = tokens("sec-websocket-protocol");
        // Clients list what they want in the order of their preference.
        let found = offered
            .iter()
            .find_map(|name| Some((websocket(name, purpose)?, name.clone())));
        let Some((protocol, name)) = found else {
            return Err(HandshakeError::NoCommonProtocol(offered));
        };
        let headers = vec![
            ("Upgrade", "websocket".to_owned()),
            ("Connection", "Upgrade".to_owned()),
            ("Sec-WebSocket-Accept", derive_accept_key(key.as_bytes())),
            ("Sec-WebSocket-Protocol", name),
        ];
        return Ok(Handshake { protocol, headers });
    }
    if !has("upgrade", "SPDY/3.1") {
        return Err(HandshakeError::NoUpgrade);
    }
    let offered = tokens("x-stream-protocol-version");
    let found = match offered.is_empty() {
        // Clients older than the header speak version 1.
        true if purpose == Purpose::RemoteCommand => Some((Protocol::Spdy(1), None)),
        _ => offered
            .iter()
            .find_map(|name| Some((spdy(name, purpose)?, Some(name.clone())))),
    };
    let Some((protocol, name)) = found else {
        return Err(HandshakeError::NoCommonProtocol(offered));
    };
    let mut headers = vec![
        ("Upgrade", "SPDY/3.1".to_owned()),
        ("Connection", "Upgrade".to_owned()),
    ];
    headers.extend(name.map(|name| ("X-Stream-Protocol-Version", name)));
    Ok(Handshake { protocol, headers })
}

fn websocket(name: &str, purpose: Purpose) -> Option<Protocol> {
    let (version, encoding) = match name {
        "SPDY/3.1+portforward.k8s.io" if purpose == Purpose::PortForward => {
            return Some(Protocol::TunnelledSpdyForward);
        }
        // Port-forwarding over plain channels is another protocol of the same names, which is not served here.
        _ if purpose == Purpose::PortForward => return None,
        "v5.channel.k8s.io" => (5, Encoding::Binary),
        "v4.channel.k8s.io" => (4, Encoding::Binary),
        "v4.base64.channel.k8s.io" => (4, Encoding::Base64),
        "channel.k8s.io" => (1, Encoding::Binary),
        "base64.channel.k8s.io" => (1, Encoding::Base64),
        _ => return None,
    };
    Some(Protocol::WebSocket { version, encoding })
}

fn spdy(name: &str, purpose: Purpose) -> Option<Protocol> {
    Some(match (purpose, name) {
        (Purpose::PortForward, "portforward.k8s.io") => Protocol::SpdyForward,
        (Purpose::RemoteCommand, "v4.channel.k8s.io") => Protocol::Spdy(4),
        (Purpose::RemoteCommand, "v3.channel.k8s.io") => Protocol::Spdy(3),
        (Purpose::RemoteCommand, "v2.channel.k8s.io") => Protocol::Spdy(2),
        (Purpose::RemoteCommand, "channel.k8s.io" | "v1.channel.k8s.io") => Protocol::Spdy(1),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(headers: &[(&str, &str)], purpose: Purpose) -> Result<Protocol, HandshakeError> {
        let values = |name: &str| {
            headers
                .iter()
                .filter(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
                .collect()
        };
        negotiate(values, purpose).map(|handshake| handshake.protocol)
    }

    #[test]
    fn clients_of_all_ages() {
        let spdy = ("upgrade", "SPDY/3.1");
        let socket = ("upgrade", "websocket");
        let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let up = ("connection", "Upgrade");
        let command = Purpose::RemoteCommand;
        let version = "x-stream-protocol-version";
        let sub = "sec-websocket-protocol";
        let ws = |version, encoding| Ok(Protocol::WebSocket { version, encoding });
        // client-go sends one header per version, or all in one
        let rows = [
            (
                vec![
                    up,
                    spdy,
                    (version, "v5.channel.k8s.io"),
                    (version, "v4.channel.k8s.io"),
                ],
                command,
                Ok(Protocol::Spdy(4)),
            ),
            (
                vec![up, spdy, (version, "v3.channel.k8s.io, v2.channel.k8s.io")],
                command,
                Ok(Protocol::Spdy(3)),
            ),
            (vec![up, spdy], command, Ok(Protocol::Spdy(1))),
            (
                vec![up, spdy, (version, "portforward.k8s.io")],
                Purpose::PortForward,
                Ok(Protocol::SpdyForward),
            ),
            (
                vec![up, socket, key, (sub, "v5.channel.k8s.io, v4.channel.k8s.io")],
                command,
                ws(5, Encoding::Binary),
            ),
            (
                vec![up, socket, key, (sub, "v4.base64.channel.k8s.io")],
                command,
                ws(4, Encoding::Base64),
            ),
            (
                vec![up, socket, key, (sub, "SPDY/3.1+portforward.k8s.io")],
                Purpose::PortForward,
                Ok(Protocol::TunnelledSpdyForward),
            ),
            (vec![spdy], command, Err(HandshakeError::NoUpgrade)),
            (
                vec![up, socket, (sub, "v5.channel.k8s.io")],
                command,
                Err(HandshakeError::NoUpgrade),
            ),
            (
                vec![up, ("upgrade", "h2c")],
                command,
                Err(HandshakeError::NoUpgrade),
            ),
            (
                vec![up, spdy, (version, "v9.channel.k8s.io")],
                command,
                Err(HandshakeError::NoCommonProtocol(vec![
                    "v9.channel.k8s.io".to_owned(),
                ])),
            ),
        ];
        for (headers, purpose, expected) in rows {
            assert_eq!(ask(&headers, purpose), expected, "{headers:?}");
        }
    }

    #[test]
    fn plain_channels_carry_no_port_forward() {
        let headers = [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "v4.channel.k8s.io"),
        ];
        let refused = ask(&headers, Purpose::PortForward);
        assert_eq!(refused.map_err(|error| error.status()), Err(403));
        assert!(ask(&headers, Purpose::RemoteCommand).is_ok());
    }
}
