//! What the fuzz targets in `fuzz/` do with their input: here, as the parser is private. A finding is a panic.

use crate::remote::take_sizes;

/// The stream of terminal sizes, in two pieces; the first byte says where the cut is. What comes in pieces is what comes
/// at once, up to the first garbage.
pub fn resize(data: &[u8]) {
    let Some((cut, text)) = data.split_first() else {
        return;
    };
    let (first, rest) = text.split_at(usize::from(*cut).min(text.len()));
    // serde_json takes a number that ends so for garbage, not for half of one. Terminals have no such sizes.
    if matches!(first.last(), Some(b'-' | b'+' | b'.' | b'e' | b'E')) {
        return;
    }
    let mut whole = text.to_vec();
    let at_once = take_sizes(&mut whole);
    assert!(text.ends_with(&whole), "what is left is not the end");
    let mut buffer = first.to_vec();
    let mut in_pieces = take_sizes(&mut buffer);
    buffer.extend_from_slice(rest);
    in_pieces.extend(take_sizes(&mut buffer));
    assert!(in_pieces.starts_with(&at_once), "the cut changed the sizes");
}
