//! What to do next for a pod's containers, and which phase the pod is in: pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::state::{Current, PodState, Unit};

/// The next steps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Plan {
    /// Containers to start now, in this order.
    pub(crate) start: Vec<String>,
    /// When to look again, if nothing happens before.
    pub(crate) wake: Option<Timestamp>,
    /// All init containers are done and all sidecars have started.
    pub(crate) initialized: bool,
}

/// The phase of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

/// Init containers that stay.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Whether a container that ended with this code is started again.
pub(crate) fn is_restarted(spec: &PodSpec, init: Option<&Container>, code: i32) -> bool {
    match (init, spec.restart_policy.as_deref().unwrap_or("Always")) {
        (Some(container), _) if is_sidecar(container) => true,
        (Some(_), "Never") => false,
        (Some(_), _) => code != 0,
        (None, "Always") => true,
        (None, "OnFailure") => code != 0,
        (None, _) => false,
    }
}

/// The next steps of a pod that is not being deleted.
pub(crate) fn next(spec: &PodSpec, state: &PodState, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    // Once an app container has run, init containers are history.
    let apps_ran = spec.containers.iter().any(|app| {
        state
            .units
            .get(&app.name)
            .is_some_and(|unit| unit.attempt.is_some())
    });
    for init in inits {
        let unit = state.units.get(&init.name);
        if apps_ran && !is_sidecar(init) {
            continue;
        }
        match standing(unit) {
            Standing::Running if is_sidecar(init) && unit.is_some_and(|unit| unit.started) => {}
            Standing::Running if apps_ran => {}
            Standing::Running => return plan,
            Standing::Ended(0) if !is_sidecar(init) => {}
            Standing::Ended(code) if !is_restarted(spec, Some(init), code) => return plan,
            Standing::Ended(_) | Standing::New => {
                start_or_hold(&mut plan, &init.name, unit, now);
                if !apps_ran {
                    return plan;
                }
            }
        }
    }
    plan.initialized = true;
    for app in &spec.containers {
        let unit = state.units.get(&app.name);
        match standing(unit) {
            Standing::Running => {}
            Standing::Ended(code) if !is_restarted(spec, None, code) => {}
            Standing::Ended(_) | Standing::New => start_or_hold(&mut plan, &app.name, unit, now),
        }
    }
    // Nothing of a pod that is over is started again, sidecars neither.
    if matches!(phase(spec, state), Phase::Succeeded | Phase::Failed) {
        plan.start.clear();
        plan.wake = None;
    }
    plan
}

