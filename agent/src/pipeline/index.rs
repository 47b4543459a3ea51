//! The index of a stream: where its frames and its archive's entries lie.

use std::{
    io::{self, BufRead, Write},
    ops::Range,
};

use holdfast_crds::document::{FORMAT, IndexEntry, IndexFrame, IndexHeader, IndexLine, Label, Stream, canonical_bytes};

use super::check::Entry;
use super::frame::FRAME;
use super::pool::SLAB;

/// The longest line that a reader accepts, in bytes.
const MAX_LINE: u64 = 64 << 10;

/// All lines of an index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// In stream order.
    pub frames: Vec<IndexFrame>,
    /// In stream order.
    pub entries: Vec<IndexEntry>,
}

/// Why an index cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error("read the index, line {line}: {problem}")]
    Line { line: u64, problem: String },
    #[error("read the index: it says {field} {found}, the manifest says {expected}")]
    Contradicts { field: String, found: u64, expected: u64 },
    #[error("read the index: it says {field} {found}, expected at most {most}")]
    TooLarge { field: String, found: u32, most: u64 },
    #[error("read the index: {0}")]
    Io(#[from] io::Error),
}

impl Index {
    /// The index of frames that were stored and of the entries that a check found in them.
    pub fn new(frames: Vec<IndexFrame>, entries: Vec<Entry>) -> Self {
        let mut frame = 0u64;
        let mut begins = 0u64;
        let entries = entries
            .into_iter()
            .map(|entry| {
                while let Some(current) = frames.get(usize::try_from(frame).unwrap_or(usize::MAX)) {
                    if entry.raw_offset < begins + u64::from(current.raw) {
                        break;
                    }
                    begins += u64::from(current.raw);
                    frame += 1;
                }
                IndexEntry {
                    id: entry.id,
                    kind: entry.kind,
                    name: entry.name,
                    frame,
                    raw_offset: entry.raw_offset,
                    length: entry.length,
                    rows: entry.rows,
                }
            })
            .collect();
        Self { frames, entries }
    }

    /// Writes the JSON lines.
    pub fn write(&self, stream: &Label, mut out: impl Write) -> io::Result<()> {
        let header = IndexHeader {
            version: FORMAT,
            stream: stream.clone(),
            frames: self.frames.len() as u64,
            entries: self.entries.len() as u64,
        };
        let mut line = |line: &IndexLine| {
            let mut bytes = canonical_bytes(line);
            bytes.push(b'\n');
            out.write_all(&bytes)
        };
        line(&IndexLine::Header(header))?;
        self.frames.iter().try_for_each(|frame| line(&IndexLine::Frame(*frame)))?;
        self.entries.iter().try_for_each(|entry| line(&IndexLine::Entry(entry.clone())))
    }

    /// Reads the JSON lines of the index of `stream` and compares them with its manifest.
    pub fn read(stream: &Stream, input: impl BufRead) -> Result<Self, IndexError> {
        let mut lines = Lines {
            input,
            number: 0,
            bytes: Vec::new(),
        };
        let Some(IndexLine::Header(header)) = lines.next()? else {
            return Err(lines.wrong("expected the header"));
        };
        if header.version.major > FORMAT.major {
            return Err(lines.wrong(&format!(
                "its format is version {}, this Holdfast reads up to {FORMAT}; use a newer Holdfast",
                header.version
            )));
        }
        if header.stream != stream.name {
            return Err(lines.wrong(&format!("it is the index of {}, expected {}", header.stream, stream.name)));
        }
        let mut index = Self::default();
        while let Some(line) = lines.next()? {
            match line {
                IndexLine::Frame(frame) if index.entries.is_empty() => index.frames.push(frame),
                IndexLine::Entry(entry) => index.entries.push(entry),
                IndexLine::Header(_) | IndexLine::Frame(_) => return Err(lines.wrong("expected header, frames, entries in this order")),
            }
        }
        expect("frames in its header", header.frames, index.frames.len() as u64)?;
        expect("entries in its header", header.entries, index.entries.len() as u64)?;
        index.check(stream)?;
        Ok(index)
    }

