//! The one trait of the engines whose tools hand over streams of bytes.

use holdfast_crds::document::{self, Contents, Label, Server, StreamKind};
use jiff::Timestamp;
use tokio::io::AsyncRead;

use crate::pipeline::check::StreamCheck;
use crate::result::Failure;

/// What a look at the server found.
#[derive(Debug)]
pub struct Found {
    /// Who answered, with which versions.
    pub server: Server,
    /// What was committed by this time will be in the copy.
    pub recovery_point: Timestamp,
    /// The streams that make the copy, in order.
    pub streams: Vec<Wanted>,
    /// An estimate of the raw bytes of all streams; 0 if there is none.
    pub expected_bytes: u64,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// A stream that is to be read.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Its name in the store.
    pub name: Label,
    /// What it holds.
    pub kind: StreamKind,
    /// The database that it holds; `None` for what belongs to the whole server.
    pub database: Option<String>,
}

/// A stream that flows.
pub struct Opened<H> {
    /// What the engine needs to end it.
    pub handle: H,
    /// The bytes.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// What knows their structure.
    pub check: Box<dyn StreamCheck>,
}

/// An engine whose tools hand over streams of bytes. Calls come in this order: `preflight`, then for each stream `open` and either
/// `finish` or `abort`, then `contents`.
pub trait Streaming: Send {
    /// What it needs to end a stream.
    type Handle: Send;

    /// The engine's name in documents.
    fn name(&self) -> document::Engine;

    /// Finds what is to be copied and whether it can be; reads no data. `encrypted` says whether the copy will be.
    fn preflight(&mut self, encrypted: bool) -> impl Future<Output = Result<Found, Failure>> + Send;

    /// Begins a stream; `None` if what it was to hold is gone.
    fn open(&mut self, wanted: &Wanted) -> impl Future<Output = Result<Option<Opened<Self::Handle>>, Failure>> + Send;

    /// Behind the stream's last byte: proves that the engine's tool succeeded, and notes what the stream holds.
    fn finish(&mut self, wanted: &Wanted, handle: Self::Handle) -> impl Future<Output = Result<Finished, Failure>> + Send;

    /// Ends a stream that could not be stored, and leaves nothing behind in the server. `cut` says that it ended early by itself: then the
    /// tool has a moment to say why, else it is killed at once.
    fn abort(&mut self, wanted: &Wanted, handle: Self::Handle, cut: bool) -> impl Future<Output = Aborted> + Send;

    /// What all finished streams hold.
    fn contents(self) -> Contents;
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    /// Whole.
    Whole,
    /// What it was to hold was removed while it was read: it is no part of the copy.
    Vanished,
}

/// What was behind a stream that could not be stored.
#[derive(Debug)]
pub enum Aborted {
    /// What it was to hold was removed from the server: it is no part of the copy.
    Vanished,
    /// The tool's own failure, if it had one.
    Failed(Option<Failure>),
}
