//! `datapath/loader` and `control/`: records of the kernel, the container runtime's calls, the agent's socket, its
//! configuration and its state file.

use std::collections::BTreeMap;

use model::state::AgentState;
use model::{AgentConfig, Label, LabelFilter, Labels};
use serde::{Serialize, de::DeserializeOwned};

/// A record of the event ring. The captured packet lies inside the record.
pub fn loader_event(data: &[u8]) {
    if let Ok(loader::Event::Trace { packet, .. } | loader::Event::Drop { packet, .. }) = loader::decode(data)
    {
        assert!(packet.len() < data.len(), "more packet than record");
    }
}

/// A call of the CNI plugin: five lines of environment (command, container, namespace, interface, arguments), then
/// standard input. A refusal has a code.
pub fn cni_request(data: &[u8]) {
    let mut parts = data.splitn(6, |byte| *byte == b'\n');
    let mut line = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let environment = cni::spec::Environment {
        command: line(),
        container_id: line(),
        netns: line(),
        ifname: line(),
        args: line(),
    };
    match cni::spec::parse(&environment, parts.next().unwrap_or_default()) {
        Ok(request) => {
            let _ = request.config.previous_addresses();
            let _ = cni::spec::versions(&request);
            let result = cni::spec::result(&request, &api::cni::AddResponse::default());
            assert_eq!(
                result["cniVersion"],
                request.config.version.as_str(),
                "answered in another version"
            );
        }
        Err(error) => assert!(error.code != 0, "an error without a code"),
    }
}

/// A body on the agent's socket; the first byte says which. What is read is written and read back as it was.
pub fn api_body(data: &[u8]) {
    fn same<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(body: &[u8]) {
        let Ok(first) = serde_json::from_slice::<T>(body) else {
            return;
        };
        let again = serde_json::to_vec(&first)
            .ok()
            .and_then(|text| serde_json::from_slice::<T>(&text).ok());
        assert_eq!(again, Some(first), "read back differently");
    }
    let Some((kind, body)) = data.split_first() else {
        return;
    };
    match kind {
        b'a' => same::<api::cni::AddRequest>(body),
        b'b' => same::<api::cni::AddResponse>(body),
        b'c' => same::<api::cni::CheckRequest>(body),
        b'd' => same::<api::cni::Attachment>(body),
        b'e' => same::<api::Endpoint>(body),
        b'g' => same::<api::cni::GcRequest>(body),
        b'i' => same::<api::objects::IpEntry>(body),
        b'm' => same::<api::monitor::Event>(body),
        b'n' => same::<api::objects::Node>(body),
        b's' => same::<api::StatusResponse>(body),
        b't' => same::<api::tables::Connection>(body),
        b'x' => same::<api::ApiError>(body),
        _ => {}
    }
}

/// The ConfigMap `cilium-config` as `key=value` lines.
pub fn model_config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let map: BTreeMap<String, String> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.into(), value.into()))
        .collect();
    match AgentConfig::parse(&map) {
        Ok((config, _)) => {
            for memory in [0, 1 << 20, 8 << 30, u64::MAX] {
                let sizes = config.map_sizes(memory);
                assert!(sizes.ct_tcp > 0 && sizes.ct_any > 0, "a table without room");
            }
            let _ = config.datapath(&[], 1, 1);
        }
        Err(problems) => assert!(!problems.0.is_empty(), "refused without a reason"),
    }
    for line in text.lines() {
        let _ = model::config::parse_duration(line);
    }
}

/// Label texts, one a line; the first line is the filter of `labels`. Labels survive their own text.
pub fn model_labels(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (filter, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let labels = Labels::parse(rest.lines());
    assert_eq!(
        Labels::from_security_map(&labels.to_security_map()),
        labels,
        "changed in an identity object"
    );
    if let Ok(filter) = LabelFilter::new(filter) {
        let kept = filter.apply(labels.clone());
        assert!(kept.len() <= labels.len(), "a filter that adds");
    }
    for line in rest.lines() {
        let _ = Label::parse(line);
    }
}

/// The agent's state file. What is accepted is written and read back as it was.
pub fn model_state(data: &[u8]) {
    let Ok((state, _)) = AgentState::decode(data) else {
        return;
    };
    let again = state
        .encode()
        .ok()
        .and_then(|text| AgentState::decode(&text).ok());
    assert_eq!(
        again.map(|(state, _)| state),
        Some(state),
        "read back differently"
    );
}
