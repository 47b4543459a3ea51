//! Encryption of one object: an age file to the run's own key, or the bytes as they are.

use std::{
    io::{self, Write},
    iter,
};

use age::{Encryptor, stream::StreamWriter};

use super::key::Recipient;

/// How the objects of a run are encrypted.
#[derive(Clone)]
pub enum Sealing {
    /// Each object is an age file to this recipient: the run's own.
    Age(Recipient),
    /// The store says `none: {}`.
    Nothing,
}

impl Sealing {
    pub fn is_encrypted(&self) -> bool {
        matches!(self, Self::Age(_))
    }

    /// Begins an object.
    pub fn begin<W: Write>(&self, out: W) -> io::Result<SealWriter<W>> {
        match self {
            Self::Age(recipient) => {
                let encryptor = Encryptor::with_recipients(iter::once(recipient.as_age())).map_err(io::Error::other)?;
                Ok(SealWriter::Age(encryptor.wrap_output(out)?))
            }
            Self::Nothing => Ok(SealWriter::Plain(out)),
        }
    }
}

/// Encrypts what is written to it.
pub enum SealWriter<W: Write> {
    Age(StreamWriter<W>),
    Plain(W),
}

impl<W: Write> SealWriter<W> {
    /// Writes what marks the end, without which nobody can read it.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Self::Age(writer) => writer.finish(),
            Self::Plain(writer) => Ok(writer),
        }
    }
}

impl<W: Write> Write for SealWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Age(writer) => writer.write(bytes),
            Self::Plain(writer) => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
