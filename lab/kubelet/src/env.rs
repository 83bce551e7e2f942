//! Environment variables of containers: `$(VAR)` expansion (pure) and references to the pod, ConfigMaps and Secrets.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod, Service};

use crate::{
    downward,
    sources::{SourceError, Sources},
};

/// Variables in the order they are set; a later one of the same name replaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Env(Vec<(String, String)>);

impl Env {
    pub(crate) fn set(&mut self, name: &str, value: String) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// Replaces `$(NAME)` by values set so far. `$$` is a dollar; an unknown name stays as it is written.
    pub(crate) fn expand(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            out.push_str(before);
            rest = after;
            if let Some(after) = rest.strip_prefix('$') {
                out.push('$');
                rest = after;
            } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
                match self.get(name) {
                    Some(value) => out.push_str(value),
                    None => {
                        out.push_str("$(");
                        out.push_str(name);
                        out.push(')');
                    }
                }
                rest = after;
            } else {
                out.push('$');
            }
        }
        out.push_str(rest);
        out
    }

    pub(crate) fn into_pairs(self) -> Vec<(String, String)> {
        self.0
    }
}

/// Why a container's environment cannot be made: the container waits with CreateContainerConfigError.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey {
        kind: &'static str,
        namespace: String,
        name: String,
        key: String,
    },
    #[error("{0} is not a field of pods that is offered")]
    Field(String),
}

/// The variables of a container beyond those of its image, in the kubelet's order: services, envFrom, env.
pub(crate) async fn resolve(
    base: Env,
    pod: &Pod,
    container: &Container,
    services: Env,
    sources: &Sources,
) -> Result<Env, EnvError> {
    let mut env = base;
    for (name, value) in services.into_pairs() {
        env.set(&name, value);
    }
    for from in container.env_from.as_deref().unwrap_or_default() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let mut all: BTreeMap<String, String> = BTreeMap::new();
        if let Some(reference) = &from.config_map_ref {
            let found = sources
                .config_map(&reference.name, reference.optional == Some(true))
                .await?;
            all.extend(found.unwrap_or_default().into_iter().filter_map(text));
        }
        if let Some(reference) = &from.secret_ref {
            let found = sources
                .secret(&reference.name, reference.optional == Some(true))
                .await?;
            all.extend(found.unwrap_or_default().into_iter().filter_map(text));
        }
        for (name, value) in all {
            env.set(&format!("{prefix}{name}"), value);
        }
    }
    for variable in container.env.as_deref().unwrap_or_default() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) => Some(env.expand(value)),
            (None, Some(from)) => from_source(pod, container, from, sources).await?,
            (None, None) => Some(String::new()),
        };
        if let Some(value) = value {
            env.set(&variable.name, value);
        }
    }
    Ok(env)
}

fn text((key, value): (String, Vec<u8>)) -> Option<(String, String)> {
    Some((key, String::from_utf8(value).ok()?))
}

async fn from_source(
    pod: &Pod,
    container: &Container,
    from: &EnvVarSource,
    sources: &Sources,
) -> Result<Option<String>, EnvError> {
    if let Some(field) = &from.field_ref {
        let value = downward::field(pod, &field.field_path);
        return value
            .map(Some)
            .ok_or_else(|| EnvError::Field(field.field_path.clone()));
    }
    if let Some(reference) = &from.resource_field_ref {
        let value = downward::resource(pod, Some(container), reference);
        return value
            .map(Some)
            .ok_or_else(|| EnvError::Field(reference.resource.clone()));
    }
    let (kind, name, key, optional, content) = if let Some(reference) = &from.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let content = sources.config_map(&reference.name, optional).await?;
        ("ConfigMap", &reference.name, &reference.key, optional, content)
    } else if let Some(reference) = &from.secret_key_ref {
        let optional = reference.optional == Some(true);
        let content = sources.secret(&reference.name, optional).await?;
        ("Secret", &reference.name, &reference.key, optional, content)
    } else {
        return Ok(None);
    };
    match content.and_then(|mut content| content.remove(key)) {
        Some(value) => Ok(Some(String::from_utf8_lossy(&value).into_owned())),
        None if optional => Ok(None),
        None => Err(EnvError::NoKey {
            kind,
            namespace: sources.namespace().to_owned(),
            name: name.clone(),
            key: key.clone(),
        }),
    }
}

