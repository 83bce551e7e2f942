//! What the fuzz targets in `fuzz/` do with their input: here, as the parsers are private. A finding is a panic.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::env::Env;
use crate::{catalogue, downward, logs, mounts};

/// A log file in the CRI format; the first byte chooses what is asked of it.
pub fn log(data: &[u8]) {
    let Some((wish, content)) = data.split_first() else {
        return;
    };
    let limit = usize::from(*wish);
    let start = logs::tail_start(content, usize::from(wish % 8));
    assert!(start <= content.len(), "starts behind the end");
    let options = logs::Options {
        timestamps: wish % 2 == 1,
        limit: Some(limit),
        ..logs::Options::default()
    };
    let (mut printer, mut out) = (logs::Printer::new(options), Vec::new());
    let tail = content.get(start..).unwrap_or_default();
    for line in tail.split(|byte| *byte == b'\n').filter_map(logs::parse) {
        printer.print(&line, &mut out);
    }
    assert!(out.len() <= limit, "more than the limit");
}

/// An image reference, a text with `$(NAME)` and a quantity, each line as all three. A full image name stays as it is.
pub fn text(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut env = Env::default();
    env.set("NAME", "value".to_owned());
    for line in text.lines() {
        if let Some(name) = catalogue::normalise(line) {
            assert!(name.contains('/'), "a name without a registry");
        }
        let expanded = env.expand(line);
        assert!(line.contains('$') || expanded == line, "changed without a dollar");
        let _ = downward::milli(&Quantity(line.to_owned()));
    }
}

/// The kernel's table of mounts.
pub fn proc(data: &[u8]) {
    assert!(
        mounts::points(data).count() <= data.len() + 1,
        "more mounts than lines"
    );
}
