//! Paths of the API.

use percent_encoding::percent_decode_str;

use crate::status::Status;

/// What a path means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Health,
    Version,
    /// `/`
    Root,
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/GROUP`
    Group(String),
    /// `/api/v1` (empty group) or `/apis/GROUP/VERSION`
    Resources(String, String),
    /// What follows `/openapi/`.
    OpenApi(String),
    /// A question that is answered but not stored.
    Review {
        group: String,
        version: String,
        plural: String,
    },
    Resource(Place),
}

/// A resource, an object or a part of one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: Option<String>,
    pub(crate) plural: String,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

/// Reads a path. Errors: 404 for what no server has, 400 for broken escapes.
pub(crate) fn parse(path: &str) -> Result<Route, Status> {
    let steps: Vec<String> = path
        .split('/')
        .filter(|s| !s.is_empty())
        .map(|s| {
            percent_decode_str(s)
                .decode_utf8()
                .map(std::borrow::Cow::into_owned)
        })
        .collect::<Result<_, _>>()
        .map_err(|_| Status::bad_request("the path is not UTF-8"))?;
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    Ok(match steps.as_slice() {
        [] => Route::Root,
        ["healthz" | "livez" | "readyz", ..] => Route::Health,
        ["version"] => Route::Version,
        ["api"] => Route::CoreVersions,
        ["apis"] => Route::Groups,
        ["apis", group] => Route::Group((*group).into()),
        ["api", version] => Route::Resources(String::new(), (*version).into()),
        ["apis", group, version] => Route::Resources((*group).into(), (*version).into()),
        ["openapi", rest @ ..] => Route::OpenApi(rest.join("/")),
        ["api", version, rest @ ..] => place("", version, rest)?,
        ["apis", group, version, rest @ ..] => place(group, version, rest)?,
        _ => return Err(Status::no_such_path()),
    })
}

fn place(group: &str, version: &str, rest: &[&str]) -> Result<Route, Status> {
    let base = Place {
        group: group.into(),
        version: version.into(),
        ..Place::default()
    };
    let (namespace, rest) = match rest {
        // `namespaces/x/status` is about the namespace, `namespaces/x/pods` is inside it.
        ["namespaces", name, "status" | "finalize"] if group.is_empty() => {
            (None, vec!["namespaces", *name, rest[2]])
        }
        ["namespaces", namespace, tail @ ..] if !tail.is_empty() => {
            (Some((*namespace).to_owned()), tail.to_vec())
        }
        _ => (None, rest.to_vec()),
    };
    let text = |s: &str| Some(s.to_owned());
    if matches!(group, "authentication.k8s.io" | "authorization.k8s.io") {
        return match rest.as_slice() {
            [plural] => Ok(Route::Review {
                group: group.into(),
                version: version.into(),
                plural: (*plural).into(),
            }),
            _ => Err(Status::no_such_path()),
        };
    }
    Ok(Route::Resource(match rest.as_slice() {
        [plural] => Place {
            namespace,
            plural: (*plural).into(),
            ..base
        },
        [plural, name] => Place {
            namespace,
            plural: (*plural).into(),
            name: text(name),
            ..base
        },
        [plural, name, part] => Place {
            namespace,
            plural: (*plural).into(),
            name: text(name),
            subresource: text(part),
            ..base
        },
        _ => return Err(Status::no_such_path()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        type Row = (
            &'static str,
            Option<&'static str>,
            &'static str,
            Option<&'static str>,
            Option<&'static str>,
        );
        let rows: &[Row] = &[
            ("/api/v1/pods", None, "pods", None, None),
            ("/api/v1/namespaces", None, "namespaces", None, None),
            ("/api/v1/namespaces/a", None, "namespaces", Some("a"), None),
            (
                "/api/v1/namespaces/a/finalize",
                None,
                "namespaces",
                Some("a"),
                Some("finalize"),
            ),
            ("/api/v1/namespaces/a/pods", Some("a"), "pods", None, None),
            (
                "/api/v1/namespaces/a/pods/b/log",
                Some("a"),
                "pods",
                Some("b"),
                Some("log"),
            ),
            (
                "/apis/apps/v1/namespaces/a/deployments/b%3Ac",
                Some("a"),
                "deployments",
                Some("b:c"),
                None,
            ),
        ];
        for (path, namespace, plural, name, part) in rows {
            let Ok(Route::Resource(place)) = parse(path) else {
                panic!("{path}")
            };
            assert_eq!(place.namespace.as_deref(), *namespace, "{path}");
            assert_eq!(place.plural, *plural, "{path}");
            assert_eq!(place.name.as_deref(), *name, "{path}");
            assert_eq!(place.subresource.as_deref(), *part, "{path}");
        }
    }

    #[test]
    fn nonsense_is_not_found() {
        for path in ["/foo", "/apis/a/b/c/d/e/f/g/h", "/metrics"] {
            assert_eq!(parse(path).err().map(|s| s.code), Some(404), "{path}");
        }
        assert_eq!(parse("/api/v1/%ff").err().map(|s| s.code), Some(400));
    }
}
