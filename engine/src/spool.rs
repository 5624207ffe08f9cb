//! A request body on its way in: in memory up to a limit, then in an unlinked temporary file.
//! Must not know: sockets, framing.

use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};

/// Pieces may be single bytes (chunks of one byte each): this many go to the file with one system call.
const FILE_BUFFER_BYTES: usize = 16 * 1024;

/// A body that is being collected.
#[derive(Debug)]
pub enum Spool {
    /// Small enough so far.
    Memory(Vec<u8>),
    /// Past the limit: all of it is in the file, which no name leads to.
    File(BufWriter<File>),
}

impl Spool {
    /// Appends `data`; what makes the body longer than `limit` bytes moves it to a file.
    ///
    /// # Errors
    /// What the kernel says of the temporary file: no space, no directory.
    pub fn push(&mut self, data: &[u8], limit: usize) -> io::Result<()> {
        match self {
            Spool::File(file) => file.write_all(data),
            Spool::Memory(memory) if memory.len() + data.len() <= limit => {
                memory.extend_from_slice(data);
                Ok(())
            }
            Spool::Memory(memory) => {
                let mut file = BufWriter::with_capacity(FILE_BUFFER_BYTES, tempfile::tempfile()?);
                file.write_all(memory)?;
                file.write_all(data)?;
                *self = Spool::File(file);
                Ok(())
            }
        }
    }

    /// Ready to be read from the start.
    ///
    /// # Errors
    /// What the kernel says of the temporary file.
    pub fn rewind(&mut self) -> io::Result<()> {
        match self {
            Spool::Memory(_) => Ok(()),
            Spool::File(file) => file.rewind(), // flushes first
        }
    }
}

impl Default for Spool {
    fn default() -> Spool {
        Spool::Memory(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_body_moves_to_a_file_past_the_limit_and_stays_whole() -> io::Result<()> {
        let mut spool = Spool::default();
        spool.push(b"hello", 8)?;
        assert!(matches!(&spool, Spool::Memory(memory) if memory == b"hello"));
        spool.push(b" wo", 8)?;
        assert!(matches!(&spool, Spool::Memory(_)), "the limit itself fits");
        spool.push(b"rld", 8)?;
        spool.push(b"!", 8)?;
        spool.rewind()?;
        let Spool::File(file) = &mut spool else { panic!("past the limit, in a file") };
        let mut text = String::new();
        file.get_mut().read_to_string(&mut text)?;
        assert_eq!(text, "hello world!");
        Ok(())
    }
}
