//! `cargo xtask setup`: bring a Debian machine that has Rust to where the workspace builds and the lab runs.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::run::{self, on_path, output};

/// The version that fits LLVM 22 and rustc 1.96.
const BPF_LINKER: &str = "0.13.0";
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only say what is missing; exit code 1 if anything is.
    #[arg(long)]
    check: bool,
}

/// A program or file, and the Debian package that brings it.
struct Need {
    what: &'static str,
    found: fn() -> Option<PathBuf>,
    package: &'static str,
}

const NEEDS: &[Need] = &[
    Need {
        what: "C compiler",
        found: || on_path("cc"),
        package: "gcc",
    },
    Need {
        what: "LLVM 22 (to build bpf-linker)",
        found: || file("/usr/lib/llvm-22/bin/llvm-config"),
        package: "llvm-22-dev",
    },
    Need {
        what: "zlib headers (llvm)",
        found: || file("/usr/include/zlib.h"),
        package: "zlib1g-dev",
    },
    Need {
        what: "zstd headers (llvm)",
        found: || file("/usr/include/zstd.h"),
        package: "libzstd-dev",
    },
    Need {
        what: "OCI runtime",
        found: || on_path("crun"),
        package: "crun",
    },
    Need {
        what: "ip (for people, tests and `seta lab exec`)",
        found: || on_path("ip"),
        package: "iproute2",
    },
    Need {
        what: "ping",
        found: || on_path("ping"),
        package: "iputils-ping",
    },
    Need {
        what: "nsenter",
        found: || on_path("nsenter"),
        package: "util-linux",
    },
    Need {
        what: "curl (image curlimages/curl)",
        found: || on_path("curl"),
        package: "curl",
    },
    Need {
        what: "nginx (image nginx)",
        found: || on_path("nginx"),
        package: "nginx-light",
    },
    Need {
        what: "bpftool (the tests read the kernel's own account with it)",
        found: || on_path("bpftool"),
        package: "bpftool",
    },
    Need {
        what: "tcpdump (a test listens on the outside host)",
        found: || on_path("tcpdump"),
        package: "tcpdump",
    },
    Need {
        what: "jq (the demo reads JSON with it)",
        found: || on_path("jq"),
        package: "jq",
    },
    Need {
        what: "kubectl",
        found: || on_path("kubectl"),
        package: "kubernetes-client",
    },
];

fn file(path: &str) -> Option<PathBuf> {
    Path::new(path).exists().then(|| path.into())
}

/// What is missing, by the way it is brought.
#[derive(Default)]
struct Missing {
    /// Names of Debian packages.
    packages: Vec<&'static str>,
    bpf_linker: bool,
    nextest: bool,
}

impl Missing {
    fn is_empty(&self) -> bool {
        self.packages.is_empty() && !self.bpf_linker && !self.nextest
    }

