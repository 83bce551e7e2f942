use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::kinds;

fn kind(name: &str) -> Kind {
    kinds::builtin().into_iter().find(|k| k.kind == name).unwrap()
}

fn by(manager: &str) -> Writer<'_> {
    Writer {
        manager,
        subresource: "",
    }
}

/// The object after `manager` applied `config`, with its `managedFields`.
fn applied(kind: &Kind, live: &Value, config: &Value, manager: &str, force: bool) -> Result<Value, Status> {
    let (mut object, owners) = apply(kind, live, config, by(manager), force)?;
    owners.write(&mut object);
    Ok(object)
}

/// The object after `manager` wrote it without applying.
fn updated(kind: &Kind, live: &Value, mut object: Value, manager: &str) -> Value {
    let mut owners = Managers::of(live);
    owners.update(kind, live, &object, by(manager));
    owners.write(&mut object);
    object
}

fn owns(object: &Value, manager: &str) -> Vec<String> {
    let managers = Managers::of(object);
    managers
        .0
        .iter()
        .filter(|e| e.manager == manager)
        .flat_map(|e| e.fields.texts())
        .collect()
}

fn without_owners(mut object: Value) -> Value {
    object::meta_mut(&mut object).remove("managedFields");
    if object["metadata"] == json!({}) {
        object::map_mut(&mut object).remove("metadata");
    }
    object
}

