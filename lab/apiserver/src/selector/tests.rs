use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn label_rows() {
    let object = json!({"metadata": {"labels": {"app": "web", "tier": "1", "x.io/y": ""}}});
    let rows = [
        ("", true),
        ("app=web", true),
        ("app==web", true),
        ("app = web", true),
        ("app=db", false),
        ("app!=db", true),
        ("none!=db", true),
        ("app", true),
        ("!app", false),
        ("!none", true),
        ("app in (web, db)", true),
        ("app notin (web,db)", false),
        ("none notin (web)", true),
        ("app in (web),tier=1", true),
        ("app in (web),tier=2", false),
        ("tier>0", true),
        ("tier<1", false),
        ("x.io/y=", true),
        ("x.io/y", true),
    ];
    for (text, wanted) in rows {
        assert_eq!(
            LabelSelector::parse(text).map(|s| s.matches(&object)),
            Ok(wanted),
            "{text}"
        );
    }
}

#[test]
fn nonsense_is_refused() {
    for text in ["a in b", "a in (b", "=b", "a b", "a in (b) c", "!", "a;b"] {
        assert_eq!(LabelSelector::parse(text).map_err(|s| s.code), Err(400), "{text}");
    }
    assert_eq!(
        FieldSelector::parse("foo=bar", &[]).map_err(|s| s.message),
        Err("field label not supported: foo".into())
    );
    assert!(FieldSelector::parse("metadata.name", &[]).is_err());
}

#[test]
fn field_rows() {
    let pod =
        json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n", "hostNetwork": true}, "status": {}});
    let rows = [
        ("metadata.name=a", true),
        ("metadata.name!=a", false),
        ("spec.nodeName=n,metadata.name=a", true),
        ("spec.nodeName=", false),
        ("status.phase=", true),
        ("status.phase!=Running", true),
        ("spec.hostNetwork=true", true),
    ];
    let fields = ["spec.nodeName", "status.phase", "spec.hostNetwork"];
    for (text, wanted) in rows {
        assert_eq!(
            FieldSelector::parse(text, &fields).map(|s| s.matches(&pod)),
            Ok(wanted),
            "{text}"
        );
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "[a-c!=,() inot><./]{0,30}") {
        let _ = LabelSelector::parse(&text);
        let _ = FieldSelector::parse(&text, &["a"]);
    }
}
