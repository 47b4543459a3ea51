//! Lines in the log that the operator reads: how many there are and their SHA-256 go into the termination message.

use serde::Serialize;

use crate::store::digest::Hasher;

/// The most bytes of one line: a log's line may be cut by a container runtime at 16 KiB.
const LINE_LIMIT: usize = 15 << 10;

/// Where lines go: standard output, or a list in tests.
pub type Sink = Box<dyn FnMut(&str) + Send + Sync>;

/// Lines that are being written.
pub struct Lines {
    prefix: &'static str,
    sink: Sink,
    hasher: Hasher,
    count: u64,
}

impl Lines {
    /// `prefix` is what tells these lines from the log's own.
    pub fn new(prefix: &'static str, sink: Sink) -> Self {
        Self {
            prefix,
            sink,
            hasher: Hasher::new(),
            count: 0,
        }
    }

    /// Prints to standard output, beside the log's own lines.
    pub fn to_stdout(prefix: &'static str) -> Self {
        Self::new(prefix, Box::new(|line| println!("{line}")))
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// # Errors
    /// The line's length in bytes, where it is too long and was left out.
    pub fn add(&mut self, line: &impl Serialize) -> Result<(), usize> {
        let Ok(text) = serde_json::to_string(line) else { return Ok(()) };
        if text.len() > LINE_LIMIT {
            return Err(text.len());
        }
        let text = format!("{}{text}", self.prefix);
        self.hasher.update(text.as_bytes());
        self.hasher.update(b"\n");
        self.count += 1;
        (self.sink)(&text);
        Ok(())
    }

    /// How many there were, and the SHA-256 of all, each with its line feed.
    pub fn finish(self) -> (u64, String) {
        (self.count, self.hasher.finish().to_string())
    }
}
