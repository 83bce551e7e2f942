//! What it costs to enter a connection into the table: the first packet of a flow beside the next one, each a run of
//! `from_pod` of its own (`BPF_PROG_TEST_RUN`; in a loop the program would see the packet that it has sent on).

use anyhow::{Context as _, Result, bail};

use crate::{
    one_node::{OneNode, SERVER, pod_packet},
    table::{median, percentile},
    traffic::enter,
};

/// Flows. Far below the size of the table.
const FLOWS: u16 = 20_000;
/// Where `struct __sk_buff` has the interface index, and how long the struct is.
const IFINDEX: usize = 40;
const CONTEXT: usize = 192;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

pub(crate) fn run(node: &OneNode) -> Result<()> {
    let datapath = &node.seta.as_ref().context("Seta is not there")?.datapath;
    let (ifindex, node_mac) = node.device("node", "client")?;
    let (_, mac) = node.device("client", "eth0")?;
    let mut context = [0; CONTEXT];
    context[IFINDEX..IFINDEX + 4].copy_from_slice(&ifindex.to_ne_bytes());
    let netns = node.netns("node");
    let (first, next) = std::thread::scope(|scope| {
        let runs = scope.spawn(|| -> Result<_> {
            // Interface indexes mean something in the namespace of the caller.
            enter(&netns)?;
            let (mut first, mut next) = (Vec::new(), Vec::new());
            let run = |port: u16, flags: u8| -> Result<f64> {
                let packet = pod_packet(mac, node_mac, SERVER[0], port, flags)?;
                let run = datapath.test_run(abi::names::FROM_POD, &packet, Some(&context), 1)?;
                // TC_ACT_REDIRECT
                if run.verdict != 7 {
                    bail!(
                        "from_pod says {} to a packet with flags {flags:#x} for a pod; counted: {:?}",
                        run.verdict,
                        datapath.metrics()
                    );
                }
                Ok(run.duration.as_nanos() as f64)
            };
            let entries = |datapath: &loader::Datapath| -> Result<u32> {
                let infos = datapath.map_infos().context("map information")?;
                Ok(infos
                    .iter()
                    .find(|info| info.name == abi::names::CT_TCP)
                    .and_then(|info| info.entries)
                    .unwrap_or(0))
            };
            let before = entries(datapath)?;
            for port in 1..=FLOWS {
                first.push(run(port, SYN)?);
                next.push(run(port, ACK)?);
            }
            if entries(datapath)? < before + u32::from(FLOWS) / 2 {
                bail!("first packets made no entries");
            }
            Ok((first, next))
        });
        match runs.join() {
            Ok(result) => result,
            Err(_) => bail!("a thread panicked"),
        }
    })?;
    println!("\nfrom_pod to a pod of the node, ns per packet, each a run of its own, {FLOWS} flows");
    for (name, samples) in [("first packet, new entry", &first), ("next packet", &next)] {
        println!(
            "{name:<26} p50 {:>6.0} p99 {:>6.0}",
            median(samples),
            percentile(samples, 0.99)
        );
    }
    println!("{:<26} p50 {:>6.0}", "difference", median(&first) - median(&next));
    Ok(())
}
