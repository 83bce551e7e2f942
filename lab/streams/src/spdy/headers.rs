//! Header blocks of SPDY/3: one zlib stream per direction of a connection, preset with the draft's dictionary.
//!
//! Inside: a count, then length-prefixed name and value for each header; several values of one name are joined by a zero byte.

use bytes::{Buf, BufMut, Bytes};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::dictionary::dictionary;

/// The largest header block after decompression, in bytes.
const MAX_BLOCK: usize = 64 << 10;
/// Most headers of a block.
const MAX_HEADERS: usize = 256;

/// Headers in the order of the wire, names in lower case.
pub type Headers = Vec<(String, String)>;

/// Why a header block cannot be read. All of them end the connection: the compression state is lost.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// Not a zlib stream with the dictionary of SPDY/3.
    #[error("header block cannot be decompressed")]
    Zlib(#[from] flate2::DecompressError),
    /// Not a zlib stream that can be written.
    #[error("header block cannot be compressed")]
    Compress(#[from] flate2::CompressError),
    /// More than the limit.
    #[error("header block is larger than {MAX_BLOCK} bytes")]
    TooLarge,
    /// Lengths that do not fit.
    #[error("header block is malformed")]
    Malformed,
}

/// The reading direction.
pub struct HeaderDecoder {
    zlib: Decompress,
}

/// The writing direction.
pub struct HeaderEncoder {
    zlib: Compress,
}

impl HeaderDecoder {
    /// For a new connection.
    #[must_use]
    pub fn new() -> Self {
        Self {
            zlib: Decompress::new(true),
        }
    }

    /// Reads one block. Blocks must come in the order of the wire.
    ///
    /// # Errors
    /// See [`HeaderError`].
    pub fn decode(&mut self, block: &[u8]) -> Result<Headers, HeaderError> {
        parse(&mut self.inflate(block)?)
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Bytes, HeaderError> {
        let mut plain = Vec::with_capacity(1024);
        loop {
            if plain.len() == plain.capacity() {
                if plain.len() >= MAX_BLOCK {
                    return Err(HeaderError::TooLarge);
                }
                plain.reserve(plain.len());
            }
            let (read, written) = (self.zlib.total_in(), plain.len());
            if let Err(error) = self.zlib.decompress_vec(block, &mut plain, FlushDecompress::Sync) {
                // The first block stops right behind the stream's header, which names the dictionary.
                if error.needs_dictionary().is_none() {
                    return Err(error.into());
                }
                self.zlib.set_dictionary(&dictionary())?;
            }
            let read = (self.zlib.total_in() - read) as usize;
            block = block.get(read..).unwrap_or_default();
            if block.is_empty() && plain.len() < plain.capacity() {
                return Ok(plain.into());
            }
            if read == 0 && plain.len() == written && plain.len() < plain.capacity() {
                return Err(HeaderError::Malformed);
            }
        }
    }
}

impl Default for HeaderDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl HeaderEncoder {
    /// For a new connection.
    ///
    /// # Errors
    /// When zlib refuses the dictionary, which it has no reason to.
    pub fn new() -> Result<Self, HeaderError> {
        let mut zlib = Compress::new(Compression::fast(), true);
        zlib.set_dictionary(&dictionary())?;
        Ok(Self { zlib })
    }

    /// Writes one block. Blocks must be sent in the order they were made.
    ///
    /// # Errors
    /// When zlib fails.
    pub fn encode(&mut self, headers: &[(String, String)]) -> Result<Bytes, HeaderError> {
        let mut plain = Vec::new();
        plain.put_u32(headers.len() as u32);
        for (name, value) in headers {
            for text in [name, value] {
                plain.put_u32(text.len() as u32);
                plain.put_slice(text.as_bytes());
            }
        }
        let mut block = Vec::with_capacity(plain.len() + 64);
        let mut rest = &plain[..];
        loop {
            let read = self.zlib.total_in();
            self.zlib.compress_vec(rest, &mut block, FlushCompress::Sync)?;
            rest = rest
                .get((self.zlib.total_in() - read) as usize..)
                .unwrap_or_default();
            // Room left over means that the flush is complete.
            if rest.is_empty() && block.len() < block.capacity() {
                return Ok(block.into());
            }
            block.reserve(64);
        }
    }
}

fn parse(plain: &mut Bytes) -> Result<Headers, HeaderError> {
    let count = take_u32(plain)? as usize;
    if count > MAX_HEADERS {
        return Err(HeaderError::TooLarge);
    }
    let mut headers = Vec::with_capacity(count);
    for _ in 0..count {
        let name = take_text(plain)?.to_ascii_lowercase();
        headers.push((name, take_text(plain)?));
    }
    Ok(headers)
}

fn take_u32(plain: &mut Bytes) -> Result<u32, HeaderError> {
    plain.try_get_u32().map_err(|_| HeaderError::Malformed)
}

fn take_text(plain: &mut Bytes) -> Result<String, HeaderError> {
    let length = take_u32(plain)? as usize;
    if length > plain.len() {
        return Err(HeaderError::Malformed);
    }
    String::from_utf8(plain.split_to(length).to_vec()).map_err(|_| HeaderError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn blocks_survive_one_connection(
            blocks in prop::collection::vec(prop::collection::vec(("[a-z-]{1,20}", "[ -~]{0,300}"), 0..12), 1..6)
        ) {
            let (mut encoder, mut decoder) = (HeaderEncoder::new().unwrap(), HeaderDecoder::new());
            for block in blocks {
                let wire = encoder.encode(&block).unwrap();
                prop_assert_eq!(decoder.decode(&wire).unwrap(), block);
            }
        }

        #[test]
        fn garbage_is_an_error(garbage in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = HeaderDecoder::new().decode(&garbage);
            let mut wire = HeaderEncoder::new().unwrap().encode(&[("a".into(), "b".into())]).unwrap().to_vec();
            wire.extend_from_slice(&garbage);
            let _ = HeaderDecoder::new().decode(&wire);
            let _ = parse(&mut Bytes::from(garbage));
        }
    }

    #[test]
    fn a_small_block_cannot_become_a_large_one() {
        let block = [("a".to_owned(), "x".repeat(1 << 20))];
        let wire = HeaderEncoder::new().unwrap().encode(&block).unwrap();
        assert!(wire.len() < 1 << 14);
        assert!(matches!(
            HeaderDecoder::new().decode(&wire),
            Err(HeaderError::TooLarge)
        ));
    }
}
