//! A store that keeps sizes and checksums and nothing else.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex},
};

use holdfast_agent::store::{
    Backend, ByteStream, Checksum, ObjectMeta, StoreError, Versioning,
    backend::{Content, OpenUpload, Page, Piece, PieceReceipt},
    digest::of_pieces,
};
use holdfast_crds::document::Sha256;
use jiff::Timestamp;
use object_store::PutPayload;

#[derive(Clone, Debug, Default)]
pub struct Sink(Arc<Mutex<HashMap<String, (u64, Checksum)>>>);

fn nothing_kept<T>(call: &'static str) -> Result<T, StoreError> {
    Err(StoreError::Unsupported {
        call,
        problem: "a sink keeps nothing".to_owned(),
    })
}

#[async_trait::async_trait]
impl Backend for Sink {
    fn describe(&self) -> String {
        "sink".to_owned()
    }

    fn min_piece(&self) -> u64 {
        5 << 20
    }

    fn now(&self) -> Option<Timestamp> {
        None
    }

    async fn renew_credentials(&self) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn create(&self, path: &str, _: Content, body: &PutPayload, sha256: &Sha256) -> Result<(), StoreError> {
        self.0
            .lock()
            .unwrap()
            .insert(path.to_owned(), (body.content_length() as u64, Checksum::Whole(*sha256)));
        Ok(())
    }

    async fn start_upload(&self, path: &str) -> Result<String, StoreError> {
        Ok(path.to_owned())
    }

    async fn put_piece(&self, _: &str, _: &str, piece: &Piece) -> Result<PieceReceipt, StoreError> {
        Ok(PieceReceipt {
            number: piece.number,
            size: piece.body.content_length() as u64,
            sha256: piece.sha256,
            tag: String::new(),
        })
    }

    async fn complete_upload(&self, path: &str, _: &str, pieces: &[PieceReceipt]) -> Result<(), StoreError> {
        let checksum = Checksum::OfPieces {
            digest: of_pieces(pieces.iter().map(|piece| piece.sha256)),
            pieces: u32::try_from(pieces.len()).unwrap(),
        };
        self.0
            .lock()
            .unwrap()
            .insert(path.to_owned(), (pieces.iter().map(|piece| piece.size).sum(), checksum));
        Ok(())
    }

    async fn abort_upload(&self, _: &str, _: &str) -> Result<(), StoreError> {
        Ok(())
    }

    async fn list_uploads(&self, _: &str, _: Option<&str>) -> Result<Page<OpenUpload>, StoreError> {
        nothing_kept("list uploads")
    }

    async fn head(&self, path: &str, _: Option<&str>) -> Result<Option<ObjectMeta>, StoreError> {
        let meta = |(size, checksum): &(u64, Checksum)| ObjectMeta {
            path: path.to_owned(),
            size: *size,
            checksum: Some(*checksum),
            version: None,
            modified: None,
        };
        Ok(self.0.lock().unwrap().get(path).map(meta))
    }

    async fn get(&self, _: &str, _: Option<Range<u64>>, _: Option<&str>) -> Result<Option<(ObjectMeta, ByteStream)>, StoreError> {
        nothing_kept("get")
    }

    async fn list(&self, _: &str, _: Option<&str>) -> Result<Page<ObjectMeta>, StoreError> {
        nothing_kept("list")
    }

    async fn versioning(&self) -> Result<Versioning, StoreError> {
        Ok(Versioning::Disabled)
    }

    async fn delete(&self, _: &str) -> Result<(), StoreError> {
        nothing_kept("delete")
    }
}
