use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::auth::User;
use crate::client::WatchEvent;
use crate::pki::Credentials;

fn api() -> Arc<Api> {
    let directory = tempfile::tempdir().unwrap();
    let credentials = Credentials::open(directory.path(), "test").unwrap();
    let cluster = Cluster {
        service_cidr: "fd00:10:96::/112".parse().unwrap(),
        advertise: "[::1]:6443".parse().unwrap(),
        ca_certificate: String::new(),
    };
    let api = Api::new(
        Store::new(1, 4096),
        Tokens::new(&credentials).unwrap(),
        Arc::new(|_| None),
        cluster,
    );
    crate::bootstrap::create(&api).unwrap();
    Arc::new(api)
}

fn target(api: &Api, name: Option<&str>) -> Target {
    api.target("", "v1", "configmaps", Some("default"), name).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Create(u8, bool),
    Relabel(u8, bool),
    Delete(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4_u8, any::<bool>()).prop_map(|(n, l)| Step::Create(n, l)),
        (0..4_u8, any::<bool>()).prop_map(|(n, l)| Step::Relabel(n, l)),
        (0..4_u8).prop_map(Step::Delete),
    ]
}

/// What a step does may fail (there already, not there): then it is no change.
fn take(api: &Api, step: &Step) {
    let (user, options) = (User::system_admin(), WriteOptions::default());
    let label = |yes: bool| json!({"metadata": {"labels": {"pick": if yes { "me" } else { "not" }}}});
    let _ = match step {
        Step::Create(n, yes) => {
            let mut object = label(*yes);
            object["metadata"]["name"] = format!("m{n}").into();
            api.create(&user, &target(api, None), object, &options).map(drop)
        }
        Step::Relabel(n, yes) => {
            let target = target(api, Some(&format!("m{n}")));
            api.patch(&user, &target, PatchKind::Merge, label(*yes), &options)
                .map(drop)
        }
        Step::Delete(n) => api
            .delete(
                &user,
                &target(api, Some(&format!("m{n}"))),
                &DeleteRequest::default(),
            )
            .map(drop),
    };
}

fn selected(api: &Api) -> (BTreeMap<String, Object>, u64) {
    let request = ListRequest {
        labels: "pick=me".into(),
        ..ListRequest::default()
    };
    let page = api.list(&target(api, None), &request).unwrap();
    (
        page.items
            .into_iter()
            .map(|o| (object::name(&o).to_owned(), o))
            .collect(),
        page.revision,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A watcher with a selector that starts at a list's revision ends with what a later list says, whatever is
    /// written, and no event contradicts what it knew.
    #[test]
    fn a_selecting_watch_follows_the_list(
        before in proptest::collection::vec(step(), 0..12),
        after in proptest::collection::vec(step(), 0..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let api = api();
            before.iter().for_each(|s| take(&api, s));
            let (mut known, revision) = selected(&api);
            let request = WatchRequest {
                labels: "pick=me".into(),
                from: Some(revision),
                timeout: Some(Duration::from_millis(1)),
                ..WatchRequest::default()
            };
            let mut events = api.watch(&target(&api, None), &request).unwrap();
            after.iter().for_each(|s| take(&api, s));
            let (wanted, _) = selected(&api);
            while let Some(event) = events.next().await {
                match event.unwrap() {
                    WatchEvent::Added(o) => assert!(known.insert(object::name(&o).into(), o).is_none()),
                    WatchEvent::Modified(o) => assert!(known.insert(object::name(&o).into(), o).is_some()),
                    WatchEvent::Deleted(o) => assert!(known.remove(object::name(&o)).is_some()),
                    WatchEvent::Bookmark(_) => {}
                }
            }
            assert_eq!(known, wanted);
        });
    }

    /// Whatever JSON comes as a body, the answer is an object or a refusal, never a panic.
    #[test]
    fn any_body_is_stored_or_refused(body in body()) {
        let api = api();
        let user = User::system_admin();
        for kind in crate::kinds::builtin() {
            let namespace = kind.namespaced.then_some("default");
            let target = api.target(&kind.group, &kind.version, &kind.plural, namespace, None).unwrap();
            let _ = api.create(&user, &target, body.clone(), &WriteOptions::default());
        }
    }
}

/// Objects with the members that handlers look into, each of any type.
fn body() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        Just(json!(true)),
        Just(json!(-1)),
        Just(json!("x")),
        Just(json!([])),
        Just(json!({})),
    ];
    leaf.prop_recursive(5, 32, 6, |inner| {
        let key = proptest::sample::select(vec![
            "metadata",
            "name",
            "labels",
            "annotations",
            "finalizers",
            "spec",
            "status",
            "containers",
            "template",
            "selector",
            "matchLabels",
            "ports",
            "volumes",
            "projected",
            "sources",
            "names",
            "versions",
            "conditions",
            "env",
            "resources",
            "limits",
            "stringData",
            "subsets",
            "ingress",
            "podCIDRs",
            "clusterIP",
            "type",
        ]);
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map(key, inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}