/// What one manager applies, first and then, and what is there after.
#[test]
fn rows_of_one_manager() {
    let dns = |ports: Value| json!({"spec": {"ports": ports}});
    let both = json!([
        {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        {"name": "metrics", "port": 9153, "protocol": "TCP"},
    ]);
    let container = |part: Value| {
        let mut container = json!({"name": "c"});
        object::map_mut(&mut container).extend(part.as_object().cloned().unwrap_or_default());
        json!({"spec": {"containers": [container]}})
    };
    let rows = [
        (
            "CoreDNS, twice",
            "Service",
            dns(both.clone()),
            dns(both.clone()),
            dns(both.clone()),
        ),
        (
            "CoreDNS, one target changed",
            "Service",
            dns(both.clone()),
            dns(json!([
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 5353}, both[1], both[2],
            ])),
            dns(json!([
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 5353}, both[1], both[2],
            ])),
        ),
        (
            "CoreDNS without TCP",
            "Service",
            dns(both.clone()),
            dns(json!([both[0], both[2]])),
            dns(json!([both[0], both[2]])),
        ),
        (
            "a port without protocol is TCP",
            "Service",
            dns(json!([{"port": 53, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}])),
            dns(json!([{"port": 53, "name": "x"}, {"port": 53, "protocol": "UDP"}])),
            dns(json!([{"port": 53, "protocol": "TCP", "name": "x"}, {"port": 53, "protocol": "UDP"}])),
        ),
        (
            "ports of containers by number and protocol",
            "Pod",
            container(
                json!({"ports": [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53, "protocol": "TCP"}]}),
            ),
            container(json!({"ports": [{"containerPort": 53, "protocol": "TCP", "name": "t"}]})),
            container(json!({"ports": [{"containerPort": 53, "protocol": "TCP", "name": "t"}]})),
        ),
        (
            "spread by two keys",
            "Pod",
            json!({"spec": {"topologySpreadConstraints": [
                {"topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 1},
            ]}}),
            json!({"spec": {"topologySpreadConstraints": [
                {"topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 1},
                {"topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "maxSkew": 2},
            ]}}),
            json!({"spec": {"topologySpreadConstraints": [
                {"topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 1},
                {"topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "maxSkew": 2},
            ]}}),
        ),
        (
            "environment by name, labels one by one",
            "Pod",
            container(json!({"env": [{"name": "X"}, {"name": "Y"}]})),
            container(json!({"env": [{"name": "Y"}]})),
            container(json!({"env": [{"name": "Y"}]})),
        ),
        (
            "a selector is one value",
            "Service",
            json!({"spec": {"selector": {"a": "1"}}}),
            json!({"spec": {"selector": {"b": "1"}}}),
            json!({"spec": {"selector": {"b": "1"}}}),
        ),
        (
            "the member of a source goes, the source stays",
            "Pod",
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
        ),
        (
            "finalizers are a set",
            "Pod",
            json!({"metadata": {"finalizers": ["a/a", "b/b"]}}),
            json!({"metadata": {"finalizers": ["b/b"]}}),
            json!({"metadata": {"finalizers": ["b/b"]}}),
        ),
        (
            "tolerations are one value",
            "Pod",
            json!({"spec": {"tolerations": [{"key": "a"}]}}),
            json!({"spec": {"tolerations": [{"key": "b"}]}}),
            json!({"spec": {"tolerations": [{"key": "b"}]}}),
        ),
    ];
    for (what, name, first, second, wanted) in rows {
        let kind = kind(name);
        let one = applied(&kind, &Value::Null, &first, "m", false).unwrap();
        assert_eq!(without_owners(one.clone()), first, "{what}: the first time");
        let again = applied(&kind, &one, &first, "m", false).unwrap();
        assert_eq!(again, one, "{what}: nothing changes the second time");
        let two = applied(&kind, &one, &second, "m", false).unwrap();
        assert_eq!(without_owners(two), wanted, "{what}");
    }
}

#[test]
fn an_element_named_twice_is_refused() {
    let config = json!({"spec": {"ports": [{"port": 53}, {"port": 53, "protocol": "TCP"}]}});
    let refused = applied(&kind("Service"), &Value::Null, &config, "m", true).unwrap_err();
    assert_eq!(refused.code, 400);
    assert!(
        refused
            .message
            .ends_with("duplicate entries for key [port=53,protocol=\"TCP\"]"),
        "{refused}"
    );
}

#[test]
fn who_changes_the_field_of_another_is_refused_or_forces() {
    let kind = kind("ConfigMap");
    let data = |data: Value| json!({"data": data});
    let one = applied(
        &kind,
        &Value::Null,
        &data(json!({"x": "1", "y": "1"})),
        "one",
        false,
    )
    .unwrap();
    let shared = applied(&kind, &one, &data(json!({"x": "1"})), "two", false).unwrap();
    assert_eq!(owns(&shared, "two"), [".data.x"], "who agrees shares");

    let refused = applied(&kind, &shared, &data(json!({"x": "2"})), "two", false).unwrap_err();
    assert_eq!((refused.code, refused.reason), (409, "Conflict"));
    assert_eq!(
        refused.message,
        "Apply failed with 1 conflict: conflict with \"one\": .data.x"
    );
    let causes = &refused.to_json()["details"]["causes"];
    assert_eq!(
        *causes,
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".data.x"}])
    );
    let refused = applied(&kind, &shared, &data(json!({"x": "2", "y": "2"})), "two", false).unwrap_err();
    assert_eq!(
        refused.message,
        "Apply failed with 2 conflicts: conflicts with \"one\":\n- .data.x\n- .data.y"
    );

    let forced = applied(&kind, &shared, &data(json!({"x": "2"})), "two", true).unwrap();
    assert_eq!(forced["data"], json!({"x": "2", "y": "1"}));
    assert_eq!(
        (owns(&forced, "one"), owns(&forced, "two")),
        (vec![".data.y".to_owned()], vec![".data.x".to_owned()])
    );
}

#[test]
fn what_another_owns_stays_when_it_is_no_longer_applied() {
    let kind = kind("ConfigMap");
    let both = json!({"data": {"x": "1"}});
    let object = applied(&kind, &Value::Null, &both, "one", false).unwrap();
    let object = applied(&kind, &object, &both, "two", false).unwrap();
    let object = applied(&kind, &object, &json!({}), "two", false).unwrap();
    assert_eq!(object["data"], json!({"x": "1"}));
    assert_eq!(owns(&object, "two"), [""; 0]);
    let object = applied(&kind, &object, &json!({}), "one", false).unwrap();
    assert_eq!(object["data"], Value::Null);
}

