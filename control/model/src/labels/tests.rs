use proptest::prelude::*;

use super::*;
use crate::inputs::ObjectName;

fn filter(custom: &str) -> LabelFilter {
    LabelFilter::new(custom).unwrap()
}

#[test]
fn labels_parse_and_print() {
    let rows = [
        ("k8s:app=client", "k8s", "app", "client", "k8s:app=client"),
        ("reserved:host", "reserved", "host", "", "reserved:host"),
        ("app=client", "unspec", "app", "client", "unspec:app=client"),
        ("k8s:url=http://x", "k8s", "url", "http://x", "k8s:url=http://x"),
        ("url=http://x", "unspec", "url", "http://x", "unspec:url=http://x"),
        ("cidr:fd00::/8=", "cidr", "fd00::/8", "", "cidr:fd00::/8"),
        (":app=x", "unspec", "app", "x", "unspec:app=x"),
        ("", "unspec", "", "", "unspec:"),
    ];
    for (text, source, key, value, printed) in rows {
        let label = Label::parse(text);
        assert_eq!(label, Label::new(source, key, value), "{text}");
        assert_eq!(label.to_string(), printed, "{text}");
    }
}

#[test]
fn the_default_filter() {
    let rows = [
        ("k8s:app=client", true),
        ("k8s:io.kubernetes.pod.namespace=default", true),
        ("k8s:io.kubernetes.pod.name=client", false),
        ("k8s:io.kubernetes.container.hash=1", false),
        (
            "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=default",
            true,
        ),
        ("k8s:io.cilium.k8s.policy.cluster=kind-kind", true),
        ("k8s:io.cilium.k8s.policy.serviceaccount=default", true),
        ("k8s:app.kubernetes.io/name=x", true),
        ("k8s:kubernetes.io/hostname=x", false),
        ("k8s:beta.kubernetes.io/arch=x", false),
        ("k8s:node.beta.kubernetes.io/arch=x", false),
        ("k8s:topology.kubernetes.io/zone=x", false),
        ("k8s:k8s.io/x=y", false),
        ("k8s:k8s-app=cilium", true),
        ("k8s:pod-template-hash=1", false),
        ("k8s:pod-template-generation=1", false),
        ("k8s:controller-revision-hash=1", false),
        ("k8s:controller-uid=1", false),
        ("k8s:batch.kubernetes.io/controller-uid=1", false),
        ("k8s:batch.kubernetes.io/job-completion-index=1", false),
        ("k8s:statefulset.kubernetes.io/pod-name=a-0", false),
        ("k8s:apps.kubernetes.io/pod-index=0", false),
        ("k8s:annotation.io.kubernetes.x=1", false),
        ("k8s:etcd_node=1", false),
        ("reserved:host", true),
    ];
    let filter = filter("");
    for (text, admitted) in rows {
        assert_eq!(filter.admits(&Label::parse(text)), admitted, "{text}");
    }
}

#[test]
fn custom_rules() {
    let rows = [
        (
            "an including rule shuts out the rest",
            "k8s:app",
            "k8s:app=x",
            true,
        ),
        (
            "an including rule shuts out the rest",
            "k8s:app",
            "k8s:tier=x",
            false,
        ),
        (
            "the defaults stay",
            "k8s:app",
            "k8s:io.kubernetes.pod.namespace=x",
            true,
        ),
        (
            "an excluding rule only removes",
            "k8s:!version",
            "k8s:version=1",
            false,
        ),
        (
            "an excluding rule only removes",
            "k8s:!version",
            "k8s:app=x",
            true,
        ),
        ("the source counts", "any:!app", "k8s:app=x", true),
        ("patterns match at the start", "!app", "k8s:my-app=x", true),
        ("anchors work", "k8s:^app$", "k8s:apple=x", false),
        (
            "the longer inclusion wins",
            "!foo k8s:foo.bar",
            "k8s:foo.bar=x",
            true,
        ),
        ("several, separated by space", "k8s:a  k8s:b", "k8s:b=x", true),
    ];
    for (name, custom, text, admitted) in rows {
        assert_eq!(
            filter(custom).admits(&Label::parse(text)),
            admitted,
            "{name}: {custom} {text}"
        );
    }
    for bad in ["k8s:", "!", "k8s:(", "k8s:!"] {
        assert!(LabelFilter::new(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_pods_identity_labels() {
    let map = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    };
    let pod = Pod {
        name: ObjectName::new("default", "client"),
        labels: map(&[
            ("app", "client"),
            ("pod-template-hash", "abc"),
            ("io.kubernetes.pod.namespace", "kube-system"),
            ("io.cilium.k8s.policy.serviceaccount", "admin"),
            ("io.cilium.k8s.policy.cluster", "other"),
            ("io.cilium.k8s.namespace.labels.team", "root"),
        ]),
        ..Pod::default()
    };
    let namespace = Namespace {
        name: "default".into(),
        labels: map(&[("kubernetes.io/metadata.name", "default")]),
    };
    let labels = Labels::of_pod(&pod, &namespace, "kind-kind", &filter(""));
    assert_eq!(
        labels.to_strings(),
        [
            "k8s:app=client",
            "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=default",
            "k8s:io.cilium.k8s.policy.cluster=kind-kind",
            "k8s:io.kubernetes.pod.namespace=default",
        ],
        "labels that a pod gives itself never stand for its namespace or service account"
    );
    let pod = Pod {
        service_account: "default".into(),
        ..pod
    };
    let labels = Labels::of_pod(&pod, &namespace, "kind-kind", &filter(""));
    assert_eq!(labels.get(K8S, POLICY_SERVICE_ACCOUNT), Some("default"));
    assert_eq!(labels.namespace(), Some("default"));
}

proptest! {
    #[test]
    fn label_sets_survive_their_text_forms(pairs in proptest::collection::btree_map("[a-z./-]{1,12}", "[a-z:=]{0,8}", 0..8)) {
        let labels: Labels = pairs.iter().map(|(key, value)| Label::k8s(key, value)).collect();
        prop_assert_eq!(&Labels::parse(labels.to_strings()), &labels);
        prop_assert_eq!(&Labels::from_security_map(&labels.to_security_map()), &labels);
    }

    #[test]
    fn any_text_is_a_label_that_prints_to_itself(text in ".{0,24}") {
        let label = Label::parse(&text);
        prop_assert_eq!(Label::parse(&label.to_string()), label);
    }

    #[test]
    fn filtering_twice_is_filtering_once(keys in proptest::collection::vec("[a-z./]{1,20}", 0..8), custom in "[a-z]{0,3}") {
        let filter = filter(&custom);
        let once = filter.apply(keys.iter().map(|key| Label::k8s(key, "")).collect());
        prop_assert_eq!(filter.apply(once.clone()), once);
    }
}
