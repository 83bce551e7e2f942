use super::*;
use crate::fake::Fake;

const BASE: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Every place in a schema that a structural schema must not leave open (Kubernetes: "specifying a structural
/// schema"): each node has a type, unless anything is admitted there.
fn check_structural(path: &str, schema: &Value) {
    let open = schema["x-kubernetes-preserve-unknown-fields"] == true
        || schema["x-kubernetes-int-or-string"] == true;
    assert!(schema["type"].is_string() || open, "{path} has no type: {schema}");
    for forbidden in [
        "$ref",
        "definitions",
        "uniqueItems",
        "deprecated",
        "patternProperties",
        "$schema",
        "const",
    ] {
        assert!(schema.get(forbidden).is_none(), "{path} has {forbidden}");
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        check_structural(&format!("{path}.{name}"), property);
    }
    if let Some(items) = schema.get("items") {
        assert!(items.is_object(), "{path}.items");
        check_structural(&format!("{path}[]"), items);
    }
}

#[test]
fn definitions_are_as_cilium_has_them() {
    let definitions = definitions().unwrap();
    let rows = [
        (
            "ciliumendpoints.cilium.io",
            "CiliumEndpoint",
            "Namespaced",
            vec!["cep", "ciliumep"],
            false,
        ),
        (
            "ciliumidentities.cilium.io",
            "CiliumIdentity",
            "Cluster",
            vec!["ciliumid"],
            false,
        ),
        (
            "ciliumnodes.cilium.io",
            "CiliumNode",
            "Cluster",
            vec!["cn", "ciliumn"],
            true,
        ),
        (
            "ciliumnetworkpolicies.cilium.io",
            "CiliumNetworkPolicy",
            "Namespaced",
            vec!["cnp", "ciliumnp"],
            true,
        ),
        (
            "ciliumclusterwidenetworkpolicies.cilium.io",
            "CiliumClusterwideNetworkPolicy",
            "Cluster",
            vec!["ccnp"],
            true,
        ),
        (
            "ciliumloadbalancerippools.cilium.io",
            "CiliumLoadBalancerIPPool",
            "Cluster",
            vec!["ippools", "ippool", "lbippool", "lbippools"],
            true,
        ),
    ];
    assert_eq!(definitions.len(), rows.len());
    for (definition, (name, kind, scope, short, status)) in definitions.iter().zip(rows) {
        assert_eq!(definition.name_any(), name);
        assert_eq!(definition.labels()[VERSION_LABEL], SCHEMA_VERSION);
        assert_eq!(
            (
                definition.spec.names.kind.as_str(),
                definition.spec.scope.as_str()
            ),
            (kind, scope)
        );
        assert_eq!(
            definition.spec.names.short_names.clone().unwrap_or_default(),
            short
        );
        assert!(
            definition
                .spec
                .names
                .categories
                .as_ref()
                .unwrap()
                .contains(&"cilium".to_owned())
        );
        let version = &definition.spec.versions[0];
        assert_eq!(
            (version.name.as_str(), version.served, version.storage),
            ("v2", true, true)
        );
        assert_eq!(
            version.subresources.as_ref().is_some_and(|s| s.status.is_some()),
            status,
            "{name}"
        );
        let schema = serde_json::to_value(version.schema.as_ref().unwrap()).unwrap();
        check_structural(kind, &schema["openAPIV3Schema"]);
    }
}

#[test]
fn columns() {
    let columns = |index: usize| -> Vec<String> {
        let definition = &definitions().unwrap()[index];
        let columns = definition.spec.versions[0]
            .additional_printer_columns
            .clone()
            .unwrap();
        columns
            .into_iter()
            .map(|column| format!("{} {}", column.name, column.json_path))
            .collect()
    };
    assert_eq!(columns(0)[0], "Security Identity .status.identity.id");
    assert_eq!(
        columns(1)[0],
        "Namespace .metadata.labels.io\\.kubernetes\\.pod\\.namespace"
    );
    assert_eq!(
        columns(2)[0],
        "CiliumInternalIP .spec.addresses[?(@.type==\"CiliumInternalIP\")].ip"
    );
}

#[test]
fn unknown_fields_are_kept() {
    let definitions = definitions().unwrap();
    let schema = serde_json::to_value(&definitions[0].spec.versions[0].schema).unwrap();
    let status = &schema["openAPIV3Schema"]["properties"]["status"];
    assert_eq!(status["x-kubernetes-preserve-unknown-fields"], true);
    assert_eq!(
        status["properties"]["networking"]["x-kubernetes-preserve-unknown-fields"],
        true
    );
    let schema = serde_json::to_value(&definitions[1].spec.versions[0].schema).unwrap();
    let labels = &schema["openAPIV3Schema"]["properties"]["security-labels"];
    assert_eq!(
        labels["additionalProperties"]["type"], "string",
        "identity labels stay strict"
    );
}

#[test]
fn versions_compare_as_numbers() {
    let labels = |version: &str| BTreeMap::from([(VERSION_LABEL.to_owned(), version.to_owned())]);
    let rows = [
        ("1.28.1", false),
        ("1.28.0", true),
        ("1.9.9", true),
        ("1.33.9", false),
        ("2", false),
        ("x", true),
        ("", true),
    ];
    for (version, older) in rows {
        assert_eq!(is_older(&labels(version)), older, "{version}");
    }
    assert!(is_older(&BTreeMap::new()));
}

/// Marks whatever is stored as served, as the API server does a moment later.
fn establish(_: &str, _: &str, store: &mut crate::fake::Store) {
    for crd in store.objects.values_mut() {
        crd["status"] = json!({
            "conditions": [{"type": "Established", "status": "True", "lastTransitionTime": null, "message": "", "reason": ""}],
        });
    }
}

#[tokio::test]
async fn registering_creates_updates_and_leaves_alone() {
    let fake = Fake::with_hook(establish);
    fake.cluster.register_crds(Duration::from_secs(5)).await.unwrap();
    assert_eq!(
        fake.requests()
            .iter()
            .filter(|request| request.starts_with("POST"))
            .count(),
        6
    );

    fake.cluster.register_crds(Duration::from_secs(5)).await.unwrap();
    assert!(
        fake.requests().iter().all(|request| request.starts_with("GET")),
        "nothing to do the second time"
    );

    let path = format!("{BASE}/ciliumnodes.cilium.io");
    let mut older = fake.get(&path).unwrap();
    older["metadata"]["labels"][VERSION_LABEL] = json!("1.20.0");
    let mut other = older["spec"]["versions"][0].clone();
    other["name"] = json!("v3alpha1");
    older["spec"]["versions"].as_array_mut().unwrap().push(other);
    fake.put(&path, older);
    fake.cluster.register_crds(Duration::from_secs(5)).await.unwrap();
    let updated = fake.get(&path).unwrap();
    assert_eq!(updated["metadata"]["labels"][VERSION_LABEL], SCHEMA_VERSION);
    assert_eq!(
        updated["spec"]["versions"][1]["name"], "v3alpha1",
        "a version that is not ours stays"
    );
    assert_eq!(updated["spec"]["versions"][1]["storage"], false);

    let mut newer = updated;
    newer["metadata"]["labels"][VERSION_LABEL] = json!("1.33.9");
    fake.put(&path, newer.clone());
    fake.requests();
    fake.cluster.register_crds(Duration::from_secs(5)).await.unwrap();
    assert!(
        fake.requests().iter().all(|request| request.starts_with("GET")),
        "newer ones of Cilium stay"
    );
}

#[tokio::test]
async fn waiting_has_an_end() {
    let fake = Fake::new();
    let error = fake.cluster.wait_for_crds(Duration::ZERO).await.unwrap_err();
    assert!(
        matches!(&error, CrdError::Missing { missing, .. } if missing.len() == 3),
        "{error}"
    );
}
