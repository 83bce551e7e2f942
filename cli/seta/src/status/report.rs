//! What `seta status` found out, and what of it is an error or a warning. Pure; the names in JSON are those of the
//! cilium CLI.

use std::collections::BTreeMap;

use api::StatusResponse;
use api::status::State;
use k8s_openapi::api::core::v1::ContainerStatus;
use serde::Serialize;

/// A DaemonSet or a Deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Workload {
    /// `DaemonSet` or `Deployment`.
    #[serde(rename = "Type")]
    pub(crate) kind: String,
    /// Pods there should be.
    #[serde(rename = "Desired")]
    pub(crate) desired: i32,
    /// Pods that are ready.
    #[serde(rename = "Ready")]
    pub(crate) ready: i32,
    /// Pods that have been ready for long enough.
    #[serde(rename = "Available")]
    pub(crate) available: i32,
    /// Pods that are not available.
    #[serde(rename = "Unavailable")]
    pub(crate) unavailable: i32,
}

/// What is wrong with one pod, or with a workload as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Findings {
    /// It does not work.
    #[serde(rename = "Errors", skip_serializing_if = "Vec::is_empty")]
    pub(crate) errors: Vec<String>,
    /// Somebody should look.
    #[serde(rename = "Warnings", skip_serializing_if = "Vec::is_empty")]
    pub(crate) warnings: Vec<String>,
}

/// Pods of the cluster that have a network of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct PodsCount {
    /// All of them.
    pub(crate) all: usize,
    /// Those with a CiliumEndpoint of their own, on a node with an agent.
    pub(crate) by_cilium: usize,
}

/// Everything that was found out.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Workloads by name.
    pub(crate) pod_state: BTreeMap<String, Workload>,
    /// Number of pods per component and phase.
    pub(crate) phase_count: BTreeMap<String, BTreeMap<String, usize>>,
    /// Number of pods per component and image.
    pub(crate) image_count: BTreeMap<String, BTreeMap<String, usize>>,
    /// Pods of the cluster.
    pub(crate) pods_count: PodsCount,
    /// Chart of the Helm release.
    pub(crate) helm_chart_version: String,
    /// What each agent says, by pod.
    pub(crate) cilium_status: BTreeMap<String, StatusResponse>,
    /// What is wrong, per component and pod (or name of the workload).
    pub(crate) errors: BTreeMap<String, BTreeMap<String, Findings>>,
    /// What the configuration asks for and does not get.
    pub(crate) configuration: Vec<String>,
}

impl Report {
    /// Notes an error.
    pub(crate) fn error(&mut self, component: &str, place: &str, text: impl Into<String>) {
        self.findings(component, place).errors.push(text.into());
    }

    /// Notes a warning.
    pub(crate) fn warning(&mut self, component: &str, place: &str, text: impl Into<String>) {
        self.findings(component, place).warnings.push(text.into());
    }

    fn findings(&mut self, component: &str, place: &str) -> &mut Findings {
        self.errors
            .entry(component.to_owned())
            .or_default()
            .entry(place.to_owned())
            .or_default()
    }

    fn count(&self, component: &str, of: impl Fn(&Findings) -> usize) -> usize {
        self.errors
            .get(component)
            .into_iter()
            .flat_map(BTreeMap::values)
            .map(of)
            .sum()
    }

    /// `OK`, or how much is wrong, or `disabled` when it is not installed and need not be.
    pub(crate) fn verdict(&self, component: &str) -> String {
        let plural =
            |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
        let errors = self.count(component, |findings| findings.errors.len());
        let warnings = self.count(component, |findings| findings.warnings.len());
        match (errors, warnings) {
            (0, 0) if self.pod_state.contains_key(component) => "OK".to_owned(),
            (0, 0) => "disabled".to_owned(),
            (0, warnings) => plural(warnings, "warning"),
            (errors, 0) => plural(errors, "error"),
            (errors, warnings) => format!("{}, {}", plural(errors, "error"), plural(warnings, "warning")),
        }
    }

    /// Whether anything does not work.
    pub(crate) fn has_errors(&self) -> bool {
        self.errors
            .values()
            .flat_map(BTreeMap::values)
            .any(|findings| !findings.errors.is_empty())
    }

    /// The first thing to wait for, if there is any.
    pub(crate) fn unsettled(&self, ignore_warnings: bool) -> Option<String> {
        let all = || self.errors.values().flatten();
        let error = all().find_map(|(place, findings)| Some((place, findings.errors.first()?)));
        let warning = || all().find_map(|(place, findings)| Some((place, findings.warnings.first()?)));
        error
            .or_else(|| if ignore_warnings { None } else { warning() })
            .map(|(place, text)| format!("{place}: {text}"))
    }