    /// Compares the frames with the parts of the manifest: every byte of both is accounted for.
    fn check(&self, stream: &Stream) -> Result<(), IndexError> {
        let mut frames = self.frames.iter().peekable();
        for (part, number) in stream.parts.iter().zip(1u32..) {
            let (mut stored, mut raw, mut count) = (0u64, 0u64, 0u64);
            while let Some(frame) = frames.next_if(|frame| frame.part == number) {
                expect(&format!("offset of a frame in part {number}"), frame.offset, stored)?;
                at_most("raw bytes of a frame", frame.raw, FRAME)?;
                at_most("stored bytes of a frame", frame.stored, FRAME + SLAB)?;
                stored += u64::from(frame.stored);
                raw += u64::from(frame.raw);
                count += 1;
            }
            expect(&format!("decrypted bytes of part {number}"), stored, part.decrypted_bytes)?;
            expect(&format!("raw bytes of part {number}"), raw, part.raw_bytes)?;
            expect(&format!("frames of part {number}"), count, part.frames)?;
        }
        match frames.next() {
            Some(frame) => Err(IndexError::Contradicts {
                field: "a frame of part".to_owned(),
                found: frame.part.into(),
                expected: stream.parts.len() as u64,
            }),
            None => Ok(()),
        }
    }

    /// The frames that hold a range of raw bytes, and the raw offset at which the first of them begins.
    pub fn frames_of(&self, raw: &Range<u64>) -> (Range<usize>, u64) {
        let mut begins = 0u64;
        let mut first = 0;
        for frame in &self.frames {
            if begins + u64::from(frame.raw) > raw.start {
                break;
            }
            begins += u64::from(frame.raw);
            first += 1;
        }
        let mut end = begins;
        let mut last = first;
        while end < raw.end && last < self.frames.len() {
            end += u64::from(self.frames[last].raw);
            last += 1;
        }
        (first..last, begins)
    }
}

fn expect(field: &str, found: u64, expected: u64) -> Result<(), IndexError> {
    if found == expected {
        Ok(())
    } else {
        Err(IndexError::Contradicts {
            field: field.to_owned(),
            found,
            expected,
        })
    }
}

/// What is larger than any writer makes it has no room in the pool.
fn at_most(field: &str, found: u32, most: usize) -> Result<(), IndexError> {
    let most = most as u64;
    if u64::from(found) <= most {
        Ok(())
    } else {
        Err(IndexError::TooLarge {
            field: field.to_owned(),
            found,
            most,
        })
    }
}

struct Lines<R> {
    input: R,
    number: u64,
    bytes: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> Result<Option<IndexLine>, IndexError> {
        self.bytes.clear();
        self.number += 1;
        io::Read::take(&mut self.input, MAX_LINE).read_until(b'\n', &mut self.bytes)?;
        match self.bytes.split_last() {
            None => Ok(None),
            Some((b'\n', line)) => serde_json::from_slice(line)
                .map(Some)
                .map_err(|error| self.wrong(&error.to_string())),
            Some(_) => Err(self.wrong(&format!("expected a line end within {MAX_LINE} bytes"))),
        }
    }