#[test]
fn a_writer_takes_what_it_changes() {
    let kind = kind("Deployment");
    let config = json!({"spec": {"replicas": 3, "paused": true, "template": {"spec": {"containers": [{"name": "c", "image": "a"}]}}}});
    let object = applied(&kind, &Value::Null, &config, "m", false).unwrap();
    let mut scaled = object.clone();
    scaled["spec"]["replicas"] = 5.into();
    scaled["spec"]["template"]["spec"]["containers"][0]["image"] = "b".into();
    object::map_mut(&mut scaled["spec"]).remove("paused");
    let object = updated(&kind, &object, scaled, "kubectl-edit");
    let image = ".spec.template.spec.containers[name=\"c\"].image";
    assert_eq!(owns(&object, "kubectl-edit"), [".spec.replicas", image]);
    assert!(!owns(&object, "m").iter().any(|field| field == ".spec.paused"));

    let refused = applied(&kind, &object, &config, "m", false).unwrap_err();
    assert_eq!(
        refused.message,
        format!(
            "Apply failed with 2 conflicts: conflicts with \"kubectl-edit\" using apps/v1:\n- .spec.replicas\n- {image}"
        )
    );
    // Giving up a field that another took leaves it, and the element around it.
    let object = applied(&kind, &object, &json!({"spec": {"paused": true}}), "m", false).unwrap();
    assert_eq!(
        without_owners(object),
        json!({"spec": {"paused": true, "replicas": 5, "template": {"spec": {"containers": [
            {"name": "c", "image": "b"},
        ]}}}})
    );
}

#[test]
fn what_was_there_before_the_first_apply_is_nobodys_to_overwrite() {
    let kind = kind("ConfigMap");
    let live = json!({"metadata": {"name": "m", "uid": "u"}, "data": {"x": "1"}});
    assert_eq!(
        updated(&kind, &live, live.clone(), "kubectl"),
        live,
        "not tracked yet"
    );
    let refused = applied(&kind, &live, &json!({"data": {"x": "2"}}), "m", false).unwrap_err();
    assert_eq!(
        refused.message,
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.x"
    );
    let object = applied(&kind, &live, &json!({"data": {"x": "1"}}), "m", false).unwrap();
    assert_eq!(
        (owns(&object, BEFORE), owns(&object, "m")),
        (vec![".data.x".to_owned()], vec![".data.x".to_owned()])
    );
}

#[test]
fn the_status_is_applied_apart() {
    let kind = kind("Service");
    let config = json!({"metadata": {"name": "s", "labels": {"a": "b"}}, "spec": {"type": "ClusterIP"},
        "status": {"loadBalancer": {"ingress": [{"ip": "::1"}]}}});
    let writer = Writer {
        manager: "m",
        subresource: "status",
    };
    let (mut object, owners) =
        apply(&kind, &json!({"metadata": {"name": "s"}}), &config, writer, false).unwrap();
    owners.write(&mut object);
    assert_eq!(object["spec"], Value::Null);
    assert_eq!(owns(&object, "m"), [".status.loadBalancer.ingress"]);
    assert_eq!(object["metadata"]["managedFields"][0]["subresource"], "status");
    let main = applied(&kind, &Value::Null, &config, "m", false).unwrap();
    assert_eq!(main["status"], Value::Null);
}

