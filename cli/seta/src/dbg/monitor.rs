//! `monitor`: events of the datapath as they happen, in Cilium's words.

use std::collections::HashMap;
use std::fs;
use std::io::Write;

use api::monitor::Event;
use api::{Client, path};
use clap::ValueEnum;

/// Which events.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only events of this type; may be given more than once
    #[arg(short = 't', long = "type", value_enum)]
    kinds: Vec<Kind>,
    /// Only events that this endpoint reports
    #[arg(long)]
    from: Vec<u16>,
    /// Only events towards this endpoint
    #[arg(long)]
    to: Vec<u32>,
    /// Only events from or to this endpoint
    #[arg(long)]
    related_to: Vec<u32>,
    /// One JSON object per line
    #[arg(short, long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Drop,
    Trace,
}

impl Args {
    fn wants(&self, event: &Event) -> bool {
        let kind = match event.kind.as_str() {
            "drop" => Some(Kind::Drop),
            "trace" => Some(Kind::Trace),
            // Losses concern everybody.
            _ => return true,
        };
        let source = u32::from(event.source);
        (self.kinds.is_empty() || kind.is_some_and(|kind| self.kinds.contains(&kind)))
            && (self.from.is_empty() || self.from.contains(&event.source))
            && (self.to.is_empty() || self.to.contains(&event.destination))
            && (self.related_to.is_empty()
                || self.related_to.contains(&source)
                || self.related_to.contains(&event.destination))
    }
}

pub(super) async fn run(client: &Client, args: Args) -> anyhow::Result<()> {
    eprintln!("Press Ctrl-C to quit");
    let mut names = Names::default();
    client
        .lines(path::MONITOR, |line| {
            let Ok(event) = serde_json::from_slice::<Event>(line) else {
                return true;
            };
            if !args.wants(&event) {
                return true;
            }
            let mut out = std::io::stdout().lock();
            let written = if args.json {
                out.write_all(line).and_then(|()| out.write_all(b"\n"))
            } else {
                writeln!(out, "{}", text(&event, &names.of(event.ifindex)))
            };
            // Nobody reads any more: an ordinary end.
            written.and_then(|()| out.flush()).is_ok()
        })
        .await?;
    Ok(())
}

/// Names of interfaces, read once each.
#[derive(Default)]
struct Names(HashMap<u32, String>);

impl Names {
    fn of(&mut self, ifindex: u32) -> String {
        if ifindex == 0 {
            return "0".to_owned();
        }
        if !self.0.contains_key(&ifindex) {
            self.0 = read_names();
        }
        self.0
            .entry(ifindex)
            .or_insert_with(|| ifindex.to_string())
            .clone()
    }
}

fn read_names() -> HashMap<u32, String> {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let index = fs::read_to_string(entry.path().join("ifindex"))
                .ok()?
                .trim()
                .parse()
                .ok()?;
            Some((index, entry.file_name().to_string_lossy().into_owned()))
        })
        .collect()
}

fn text(event: &Event, interface: &str) -> String {
    let Event {
        source,
        destination,
        hash,
        src_identity,
        dst_identity,
        state,
        summary,
        ..
    } = event;
    match event.kind.as_str() {
        "drop" => format!(
            "xx drop ({}) flow {hash:#x} to endpoint {destination}, ifindex {interface}, identity \
             {src_identity}->{dst_identity}: {summary}",
            event.what
        ),
        "trace" => {
            let way = match event.what.as_str() {
                "to-endpoint" => format!("-> endpoint {destination}"),
                "from-endpoint" => format!("<- endpoint {source}"),
                other => match other.split_once('-') {
                    Some(("to", where_to)) => format!("-> {where_to}"),
                    Some(("from", where_from)) => format!("<- {where_from}"),
                    _ => other.to_owned(),
                },
            };
            format!(
                "{way} flow {hash:#x}, identity {src_identity}->{dst_identity} state {state} ifindex {interface} \
                 orig-ip ::: {summary}"
            )
        }
        _ => format!("EVENTS LOST: {}", event.lost),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, what: &str) -> Event {
        Event {
            kind: kind.into(),
            what: what.into(),
            source: 7,
            destination: 9,
            hash: 0xabc,
            src_identity: 1,
            dst_identity: 300,
            state: "new".into(),
            summary: "[fd00::1]:1 -> [fd00::2]:80 tcp SYN".into(),
            ..Event::default()
        }
    }

    #[test]
    fn events_are_told_in_ciliums_words() {
        let conn = "[fd00::1]:1 -> [fd00::2]:80 tcp SYN";
        for (event, expected) in [
            (
                event("trace", "to-endpoint"),
                format!(
                    "-> endpoint 9 flow 0xabc, identity 1->300 state new ifindex eth0 orig-ip ::: {conn}"
                ),
            ),
            (
                event("trace", "from-network"),
                format!("<- network flow 0xabc, identity 1->300 state new ifindex eth0 orig-ip ::: {conn}"),
            ),
            (
                event("drop", "Invalid source ip"),
                format!(
                    "xx drop (Invalid source ip) flow 0xabc to endpoint 9, ifindex eth0, identity 1->300: {conn}"
                ),
            ),
        ] {
            assert_eq!(text(&event, "eth0"), expected);
        }
    }

    #[test]
    fn filters_narrow_and_losses_always_pass() {
        let args = Args {
            kinds: vec![Kind::Drop],
            from: vec![7],
            to: vec![],
            related_to: vec![9],
            json: false,
        };
        assert!(args.wants(&event("drop", "x")));
        assert!(!args.wants(&event("trace", "x")));
        assert!(!args.wants(&Event {
            source: 8,
            ..event("drop", "x")
        }));
        assert!(args.wants(&event("lost", "")));
    }
}