    fn wrong(&self, problem: &str) -> IndexError {
        IndexError::Line {
            line: self.number,
            problem: problem.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_crds::document::{Blake3, Checked, EntryKind, IndexObject, Part, RawDigest, Sha256, StreamKind};
    use proptest::prelude::*;

    use super::*;

    fn frames(sizes: &[(bool, u32, u32)]) -> Vec<IndexFrame> {
        let (mut part, mut offset) = (1, 0);
        let mut frames = Vec::new();
        for &(new_part, stored, raw) in sizes {
            if new_part && !frames.is_empty() {
                (part, offset) = (part + 1, 0);
            }
            frames.push(IndexFrame {
                part,
                offset,
                stored,
                raw,
                blake3: Blake3::of(&raw.to_be_bytes()),
            });
            offset += u64::from(stored);
        }
        frames
    }

    fn manifest_of(frames: &[IndexFrame]) -> Stream {
        let count = frames.last().map_or(0, |frame| frame.part);
        let part = |number| {
            let own: Vec<_> = frames.iter().filter(|frame| frame.part == number).collect();
            Part {
                object: format!("{number}"),
                bytes: 1,
                sha256: Sha256::of(b""),
                decrypted_bytes: own.iter().map(|frame| u64::from(frame.stored)).sum(),
                raw_bytes: own.iter().map(|frame| u64::from(frame.raw)).sum(),
                frames: own.len() as u64,
            }
        };
        let raw = RawDigest {
            bytes: frames.iter().map(|frame| u64::from(frame.raw)).sum(),
            blake3: Blake3::of(b""),
        };
        Stream {
            name: Label::new("stream", "globals").unwrap(),
            kind: StreamKind::PostgresqlGlobals,
            database: None,
            checked: Checked::Opaque,
            raw,
            parts: (1..=count).map(part).collect(),
            index: IndexObject {
                object: "index".into(),
                bytes: 1,
                sha256: Sha256::of(b""),
                raw,
            },
        }
    }

    fn entry(raw_offset: u64, length: u64) -> Entry {
        Entry {
            id: "7".into(),
            kind: EntryKind::TableData,
            name: "public.\"Ünï\n\"".into(),
            raw_offset,
            length,
            rows: Some(1),
        }
    }

    proptest! {
        #[test]
        fn an_index_is_read_back_and_finds_every_range(
            sizes in prop::collection::vec((any::<bool>(), 1u32..9, 0u32..9), 1..40),
            from in 0u64..400, length in 1u64..100,
        ) {
            let frames = frames(&sizes);
            let manifest = manifest_of(&frames);
            let total = manifest.raw.bytes;
            let index = Index::new(frames, (0..total).map(|offset| entry(offset, 1)).collect());
            let mut bytes = Vec::new();
            index.write(&manifest.name, &mut bytes).unwrap();
            prop_assert_eq!(&Index::read(&manifest, &bytes[..]).unwrap(), &index);

            let begins: Vec<u64> = index.frames.iter().scan(0, |at, frame| { let begins = *at; *at += u64::from(frame.raw); Some(begins) }).collect();
            for entry in &index.entries {
                let frame = usize::try_from(entry.frame).unwrap();
                prop_assert!((begins[frame]..begins[frame] + u64::from(index.frames[frame].raw)).contains(&entry.raw_offset));
            }
            let range = from.min(total)..(from + length).min(total);
            if !range.is_empty() {
                let (found, start) = index.frames_of(&range);
                prop_assert_eq!(start, begins[found.start]);
                prop_assert!(start <= range.start && range.start < start + u64::from(index.frames[found.start].raw));
                let end: u64 = start + index.frames[found.clone()].iter().map(|frame| u64::from(frame.raw)).sum::<u64>();
                let last = index.frames[found.end - 1];
                prop_assert!(end >= range.end && end - u64::from(last.raw) < range.end);
            }
        }
    }

    type Change<'a> = &'a dyn Fn(&mut Vec<IndexFrame>);

    #[test]
    fn an_index_that_does_not_add_up_is_refused() {
        let frames = frames(&[(false, 5, 4), (false, 6, 4), (true, 7, 4)]);
        let manifest = manifest_of(&frames);
        let lines = |change: &dyn Fn(&mut Vec<IndexFrame>)| {
            let mut frames = frames.clone();
            change(&mut frames);
            let mut bytes = Vec::new();
            Index::new(frames, vec![entry(0, 12)]).write(&manifest.name, &mut bytes).unwrap();
            bytes
        };
        assert!(Index::read(&manifest, &lines(&|_| ())[..]).is_ok());
        let changes: [Change<'_>; 9] = [
            &|frames| frames.truncate(2),
            &|frames| *frames = frames[1..].to_vec(),
            &|frames| frames[1].offset += 1,
            &|frames| frames[1].raw += 1,
            &|frames| frames[2].stored += 1,
            &|frames| frames[2].part = 3,
            &|frames| frames.swap(0, 1),
            &|frames| frames[0].raw = (4 << 20) + 1,
            &|frames| frames[0].stored = 5 << 20,
        ];
        for (number, change) in changes.iter().enumerate() {
            assert!(Index::read(&manifest, &lines(change)[..]).is_err(), "change {number} was accepted");
        }
        let whole = lines(&|_| ());
        for length in 0..whole.len() {
            assert!(Index::read(&manifest, &whole[..length]).is_err(), "{length} bytes were accepted");
        }
        let newer = String::from_utf8(whole)
            .unwrap()
            .replace("\"version\":\"1.0\"", "\"version\":\"2.0\"");
        assert!(
            Index::read(&manifest, newer.as_bytes())
                .unwrap_err()
                .to_string()
                .contains("newer Holdfast")
        );
    }
}
