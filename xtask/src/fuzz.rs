//! `cargo xtask fuzz`: libFuzzer on every target of `fuzz/`, one after the other, and a table of what came out.
//!
//! The instrumented build has a target directory of its own, `target/fuzz`, as its compiler flags differ from everybody
//! else's; inputs that libFuzzer finds stay there too (`new/<target>`) and are taken up again by the next run.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::run::{self, on_path, output, root};

/// How long one input may take, in seconds: more is a finding.
const INPUT_WITHIN: u64 = 10;
/// How much memory one target may use, in MiB: more is a finding.
const MEMORY: u64 = 2048;
/// How much longer than asked a target may run, to read its corpus and to end.
const GRACE: Duration = Duration::from_secs(60);
/// How often a running target is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How much of a log is shown for a finding.
const TAIL: usize = 25;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this target, a file of fuzz/fuzz_targets (may be repeated)
    #[arg(long, value_name = "NAME")]
    target: Vec<String>,
    /// How long each target runs
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    seconds: u64,
}

/// What a run of a target says of itself in libFuzzer's log.
#[derive(Debug, Default, PartialEq, Eq)]
struct Figures {
    /// Inputs tried.
    runs: u64,
    /// Edges that the inputs at the start reach.
    seeds: u64,
    /// Edges reached in the end.
    reached: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let targets = chosen(&all()?, &args.target)?;
    if on_path("cargo-fuzz").is_none() {
        println!("cargo-fuzz is not there and is installed now.");
        run::cargo(&["install", "cargo-fuzz", "--locked"])?;
    }
    let work = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), PathBuf::from)
        .join("fuzz");
    let programs = build(&work, &targets)?;
    println!("\n{:<24} {:>12} {:>16}  result", "target", "inputs", "edges");
    let mut found = Vec::new();
    for target in &targets {
        let log = work.join("new").join(format!("{target}.log"));
        let status = fuzz(&programs.join(target), target, args.seconds, &work, &log)?;
        let text = String::from_utf8_lossy(&fs::read(&log).with_context(|| show(&log))?).into_owned();
        let figures = figures(&text);
        let good = status.is_some_and(|status| status.success());
        println!(
            "{target:<24} {:>12} {:>16}  {}",
            figures.runs,
            format!("{} -> {}", figures.seeds, figures.reached),
            if good { "ok" } else { verdict(&text, status) },
        );
        if !good {
            found.push((target, text));
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    for (target, text) in &found {
        let lines: Vec<_> = text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default();
        println!("\n{target}:\n  {}", tail.join("\n  "));
    }
    println!(
        "\nThe inputs are in fuzz/artifacts/<target>/. Make one a seed: copy it to fuzz/corpus/<target>/ under a name that \
         says what is special about it; `cargo nextest run -p seta-fuzz` fails until the parser is mended. More in fuzz/README.md."
    );
    let names: Vec<_> = found.iter().map(|(target, _)| target.as_str()).collect();
    bail!("findings in {}", names.join(", "))
}

/// Every target: `fuzz/tests/replay.rs` holds the files to the list in the library.
fn all() -> Result<BTreeSet<String>> {
    let directory = root().join("fuzz/fuzz_targets");
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(&directory).with_context(|| show(&directory))? {
        let path = entry.with_context(|| show(&directory))?.path();
        names.extend(path.file_stem().and_then(|name| name.to_str()).map(str::to_owned));
    }
    Ok(names)
}

fn chosen(all: &BTreeSet<String>, wanted: &[String]) -> Result<Vec<String>> {
    if let Some(unknown) = wanted.iter().find(|name| !all.contains(*name)) {
        let names: Vec<_> = all.iter().map(String::as_str).collect();
        bail!("there is no target {unknown}; there are {}", names.join(", "));
    }
    Ok(if wanted.is_empty() {
        all.iter().cloned().collect()
    } else {
        wanted.to_vec()
    })
}

/// Builds the targets and answers where their programs are. All at once, unless it is only one.
fn build(work: &Path, targets: &[String]) -> Result<PathBuf> {
    // Safe Rust needs no sanitizer, and without one no nightly. Assertions and overflow checks stay on.
    let mut command = Command::new("nice");
    command
        .args(["-n", "15", "cargo", "fuzz", "build"])
        .args(["--features", "libfuzzer", "--sanitizer", "none", "--target-dir"])
        .arg(work)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "2")
        .env("CARGO_PROFILE_RELEASE_STRIP", "none")
        .current_dir(root());
    if let [only] = targets {
        command.arg(only);
    }
    println!("Building for libFuzzer; the first time takes some minutes.");
    run::run(&mut command)?;
    let version = output(Command::new("rustc").arg("-vV"))?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc does not say for what machine it compiles")?;
    Ok(work.join(host).join("release"))
}

