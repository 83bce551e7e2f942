//! Container logs in the CRI format: `<RFC 3339 time> <stream> <F|P> <text>`, one line each, P for a line that goes on.
//!
//! A log is at most two files of [`MAX_FILE`] bytes: the current one and, with `.1`, the one before.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use jiff::Timestamp;

/// When a log is rotated, in bytes; as the kubelet's default.
const MAX_FILE: u64 = 10 << 20;

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// A log that is written.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    size: u64,
}

impl LogFile {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
        })
    }

    /// Appends one line or, when it does not end in a newline, a piece of one.
    pub(crate) fn write(&mut self, stream: Stream, text: &[u8]) -> io::Result<()> {
        let line = encode(Timestamp::now(), stream, text);
        if self.size + line.len() as u64 > MAX_FILE {
            fs::rename(&self.path, rotated(&self.path))?;
            *self = Self::open(&self.path)?;
        }
        self.file.write_all(&line)?;
        self.size += line.len() as u64;
        Ok(())
    }
}

/// Where a rotated log goes.
pub(crate) fn rotated(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

fn encode(at: Timestamp, stream: Stream, text: &[u8]) -> Vec<u8> {
    let stream = match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    };
    let (tag, text) = match text.strip_suffix(b"\n") {
        Some(text) => ('F', text),
        None => ('P', text),
    };
    let mut line = format!("{at:.9} {stream} {tag} ").into_bytes();
    line.extend_from_slice(text);
    line.push(b'\n');
    line
}

/// A line of a log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    pub(crate) at: Timestamp,
    pub(crate) stamp: &'a str,
    pub(crate) stream: Stream,
    /// Whether the line ends here.
    pub(crate) full: bool,
    pub(crate) text: &'a [u8],
}

/// Reads a line without its newline; `None` for anything else.
pub(crate) fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let stamp = std::str::from_utf8(fields.next()?).ok()?;
    let stream = match fields.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let full = match fields.next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    Some(Line {
        at: stamp.parse().ok()?,
        stamp,
        stream,
        full,
        text: fields.next().unwrap_or_default(),
    })
}

/// What of a log is wanted: the query of a log request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) follow: bool,
    pub(crate) tail: Option<usize>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) timestamps: bool,
    pub(crate) limit: Option<usize>,
    pub(crate) only: Option<Stream>,
}

/// Turns log lines into what the client sees; keeps what must be known from line to line.
#[derive(Debug)]
pub(crate) struct Printer {
    options: Options,
    /// The line before went on, so no time is put before this piece.
    within: bool,
    left: usize,
}

impl Printer {
    pub(crate) fn new(options: Options) -> Self {
        let left = options.limit.unwrap_or(usize::MAX);
        Self {
            options,
            within: false,
            left,
        }
    }

    /// Whether the limit was reached.
    pub(crate) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// Appends what is to be shown of the line.
    pub(crate) fn print(&mut self, line: &Line<'_>, out: &mut Vec<u8>) {
        if self.options.since.is_some_and(|since| line.at < since)
            || self.options.only.is_some_and(|only| line.stream != only)
        {
            return;
        }
        let before = out.len();
        if self.options.timestamps && !self.within {
            out.extend_from_slice(line.stamp.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if line.full {
            out.push(b'\n');
        }
        self.within = !line.full;
        out.truncate(before.saturating_add(self.left).min(out.len()));
        self.left -= out.len() - before;
    }
}

/// Where the last `count` lines start. Pieces of a line count as one.
pub(crate) fn tail_start(content: &[u8], count: usize) -> usize {
    let mut left = count;
    let mut start = content.len();
    for (at, _) in content
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, byte)| **byte == b'\n')
    {
        let line_start = content
            .get(..at)
            .and_then(|head| head.iter().rposition(|byte| *byte == b'\n'));
        let line_start = line_start.map_or(0, |newline| newline + 1);
        let full = content
            .get(line_start..at)
            .and_then(parse)
            .is_none_or(|line| line.full);
        if full || start == content.len() {
            if left == 0 {
                break;
            }
            left -= 1;
        }
        start = line_start;
    }
    if count == 0 { content.len() } else { start }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(options: Options, content: &[u8]) -> String {
        let mut printer = Printer::new(options);
        let mut out = Vec::new();
        for line in content.split(|byte| *byte == b'\n').filter_map(parse) {
            printer.print(&line, &mut out);
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn options() {
        let content = b"2026-01-01T00:00:00.000000001Z stdout F one\n2026-01-01T00:00:01Z stderr P tw\n\
            2026-01-01T00:00:01Z stderr F o\nnot a line\n2026-01-01T00:00:02Z stdout F \n";
        let plain = Options::default;
        let rows = [
            (plain(), "one\ntwo\n\n"),
            (
                Options {
                    only: Some(Stream::Stderr),
                    ..plain()
                },
                "two\n",
            ),
            (
                Options {
                    since: Some("2026-01-01T00:00:01Z".parse().unwrap()),
                    ..plain()
                },
                "two\n\n",
            ),
            (
                Options {
                    limit: Some(5),
                    ..plain()
                },
                "one\nt",
            ),
            (
                Options {
                    timestamps: true,
                    ..plain()
                },
                "2026-01-01T00:00:00.000000001Z one\n2026-01-01T00:00:01Z two\n2026-01-01T00:00:02Z \n",
            ),
        ];
        for (options, expected) in rows {
            assert_eq!(shown(options.clone(), content), expected, "{options:?}");
        }
    }

    #[test]
    fn tails() {
        let line = |text: &str, tag| format!("2026-01-01T00:00:00Z stdout {tag} {text}\n");
        let content = [line("a", 'F'), line("b", 'P'), line("c", 'F'), line("d", 'F')]
            .concat()
            .into_bytes();
        for (count, expected) in [
            (0, ""),
            (1, "d\n"),
            (2, "bc\nd\n"),
            (3, "a\nbc\nd\n"),
            (9, "a\nbc\nd\n"),
        ] {
            let start = tail_start(&content, count);
            assert_eq!(shown(Options::default(), &content[start..]), expected, "{count}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(text in "[^\n]{0,80}", seconds in 0i64..2_000_000_000, nanos in 0i32..1_000_000_000, newline: bool) {
            let at = Timestamp::new(seconds, nanos).unwrap();
            let mut sent = text.clone().into_bytes();
            if newline { sent.push(b'\n'); }
            let wire = encode(at, Stream::Stderr, &sent);
            let line = parse(wire.strip_suffix(b"\n").unwrap()).unwrap();
            prop_assert_eq!((line.at, line.stream, line.full, line.text), (at, Stream::Stderr, newline, text.as_bytes()));
        }

        #[test]
        fn garbage_is_skipped(garbage: Vec<u8>, count in 0usize..5) {
            let _ = parse(&garbage);
            prop_assert!(tail_start(&garbage, count) <= garbage.len());
        }
    }
}
