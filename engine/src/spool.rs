//! A request body on its way in: in memory up to a limit, then in an unlinked temporary file.
//! Must not know: sockets, framing.

use std::fs::File;
use std::io::{self, Seek, Write};

/// A body that is being collected.
#[derive(Debug)]
pub enum Spool {
    /// Small enough so far.
    Memory(Vec<u8>),
    /// Past the limit: all of it is in the file, which no name leads to.
    File(File),
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
                let mut file = tempfile::tempfile()?;
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
            Spool::File(file) => file.rewind(),
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
        let Spool::File(mut file) = spool else { panic!("past the limit, in a file") };
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        assert_eq!(text, "hello world!");
        Ok(())
    }
}