/// The phase of a pod.
pub(crate) fn phase(spec: &PodSpec, state: &PodState) -> Phase {
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    let apps = spec
        .containers
        .iter()
        .map(|app| standing(state.units.get(&app.name)))
        .collect::<Vec<_>>();
    let apps_ran = apps.iter().any(|app| *app != Standing::New);
    if !apps_ran {
        for init in inits.iter().filter(|init| !is_sidecar(init)) {
            if let Standing::Ended(code) = standing(state.units.get(&init.name))
                && code != 0
                && !is_restarted(spec, Some(init), code)
            {
                return Phase::Failed;
            }
        }
        return Phase::Pending;
    }
    let over = |app: &Standing| matches!(app, Standing::Ended(code) if !is_restarted(spec, None, *code));
    if !apps.iter().all(over) {
        return match apps.contains(&Standing::New) {
            true => Phase::Pending,
            false => Phase::Running,
        };
    }
    match apps.iter().all(|app| *app == Standing::Ended(0)) {
        true => Phase::Succeeded,
        false => Phase::Failed,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    New,
    Running,
    Ended(i32),
}

fn standing(unit: Option<&Unit>) -> Standing {
    let Some(unit) = unit else { return Standing::New };
    match (&unit.current, unit.ended()) {
        (Current::Running { .. }, _) => Standing::Running,
        (_, Some(ended)) => Standing::Ended(ended.exit.code),
        (_, None) => Standing::New,
    }
}

fn start_or_hold(plan: &mut Plan, name: &str, unit: Option<&Unit>, now: Timestamp) {
    match unit.and_then(|unit| unit.hold_until).filter(|until| *until > now) {
        Some(until) => plan.wake = Some(plan.wake.map_or(until, |wake| wake.min(until))),
        None => plan.start.push(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{pod::state::Ended, shim::Exit};
    use serde_json::json;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn unit(what: &str) -> Unit {
        let mut unit = Unit {
            attempt: Some(0),
            started: true,
            ..Unit::default()
        };
        let ended = |code| Ended {
            id: "x".to_owned(),
            started_at: at(0),
            exit: Exit {
                code,
                signal: None,
                finished_at: at(1),
            },
            reason: String::new(),
            message: None,
        };
        match what {
            "run" => {
                unit.current = Current::Running {
                    id: "x".to_owned(),
                    at: at(0),
                }
            }
            "hold" => {
                unit.last = Some(ended(1));
                unit.hold_until = Some(at(100));
            }
            code => unit.current = Current::Ended(ended(code.parse().unwrap())),
        }
        unit
    }

    /// Pods of init containers i, j, a sidecar s, and apps a, b, as far as they are named in `units`.
    fn plan(
        policy: &str,
        inits: &str,
        apps: &str,
        units: &[(&str, &str)],
        now: i64,
    ) -> (Vec<String>, bool, Phase) {
        let container = |name: char| match name {
            's' => json!({"name": "s", "restartPolicy": "Always"}),
            name => json!({"name": name.to_string()}),
        };
        let spec: PodSpec = serde_json::from_value(json!({
            "restartPolicy": policy,
            "initContainers": inits.chars().map(container).collect::<Vec<_>>(),
            "containers": apps.chars().map(container).collect::<Vec<_>>(),
        }))
        .unwrap();
        let units = units
            .iter()
            .map(|(name, what)| ((*name).to_owned(), unit(what)))
            .collect();
        let state = PodState {
            units,
            ..PodState::default()
        };
        let plan = next(&spec, &state, at(now));
        (plan.start, plan.wake.is_some(), phase(&spec, &state))
    }

    #[test]
    fn rows() {
        use Phase::{Failed, Pending, Running, Succeeded};
        type Row<'a> = (
            &'a str,
            &'a str,
            &'a str,
            &'a [(&'a str, &'a str)],
            &'a [&'a str],
            bool,
            Phase,
        );
        let rows: &[Row<'_>] = &[
            ("Always", "", "ab", &[], &["a", "b"], false, Pending),
            (
                "Always",
                "",
                "ab",
                &[("a", "run"), ("b", "run")],
                &[],
                false,
                Running,
            ),
            ("Always", "", "a", &[("a", "0")], &["a"], false, Running),
            ("Always", "", "a", &[("a", "hold")], &[], true, Running),
            ("OnFailure", "", "a", &[("a", "0")], &[], false, Succeeded),
            ("OnFailure", "", "a", &[("a", "3")], &["a"], false, Running),
            (
                "Never",
                "",
                "ab",
                &[("a", "3"), ("b", "run")],
                &[],
                false,
                Running,
            ),
            ("Never", "", "ab", &[("a", "3"), ("b", "0")], &[], false, Failed),
            ("Always", "ij", "a", &[], &["i"], false, Pending),
            ("Always", "ij", "a", &[("i", "run")], &[], false, Pending),
            ("Always", "ij", "a", &[("i", "0")], &["j"], false, Pending),
            (
                "Always",
                "ij",
                "a",
                &[("i", "0"), ("j", "0")],
                &["a"],
                false,
                Pending,
            ),
            ("Always", "ij", "a", &[("i", "hold")], &[], true, Pending),
            ("Never", "ij", "a", &[("i", "1")], &[], false, Failed),
            ("Always", "si", "a", &[], &["s"], false, Pending),
            ("Always", "si", "a", &[("s", "run")], &["i"], false, Pending),
            (
                "Always",
                "s",
                "a",
                &[("s", "0"), ("a", "run")],
                &["s"],
                false,
                Running,
            ),
            (
                "Never",
                "s",
                "a",
                &[("s", "run"), ("a", "0")],
                &[],
                false,
                Succeeded,
            ),
        ];
        for (policy, inits, apps, units, start, wake, phase) in rows {
            let got = plan(policy, inits, apps, units, 50);
            assert_eq!(
                got,
                (
                    start.iter().map(|name| (*name).to_owned()).collect(),
                    *wake,
                    *phase
                ),
                "{policy} {inits} {apps} {units:?}"
            );
        }
        assert_eq!(
            plan("Always", "", "a", &[("a", "hold")], 100).0,
            ["a"],
            "the hold is over"
        );
    }
}