/// `KUBERNETES_SERVICE_HOST` and its like for a service, in the two forms the kubelet knows.
pub(crate) fn of_service(service: &Service, env: &mut Env) {
    let Some(spec) = &service.spec else { return };
    let Some(host) = spec
        .cluster_ip
        .as_deref()
        .filter(|ip| !ip.is_empty() && *ip != "None")
    else {
        return;
    };
    let Some(ports) = spec.ports.as_deref().filter(|ports| !ports.is_empty()) else {
        return;
    };
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let list = ports
        .iter()
        .map(|port| (port.name.as_deref(), port.protocol.as_deref(), port.port))
        .collect::<Vec<_>>();
    of_address(name, host, &list, env);
}

/// The variables of a service at `host`; ports as (name, protocol, number).
pub(crate) fn of_address(name: &str, host: &str, ports: &[(Option<&str>, Option<&str>, i32)], env: &mut Env) {
    let upper = |text: &str| text.to_ascii_uppercase().replace('-', "_");
    let name = upper(name);
    // The kubelet joins host and port as Go does: IPv6 in brackets.
    let joined = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    env.set(&format!("{name}_SERVICE_HOST"), host.to_owned());
    for (index, (port_name, protocol, port)) in ports.iter().enumerate() {
        let protocol = protocol.unwrap_or("TCP");
        let lower = protocol.to_ascii_lowercase();
        if index == 0 {
            env.set(&format!("{name}_SERVICE_PORT"), port.to_string());
            env.set(&format!("{name}_PORT"), format!("{lower}://{joined}:{port}"));
        }
        if let Some(port_name) = port_name {
            env.set(
                &format!("{name}_SERVICE_PORT_{}", upper(port_name)),
                port.to_string(),
            );
        }
        let prefix = format!("{name}_PORT_{port}_{}", upper(protocol));
        env.set(&prefix, format!("{lower}://{joined}:{port}"));
        env.set(&format!("{prefix}_PROTO"), lower);
        env.set(&format!("{prefix}_PORT"), port.to_string());
        env.set(&format!("{prefix}_ADDR"), host.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn expansion_rows() {
        let mut env = Env::default();
        env.set("A", "1".to_owned());
        env.set("B", "$(A)".to_owned());
        let rows = [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(NONE)", "$(NONE)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A", "$A"),
            ("$", "$"),
            ("$(A", "$(A"),
            ("$(B)", "$(A)"),
            ("", ""),
            ("100%$", "100%$"),
        ];
        for (text, expected) in rows {
            assert_eq!(env.expand(text), expected, "{text:?}");
        }
    }

    #[test]
    fn services_as_the_kubelet_names_them() {
        let mut env = Env::default();
        of_address("my-db", "fd00::1", &[(Some("https"), None, 443)], &mut env);
        assert_eq!(env.get("MY_DB_SERVICE_HOST"), Some("fd00::1"));
        assert_eq!(env.get("MY_DB_SERVICE_PORT_HTTPS"), Some("443"));
        assert_eq!(env.get("MY_DB_PORT"), Some("tcp://[fd00::1]:443"));
        assert_eq!(env.get("MY_DB_PORT_443_TCP_ADDR"), Some("fd00::1"));
    }

    proptest! {
        #[test]
        fn text_without_dollars_stays(text in "[^$]*") {
            prop_assert_eq!(Env::default().expand(&text), text);
        }

        #[test]
        fn any_text_is_expanded(text: String) {
            let _ = Env::default().expand(&text);
        }
    }
}
