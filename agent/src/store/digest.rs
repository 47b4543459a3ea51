//! SHA-256 as stores take and confirm it. The type is that of the documents.

use aws_lc_rs::digest;
use base64::{Engine, prelude::BASE64_STANDARD};
pub use holdfast_crds::document::Sha256;
use object_store::PutPayload;

/// SHA-256 over a stream.
pub struct Hasher(digest::Context);

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

impl Hasher {
    /// Starts anew.
    pub fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all that was taken.
    pub fn finish(self) -> Sha256 {
        let mut out = [0; 32];
        out.copy_from_slice(self.0.finish().as_ref());
        Sha256(out)
    }
}

/// The digest of `bytes`.
pub fn of(bytes: &[u8]) -> Sha256 {
    let mut hasher = Hasher::new();
    hasher.update(bytes);
    hasher.finish()
}

/// The digest of a payload's chunks in order.
pub fn of_payload(payload: &PutPayload) -> Sha256 {
    let mut hasher = Hasher::new();
    for chunk in payload {
        hasher.update(chunk);
    }
    hasher.finish()
}

/// What S3 calls *composite*: the digest over the digests of the pieces.
pub fn of_pieces(pieces: impl IntoIterator<Item = Sha256>) -> Sha256 {
    let mut hasher = Hasher::new();
    for piece in pieces {
        hasher.update(&piece.0);
    }
    hasher.finish()
}

/// As S3's headers carry it.
pub fn to_base64(sha256: &Sha256) -> String {
    BASE64_STANDARD.encode(sha256.0)
}

/// Reads what [`to_base64`] writes.
pub fn from_base64(text: &str) -> Option<Sha256> {
    BASE64_STANDARD.decode(text).ok()?.try_into().ok().map(Sha256)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_the_known_ones() {
        assert_eq!(
            of(b"abc").to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(to_base64(&of(b"")), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
        assert_eq!(from_base64(&to_base64(&of(b"x"))), Some(of(b"x")));
        assert_eq!(from_base64("AAAA"), None);
        let payload: PutPayload = [bytes::Bytes::from_static(b"a"), bytes::Bytes::from_static(b"bc")]
            .into_iter()
            .collect();
        assert_eq!(of_payload(&payload), of(b"abc"));
    }
}