    /// Looks at the machine, and says what is missing.
    fn find() -> Result<Self> {
        let mut missing = Self::default();
        for need in NEEDS {
            if (need.found)().is_none() {
                println!("  missing  {:<58} package {}", need.what, need.package);
                missing.packages.push(need.package);
            }
        }
        match compiler_with_source()? {
            Some(found) => println!("setup: the eBPF half is built with {found}"),
            None => {
                println!(
                    "  missing  {:<58} packages rustc-web, rust-web-src",
                    "compiler with library source (eBPF)"
                );
                missing.packages.extend(["rustc-web", "rust-web-src"]);
            }
        }
        let linker = bpf_linker_version();
        missing.bpf_linker = linker.as_deref() != Some(BPF_LINKER);
        if missing.bpf_linker {
            let found = linker.as_deref().unwrap_or("none");
            println!(
                "  missing  {:<58} {BPF_LINKER} from crates.io (found: {found})",
                "bpf-linker"
            );
        }
        missing.nextest = cargo_program("cargo-nextest").is_none();
        if missing.nextest {
            println!("  missing  {:<58} from crates.io", "cargo-nextest");
        }
        Ok(missing)
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let missing = Missing::find()?;
    if missing.is_empty() {
        println!("setup: everything is there");
        return Ok(());
    }
    if args.check {
        bail!("something is missing: run `make setup`");
    }
    if !missing.packages.is_empty() {
        install_packages(&missing.packages)?;
    }
    if missing.bpf_linker {
        println!("installing bpf-linker {BPF_LINKER} against {LLVM_PREFIX} (under a minute)");
        run_cargo_install(&[
            "bpf-linker",
            "--version",
            BPF_LINKER,
            "--no-default-features",
            "--features",
            "llvm-22",
        ])?;
    }
    if missing.nextest {
        println!("installing cargo-nextest (a few minutes)");
        run_cargo_install(&["cargo-nextest"])?;
    }
    println!("set up: `make demo`, `make test` and `cargo build` will work now");
    Ok(())
}

fn run_cargo_install(args: &[&str]) -> Result<()> {
    run::run(
        Command::new("cargo")
            .args(["install", "--locked", "--force"])
            .args(args)
            .env("LLVM_PREFIX", LLVM_PREFIX),
    )
}

fn install_packages(packages: &[&str]) -> Result<()> {
    if on_path("apt-get").is_none() {
        bail!(
            "this is not a Debian system: install by hand what the list above calls missing: {}",
            packages.join(" ")
        );
    }
    if output(Command::new("id").arg("-u"))? != "0" {
        bail!(
            "not root: run `sudo apt-get install --no-install-recommends {}`, then `make setup` again",
            packages.join(" ")
        );
    }
    println!("$ apt-get install {}", packages.join(" "));
    run::run(Command::new("apt-get").args(["update", "-qq"]))
        .context("the package lists could not be fetched")?;
    let _no_services = NoServices::new()?;
    run::run(
        Command::new("apt-get")
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

/// While this lives, packages do not start the services they bring: the lab runs nginx in its own namespaces, and the
/// machine's port 80 is none of our business. (Debian policy manual, `policy-rc.d`; 101 means "not allowed".)
struct NoServices(Option<&'static Path>);

impl NoServices {
    fn new() -> Result<Self> {
        let policy = Path::new("/usr/sbin/policy-rc.d");
        if policy.exists() {
            return Ok(Self(None));
        }
        fs::write(policy, "#!/bin/sh\nexit 101\n").context("cannot write policy-rc.d")?;
        fs::set_permissions(policy, fs::Permissions::from_mode(0o755))
            .context("cannot make policy-rc.d executable")?;
        Ok(Self(Some(policy)))
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(policy) = self.0
            && let Err(error) = fs::remove_file(policy)
        {
            eprintln!(
                "warning: {} could not be removed: {error}; remove it by hand",
                policy.display()
            );
        }
    }
}

fn bpf_linker_version() -> Option<String> {
    let text = output(Command::new(cargo_program("bpf-linker")?).arg("--version")).ok()?;
    text.split_whitespace().nth(1).map(str::to_owned)
}

/// `~/.cargo/bin` need not be on the PATH of the shell that called make.
fn cargo_program(program: &str) -> Option<PathBuf> {
    let in_home = || {
        let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
        Some(home.join("bin").join(program)).filter(|path| path.is_file())
    };
    on_path(program).or_else(in_home)
}

/// The compiler that can build `core` for BPF: a rustup toolchain with rust-src, else Debian's.
/// `datapath/loader/build.rs` looks in the same order.
fn compiler_with_source() -> Result<Option<String>> {
    if on_path("rustup").is_some() {
        for toolchain in output(Command::new("rustup").args(["toolchain", "list", "--quiet"]))?.lines() {
            // A toolchain that is broken is none that can build.
            let sysroot = output(
                Command::new("rustc")
                    .arg(format!("+{toolchain}"))
                    .args(["--print", "sysroot"]),
            );
            let Ok(sysroot) = sysroot else { continue };
            if Path::new(&sysroot)
                .join("lib/rustlib/src/rust/library/core")
                .is_dir()
            {
                return Ok(Some(format!("the rustup toolchain {toolchain}")));
            }
        }
    }
    let debian =
        Path::new("/usr/bin/rustc").exists() && Path::new("/usr/lib/rustlib/src/rust/library/core").exists();
    Ok(debian.then(|| "Debian's rustc-web with rust-web-src".to_owned()))
}
