use std::sync::atomic::{AtomicU32, Ordering};

use loader::TableError;
use model::addr::Family;
use model::inputs::{Conditions, EndpointSlice, ObjectName, Service, ServicePort, SliceEndpoint, SlicePort};
use model::service::Tables;

use super::*;
use crate::endpoints::tests::Memory;
use crate::endpoints::{Settings as PodSettings, Store};

/// Tables in memory, which refuse some writes.
#[derive(Default)]
struct InMemory {
    held: StdMutex<Installed>,
    refusals: AtomicU32,
}

impl ServiceTables for InMemory {
    fn read(&self) -> Result<Tables, TableError> {
        Ok(self.held.lock().unwrap().tables())
    }

    fn write(&self, step: &Step) -> Result<(), TableError> {
        let refuses = matches!(step, Step::AddSet { .. })
            && self
                .refusals
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok();
        if refuses {
            return Err(TableError::MapFull {
                name: abi::names::BACKENDS,
                max: 0,
            });
        }
        self.held.lock().unwrap().apply(step);
        Ok(())
    }
}

fn service(name: &str, address: &str) -> Input {
    Input::Service(Change::Upsert(Service {
        name: ObjectName::new("default", name),
        cluster_ips: vec![address.parse().unwrap()],
        ports: vec![ServicePort {
            port: 80,
            ..ServicePort::default()
        }],
        ..Service::default()
    }))
}

fn slice(service: &str, address: &str) -> Input {
    Input::EndpointSlice(Change::Upsert(EndpointSlice {
        name: ObjectName::new("default", format!("{service}-x")),
        service: service.into(),
        family: Family::V6,
        ports: vec![SlicePort {
            port: 80,
            ..SlicePort::default()
        }],
        endpoints: Box::new([SliceEndpoint {
            addr: to_abi(address.parse().unwrap()),
            node: None,
            hints: None,
            conditions: Conditions::READY,
        }]),
    }))
}

fn services(directory: &std::path::Path, tables: &Arc<InMemory>) -> Services {
    let pods = PodSettings {
        families: vec![Family::V6],
        mtu: 1500,
        route_mtu: 1500,
        cluster: "kind".into(),
        labels: model::LabelFilter::new("").unwrap(),
        state_file: directory.join("agent.json"),
    };
    let store = Store::new("here", &["fd00:10:244::/64".parse().unwrap()]).unwrap();
    let kernel = Arc::new(Memory::default());
    let endpoints = Arc::new(Endpoints::new(
        kernel,
        pods,
        SharedView::default(),
        store,
        Changes::default(),
    ));
    let tables: Arc<dyn ServiceTables> = Arc::clone(tables) as _;
    let view = SharedView::default();
    Services::new(
        "here".into(),
        Settings::default(),
        view,
        endpoints,
        tables,
        Changes::default(),
    )
}

const LISTED: [Input; 2] = [
    Input::Service(Change::Synced),
    Input::EndpointSlice(Change::Synced),
];

#[tokio::test]
async fn a_restart_flaps_nothing_and_removes_what_has_gone() {
    let directory = tempfile::tempdir().unwrap();
    let tables = Arc::new(InMemory::default());
    let first = services(directory.path(), &tables);
    first.load().await.unwrap();
    first.begin().await;
    let known = vec![
        service("a", "fd00::a"),
        slice("a", "fd01::1"),
        service("b", "fd00::b"),
    ];
    first.take(known.clone()).await.unwrap();
    assert_eq!(
        tables.read().unwrap(),
        Tables::default(),
        "not everything is known yet"
    );
    first.take(LISTED.to_vec()).await.unwrap();
    let held = tables.read().unwrap();
    assert_eq!(
        (held.services.len(), held.backends.len(), held.addresses.len()),
        (2, 1, 2)
    );
    assert!(*first.complete().borrow());
    assert_eq!(first.addresses(), held.addresses, "told step by step");

    let second = services(directory.path(), &tables);
    second.load().await.unwrap();
    assert_eq!(second.addresses().len(), 2, "the reconciler leaves them alone");
    second.begin().await;
    second.take(known[..2].to_vec()).await.unwrap();
    assert_eq!(tables.read().unwrap(), held);
    second.take(LISTED.to_vec()).await.unwrap();
    let left = tables.read().unwrap();
    assert_eq!((left.services.len(), left.addresses.len()), (1, 1));
    assert_eq!(second.addresses(), left.addresses, "told step by step");
    assert!(
        left.services
            .iter()
            .all(|(key, service)| held.services[key] == *service)
    );
    second.clear().await.unwrap();
    assert_eq!(tables.read().unwrap(), Tables::default());
}

#[tokio::test]
async fn what_cannot_be_written_stops_nothing_else_and_is_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let tables = Arc::new(InMemory::default());
    let services = services(directory.path(), &tables);
    services.begin().await;
    services.take(LISTED.to_vec()).await.unwrap();
    tables.refusals.store(1, Ordering::Relaxed);
    let both = vec![
        service("a", "fd00::a"),
        slice("a", "fd01::1"),
        service("b", "fd00::b"),
        slice("b", "fd01::2"),
    ];
    let error = services.take(both).await.unwrap_err();
    assert!(format!("{error:#}").contains("full"), "{error:#}");
    assert_eq!(tables.read().unwrap().services.len(), 1);
    services.sync(false).await.unwrap();
    assert_eq!(tables.read().unwrap().services.len(), 2);
    assert_eq!(services.state().await.failures, 1);
}
