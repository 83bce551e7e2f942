//! An API server for tests: stores JSON objects by path, with versions, preconditions and merge patches. Behind
//! kube's own client, so that paths, verbs and bodies are the real ones.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};

use crate::client::Cluster;

type Hook = Box<dyn FnMut(&str, &str, &mut Store) + Send>;

/// What is stored, and who wants to interfere.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) objects: BTreeMap<String, Value>,
    /// `VERB path` of every request.
    pub(crate) requests: Vec<String>,
    version: u64,
}

impl Store {
    /// Stores an object as if somebody else had written it.
    pub(crate) fn put(&mut self, path: &str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{}", self.version));
        }
        self.objects.insert(path.to_owned(), object);
    }

    fn answer(&mut self, verb: &str, path: &str, query: &str, body: &Value) -> (u16, Value) {
        let current = self.objects.get(path).cloned();
        let conflict = |object: &Value, wanted: &Value, field: &str| {
            !wanted.is_null() && object["metadata"][field] != *wanted
        };
        match (verb, current) {
            ("POST", _) => {
                let name = body["metadata"]["name"]
                    .as_str()
                    .unwrap_or("generated")
                    .to_owned();
                let path = format!("{path}/{name}");
                if self.objects.contains_key(&path) {
                    return failure(409, "AlreadyExists");
                }
                let mut object = body.clone();
                object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
                self.put(&path, object);
                (201, self.objects[&path].clone())
            }
            ("GET", Some(object)) => (200, object),
            ("GET", None) if path.rsplit('/').next().is_some_and(is_plural) => (200, self.list(path, query)),
            (_, None) => failure(404, "NotFound"),
            ("PUT", Some(object)) => {
                if conflict(&object, &body["metadata"]["resourceVersion"], "resourceVersion") {
                    return failure(409, "Conflict");
                }
                self.put(path, body.clone());
                (200, self.objects[path].clone())
            }
            ("PATCH", Some(mut object)) => {
                if conflict(&object, &body["metadata"]["resourceVersion"], "resourceVersion") {
                    return failure(409, "Conflict");
                }
                merge(&mut object, body);
                self.put(path, object);
                (200, self.objects[path].clone())
            }
            ("DELETE", Some(object)) => {
                let wanted = &body["preconditions"];
                if conflict(&object, &wanted["uid"], "uid")
                    || conflict(&object, &wanted["resourceVersion"], "resourceVersion")
                {
                    return failure(409, "Conflict");
                }
                self.objects.remove(path);
                (
                    200,
                    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}),
                )
            }
            _ => failure(405, "MethodNotAllowed"),
        }
    }

    /// A page of the objects below a path, in all namespaces if the path has none.
    fn list(&self, path: &str, query: &str) -> Value {
        let parameter = |name: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs
                .filter(|(key, _)| *key == name)
                .map(|(_, value)| value.replace("%3D", "=").replace("%2F", "/"))
                .next()
        };
        let (group, plural) = path.rsplit_once('/').unwrap();
        let matches = |stored: &str| {
            let rest = stored
                .strip_prefix(group)
                .map(|rest| rest.trim_start_matches('/'));
            let parts: Vec<&str> = rest.unwrap_or_default().split('/').collect();
            matches!(parts[..], [p, _] | ["namespaces", _, p, _] if p == plural)
        };
        let selector = parameter("labelSelector")
            .and_then(|s| s.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())));
        let mut items: Vec<Value> = self
            .objects
            .iter()
            .filter(|(stored, _)| matches(stored))
            .map(|(_, object)| object.clone())
            .filter(|object| {
                selector
                    .as_ref()
                    .is_none_or(|(k, v)| object["metadata"]["labels"][k] == json!(v))
            })
            .collect();
        let skip: usize = parameter("continue")
            .and_then(|token| token.parse().ok())
            .unwrap_or_default();
        let limit: usize = parameter("limit")
            .and_then(|limit| limit.parse().ok())
            .unwrap_or(usize::MAX);
        let rest = items.len().saturating_sub(skip);
        let token = if rest > limit {
            json!((skip + limit).to_string())
        } else {
            json!("")
        };
        items = items.into_iter().skip(skip).take(limit).collect();
        json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1", "continue": token}, "items": items})
    }
}

fn is_plural(segment: &str) -> bool {
    [
        "ciliumidentities",
        "ciliumendpoints",
        "ciliumnodes",
        "nodes",
        "pods",
        "leases",
    ]
    .contains(&segment)
}

fn failure(code: u16, reason: &str) -> (u16, Value) {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": code,
    });
    (code, body)
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}

/// The server and a client of it.
pub(crate) struct Fake {
    pub(crate) cluster: Cluster,
    store: Arc<Mutex<Store>>,
}

impl Fake {
    pub(crate) fn new() -> Self {
        Self::with_hook(|_, _, _| {})
    }

    /// `hook` is called with verb and path before each request is answered, and may change what is stored: it is
    /// everybody else.
    pub(crate) fn with_hook(hook: impl FnMut(&str, &str, &mut Store) + Send + 'static) -> Self {
        let store = Arc::new(Mutex::new(Store::default()));
        let hook: Arc<Mutex<Hook>> = Arc::new(Mutex::new(Box::new(hook)));
        let served = Arc::clone(&store);
        let service = tower::service_fn(move |request: hyper::Request<Body>| {
            let (store, hook) = (Arc::clone(&served), Arc::clone(&hook));
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let (verb, path) = (parts.method.as_str(), parts.uri.path());
                let path = path.strip_suffix("/status").unwrap_or(path);
                let mut store = store.lock().unwrap();
                store.requests.push(format!("{verb} {path}"));
                (hook.lock().unwrap())(verb, path, &mut store);
                let (code, answer) = store.answer(verb, path, parts.uri.query().unwrap_or_default(), &body);
                let answer = Body::from(serde_json::to_vec(&answer).unwrap());
                Ok::<_, kube::Error>(hyper::Response::builder().status(code).body(answer).unwrap())
            }
        });
        let client = kube::Client::new(service, "default");
        Self {
            cluster: Cluster {
                client,
                manager: "test",
            },
            store,
        }
    }

    pub(crate) fn put(&self, path: &str, object: Value) {
        self.store.lock().unwrap().put(path, object);
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.store.lock().unwrap().objects.get(path).cloned()
    }

    pub(crate) fn remove(&self, path: &str) {
        self.store.lock().unwrap().objects.remove(path);
    }

    /// Requests since the last call.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.store.lock().unwrap().requests)
    }
}