#[test]
fn custom_kinds_merge_as_their_schema_says() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "ports": {
            "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["protocol", "port"],
            "items": {"type": "object", "properties": {"port": {"type": "integer"}, "protocol": {"type": "string", "default": "TCP"}}},
        },
        "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "plain": {"type": "array", "items": {"type": "string"}},
        "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "string"}},
    }}}});
    let kind = Kind::custom("demo.io", "v1", "Demo", "demos", schema);
    let one = json!({"spec": {"ports": [{"port": 53}], "tags": ["a"], "plain": ["a"], "whole": {"a": "a"}}});
    let object = applied(&kind, &Value::Null, &one, "one", false).unwrap();
    let two = json!({"spec": {"ports": [{"port": 53, "protocol": "UDP"}], "tags": ["b"]}});
    let object = applied(&kind, &object, &two, "two", false).unwrap();
    assert_eq!(
        object["spec"],
        json!({
            "ports": [{"port": 53}, {"port": 53, "protocol": "UDP"}], "tags": ["a", "b"], "plain": ["a"],
            "whole": {"a": "a"},
        })
    );
    for whole in [json!({"plain": ["b"]}), json!({"whole": {"b": "b"}})] {
        assert_eq!(
            applied(&kind, &object, &json!({"spec": whole}), "two", false).map_err(|s| s.code),
            Err(409)
        );
    }
    assert_eq!(
        owns(&object, "two"),
        [
            ".spec.ports[port=53,protocol=\"UDP\"]",
            ".spec.ports[port=53,protocol=\"UDP\"].port",
            ".spec.ports[port=53,protocol=\"UDP\"].protocol",
            ".spec.tags[=\"b\"]",
        ]
    );
}

#[test]
fn there_are_only_so_many_writers() {
    let kind = kind("ConfigMap");
    let mut object = applied(&kind, &Value::Null, &json!({"data": {"x": "0"}}), "m", false).unwrap();
    for writer in 0..40 {
        let mut next = object.clone();
        next["data"][format!("k{writer}")] = "v".into();
        object = updated(&kind, &object, next, &format!("writer-{writer}"));
    }
    let entries = items(&object["metadata"]["managedFields"]);
    assert_eq!(entries.len(), 1 + UPDATERS);
    assert_eq!(owns(&object, ANCIENT).len(), 31);
    assert_eq!(owns(&object, "writer-39"), [".data.k39"]);
}

fn path() -> impl Strategy<Value = Value> {
    let leaf = Just(json!({}));
    leaf.prop_recursive(4, 24, 4, |inner| {
        let step = prop_oneof![
            "f:[a-z.]{0,3}",
            "v:[a-z\"]{0,3}",
            Just("k:{\"name\":\"x\"}".to_owned()),
            Just(".".to_owned()),
            Just("x".to_owned()),
        ];
        proptest::collection::btree_map(step, inner, 0..4)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    })
}

proptest! {
    #[test]
    fn any_record_is_read_and_what_is_written_is_read_again(fields in path()) {
        let read = FieldSet::read(&fields);
        prop_assert_eq!(FieldSet::read(&read.to_json()), read);
    }

    /// Whoever applies, with force, sees what it applied, and nothing changes when it does so again.
    #[test]
    fn apply_is_final(ports in proptest::collection::vec((0..3, proptest::bool::ANY, 0..3, 0..2), 1..12)) {
        let kind = kind("Service");
        let mut object = Value::Null;
        for (port, udp, target, manager) in ports {
            let protocol = if udp { "UDP" } else { "TCP" };
            let config = json!({"spec": {"ports": [{"port": port, "protocol": protocol, "targetPort": target}]}});
            let manager = if manager == 0 { "one" } else { "two" };
            object = applied(&kind, &object, &config, manager, true).unwrap();
            let found = items(&object["spec"]["ports"]).contains(&config["spec"]["ports"][0]);
            prop_assert!(found, "{}", object);
            prop_assert!(items(&object["spec"]["ports"]).len() <= 2, "one each: {}", object);
            prop_assert_eq!(&applied(&kind, &object, &config, manager, false).unwrap(), &object);
        }
    }
}
