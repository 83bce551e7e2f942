//! From a question to its answer. Pure: what is known of the cluster goes in, a message comes out, or the word that
//! somebody else has to be asked.

use std::collections::HashSet;
use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::index::{Backing, Index, Key, Service, undashed};
use crate::wire::MAX_UDP;
use crate::zone::{Place, Pods, Zone, place};

/// What `dns-version` says: the version of the specification.
const SCHEMA_VERSION: &str = "1.1.0";
/// Most names of a chain of external names that lead to each other.
const CHAIN: usize = 8;
/// Most records of an answer; what a message over TCP can hold is less.
const MAX_RECORDS: usize = 4096;
/// The service whose addresses `ns.dns` has.
const SELF: (&str, &str) = ("kube-system", "kube-dns");
/// What CoreDNS gives to its SRV records, which the specification leaves open.
const PRIORITY: u16 = 0;
const WEIGHT: u16 = 100;
/// Refresh, retry and expiry of the zone, seconds. There are no secondaries, so nobody uses them.
const SOA_TIMES: (i32, i32, i32) = (7200, 1800, 86400);

/// What is to be done about a question.
#[derive(Debug)]
pub(crate) enum Step {
    /// Send this
    Reply(Message),
    /// The name is not ours: ask upstream
    Forward,
    /// The answer begins with an alias that leads out of the zone: ask upstream about `target`, and add that
    Chase { reply: Message, target: Name },
}

/// Answers a request. Without an index nothing is known of the cluster yet, and nothing is said about it. `turn` counts
/// answers, so that addresses can take turns at being the first.
pub(crate) fn answer(index: Option<&Index>, zone: &Zone, request: &Message, turn: usize) -> Step {
    let mut reply = reply_to(request);
    reply.metadata.recursion_available = zone.recursion;
    if let Err(code) = check(request) {
        reply.metadata.response_code = code;
        return Step::Reply(reply);
    }
    let Some(query) = request.queries.first() else {
        return Step::Reply(reply);
    };
    let (mut owner, asked) = (query.name.clone(), query.query_type);
    for _ in 0..CHAIN {
        let Some(apex) = zone.zone_of(&owner) else {
            return outside(zone, reply, owner);
        };
        let Some(index) = index else {
            reply.metadata.response_code = ResponseCode::ServFail;
            return Step::Reply(reply);
        };
        reply.metadata.authoritative = true;
        match (Asked { index, zone, asked }).look_up(apex, &owner) {
            Found::Alias(target) => {
                reply.answers.push(Record::from_rdata(
                    owner,
                    zone.ttl,
                    RData::CNAME(CNAME(target.clone())),
                ));
                if matches!(asked, RecordType::CNAME | RecordType::ANY) {
                    return Step::Reply(reply);
                }
                owner = target;
            }
            Found::Data {
                mut data,
                additionals,
            } => {
                if data.is_empty() {
                    reply.authorities.push(soa(zone, apex));
                } else if zone.rotate {
                    let by = turn % data.len();
                    data.rotate_left(by);
                }
                let records = data
                    .into_iter()
                    .map(|data| Record::from_rdata(owner.clone(), zone.ttl, data));
                reply.answers.extend(records);
                reply.additionals.extend(additionals);
                return Step::Reply(reply);
            }
            Found::NoName => {
                if zone.falls_through(&owner) && zone.recursion {
                    return outside(zone, reply, owner);
                }
                reply.metadata.response_code = ResponseCode::NXDomain;
                reply.authorities.push(soa(zone, apex));
                return Step::Reply(reply);
            }
        }
    }
    reply.metadata.response_code = ResponseCode::ServFail;
    Step::Reply(reply)
}

/// What to do about a name that is not ours.
fn outside(zone: &Zone, mut reply: Message, name: Name) -> Step {
    match (reply.answers.is_empty(), zone.recursion) {
        (true, true) => Step::Forward,
        (false, true) => Step::Chase { reply, target: name },
        (true, false) => {
            reply.metadata.response_code = ResponseCode::Refused;
            Step::Reply(reply)
        }
        // The alias itself is known; whoever asks may know whom to ask next.
        (false, false) => Step::Reply(reply),
    }
}

/// The beginning of a reply: the question, and EDNS if it was spoken.
pub(crate) fn reply_to(request: &Message) -> Message {
    let mut reply = Message::new(
        request.metadata.id,
        MessageType::Response,
        request.metadata.op_code,
    );
    reply.metadata = Metadata::response_from_request(&request.metadata);
    reply.queries.extend(request.queries.first().cloned());
    if let Some(theirs) = &request.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_UDP)
            .set_dnssec_ok(theirs.flags().dnssec_ok);
        reply.set_edns(edns);
    }
    reply
}

/// Whether a request is one that is answered at all.
fn check(request: &Message) -> Result<(), ResponseCode> {
    if request.metadata.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Err(ResponseCode::BADVERS);
    }
    let [query] = request.queries.as_slice() else {
        return Err(ResponseCode::FormErr);
    };
    let transfer = matches!(query.query_type, RecordType::AXFR | RecordType::IXFR);
    if query.query_class != DNSClass::IN || transfer {
        return Err(ResponseCode::Refused);
    }
    Ok(())
}

