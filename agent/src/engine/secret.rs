//! Secrets in memory: never printed, wiped when they go.

use std::path::Path;

use zeroize::Zeroizing;

/// A secret text. It has no `Debug` and no `Display`: it cannot end in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes over a text.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Reads a file of at most 64 KiB. One newline at its end is not part of the secret: editors and `echo` add it.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        let length = std::fs::metadata(path)?.len();
        if length > 65_536 {
            return Err(std::io::Error::new(
                std::io::ErrorKind::FileTooLarge,
                format!("it has {length} bytes, at most 65536 are expected"),
            ));
        }
        let mut text = Zeroizing::new(std::fs::read_to_string(path)?);
        if text.ends_with('\n') {
            text.pop();
        }
        if text.ends_with('\r') {
            text.pop();
        }
        Ok(Self(text))
    }

    /// The text, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}
