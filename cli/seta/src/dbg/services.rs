//! `service list` and `bpf lb list`.

use api::path;
use api::services::{LbBackend, LbFrontend, LoadBalancer, Service};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::lists::socket;
use super::output::{self, row};
use super::question::{Answer, Question};

type Table = Vec<Vec<String>>;

#[derive(Debug, Subcommand)]
pub(crate) enum Lb<F: Args> {
    /// List load-balancing configuration
    List {
        #[command(flatten)]
        part: Part,
        #[command(flatten)]
        flags: F,
    },
}

/// Which part; without one, frontends with their backends.
#[derive(Clone, Copy, Debug, Args)]
#[group(multiple = false)]
pub(crate) struct Part {
    /// List all service frontend entries
    #[arg(long)]
    frontends: bool,
    /// List all service backend entries
    #[arg(long)]
    backends: bool,
    /// List all source range entries
    #[arg(long)]
    source_ranges: bool,
    /// List reverse NAT entries
    #[arg(long)]
    revnat: bool,
}

/// The tables of services, or a part of them.
pub(super) fn load_balancer(part: Part) -> Question {
    Question::shaped(path::BPF_LB, move |data| {
        let tables: LoadBalancer = output::typed(data)?;
        let table = if part.frontends {
            frontends(&tables)
        } else if part.backends {
            backends(&tables)
        } else if part.source_ranges {
            ranges(&tables)
        } else if part.revnat {
            revnat(&tables)
        } else {
            both(&tables)
        };
        Ok(Answer {
            data: by_key(&table),
            text: output::columns(&table),
        })
    })
}

/// As Cilium prints tables as JSON: the first column with the list of what stands beside it.
fn by_key(table: &Table) -> Value {
    let mut map = Map::new();
    for row in table.iter().skip(1) {
        if let [key, rest @ ..] = row.as_slice()
            && let Value::Array(values) = map.entry(key.clone()).or_insert_with(|| json!([]))
        {
            values.extend(rest.iter().cloned().map(Value::from));
        }
    }
    Value::Object(map)
}

/// `1 => [fd00::1]:80/TCP (active)`, one line per backend.
pub(super) fn services(mut list: Vec<Service>) -> Table {
    list.sort_by_key(|service| service.spec.id);
    let mut table = vec![row(["ID", "Frontend", "Service Type", "Backend"])];
    for Service { spec, .. } in list {
        let front = &spec.frontend_address;
        let lines = (1..).zip(&spec.backend_addresses).map(|(number, backend)| {
            let scope = if backend.scope.is_empty() {
                String::new()
            } else {
                format!(" ({})", backend.scope)
            };
            let place = socket(&backend.ip, backend.port);
            format!(
                "{number} => {place}/{} ({}){scope}",
                front.protocol, backend.state
            )
        });
        let mut lines = lines.collect::<Vec<_>>().into_iter();
        table.push(vec![
            spec.id.to_string(),
            format!("{}/{}", socket(&front.ip, front.port), front.protocol),
            spec.flags.kind.clone(),
            lines.next().unwrap_or_default(),
        ]);
        table.extend(lines.map(|line| row(["", "", "", &line])));
    }
    table
}

fn flags(frontend: &LbFrontend) -> String {
    let mut flags = frontend.flags.clone();
    if !flags.iter().any(|flag| flag == "external") {
        flags.push("non-routable".to_owned());
    }
    if frontend.affinity != 0 {
        flags.push("sessionAffinity".to_owned());
    }
    format!("[{}]", flags.join(", "))
}

/// Slot 0 stands for the frontend itself.
fn master(frontend: &LbFrontend) -> Vec<String> {
    let LbFrontend { address, id, .. } = frontend;
    vec![
        format!("{address} (0)"),
        format!("[::]:0 ({id}) (0) {}", flags(frontend)),
    ]
}

fn both(tables: &LoadBalancer) -> Table {
    let mut table = vec![row(["SERVICE ADDRESS", "BACKEND ADDRESS (REVNAT_ID) (SLOT)"])];
    for frontend in &tables.frontends {
        table.push(master(frontend));
        let inside = frontend.inside.iter().map(|backend| (backend, ""));
        let outside = frontend.outside.iter().map(|backend| (backend, " [outside]"));
        let protocol = frontend
            .address
            .rsplit_once('/')
            .map_or("", |(_, protocol)| protocol);
        for (slot, (backend, scope)) in (1..).zip(inside.chain(outside)) {
            let LbBackend {
                address, terminating, ..
            } = backend;
            let state = if *terminating { " [terminating]" } else { "" };
            table.push(vec![
                format!("{} ({slot})", frontend.address),
                format!("{address}/{protocol} ({}) ({slot}){scope}{state}", frontend.id),
            ]);
        }
    }
    table
}

