//! How objects are read out of the API server's answers: one by one as they arrive, straight into their type, and without who manages their
//! fields.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta, Status};
use kube::{Resource, core::PartialObjectMeta};
use memchr::{memchr2, memmem};
use serde::{
    Deserialize,
    de::{DeserializeOwned, Error as _, IgnoredAny},
};

/// An object, or why it does not fit the schema of this version: then it stops no other of its list or watch.
pub type Read<K> = Result<K, Unreadable>;

/// An object that does not fit the schema of this version.
#[derive(Debug)]
pub struct Unreadable {
    /// The field, what was found there and what is expected.
    pub error: String,
    pub metadata: ObjectMeta,
}

/// A line of a watch.
#[derive(Debug)]
pub enum Event<K> {
    Applied(Read<K>),
    Deleted(Read<K>),
    /// The watch has shown everything up to this version.
    Bookmark(ObjectMeta),
    Error(Status),
}

/// A list that arrives in pieces. No more of it is held than one object.
pub struct List(Splitter);

impl List {
    pub fn new() -> Self {
        Self(Splitter::new(b'[', 2))
    }

    /// Takes the next piece, and gives each object that ends in it.
    pub fn take<K: Resource + DeserializeOwned>(&mut self, piece: &[u8], mut each: impl FnMut(Read<K>)) -> serde_json::Result<()> {
        self.0.take(piece, |object| object_of(object).map(&mut each))
    }

    /// What the list says beside its objects, once all of it has arrived.
    pub fn end(self) -> serde_json::Result<ListMeta> {
        #[derive(Deserialize)]
        struct Envelope {
            metadata: ListMeta,
        }
        Ok(serde_json::from_slice::<Envelope>(&self.0.rest()?)?.metadata)
    }
}

/// Reads a line of a watch.
pub fn event<K: Resource + DeserializeOwned>(line: &[u8]) -> serde_json::Result<Event<K>> {
    #[derive(Deserialize)]
    struct Envelope {
        #[serde(rename = "type")]
        kind: String,
    }
    let mut object = Vec::new();
    let mut splitter = Splitter::new(b'{', 1);
    splitter.take(line, |found| {
        object = found;
        Ok(())
    })?;
    let kind = serde_json::from_slice::<Envelope>(&splitter.rest()?)?.kind;
    match kind.as_str() {
        "ADDED" | "MODIFIED" => object_of(object).map(Event::Applied),
        "DELETED" => object_of(object).map(Event::Deleted),
        "BOOKMARK" => serde_json::from_slice::<PartialObjectMeta<K>>(&object).map(|bookmark| Event::Bookmark(bookmark.metadata)),
        "ERROR" => serde_json::from_slice(&object).map(Event::Error),
        other => Err(serde_json::Error::custom(format!(
            "an event of a watch is of the type {other:?}; expected ADDED, MODIFIED, DELETED, BOOKMARK or ERROR"
        ))),
    }
}

/// Splits objects out of a text of JSON that arrives in pieces: those that lie directly in the array, or the object, at some depth. Serde's own
/// way through a list has no pieces, and ends at the first object that does not fit its type.
struct Splitter {
    /// What opens that in which the objects lie, and its depth; 1 is the outermost.
    parent: (u8, usize),
    depth: usize,
    /// Whether that at the depth of `parent` was opened as it says.
    inside: bool,
    text: bool,
    escaped: bool,
    /// The object so far, if one has begun.
    object: Vec<u8>,
    /// Everything else, with null in the place of each object.
    rest: Vec<u8>,
}

impl Splitter {
    fn new(bracket: u8, depth: usize) -> Self {
        Self {
            parent: (bracket, depth),
            depth: 0,
            inside: false,
            text: false,
            escaped: false,
            object: Vec::new(),
            rest: Vec::new(),
        }
    }

    fn take(&mut self, piece: &[u8], mut each: impl FnMut(Vec<u8>) -> serde_json::Result<()>) -> serde_json::Result<()> {
        // From where on the piece is not in `object` or `rest` yet.
        let (mut from, mut at) = (0, 0);
        while let Some(&byte) = piece.get(at) {
            at += 1;
            if self.text {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.text = false,
                    _ => at += memchr2(b'"', b'\\', &piece[at..]).unwrap_or(piece.len() - at),
                }
                continue;
            }
            match byte {
                b'"' => self.text = true,
                b'{' | b'[' => {
                    if self.inside && self.depth == self.parent.1 && byte == b'{' {
                        self.rest.extend_from_slice(&piece[from..at - 1]);
                        from = at - 1;
                    }
                    self.depth += 1;
                    if self.depth == self.parent.1 {
                        self.inside = byte == self.parent.0;
                    }
                }
                b'}' | b']' => {
                    self.depth = self.depth.checked_sub(1).ok_or_else(|| wrong("it closes what was never opened"))?;
                    if self.inside && self.depth == self.parent.1 && byte == b'}' {
                        self.object.extend_from_slice(&piece[from..at]);
                        from = at;
                        self.rest.extend_from_slice(b"null");
                        each(std::mem::take(&mut self.object))?;
                    }
                    self.inside &= self.depth >= self.parent.1;
                }
                _ => {}
            }
        }
        let kept = if self.inside && self.depth > self.parent.1 {
            &mut self.object
        } else {
            &mut self.rest
        };
        kept.extend_from_slice(&piece[from..]);
        Ok(())
    }

    fn rest(self) -> serde_json::Result<Vec<u8>> {
        if self.depth > 0 || self.rest.is_empty() {
            return Err(wrong("it ends too early"));
        }
        Ok(self.rest)
    }
}

fn object_of<K: Resource + DeserializeOwned>(text: Vec<u8>) -> serde_json::Result<Read<K>> {
    let text = without_managers(text)?;
    serde_json::from_slice(&text)
        .map(Ok)
        .or_else(|error| unreadable::<K>(&text, &error).map(Err))
}

/// The text without the fields' managers, which are often longer than the rest. Within a string the quotes would have backslashes before them, so
/// that what is found is the member.
fn without_managers(text: Vec<u8>) -> serde_json::Result<Vec<u8>> {
    const MANAGERS: &[u8] = br#""managedFields":["#;
    let Some(found) = memmem::find(&text, MANAGERS) else {
        return Ok(text);
    };
    let value = found + MANAGERS.len() - 1;
    let mut values = serde_json::Deserializer::from_slice(&text[value..]).into_iter::<IgnoredAny>();
    values.next().transpose()?;
    let end = value + values.byte_offset();
    Ok([&text[..value], b"null", &text[end..]].concat())
}

/// What can be told of an object that cannot be read.
fn unreadable<K: Resource + DeserializeOwned>(text: &[u8], error: &serde_json::Error) -> serde_json::Result<Unreadable> {
    let metadata = serde_json::from_slice::<PartialObjectMeta<K>>(text)?.metadata;
    let read: Result<K, _> = serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(text));
    let error = read.err().map_or_else(|| error.to_string(), |error| error.to_string());
    Ok(Unreadable { error, metadata })
}

fn wrong(what: &str) -> serde_json::Error {
    serde_json::Error::custom(format!("the API server's answer is not as expected: {what}"))
}

#[cfg(test)]
#[path = "read_test.rs"]
mod tests;
