//! The OCI runtime configuration of one container: pure.

use serde_json::{Value, json};

/// What a container is given, after everything of the pod has been resolved.
#[derive(Debug, Clone, Default)]
pub(crate) struct Blueprint {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) cwd: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) terminal: bool,
    pub(crate) rootfs: String,
    pub(crate) read_only: bool,
    pub(crate) privileged: bool,
    pub(crate) no_new_privileges: bool,
    pub(crate) add_capabilities: Vec<String>,
    pub(crate) drop_capabilities: Vec<String>,
    /// Capabilities that this process may not hand on, as bits: the runtime would fail on them.
    pub(crate) denied_capabilities: u64,
    pub(crate) hostname: String,
    /// The pod's network namespace; `None` is the node's.
    pub(crate) netns: Option<String>,
    pub(crate) host_pid: bool,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) sysctls: Vec<(String, String)>,
    pub(crate) oom_score_adj: i32,
}

/// A bind mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) destination: String,
    pub(crate) source: String,
    pub(crate) read_only: bool,
    pub(crate) propagation: Propagation,
}

/// How mounts made under a volume travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Propagation {
    /// Not at all.
    #[default]
    None,
    /// From the node into the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// What containerd leaves a container that asks for nothing.
const DEFAULT_CAPABILITIES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// All of Linux 6.18 (capability.h), in the order of their numbers.
const ALL_CAPABILITIES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The content of `config.json`.
pub(crate) fn config(blueprint: &Blueprint) -> Value {
    let capabilities = capabilities(blueprint);
    // Without root only the bounding set remains, as after any exec of another user.
    let effective = if blueprint.uid == 0 {
        capabilities.clone()
    } else {
        Vec::new()
    };
    let mut namespaces = vec![
        json!({"type": "mount"}),
        json!({"type": "ipc"}),
        json!({"type": "uts"}),
    ];
    if !blueprint.host_pid {
        namespaces.push(json!({"type": "pid"}));
    }
    if let Some(path) = &blueprint.netns {
        namespaces.push(json!({"type": "network", "path": path}));
    }
    let env = blueprint
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect::<Vec<_>>();
    let (masked, read_only) = match blueprint.privileged {
        true => (json!([]), json!([])),
        false => (
            json!([
                "/proc/acpi",
                "/proc/asound",
                "/proc/kcore",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/proc/sched_debug",
                "/proc/scsi",
                "/sys/firmware"
            ]),
            json!([
                "/proc/bus",
                "/proc/fs",
                "/proc/irq",
                "/proc/sys",
                "/proc/sysrq-trigger"
            ]),
        ),
    };
    let sysctls: serde_json::Map<String, Value> = blueprint
        .sysctls
        .iter()
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": blueprint.terminal,
            "user": {"uid": blueprint.uid, "gid": blueprint.gid, "additionalGids": blueprint.groups},
            "args": blueprint.args,
            "env": env,
            "cwd": blueprint.cwd,
            "capabilities": {
                "bounding": capabilities, "effective": effective, "permitted": effective,
            },
            "noNewPrivileges": blueprint.no_new_privileges,
            "oomScoreAdj": blueprint.oom_score_adj,
        },
        "root": {"path": blueprint.rootfs, "readonly": blueprint.read_only},
        "hostname": blueprint.hostname,
        "mounts": mounts(blueprint),
        "linux": {
            "namespaces": namespaces,
            "rootfsPropagation": root_propagation(&blueprint.mounts),
            "devices": devices(blueprint.privileged),
            "maskedPaths": masked,
            "readonlyPaths": read_only,
            "sysctl": sysctls,
        },
    })
}

