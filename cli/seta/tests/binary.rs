//! The binary as people and runtimes call it: names, help, exit codes. No cluster is needed.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const SETA: &str = env!("CARGO_BIN_EXE_seta");

/// Without any way to a cluster.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_remove("KUBERNETES_SERVICE_HOST")
        .env_remove("CNI_COMMAND")
        .env("KUBECONFIG", "/nonexistent/kubeconfig");
    command
}

fn seta(arguments: &[&str]) -> Output {
    command(Path::new(SETA))
        .args(arguments)
        .output()
        .expect("seta runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn help_teaches() {
    let rows: [(&[&str], &[&str]); 7] = [
        (
            &["--help"],
            &[
                "seta lab up",
                "seta status --wait",
                "Exit codes:",
                "install",
                "uninstall",
                "completion",
            ],
        ),
        (
            &["install", "--help"],
            &[
                "--set <KEY=VALUE>",
                "--dry-run-helm-values",
                "Examples:",
                "Exit codes:",
            ],
        ),
        (
            &["upgrade", "--help"],
            &["--reuse-values", "--reset-values", "Examples:"],
        ),
        (
            &["status", "--help"],
            &["--wait-duration", "--ignore-warnings", "Exit codes:"],
        ),
        (&["config", "set", "--help"], &["<KEY>", "<VALUE>", "--restart"]),
        (&["uninstall", "--help"], &["--crds", "--keep-nodes"]),
        (&["lab", "--help"], &["up", "down", "exec"]),
    ];
    for (arguments, expected) in rows {
        let output = seta(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        let help = text(&output.stdout);
        for word in expected {
            assert!(
                help.contains(word),
                "{word} is not in the help of {arguments:?}:\n{help}"
            );
        }
        assert!(
            help.lines().all(|line| line.chars().count() <= 120),
            "{arguments:?} has lines that are too long"
        );
    }
}

#[test]
fn exit_codes_mean_something() {
    let rows: [(&[&str], i32, &str); 12] = [
        (&[], 2, "Usage:"),
        (&["instal"], 2, "'install'"),
        (&["status", "--wiat"], 2, "'--wait'"),
        (
            &["install", "--set", "ipv6.enable=true"],
            2,
            "did you mean ipv6.enabled?",
        ),
        (
            &["install", "--set", "hubble.enabled=true"],
            2,
            "Flows and Hubble come with issue 4",
        ),
        (&["install", "--set", "debug"], 2, "`debug` has no value"),
        (
            &["install", "-f", "/nonexistent/values.yaml"],
            2,
            "values file /nonexistent/values.yaml",
        ),
        (&["install", "--wait-duration", "soon"], 2, "is no duration"),
        (&["install"], 3, "no kubeconfig can be read"),
        (&["status"], 3, "no kubeconfig can be read"),
        (&["config", "view"], 3, "seta lab up"),
        (
            &["uninstall", "--kubeconfig", "/nonexistent/other"],
            3,
            "no kubeconfig can be read",
        ),
    ];
    for (arguments, code, message) in rows {
        let output = seta(arguments);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        assert!(errors.contains(message), "{arguments:?}: {errors}");
    }
}

#[test]
fn every_problem_is_told_at_once() {
    let output = seta(&[
        "install",
        "--set",
        "tunnel=vxlan,encryption.enabled=true",
        "--set",
        "nonsense=1",
    ]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    for expected in [
        "3 values cannot be used, nothing was changed",
        "tunnel=vxlan",
        "encryption.enabled=true",
        "nonsense:",
    ] {
        assert!(errors.contains(expected), "{errors}");
    }
}

#[test]
fn versions_need_no_cluster() {
    let output = seta(&["version", "--client"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).starts_with(&format!("seta: v{} (commit ", env!("CARGO_PKG_VERSION"))));
    let output = seta(&["version", "-o", "json"]);
    assert_eq!(
        output.status.code(),
        Some(0),
        "a cluster that is not there is no error"
    );
    assert!(text(&output.stdout).contains("\"error\""));
}

#[test]
fn completions_name_the_subcommands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = seta(&["completion", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        assert!(text(&output.stdout).contains("uninstall"), "{shell}");
    }
}

#[test]
fn other_names_are_other_programs() {
    let directory = tempfile::tempdir().expect("a directory");
    let called = |name: &str, arguments: &[&str]| {
        let link = directory.path().join(name);
        symlink(SETA, &link).expect("a link");
        command(&link).args(arguments).output().expect("it runs")
    };
    assert!(text(&called("cilium-agent", &["--help"]).stdout).contains("--config-dir"));
    assert!(text(&called("cilium-operator", &["--help"]).stdout).contains("--config-dir"));
    for name in ["cilium", "cilium-dbg"] {
        assert!(
            text(&called(name, &["--help"]).stdout).contains("endpoint"),
            "{name}"
        );
    }
    let plugin = directory.path().join("cilium-cni");
    symlink(SETA, &plugin).expect("a link");
    let output = command(&plugin)
        .env("CNI_COMMAND", "VERSION")
        .stdin(std::process::Stdio::null())
        .output()
        .expect("it runs");
    assert!(
        text(&output.stdout).contains("cniVersion"),
        "{}",
        text(&output.stdout)
    );
}

#[test]
fn an_agent_that_is_not_there_is_told_once() {
    for (arguments, stdout) in [
        (vec!["dbg", "status", "-H", "/nonexistent/sock"], ""),
        (
            vec!["dbg", "status", "--brief", "-H", "/nonexistent/sock"],
            "cilium: daemon unreachable\n",
        ),
        (vec!["dbg", "endpoint", "list", "-H", "/nonexistent/sock"], ""),
    ] {
        let Output {
            status,
            stdout: out,
            stderr,
        } = seta(&arguments);
        assert_eq!(status.code(), Some(1), "{arguments:?}");
        assert_eq!(text(&out), stdout, "{arguments:?}");
        assert_eq!(
            text(&stderr),
            "\nError: the agent does not answer on /nonexistent/sock: No such file or directory (os error 2)\n",
            "{arguments:?}"
        );
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let mut child = command(Path::new(SETA))
        .args(["dbg", "version", "-H", "/nonexistent/sock"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("seta runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", text(&output.stderr));
}
