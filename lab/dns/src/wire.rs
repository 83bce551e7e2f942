//! Messages as bytes: what cannot be read, and what does not fit. Pure.

use hickory_proto::ProtoError;
use hickory_proto::op::{Message, ResponseCode, emit_message_parts};
use hickory_proto::serialize::binary::BinEncoder;

use crate::answer::{self, Step};
use crate::index::Index;
use crate::zone::Zone;

/// Octets of a DNS header.
pub(crate) const HEADER: usize = 12;
/// Most octets of an answer over UDP, whatever the other side says it takes: what crosses every IPv6 path in one piece.
pub(crate) const MAX_UDP: u16 = 1232;
/// Most octets of an answer over UDP to whom does not speak EDNS (RFC 1035, 4.2.1).
const MAX_PLAIN_UDP: u16 = 512;

/// How a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram
    Udp,
    /// On a connection
    Tcp,
}

/// What is to be done about a request.
#[derive(Debug)]
pub enum Response {
    /// Nothing: it is not a request, or too short to answer
    Silence,
    /// Send this
    Reply(Vec<u8>),
    /// Ask upstream; `refusal` is the answer when that fails
    Forward {
        /// `SERVFAIL`, ready to be sent
        refusal: Vec<u8>,
    },
    /// Ask upstream about the name that an alias leads to, and add the answer to `reply`
    Chase(Box<Chase>),
}

/// An answer that lacks its last part.
#[derive(Debug)]
pub struct Chase {
    /// What is known
    pub(crate) reply: Message,
    /// The question to ask upstream
    pub(crate) question: Message,
    /// Most octets of the answer
    pub(crate) limit: u16,
}

/// Answers the bytes of a request; without an index, says that nothing is known yet. `turn` counts answers.
#[must_use]
pub fn respond(
    index: Option<&Index>,
    zone: &Zone,
    request: &[u8],
    transport: Transport,
    turn: usize,
) -> Response {
    let [id_high, id_low, flags, ..] = *request else {
        return Response::Silence;
    };
    // What says that it is an answer is none of ours: two servers must not talk to each other forever.
    if request.len() < HEADER || flags & 0x80 != 0 {
        return Response::Silence;
    }
    let Ok(message) = Message::from_vec(request) else {
        // Opcode and the wish for recursion are kept.
        let mut header = vec![0; HEADER];
        header[..4].copy_from_slice(&[id_high, id_low, 0x80 | (flags & 0x79), FORMAT_ERROR]);
        return Response::Reply(header);
    };
    let limit = limit(&message, transport);
    match answer::answer(index, zone, &message, turn) {
        Step::Reply(reply) => Response::Reply(fit(&reply, limit)),
        Step::Forward => {
            let mut refusal = answer::reply_to(&message);
            refusal.metadata.response_code = ResponseCode::ServFail;
            refusal.metadata.recursion_available = zone.recursion;
            Response::Forward {
                refusal: fit(&refusal, limit),
            }
        }
        Step::Chase { reply, target } => {
            let mut question = Message::query();
            question.metadata.recursion_desired = true;
            question
                .queries
                .extend(message.queries.into_iter().next().map(|mut query| {
                    query.name = target;
                    query
                }));
            Response::Chase(Box::new(Chase {
                reply,
                question,
                limit,
            }))
        }
    }
}

const FORMAT_ERROR: u8 = 1;
const SERVER_FAILURE: u8 = 2;

/// Most octets of the answer to a request.
fn limit(request: &Message, transport: Transport) -> u16 {
    match (transport, &request.edns) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, None) => MAX_PLAIN_UDP,
        (Transport::Udp, Some(edns)) => edns.max_payload().clamp(MAX_PLAIN_UDP, MAX_UDP),
    }
}

/// The bytes of a reply. If it is too long, first its additional records go, and then as many answers as must, which it
/// says (TC).
pub(crate) fn fit(reply: &Message, limit: u16) -> Vec<u8> {
    let whole = encode(reply, limit, reply.answers.len(), reply.additionals.len(), false);
    let fitting = match whole {
        Ok(Some(bytes)) => Ok(Some(bytes)),
        _ => encode(reply, limit, reply.answers.len(), 0, false),
    };
    if let Ok(Some(bytes)) = fitting {
        return bytes;
    }
    // The largest number of answers that fit.
    let (mut best, mut low, mut high) = (None, 0, reply.answers.len());
    while low < high {
        let middle = low + (high - low) / 2;
        match encode(reply, limit, middle, 0, true) {
            Ok(Some(bytes)) => {
                best = Some(bytes);
                low = middle + 1;
            }
            _ => high = middle,
        }
    }
    best.unwrap_or_else(|| {
        let id = reply.metadata.id.to_be_bytes();
        let mut header = vec![0; HEADER];
        header[..4].copy_from_slice(&[id[0], id[1], 0x80, SERVER_FAILURE]);
        header
    })
}

/// The bytes of a reply with this many of its records; `None` if they are more than `limit`.
fn encode(
    reply: &Message,
    limit: u16,
    answers: usize,
    additionals: usize,
    truncated: bool,
) -> Result<Option<Vec<u8>>, ProtoError> {
    let mut bytes = Vec::with_capacity(usize::from(MAX_PLAIN_UDP));
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(limit);
    let mut metadata = reply.metadata;
    metadata.truncation = truncated;
    let written = emit_message_parts(
        &metadata,
        &mut reply.queries.iter(),
        &mut reply.answers.iter().take(answers),
        &mut reply.authorities.iter(),
        &mut reply.additionals.iter().take(additionals),
        reply.edns.as_ref(),
        None,
        &mut encoder,
    )?
    .counts;
    let complete = usize::from(written.answers) == answers
        && usize::from(written.authorities) == reply.authorities.len()
        && usize::from(written.additionals) == additionals + usize::from(reply.edns.is_some());
    Ok(complete.then_some(bytes))
}

#[cfg(test)]
mod tests;