/// Runs a target to its end. `None` when it had to be stopped.
fn fuzz(program: &Path, target: &str, seconds: u64, work: &Path, log: &Path) -> Result<Option<ExitStatus>> {
    let (new, artifacts) = (
        work.join("new").join(target),
        root().join("fuzz/artifacts").join(target),
    );
    for directory in [&new, &artifacts] {
        fs::create_dir_all(directory).with_context(|| show(directory))?;
    }
    let file = File::create(log).with_context(|| show(log))?;
    let mut child = Command::new("nice")
        .args(["-n", "15"])
        .arg(program)
        .args([&new, &root().join("fuzz/corpus").join(target)])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={INPUT_WITHIN}"))
        .arg(format!("-rss_limit_mb={MEMORY}"))
        .arg("-print_final_stats=1")
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .env("RUST_BACKTRACE", "0")
        .stdout(file.try_clone().context("the log of a target")?)
        .stderr(file)
        .spawn()
        .with_context(|| show(program))?;
    let deadline = Instant::now() + Duration::from_secs(seconds) + GRACE;
    loop {
        if let Some(status) = child.try_wait().context("waiting for a target")? {
            return Ok(Some(status));
        }
        if Instant::now() > deadline {
            child.kill().context("stopping a target")?;
            child.wait().context("waiting for a target")?;
            return Ok(None);
        }
        std::thread::sleep(LOOK);
    }
}

/// Reads libFuzzer's log: `#12 INITED cov: 231 ft: …`, later lines with `cov:`, and `stat::number_of_executed_units`.
fn figures(log: &str) -> Figures {
    let mut figures = Figures::default();
    for line in log.lines() {
        let mut words = line.split_whitespace();
        let number = |text: Option<&str>| text.and_then(|text| text.parse().ok());
        if line.starts_with("stat::number_of_executed_units:") {
            figures.runs = number(words.nth(1)).unwrap_or(figures.runs);
        } else if line.starts_with('#') {
            let (tried, event) = (words.next(), words.next());
            // A target that crashed prints no statistics.
            let tried = tried.map(|text| text.trim_start_matches('#'));
            figures.runs = number(tried).unwrap_or(figures.runs);
            if let Some(edges) = number(words.skip_while(|word| *word != "cov:").nth(1)) {
                figures.reached = edges;
                if event == Some("INITED") {
                    figures.seeds = edges;
                }
            }
        }
    }
    figures
}

fn verdict(log: &str, status: Option<ExitStatus>) -> &'static str {
    match status {
        None => "DID NOT END",
        _ if log.contains("ERROR: libFuzzer: timeout") => "TIMEOUT",
        _ if log.contains("ERROR: libFuzzer: out-of-memory") => "OUT OF MEMORY",
        _ => "CRASH",
    }
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
INFO: seed corpus: files: 17 min: 1b max: 600b total: 2Kb rss: 47Mb
#18\tINITED cov: 40 ft: 60 corp: 6/200b exec/s: 0 rss: 47Mb
#19\tNEW    cov: 41 ft: 61 corp: 7/220b lim: 600 exec/s: 0 rss: 47Mb L: 20/60 MS: 1 ChangeBit-
#8081568\tDONE   cov: 57 ft: 117 corp: 30/1Kb lim: 4096 exec/s: 310829 rss: 470Mb
Done 8081568 runs in 26 second(s)
stat::number_of_executed_units: 8081568
stat::average_exec_per_sec:     310829
";

    #[test]
    fn figures_are_read_from_the_log() {
        let rows = [
            (
                GOOD,
                Figures {
                    runs: 8_081_568,
                    seeds: 40,
                    reached: 57,
                },
            ),
            (
                "#18\tINITED cov: 40 ft: 60\n#99\tNEW    cov: 45 ft: 61\n==7== ERROR: libFuzzer: deadly signal\n",
                Figures {
                    runs: 99,
                    seeds: 40,
                    reached: 45,
                },
            ),
            ("", Figures::default()),
            ("#x INITED cov: y\n# cov:\n", Figures::default()),
        ];
        for (log, expected) in rows {
            assert_eq!(figures(log), expected, "{log}");
        }
    }

    #[test]
    fn only_targets_that_exist_are_chosen() -> Result<()> {
        let all = all()?;
        assert!(all.contains("packet"));
        assert_eq!(chosen(&all, &[])?.len(), all.len());
        assert_eq!(chosen(&all, &["packet".to_owned()])?, ["packet"]);
        assert!(chosen(&all, &["pocket".to_owned()]).is_err());
        Ok(())
    }
}
