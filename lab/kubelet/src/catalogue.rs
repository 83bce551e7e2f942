//! Images without a registry: which program of this machine stands for which image name.
//!
//! Every container's root is an overlay of the machine's own root, so an image is only a set of defaults (what to start, as
//! whom) and a few files laid over it. More can be given in a file (`--image-catalogue`), YAML or JSON, of this form:
//!
//! ```yaml
//! - names: [docker.io/library/redis]     # without tag; short names are completed as Docker does
//!   requires: [/usr/bin/redis-server]    # must be on the machine, or pulling fails
//!   entrypoint: [/usr/bin/redis-server]
//!   cmd: ["--protected-mode", "no"]
//!   env: {LANG: C.UTF-8}
//!   user: "0"
//!   working_dir: /
//!   files: {/etc/motd: "hello\n"}
//!   links: {/usr/bin/redis: redis-server}
//!   binds: {/usr/local/bin/tool: /opt/tool}   # path in the container: path on the machine
//! ```

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// What is known about an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Image {
    /// Full names without tag.
    pub(crate) names: Vec<String>,
    #[serde(default)]
    pub(crate) requires: Vec<PathBuf>,
    #[serde(default)]
    pub(crate) entrypoint: Vec<String>,
    #[serde(default)]
    pub(crate) cmd: Vec<String>,
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    /// `uid` or `uid:gid`; empty is root.
    #[serde(default)]
    pub(crate) user: String,
    #[serde(default)]
    pub(crate) working_dir: String,
    /// Path in the container to content.
    #[serde(default)]
    pub(crate) files: BTreeMap<String, String>,
    /// Path in the container to target.
    #[serde(default)]
    pub(crate) links: BTreeMap<String, String>,
    /// Path in the container to path on the machine.
    #[serde(default)]
    pub(crate) binds: BTreeMap<String, PathBuf>,
}

/// All known images.
#[derive(Debug, Clone)]
pub(crate) struct Catalogue {
    images: Vec<Image>,
}

/// Why an image cannot be had. The text goes into events and statuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PullError {
    #[error(
        "failed to resolve image \"{0}\": the lab has no registry, it maps image names to programs of this machine, and \
         this name is in neither the built-in catalogue ({1}) nor a file given by `seta lab up --image-catalogue`: add an entry \
         there (form: docs/lab.md)"
    )]
    Unknown(String, String),
    #[error(
        "failed to prepare image \"{image}\": it stands for a program of this machine, and {program} is missing: install it, \
         or give another entry for the image by `seta lab up --image-catalogue`"
    )]
    Missing { image: String, program: String },
    #[error("couldn't parse image name \"{0}\": invalid reference format")]
    Invalid(String),
}

/// Why the catalogue file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CatalogueError {
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] std::io::Error),
    #[error("{0} is not a list of images: {1}")]
    Parse(PathBuf, String),
}

impl Catalogue {
    /// The built-in images, and those of the file, which win.
    pub(crate) fn new(seta: &Path, file: Option<&Path>) -> Result<Self, CatalogueError> {
        let mut images = Vec::new();
        if let Some(file) = file {
            let text = std::fs::read_to_string(file)
                .map_err(|error| CatalogueError::Read(file.to_owned(), error))?;
            let read: Vec<Image> = serde_saphyr::from_str(&text)
                .map_err(|error| CatalogueError::Parse(file.to_owned(), error.to_string()))?;
            images.extend(read);
        }
        images.extend(built_in(seta));
        for name in images.iter_mut().flat_map(|image| &mut image.names) {
            if let Some(full) = normalise(name) {
                *name = full;
            }
        }
        Ok(Self { images })
    }

    /// What an image name stands for, if the machine has it.
    pub(crate) fn pull(&self, reference: &str) -> Result<&Image, PullError> {
        let name = normalise(reference).ok_or_else(|| PullError::Invalid(reference.to_owned()))?;
        let Some(image) = self.images.iter().find(|image| image.names.contains(&name)) else {
            let known = self.images.iter().filter_map(|image| image.names.first());
            let known = known.map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(PullError::Unknown(reference.to_owned(), known));
        };
        match image.requires.iter().find(|path| !path.exists()) {
            Some(missing) => Err(PullError::Missing {
                image: reference.to_owned(),
                program: missing.display().to_string(),
            }),
            None => Ok(image),
        }
    }
}

/// The full name of an image without tag and digest, as Docker completes it; `None` for what cannot be a name.
pub(crate) fn normalise(reference: &str) -> Option<String> {
    let name = reference.split_once('@').map_or(reference, |(name, _)| name);
    let name = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:[]".contains(c);
    if name.is_empty() || !name.chars().all(allowed) || name.split('/').any(str::is_empty) {
        return None;
    }
    Some(match name.split_once('/') {
        None => format!("docker.io/library/{name}"),
        Some(("docker.io" | "index.docker.io", path)) if !path.contains('/') => {
            format!("docker.io/library/{path}")
        }
        Some(("index.docker.io", path)) => format!("docker.io/{path}"),
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
    })
}

