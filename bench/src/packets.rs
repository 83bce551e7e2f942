//! Pod to pod across two nodes: request/response and stream, every variant in every round, and what the programs cost by the
//! kernel's own counters.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};

use crate::{
    table::{Row, print},
    traffic::{Load, measure},
    variant::{Path, Variant},
};

pub(crate) fn run(rounds: usize, duration: Duration) -> Result<()> {
    let mut paths = BTreeMap::new();
    for variant in Variant::ALL {
        paths.insert(
            variant,
            Path::new(variant).with_context(|| format!("variant {}", variant.name()))?,
        );
    }
    for (load, title, unit, scale) in [
        (
            Load::RequestResponse,
            "TCP_RR, 1 byte each way, transactions/s",
            "/s",
            1.0,
        ),
        (Load::Stream, "TCP_STREAM, Gbit/s", "Gbit/s", 1e-9),
    ] {
        let mut samples: BTreeMap<Variant, Vec<f64>> = BTreeMap::new();
        for round in 0..rounds {
            // Every other round backwards, so that nobody always follows the same neighbour.
            let mut order = Variant::ALL;
            if round % 2 == 1 {
                order.reverse();
            }
            for variant in order {
                let path = &paths[&variant].topology;
                let value = measure(load, &path.place(1)?, &path.place(0)?, duration)
                    .with_context(|| format!("{title}, variant {}", variant.name()))?;
                eprintln!(
                    "round {}/{rounds} {:<6} {:>12.2} {unit}",
                    round + 1,
                    variant.name(),
                    value * scale
                );
                samples.entry(variant).or_default().push(value * scale);
            }
        }
        let rows = Variant::ALL.map(|variant| Row {
            name: variant.name(),
            samples: &samples[&variant],
            bases: [&samples[&Variant::Plain], &samples[&Variant::Limit]],
        });
        print(title, &["÷ plain", "÷ limit"], &rows);
    }
    programs(&paths, duration)
}

/// What the programs cost while packets come one at a time, by the kernel's own counters. The programs of the limit tell
/// what a run costs that does nothing, with everything around it as cold.
fn programs(paths: &BTreeMap<Variant, Path>, duration: Duration) -> Result<()> {
    let _stats = loader::StatsGuard::enable().context("run statistics")?;
    println!(
        "\nPrograms, by the kernel's counters over one TCP_RR run ({:.1} s) each, both nodes",
        duration.as_secs_f64()
    );
    println!(
        "{:<6} {:<12} {:>22} {:>12} {:>12} {:>10}",
        "", "program", "verified instructions", "machine code", "runs", "ns/run"
    );
    for variant in [Variant::Limit, Variant::Seta, Variant::SetaStack] {
        let path = &paths[&variant];
        let before = path.programs()?;
        measure(
            Load::RequestResponse,
            &path.topology.place(1)?,
            &path.topology.place(0)?,
            duration,
        )?;
        let mut total: BTreeMap<&str, (u32, u32, u64, Duration)> = BTreeMap::new();
        for (before, after) in before.iter().zip(path.programs()?) {
            let entry = total.entry(after.name).or_default();
            entry.0 = after.verified_instructions;
            entry.1 = after.jited_bytes;
            entry.2 += after.run_count - before.run_count;
            entry.3 += after.run_time.saturating_sub(before.run_time);
        }
        for (name, (verified, jited, runs, time)) in total {
            if runs > 0 {
                let cost = time.as_nanos() as f64 / runs as f64;
                println!(
                    "{:<6} {name:<12} {verified:>22} {jited:>10} B {runs:>12} {cost:>10.0}",
                    variant.name()
                );
            }
        }
    }
    println!("(the statistics themselves cost 20 to 40 ns per run)");
    Ok(())
}
