//! Events about pods and the node, repeated ones counted up instead of written again.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{sync::mpsc, time::timeout};
use tracing::{debug, warn};

/// Events waiting to be written; more are dropped.
const QUEUE: usize = 256;
/// Events whose repetition is recognised.
const REMEMBERED: usize = 1024;
/// How long one write may take.
const WRITE_WITHIN: Duration = Duration::from_secs(5);

/// Takes events; never waits.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    queue: mpsc::Sender<New>,
}

#[derive(Debug)]
struct New {
    about: ObjectReference,
    warning: bool,
    reason: &'static str,
    message: String,
}

/// Whom an event is about.
pub(crate) fn pod_reference(pod: &Pod, container: Option<&str>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path: container.map(|name| format!("spec.containers{{{name}}}")),
    }
}

impl Recorder {
    /// A recorder and the task that writes; the task ends when all recorders are gone.
    pub(crate) fn new(client: Client, node: &str) -> (Self, impl Future<Output = ()> + use<>) {
        let (queue, new) = mpsc::channel(QUEUE);
        (Self { queue }, write_all(client, node.to_owned(), new))
    }

    pub(crate) fn normal(&self, about: ObjectReference, reason: &'static str, message: String) {
        self.record(New {
            about,
            warning: false,
            reason,
            message,
        });
    }

    pub(crate) fn warning(&self, about: ObjectReference, reason: &'static str, message: String) {
        self.record(New {
            about,
            warning: true,
            reason,
            message,
        });
    }

    fn record(&self, event: New) {
        if self.queue.try_send(event).is_err() {
            debug!("too many events: one dropped");
        }
    }
}

async fn write_all(client: Client, node: String, mut new: mpsc::Receiver<New>) {
    // (uid, reason, message) → (name of the event, count)
    let mut written: HashMap<(String, &'static str, String), (String, i32)> = HashMap::new();
    while let Some(event) = new.recv().await {
        let namespace = event
            .about
            .namespace
            .clone()
            .unwrap_or_else(|| "default".to_owned());
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        let uid = event.about.uid.clone().unwrap_or_default();
        let key = (uid, event.reason, event.message.clone());
        if let Some((name, count)) = written.get_mut(&key) {
            *count += 1;
            let patch = Patch::Merge(json!({"count": count, "lastTimestamp": Time(Timestamp::now())}));
            let patched = timeout(WRITE_WITHIN, api.patch(name, &PatchParams::default(), &patch)).await;
            if matches!(patched, Ok(Ok(_))) {
                continue;
            }
        }
        if written.len() >= REMEMBERED {
            written.clear();
        }
        let event = build(&node, &namespace, event);
        match timeout(WRITE_WITHIN, api.create(&PostParams::default(), &event)).await {
            Ok(Ok(_)) => {
                written.insert(key, (event.metadata.name.unwrap_or_default(), 1));
            }
            Ok(Err(error)) => warn!(%error, "cannot write an event"),
            Err(_) => warn!("cannot write an event in time"),
        }
    }
}

fn build(node: &str, namespace: &str, event: New) -> Event {
    let now = Timestamp::now();
    let object = event.about.name.clone().unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{object}.{:x}", now.as_nanosecond())),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some(if event.warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(event.reason.to_owned()),
        message: Some(event.message),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        source: Some(EventSource {
            component: Some("kubelet".to_owned()),
            host: Some(node.to_owned()),
        }),
        reporting_component: Some("kubelet".to_owned()),
        reporting_instance: Some(node.to_owned()),
        involved_object: event.about,
        ..Event::default()
    }
}
