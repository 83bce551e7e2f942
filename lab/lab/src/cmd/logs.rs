//! `seta lab logs`

use std::fs::File;
use std::io::{self, Read, Seek as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::cli::Logs;
use crate::state::{Paths, Spec};

/// How often a followed log is looked at.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);

pub(crate) fn run(args: &Logs) -> anyhow::Result<ExitCode> {
    match print(args) {
        // A reader that has seen enough, such as `head`, is no failure.
        Err(error)
            if error
                .downcast_ref::<io::Error>()
                .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) =>
        {
            Ok(ExitCode::SUCCESS)
        }
        done => done.map(|()| ExitCode::SUCCESS),
    }
}

fn print(args: &Logs) -> anyhow::Result<()> {
    let paths = Paths::of(&args.cluster.name);
    let spec = paths.require_spec()?;
    let sources = select(&paths, &spec, args.component.as_deref())?;
    let headings = sources.len() > 1;
    let mut files = Vec::new();
    let mut stdout = io::stdout().lock();
    for (name, path) in sources {
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        if headings {
            writeln!(stdout, "==> {name} <==")?;
        }
        copy(&mut file, &mut stdout)?;
        files.push((name, file));
    }
    while args.follow && paths.root().exists() {
        std::thread::sleep(FOLLOW_INTERVAL);
        for (name, file) in &mut files {
            // A log that grew too long was cut; go on from its start.
            if file.metadata()?.len() < file.stream_position()? {
                file.rewind()?;
            }
            if headings && file.metadata()?.len() > file.stream_position()? {
                writeln!(stdout, "==> {name} <==")?;
            }
            copy(file, &mut stdout)?;
        }
    }
    Ok(())
}

fn copy(from: &mut impl Read, to: &mut impl io::Write) -> io::Result<()> {
    io::copy(from, to)?;
    to.flush()
}

/// Which logs are meant by a component's name.
fn select(paths: &Paths, spec: &Spec, component: Option<&str>) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let supervisor = || ("supervisor".to_owned(), paths.supervisor_log());
    let node = |name: &str| (name.to_owned(), paths.kubelet_log(name));
    match component {
        None => Ok(std::iter::once(supervisor())
            .chain(spec.nodes.iter().map(|n| node(&n.name)))
            .collect()),
        // They all run in the supervisor.
        Some("supervisor" | "apiserver" | "controllers" | "scheduler") => Ok(vec![supervisor()]),
        Some(name) if spec.node(name).is_some() => Ok(vec![node(name)]),
        Some(name) => {
            let names: Vec<&str> = spec.nodes.iter().map(|node| node.name.as_str()).collect();
            bail!(
                "there is no log of {name:?}; there are supervisor, {}",
                names.join(", ")
            );
        }
    }
}
