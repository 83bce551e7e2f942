//! Namespaces that go away with the test.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use seta_netlink::{Netlink, Netns};

/// A private network namespace.
pub(crate) struct Namespace {
    name: String,
    pub(crate) netns: Netns,
}

/// `None`, with the reason printed, where namespaces cannot be made.
pub(crate) fn namespace(purpose: &str) -> Option<Namespace> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: needs root to make network namespaces");
        return None;
    }
    let name = format!(
        "seta-t-netlink-{purpose}-{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    );
    run("ip", &["netns", "add", &name]);
    let netns = Netns::open(format!("/run/netns/{name}")).unwrap();
    Some(Namespace { name, netns })
}

impl Namespace {
    pub(crate) async fn connect(&self) -> Netlink {
        Netlink::open_in(&self.netns).await.unwrap()
    }

    /// Runs a program inside; its output, or what it complained of.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.name))
            .arg(program)
            .args(arguments)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr) + &text(&output.stdout))
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}: {status}");
}