/// What a name turned out to have.
enum Found {
    /// The name is there, and these are its records of the type asked for; there may be none
    Data {
        data: Vec<RData>,
        additionals: Vec<Record>,
    },
    /// It is another name for this one
    Alias(Name),
    /// There is no such name
    NoName,
}

impl Found {
    fn data(data: Vec<RData>) -> Self {
        Self::Data {
            data,
            additionals: Vec::new(),
        }
    }

    /// A name without records of its own, if it is there.
    fn empty(there: bool) -> Self {
        if there {
            Self::data(Vec::new())
        } else {
            Self::NoName
        }
    }
}

/// Something that is looked up.
#[derive(Clone, Copy)]
struct Asked<'a> {
    index: &'a Index,
    zone: &'a Zone,
    asked: RecordType,
}

impl Asked<'_> {
    fn look_up(self, apex: &Name, name: &Name) -> Found {
        if apex != &self.zone.domain {
            return self.reverse(apex, name);
        }
        match place(apex, name) {
            Place::Apex => self.apex(apex),
            Place::Version => Found::data(self.only(
                RecordType::TXT,
                RData::TXT(TXT::new(vec![SCHEMA_VERSION.to_owned()])),
            )),
            Place::Server => Found::data(match self.index.service(SELF.0, SELF.1) {
                Some(Service {
                    backing: Backing::Cluster(addresses),
                    ..
                }) => self.addresses(addresses.iter().copied()),
                _ => Vec::new(),
            }),
            Place::Branch => Found::data(Vec::new()),
            Place::Namespace(namespace) => Found::empty(self.index.has_namespace(&namespace)),
            Place::Service { namespace, service } => self.service(&namespace, &service),
            Place::Protocol {
                namespace,
                service,
                protocol,
            } => Found::empty(
                self.index
                    .service(&namespace, &service)
                    .is_some_and(|service| service.ports.iter().any(|port| port.protocol == protocol)),
            ),
            Place::Port {
                namespace,
                service,
                protocol,
                port,
            } => match self.index.service(&namespace, &service) {
                Some(service) => self.port(service, &port, &protocol),
                None => Found::NoName,
            },
            Place::Endpoint {
                namespace,
                service,
                hostname,
            } => match self.index.service(&namespace, &service) {
                Some(service) if !matches!(service.backing, Backing::External(_)) => {
                    self.found_addresses(self.at_hostname(&service.key, &hostname))
                }
                _ => Found::NoName,
            },
            Place::Pod { namespace, address } => self.pod(&namespace, &address),
            Place::Nowhere => Found::NoName,
        }
    }

    fn wants(self, kind: RecordType) -> bool {
        self.asked == kind || self.asked == RecordType::ANY
    }

    fn only(self, kind: RecordType, data: RData) -> Vec<RData> {
        if self.wants(kind) { vec![data] } else { Vec::new() }
    }

    /// Of some addresses, those of the family asked for, each once.
    fn addresses(self, addresses: impl Iterator<Item = IpAddr>) -> Vec<RData> {
        let mut seen = HashSet::new();
        addresses
            .filter(|address| self.wants(address_type(*address)) && seen.insert(*address))
            .take(MAX_RECORDS)
            .map(address_data)
            .collect()
    }

    /// A name that is there because it has addresses.
    fn found_addresses(self, mut addresses: impl Iterator<Item = IpAddr>) -> Found {
        match addresses.next() {
            Some(first) => Found::data(self.addresses(std::iter::once(first).chain(addresses))),
            None => Found::NoName,
        }
    }

    fn apex(self, apex: &Name) -> Found {
        let mut data = Vec::new();
        if self.wants(RecordType::SOA) {
            data.push(soa(self.zone, apex).data);
        }
        if self.wants(RecordType::NS) {
            data.extend(server_name(self.zone).map(|name| RData::NS(NS(name))));
        }
        Found::data(data)
    }

    fn service(self, namespace: &str, name: &str) -> Found {
        match self.index.service(namespace, name) {
            None => Found::NoName,
            Some(service) => match &service.backing {
                Backing::External(target) => Found::Alias(target.clone()),
                Backing::Cluster(addresses) => Found::data(self.addresses(addresses.iter().copied())),
                // Without a ready endpoint the name is not there (specification, 2.4.1).
                Backing::Headless => self.found_addresses(self.ready_addresses(&service.key)),
            },
        }
    }

    fn ready_addresses(&self, service: &Key) -> impl Iterator<Item = IpAddr> {
        let slices = self.index.slices(service);
        slices.flat_map(|slice| slice.endpoints.iter().map(|endpoint| endpoint.address))
    }

    fn at_hostname(&self, service: &Key, hostname: &str) -> impl Iterator<Item = IpAddr> {
        let slices = self.index.slices(service);
        let endpoints = slices.flat_map(|slice| &slice.endpoints);
        endpoints
            .filter(move |endpoint| endpoint.label() == hostname)
            .map(|endpoint| endpoint.address)
    }

    fn port(self, service: &Service, name: &str, protocol: &str) -> Found {
        match &service.backing {
            Backing::External(_) => Found::NoName,
            Backing::Cluster(addresses) => {
                let target = self.below(&[&service.key.name, &service.key.namespace, "svc"]);
                let port = service.ports.iter().find(|port| port.is(name, protocol));
                let (Some(target), Some(port)) = (target, port) else {
                    return Found::NoName;
                };
                if !self.wants(RecordType::SRV) {
                    return Found::data(Vec::new());
                }
                let additionals = addresses
                    .iter()
                    .map(|address| Record::from_rdata(target.clone(), self.zone.ttl, address_data(*address)))
                    .collect();
                Found::Data {
                    data: vec![RData::SRV(SRV::new(PRIORITY, WEIGHT, port.number, target))],
                    additionals,
                }
            }
            Backing::Headless => self.headless_port(&service.key, name, protocol),
        }
    }

    fn headless_port(self, service: &Key, name: &str, protocol: &str) -> Found {
        let mut seen = HashSet::new();
        let (mut data, mut additionals) = (Vec::new(), Vec::new());
        let mut there = false;
        for slice in self.index.slices(service) {
            let Some(port) = slice.ports.iter().find(|port| port.is(name, protocol)) else {
                continue;
            };
            there |= !slice.endpoints.is_empty();
            if !self.wants(RecordType::SRV) {
                continue;
            }
            for endpoint in slice.endpoints.iter().take(MAX_RECORDS - data.len()) {
                let label = endpoint.label();
                let Some(target) = self.below(&[&label, &service.name, &service.namespace, "svc"]) else {
                    continue;
                };
                let record = address_data(endpoint.address);
                additionals.push(Record::from_rdata(target.clone(), self.zone.ttl, record));
                // One host name may have several addresses.
                if seen.insert((label, port.number)) {
                    data.push(RData::SRV(SRV::new(PRIORITY, WEIGHT, port.number, target)));
                }
            }
        }
        if there {
            Found::Data { data, additionals }
        } else {
            Found::NoName
        }
    }

    fn pod(self, namespace: &str, label: &str) -> Found {
        let Some(address) = undashed(label) else {
            return Found::NoName;
        };
        let there = match self.zone.pods {
            Pods::Disabled => false,
            Pods::Insecure => self.index.has_namespace(namespace),
            Pods::Verified => self.index.has_pod(namespace, address),
        };
        if there {
            Found::data(self.addresses(std::iter::once(address)))
        } else {
            Found::NoName
        }
    }

    fn reverse(self, apex: &Name, name: &Name) -> Found {
        if name == apex {
            return self.apex(apex);
        }
        let address = match name.parse_arpa_name() {
            Ok(net) if net.prefix_len() == net.max_prefix_len() => net.addr(),
            // Whether there is anything below a part of an address is not looked up.
            Ok(_) => return Found::empty(!self.zone.falls_through(name)),
            Err(_) => return Found::NoName,
        };
        let services = self.index.services_at(address);
        let mut names: Vec<Name> = services
            .filter_map(|key| self.below(&[&key.name, &key.namespace, "svc"]))
            .collect();
        if names.is_empty() {
            let endpoints = self.index.endpoints_at(address);
            names = endpoints
                .iter()
                .filter_map(|(key, label)| self.below(&[label, &key.name, &key.namespace, "svc"]))
                .collect();
        }
        if names.is_empty() {
            Found::NoName
        } else if self.wants(RecordType::PTR) {
            Found::data(names.into_iter().map(|name| RData::PTR(PTR(name))).collect())
        } else {
            Found::data(Vec::new())
        }
    }

    /// A name below the cluster's domain; `None` if it is too long for one.
    fn below(self, labels: &[&str]) -> Option<Name> {
        below(self.zone, labels)
    }
}

fn below(zone: &Zone, labels: &[&str]) -> Option<Name> {
    let name = Name::from_labels(labels.iter().map(|label| label.as_bytes())).ok()?;
    name.append_domain(&zone.domain).ok()
}

fn server_name(zone: &Zone) -> Option<Name> {
    below(zone, &["ns", "dns"])
}

/// The SOA record of a zone. Its last number is the time that "there is none" may be remembered, seconds.
fn soa(zone: &Zone, apex: &Name) -> Record {
    let (refresh, retry, expire) = SOA_TIMES;
    let server = server_name(zone).unwrap_or_else(|| zone.domain.clone());
    let person = below(zone, &["hostmaster"]).unwrap_or_else(|| zone.domain.clone());
    let data = SOA::new(server, person, zone.serial, refresh, retry, expire, zone.ttl);
    Record::from_rdata(apex.clone(), zone.ttl, RData::SOA(data))
}

fn address_type(address: IpAddr) -> RecordType {
    match address {
        IpAddr::V4(_) => RecordType::A,
        IpAddr::V6(_) => RecordType::AAAA,
    }
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

#[cfg(test)]
mod tests;