    /// Takes in a workload and what is wrong with it.
    pub(crate) fn add_workload(&mut self, name: &str, workload: Workload, generation: Generation) {
        let kind = workload.kind.clone();
        if generation.observed < generation.wanted {
            self.error(
                name,
                name,
                format!("{kind} {name} was changed a moment ago, and its controller has not seen it yet"),
            );
        } else if workload.desired == 0 {
            self.error(
                name,
                name,
                format!("{kind} {name} wants no pods: there is no node for it"),
            );
        } else if workload.ready < workload.desired {
            let missing = workload.desired - workload.ready;
            self.error(
                name,
                name,
                format!("{missing} pods of {kind} {name} are not ready"),
            );
        } else if workload.available < workload.desired {
            let missing = workload.desired - workload.available;
            self.error(
                name,
                name,
                format!("{missing} pods of {kind} {name} are not available"),
            );
        }
        if generation.updated < workload.desired && generation.observed >= generation.wanted {
            let old = workload.desired - generation.updated;
            self.warning(
                name,
                name,
                format!("{old} pods of {kind} {name} still have to be replaced by updated ones"),
            );
        }
        self.pod_state.insert(name.to_owned(), workload);
    }

    /// Takes in what an agent says of itself.
    pub(crate) fn add_agent(&mut self, pod: &str, status: StatusResponse) {
        let parts = [
            ("Cilium", status.cilium.state, &status.cilium.msg),
            ("Kubernetes", status.kubernetes.state, &status.kubernetes.msg),
            ("KVStore", status.kvstore.state, &status.kvstore.msg),
            ("CNI Config file", status.cni_file.state, &status.cni_file.msg),
            (
                "Cilium health daemon",
                status.cluster.cilium_health.state,
                &status.cluster.cilium_health.msg,
            ),
            ("Hubble", status.hubble.state, &status.hubble.msg),
        ];
        for (part, state, message) in parts {
            let text = format!("{part}: {message}");
            match state {
                State::Failure => self.error("cilium", pod, text),
                State::Warning => self.warning("cilium", pod, text),
                State::Ok | State::Disabled => {}
            }
        }
        if status.cilium.state == State::Disabled {
            self.error("cilium", pod, "the agent does not say how it is");
        }
        for controller in &status.controllers {
            let counts = &controller.status;
            if counts.consecutive_failure_count > 0 {
                self.error(
                    "cilium",
                    pod,
                    format!(
                        "controller {} failed {} times in a row: {}",
                        controller.name, counts.consecutive_failure_count, counts.last_failure_msg
                    ),
                );
            }
        }
        for (probe, since) in &status.stale {
            self.warning("cilium", pod, format!("status of {probe} is stale since {since}"));
        }
        self.cilium_status.insert(pod.to_owned(), status);
    }

    /// How packets travel, as the agents measured it: the wording, and how many agents say so.
    pub(crate) fn datapaths(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for status in self.cilium_status.values() {
            let words = [
                ("Network", &status.routing.inter_host_routing_mode),
                ("Host", &status.routing.intra_host_routing_mode),
                ("Attach", &status.attach_mode),
                ("Device", &status.datapath_mode),
            ];
            let text: Vec<_> = words
                .iter()
                .filter(|(_, word)| !word.is_empty())
                .map(|(name, word)| format!("{name} {word}"))
                .collect();
            if !text.is_empty() {
                *counts.entry(text.join(", ")).or_insert(0) += 1;
            }
        }
        counts
    }
}

/// Why a container does not run, in one line; nothing when it does, or when it is about to.
pub(crate) fn container(status: &ContainerStatus) -> Option<String> {
    let waiting = status.state.as_ref().and_then(|state| state.waiting.as_ref());
    let reason = waiting
        .and_then(|waiting| waiting.reason.as_deref())
        .unwrap_or_default();
    let message = waiting
        .and_then(|waiting| waiting.message.as_deref())
        .unwrap_or_default();
    let ended = [&status.state, &status.last_state]
        .into_iter()
        .find_map(|state| state.as_ref()?.terminated.as_ref())
        .filter(|ended| ended.exit_code != 0 && !status.ready);
    let name = &status.name;
    match (reason, ended) {
        // The kubelet's words about a crash only repeat that there was one: what the program said last tells more.
        (_, Some(ended)) => {
            let last = ended
                .message
                .as_deref()
                .and_then(last_line)
                .unwrap_or("it said nothing");
            Some(format!("container {name} ended with {}: {last}", ended.exit_code))
        }
        ("" | "ContainerCreating" | "PodInitializing", None) => None,
        (reason, None) => Some(
            format!("container {name} waits: {reason} {message}")
                .trim_end()
                .to_owned(),
        ),
    }
}

fn last_line(text: &str) -> Option<&str> {
    text.lines().map(str::trim).rfind(|line| !line.is_empty())
}

/// How far a controller is with a workload.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Generation {
    /// The newest one.
    pub(crate) wanted: i64,
    /// The one the controller acted on.
    pub(crate) observed: i64,
    /// Pods that are of the newest one.
    pub(crate) updated: i32,
}

#[cfg(test)]
mod tests;
