//! An answer of an agent until it is printed: short ones in memory, long ones in a file without a name.

use std::io::{self, BufRead, BufReader, Seek as _, Write};

use tempfile::SpooledTempFile;

/// Bytes that stay in memory.
const SHORT: usize = 1 << 20;
/// Most bytes that are taken: the longest table of connections that can be configured has some fewer.
const MAX: u64 = 16 << 30;

/// What was written, in order.
#[derive(Debug)]
pub(crate) struct Spool {
    file: SpooledTempFile,
    room: u64,
}

impl Default for Spool {
    fn default() -> Self {
        Self {
            file: SpooledTempFile::new(SHORT),
            room: MAX,
        }
    }
}

impl Spool {
    /// Reads from the beginning.
    ///
    /// # Errors
    /// Of the file.
    pub(crate) fn read(&mut self) -> io::Result<impl BufRead + '_> {
        self.file.rewind()?;
        Ok(BufReader::new(&mut self.file))
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.room = self
            .room
            .checked_sub(bytes.len() as u64)
            .ok_or(io::ErrorKind::FileTooLarge)?;
        self.file.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
impl From<&str> for Spool {
    fn from(text: &str) -> Self {
        let mut spool = Self::default();
        spool.write_all(text.as_bytes()).unwrap();
        spool
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn what_was_written_is_read_however_long() {
        for length in [0, 5, SHORT * 2] {
            let mut spool = Spool::default();
            let bytes = vec![b'x'; length];
            for part in bytes.chunks(1000) {
                spool.write_all(part).unwrap();
            }
            let mut read = Vec::new();
            spool.read().unwrap().read_to_end(&mut read).unwrap();
            assert_eq!(read.len(), length);
        }
    }

    #[test]
    fn too_much_is_refused() {
        let mut spool = Spool {
            room: 3,
            ..Spool::default()
        };
        assert!(spool.write_all(b"abc").is_ok());
        assert_eq!(
            spool.write_all(b"d").unwrap_err().kind(),
            io::ErrorKind::FileTooLarge
        );
    }
}