fn frontends(tables: &LoadBalancer) -> Table {
    let mut table = vec![row(["SERVICE ADDRESS", "BACKEND ADDRESS (REVNAT_ID) (SLOT)"])];
    table.extend(tables.frontends.iter().map(master));
    table
}

fn backends(tables: &LoadBalancer) -> Table {
    let mut table = vec![row(["ID", "BACKEND ADDRESS"])];
    let rows = tables
        .backends
        .iter()
        .map(|backend| vec![backend.id.to_string(), backend.address.clone()]);
    table.extend(rows);
    table
}

fn ranges(tables: &LoadBalancer) -> Table {
    let mut table = vec![row(["SERVICE ADDRESS (REVNAT_ID)", "CIDR"])];
    let rows = tables
        .source_ranges
        .iter()
        .map(|range| vec![format!("{} ({})", range.address, range.id), range.cidr.clone()]);
    table.extend(rows);
    table
}

fn revnat(tables: &LoadBalancer) -> Table {
    let mut table = vec![row(["ID", "SERVICE ADDRESS"])];
    let mut list: Vec<&LbFrontend> = tables.frontends.iter().collect();
    list.sort_by_key(|frontend| frontend.id);
    table.extend(
        list.into_iter()
            .map(|frontend| vec![frontend.id.to_string(), frontend.address.clone()]),
    );
    table
}

#[cfg(test)]
mod tests {
    use api::services::{BackendAddress, FrontendAddress, LbRange, ServiceFlags, ServiceSpec};

    use super::*;

    fn tables() -> LoadBalancer {
        let backend = |id, address: &str| LbBackend {
            id,
            address: address.into(),
            terminating: id == 2,
        };
        LoadBalancer {
            frontends: vec![LbFrontend {
                address: "[fd00:10:96::1]:80/TCP".into(),
                id: 7,
                flags: vec![],
                affinity: 5,
                inside: vec![backend(1, "[fd01::1]:8080"), backend(2, "[fd01::2]:8080")],
                outside: vec![],
            }],
            backends: vec![backend(1, "[fd01::1]:8080")],
            source_ranges: vec![LbRange {
                id: 7,
                address: "[fd00:10:96::1]:80/TCP".into(),
                cidr: "2001:db8::/32".into(),
            }],
        }
    }

    #[test]
    fn tables_have_ciliums_columns() {
        let text = output::columns(&both(&tables()));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "SERVICE ADDRESS              BACKEND ADDRESS (REVNAT_ID) (SLOT)",
                "[fd00:10:96::1]:80/TCP (0)   [::]:0 (7) (0) [non-routable, sessionAffinity]",
                "[fd00:10:96::1]:80/TCP (1)   [fd01::1]:8080/TCP (7) (1)",
                "[fd00:10:96::1]:80/TCP (2)   [fd01::2]:8080/TCP (7) (2) [terminating]",
            ]
        );
        assert_eq!(
            ranges(&tables())[1],
            ["[fd00:10:96::1]:80/TCP (7)", "2001:db8::/32"]
        );
        assert_eq!(revnat(&tables())[1], ["7", "[fd00:10:96::1]:80/TCP"]);
        assert_eq!(
            by_key(&frontends(&tables())),
            json!({"[fd00:10:96::1]:80/TCP (0)": ["[::]:0 (7) (0) [non-routable, sessionAffinity]"]})
        );
    }

    #[test]
    fn a_service_has_a_line_per_backend() {
        let backend = |ip: &str, scope: &str| BackendAddress {
            ip: ip.into(),
            port: 80,
            state: "active".into(),
            scope: scope.into(),
            id: 1,
        };
        let spec = ServiceSpec {
            id: 3,
            frontend_address: FrontendAddress {
                ip: "fd00::1".into(),
                port: 80,
                protocol: "TCP".into(),
            },
            backend_addresses: vec![backend("fd01::1", ""), backend("fd01::2", "inside")],
            flags: ServiceFlags {
                kind: "ClusterIP".into(),
                ..ServiceFlags::default()
            },
        };
        let table = services(vec![Service {
            spec,
            ..Service::default()
        }]);
        assert_eq!(
            table[1],
            [
                "3",
                "[fd00::1]:80/TCP",
                "ClusterIP",
                "1 => [fd01::1]:80/TCP (active)"
            ]
        );
        assert_eq!(table[2], ["", "", "", "2 => [fd01::2]:80/TCP (active) (inside)"]);
    }
}