fn built_in(seta: &Path) -> Vec<Image> {
    let strings = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let image = |names: &[&str]| Image {
        names: strings(names),
        ..Image::default()
    };
    let links = [
        "cilium-agent",
        "cilium-operator",
        "cilium-operator-generic",
        "cilium",
        "cilium-dbg",
        "cilium-cni",
        "hubble",
    ];
    vec![
        Image {
            requires: vec!["/usr/sbin/nginx".into()],
            entrypoint: strings(&["/usr/sbin/nginx"]),
            cmd: strings(&["-g", "daemon off;"]),
            files: [
                ("/etc/nginx/nginx.conf", NGINX_CONF),
                ("/etc/nginx/conf.d/default.conf", NGINX_DEFAULT_CONF),
                ("/usr/share/nginx/html/index.html", NGINX_INDEX),
            ]
            .map(|(path, text)| (path.to_owned(), text.to_owned()))
            .into(),
            ..image(&["nginx"])
        },
        Image {
            requires: vec!["/usr/bin/curl".into()],
            // As the image's own entry point: options and unknown words are arguments of curl.
            entrypoint: strings(&[
                "/bin/sh",
                "-c",
                "case \"$1\" in -*) set -- curl \"$@\";; *) command -v \"$1\" >/dev/null || set -- curl \"$@\";; esac; exec \"$@\"",
                "curl-entrypoint",
            ]),
            cmd: strings(&["curl"]),
            ..image(&["curlimages/curl", "quay.io/curl/curl"])
        },
        Image {
            requires: vec!["/bin/sh".into()],
            cmd: strings(&["sh"]),
            ..image(&[
                "busybox",
                "alpine",
                "debian",
                "ubuntu",
                "registry.k8s.io/e2e-test-images/busybox",
            ])
        },
        Image {
            requires: vec!["/usr/bin/netserver".into(), "/usr/bin/netperf".into()],
            cmd: strings(&["/usr/bin/netserver", "-D"]),
            ..image(&["cilium/netperf", "quay.io/cilium/netperf"])
        },
        Image {
            requires: vec!["/bin/sh".into()],
            entrypoint: strings(&[
                "/bin/sh",
                "-c",
                "trap 'exit 0' TERM INT; while :; do sleep 86400 & wait $!; done",
            ]),
            ..image(&["registry.k8s.io/pause"])
        },
        Image {
            requires: vec![seta.to_owned()],
            entrypoint: strings(&["/usr/bin/seta"]),
            binds: [("/usr/bin/seta".to_owned(), seta.to_owned())].into(),
            links: links
                .map(|name| (format!("/usr/bin/{name}"), "seta".to_owned()))
                .into(),
            ..image(&["ghcr.io/seta/seta"])
        },
        // In CoreDNS's place, our own: see `lab_dns`.
        Image {
            requires: vec![seta.to_owned()],
            entrypoint: strings(&["/usr/bin/seta", "lab", "dns"]),
            binds: [("/usr/bin/seta".to_owned(), seta.to_owned())].into(),
            ..image(&["registry.k8s.io/coredns/coredns", "coredns/coredns"])
        },
    ]
}

const NGINX_CONF: &str = "\
user www-data;
worker_processes 1;
error_log /dev/stderr notice;
pid /run/nginx.pid;
events { worker_connections 1024; }
http {
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log /dev/stdout combined;
    sendfile on;
    keepalive_timeout 65;
    include /etc/nginx/conf.d/*.conf;
}
";

const NGINX_DEFAULT_CONF: &str = "\
server {
    listen 80;
    listen [::]:80;
    server_name localhost;
    location / {
        root /usr/share/nginx/html;
        index index.html index.htm;
    }
}
";

const NGINX_INDEX: &str = "\
<!DOCTYPE html>
<html>
<head><title>Welcome to nginx!</title></head>
<body><h1>Welcome to nginx!</h1><p>Served by a pod of a Seta lab.</p></body>
</html>
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_docker_does() {
        let rows = [
            ("nginx", Some("docker.io/library/nginx")),
            ("nginx:1.27", Some("docker.io/library/nginx")),
            ("docker.io/nginx", Some("docker.io/library/nginx")),
            (
                "docker.io/library/nginx@sha256:0123",
                Some("docker.io/library/nginx"),
            ),
            ("curlimages/curl:latest", Some("docker.io/curlimages/curl")),
            ("localhost:5000/a/b:v1", Some("localhost:5000/a/b")),
            ("ghcr.io/seta/seta:v0.1.0", Some("ghcr.io/seta/seta")),
            ("", None),
            ("a//b", None),
            ("not a name", None),
        ];
        for (reference, expected) in rows {
            assert_eq!(normalise(reference).as_deref(), expected, "{reference:?}");
        }
    }

    #[test]
    fn unknown_and_missing_say_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("images.yaml");
        std::fs::write(
            &file,
            "- names: [mine]\n  requires: [/no/such/program]\n- names: [nginx]\n  cmd: [other]\n",
        )
        .unwrap();
        let catalogue = Catalogue::new(Path::new("/bin/sh"), Some(&file)).unwrap();
        assert!(
            catalogue
                .pull("redis:7")
                .unwrap_err()
                .to_string()
                .contains("--image-catalogue")
        );
        assert!(
            catalogue
                .pull("mine")
                .unwrap_err()
                .to_string()
                .contains("/no/such/program is missing")
        );
        assert_eq!(
            catalogue.pull("nginx:latest").unwrap().cmd,
            ["other"],
            "the file wins"
        );
        assert_eq!(
            catalogue.pull("ghcr.io/seta/seta:v9").unwrap().links["/usr/bin/cilium-agent"],
            "seta"
        );
        std::fs::write(&file, "- nmaes: [x]\n").unwrap();
        assert!(matches!(
            Catalogue::new(Path::new("/"), Some(&file)),
            Err(CatalogueError::Parse(..))
        ));
    }
}