fn capabilities(blueprint: &Blueprint) -> Vec<String> {
    let plain = |list: &[String]| -> Vec<String> {
        list.iter()
            .map(|name| name.to_ascii_uppercase().trim_start_matches("CAP_").to_owned())
            .collect()
    };
    let (add, drop) = (
        plain(&blueprint.add_capabilities),
        plain(&blueprint.drop_capabilities),
    );
    let all = |list: &[String]| list.iter().any(|name| name == "ALL");
    let mut set: Vec<&str> = match (blueprint.privileged || all(&add), all(&drop)) {
        (true, _) => ALL_CAPABILITIES.to_vec(),
        (false, true) => Vec::new(),
        (false, false) => DEFAULT_CAPABILITIES.to_vec(),
    };
    if !blueprint.privileged {
        set.retain(|name| !drop.iter().any(|dropped| dropped == name));
        // Kubernetes adds after it has dropped: `drop: [ALL], add: [X]` leaves X. Unknown names are left out.
        set.extend(
            ALL_CAPABILITIES
                .iter()
                .filter(|name| add.iter().any(|added| added == *name)),
        );
        set.sort_unstable();
        set.dedup();
    }
    let denied = |name: &str| {
        let number = ALL_CAPABILITIES.iter().position(|known| *known == name);
        number.is_some_and(|number| blueprint.denied_capabilities >> number & 1 == 1)
    };
    set.into_iter()
        .filter(|name| !denied(name))
        .map(|name| format!("CAP_{name}"))
        .collect()
}

fn mounts(blueprint: &Blueprint) -> Vec<Value> {
    let sys = if blueprint.privileged { "rw" } else { "ro" };
    let defaults = [
        ("/proc", "proc", "proc", "nosuid,noexec,nodev"),
        (
            "/dev",
            "tmpfs",
            "tmpfs",
            "nosuid,strictatime,mode=755,size=65536k",
        ),
        (
            "/dev/pts",
            "devpts",
            "devpts",
            "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
        ),
        (
            "/dev/shm",
            "tmpfs",
            "shm",
            "nosuid,noexec,nodev,mode=1777,size=65536k",
        ),
        ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
        ("/sys", "sysfs", "sysfs", &format!("nosuid,noexec,nodev,{sys}")),
        (
            "/sys/fs/cgroup",
            "bind",
            "/sys/fs/cgroup",
            &format!("rbind,nosuid,noexec,nodev,{sys}"),
        ),
        ("/tmp", "tmpfs", "tmpfs", "nosuid,nodev,mode=1777"),
        ("/run", "tmpfs", "tmpfs", "nosuid,nodev,mode=755"),
    ];
    let taken = |path: &str| {
        blueprint
            .mounts
            .iter()
            .any(|mount| mount.destination.trim_end_matches('/') == path)
    };
    let mut list: Vec<Value> = defaults
        .into_iter()
        .filter(|(destination, ..)| !taken(destination))
        .map(|(destination, kind, source, options)| {
            let options = options.split(',').collect::<Vec<_>>();
            json!({"destination": destination, "type": kind, "source": source, "options": options})
        })
        .collect();
    // Parents before what lies in them.
    let mut own = blueprint.mounts.iter().collect::<Vec<_>>();
    own.sort_by_key(|mount| mount.destination.matches('/').count());
    list.extend(own.into_iter().map(|mount| {
        let propagation = match mount.propagation {
            Propagation::None => "rprivate",
            Propagation::HostToContainer => "rslave",
            Propagation::Bidirectional => "rshared",
        };
        let access = if mount.read_only { "ro" } else { "rw" };
        json!({
            "destination": mount.destination, "type": "bind", "source": mount.source,
            "options": ["rbind", propagation, access],
        })
    }));
    list
}

fn root_propagation(mounts: &[Mount]) -> &'static str {
    let has = |propagation| mounts.iter().any(|mount| mount.propagation == propagation);
    match (has(Propagation::Bidirectional), has(Propagation::HostToContainer)) {
        (true, _) => "rshared",
        (false, true) => "rslave",
        (false, false) => "rprivate",
    }
}

/// Devices beyond the runtime's own (null, zero, full, random, urandom, tty).
fn devices(privileged: bool) -> Vec<Value> {
    let mut list = Vec::new();
    if privileged {
        // Numbers from Documentation/admin-guide/devices.txt.
        for (path, major, minor) in [
            ("/dev/kmsg", 1, 11),
            ("/dev/net/tun", 10, 200),
            ("/dev/fuse", 10, 229),
        ] {
            list.push(json!({
                "path": path, "type": "c", "major": major, "minor": minor, "fileMode": 0o600, "uid": 0, "gid": 0,
            }));
        }
    }
    list
}

/// The `process` of an exec: that of the container with other arguments.
pub(crate) fn exec_process(config: &Value, command: &[String], terminal: bool) -> Option<Value> {
    let mut process = config.get("process")?.clone();
    process["args"] = json!(command);
    process["terminal"] = json!(terminal);
    let has_term = |env: &[Value]| {
        env.iter()
            .any(|entry| entry.as_str().is_some_and(|entry| entry.starts_with("TERM=")))
    };
    if terminal
        && let Some(env) = process.get_mut("env").and_then(Value::as_array_mut)
        && !has_term(env)
    {
        env.push(json!("TERM=xterm"));
    }
    Some(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn capabilities_are_dropped_then_added() {
        type Row<'a> = (bool, &'a [&'a str], &'a [&'a str], &'a [&'a str]);
        let rows: [Row<'_>; 4] = [
            (false, &["NET_ADMIN"], &["ALL"], &["CAP_NET_ADMIN"]),
            (false, &["cap_bpf"], &["all"], &["CAP_BPF"]),
            (false, &["NO_SUCH"], &["ALL"], &[]),
            (
                false,
                &["CHOWN", "SYS_CHROOT"],
                &["ALL"],
                &["CAP_CHOWN", "CAP_SYS_CHROOT"],
            ),
        ];
        for (privileged, add, drop, expected) in rows {
            let blueprint = Blueprint {
                privileged,
                add_capabilities: strings(add),
                drop_capabilities: strings(drop),
                ..Blueprint::default()
            };
            assert_eq!(capabilities(&blueprint), strings(expected), "{add:?} {drop:?}");
        }
        assert_eq!(
            capabilities(&Blueprint::default()).len(),
            DEFAULT_CAPABILITIES.len()
        );
        let privileged = Blueprint {
            privileged: true,
            drop_capabilities: strings(&["ALL"]),
            ..Blueprint::default()
        };
        assert_eq!(capabilities(&privileged).len(), ALL_CAPABILITIES.len());
        let denied = Blueprint {
            denied_capabilities: 1 << 24,
            ..privileged
        };
        assert!(!capabilities(&denied).contains(&"CAP_SYS_RESOURCE".to_owned()));
    }

    #[test]
    fn volumes_replace_default_mounts_and_come_after_their_parents() {
        let mount = |destination: &str, propagation| Mount {
            destination: destination.to_owned(),
            source: "/x".to_owned(),
            read_only: true,
            propagation,
        };
        let blueprint = Blueprint {
            mounts: vec![
                mount("/data/a/b", Propagation::None),
                mount("/tmp/", Propagation::Bidirectional),
                mount("/data", Propagation::None),
            ],
            netns: Some("/run/netns/cni-1".to_owned()),
            uid: 1000,
            ..Blueprint::default()
        };
        let config = config(&blueprint);
        let list = config["mounts"].as_array().unwrap();
        let destinations = list
            .iter()
            .map(|mount| mount["destination"].as_str().unwrap())
            .collect::<Vec<_>>();
        assert_eq!(
            destinations
                .iter()
                .filter(|path| path.starts_with("/tmp"))
                .count(),
            1
        );
        assert_eq!(
            &destinations[destinations.len() - 3..],
            ["/data", "/tmp/", "/data/a/b"]
        );
        assert_eq!(config["linux"]["rootfsPropagation"], "rshared");
        assert_eq!(
            config["linux"]["namespaces"].as_array().unwrap().last().unwrap()["path"],
            "/run/netns/cni-1"
        );
        assert_eq!(
            config["process"]["capabilities"]["effective"],
            json!([]),
            "a user other than root has none"
        );
        let process = exec_process(&config, &strings(&["sh"]), true).unwrap();
        assert_eq!(
            (&process["args"], &process["env"]),
            (&json!(["sh"]), &json!(["TERM=xterm"]))
        );
    }
}
