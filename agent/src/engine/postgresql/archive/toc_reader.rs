//! Header and table of contents, read from pieces that may end anywhere.

use super::ArchiveError;
use super::primitive::{Number, Taken, Text};
use super::toc::{Compression, Entry, Header, Keep, Toc, Version};

/// The fields of the header after its fixed bytes, in order; those of an entry follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Fixed,
    CompressionInt,
    CompressionByte,
    Time(usize),
    Database,
    ServerVersion,
    ToolVersion,
    Count,
    DumpId,
    HasData,
    TableOid,
    Oid,
    Tag,
    Desc,
    Section,
    Definition,
    Drop,
    Copy,
    Namespace,
    Tablespace,
    AccessMethod,
    Relkind,
    Owner,
    WithOids,
    Dependency,
    Offset,
}

/// What became of the input.
pub(super) enum Progress {
    /// More input is needed.
    More,
    /// The archive's version is unknown: nothing after the fixed bytes can be read.
    Unknown(Version),
    /// Header and TOC are complete.
    Done(Box<Toc>),
}

/// Reads header and TOC.
#[derive(Debug)]
pub(super) struct TocReader {
    keep: Keep,
    field: Field,
    raw: Vec<u8>,
    number: Number,
    text: Text,
    header: Header,
    left: u64,
    count: u64,
    entry: Entry,
    entries: Vec<Entry>,
    kept_bytes: usize,
}

/// Magic, version (3), sizes (2), format.
const FIXED: usize = 11;

impl TocReader {
    pub(super) fn new(keep: Keep) -> Self {
        let header = Header {
            version: Version { major: 0, minor: 0 },
            revision: 0,
            int_size: 4,
            offset_size: 8,
            compression: Compression::None,
            time: [0; 7],
            database: Vec::new(),
            server_version: Vec::new(),
            tool_version: Vec::new(),
        };
        Self {
            keep,
            field: Field::Fixed,
            raw: Vec::new(),
            number: Number::default(),
            text: Text::default(),
            header,
            left: 0,
            count: 0,
            entry: Entry::default(),
            entries: Vec::new(),
            kept_bytes: 0,
        }
    }

    /// The element that is being read, for the message about a stream that ends in it.
    pub(super) fn within(&self) -> &'static str {
        match self.field {
            Field::Fixed
            | Field::CompressionInt
            | Field::CompressionByte
            | Field::Time(_)
            | Field::Database
            | Field::ServerVersion
            | Field::ToolVersion => "its header",
            _ => "its table of contents",
        }
    }

    /// Reads on. `offset` is the raw offset of the first byte of `input` and only serves messages.
    pub(super) fn feed(&mut self, input: &mut &[u8], offset: u64) -> Result<Progress, ArchiveError> {
        let given = input.len() as u64;
        loop {
            let at = offset + given - input.len() as u64;
            match self.field {
                Field::Fixed | Field::CompressionByte | Field::Offset => {
                    let wanted = match self.field {
                        Field::Fixed => FIXED,
                        Field::Offset => usize::from(self.header.offset_size) + 1,
                        _ => 1,
                    };
                    let n = (wanted - self.raw.len()).min(input.len());
                    self.raw.extend_from_slice(&input[..n]);
                    *input = &input[n..];
                    if self.field == Field::Fixed {
                        let seen = self.raw.len().min(5);
                        if self.raw[..seen] != b"PGDMP"[..seen] {
                            return Err(malformed(at, "it does not begin with PGDMP"));
                        }
                    }
                    if self.raw.len() < wanted {
                        return Ok(Progress::More);
                    }
                    let raw = std::mem::take(&mut self.raw);
                    match self.field {
                        Field::Fixed => {
                            if let Some(unknown) = self.fixed(&raw, at)? {
                                return Ok(Progress::Unknown(unknown));
                            }
                        }
                        Field::Offset => {
                            self.entry.offset = raw;
                            if self.entry_done()? {
                                return Ok(Progress::Done(Box::new(self.toc())));
                            }
                        }
                        _ => {
                            self.header.compression = if raw[0] == 0 {
                                Compression::None
                            } else {
                                Compression::Some(raw[0].into())
                            };
                            self.field = Field::Time(0);
                        }
                    }
                }
                Field::CompressionInt
                | Field::Time(_)
                | Field::Count
                | Field::DumpId
                | Field::HasData
                | Field::Section
                | Field::Relkind => {
                    let Some(value) = self.number.take(input, self.header.int_size.into()) else {
                        return Ok(Progress::More);
                    };
                    if self.number_done(value, at)? {
                        return Ok(Progress::Done(Box::new(self.toc())));
                    }
                }
                _ => {
                    let keep = self.wants_text();
                    match self.text.take(input, self.header.int_size.into(), keep) {
                        Taken::More => {
                            self.check_limit(self.text.held())?;
                            return Ok(Progress::More);
                        }
                        Taken::TooLong(length) => {
                            return Err(malformed(at, &format!("a string in {} would have {length} bytes", self.within())));
                        }
                        Taken::Whole(text) => self.text_done(text, at)?,
                    }
                }
            }
        }
    }

    fn toc(&mut self) -> Toc {
        // The length is set by the caller, who knows the offset.
        Toc {
            header: self.header.clone(),
            entries: std::mem::take(&mut self.entries),
            count: self.count,
            length: 0,
        }
    }

    fn check_limit(&self, more: usize) -> Result<(), ArchiveError> {
        match self.keep {
            Keep::Everything { limit } if self.kept_bytes + more > limit => Err(ArchiveError::TocTooLarge { limit }),
            _ => Ok(()),
        }
    }

    /// Which strings are worth keeping: the rest, definitions above all, would make memory depend on the number of objects.
    fn wants_text(&self) -> bool {
        match (self.keep, self.field) {
            (Keep::Everything { .. }, _)
            | (Keep::DataNames, Field::Database | Field::ServerVersion | Field::ToolVersion | Field::Dependency) => true,
            (Keep::DataNames, Field::Tag | Field::Desc | Field::Copy | Field::Namespace) => self.entry.has_data,
            (Keep::DataNames, _) => false,
        }
    }

    fn fixed(&mut self, raw: &[u8], at: u64) -> Result<Option<Version>, ArchiveError> {
        let (version, int_size, offset_size, format) = (
            Version {
                major: raw[5],
                minor: raw[6],
            },
            raw[8],
            raw[9],
            raw[10],
        );
        if !version.is_known() {
            return Ok(Some(version));
        }
        if !(1..=8).contains(&int_size) || !(1..=8).contains(&offset_size) {
            return Err(malformed(
                at,
                &format!("numbers of {int_size} and offsets of {offset_size} bytes, 1 to 8 are possible"),
            ));
        }
        if format != 1 {
            return Err(malformed(at, &format!("the archive's format is {format}, 1 (custom) is expected")));
        }
        self.header.version = version;
        self.header.revision = raw[7];
        self.header.int_size = int_size;
        self.header.offset_size = offset_size;
        self.field = if version.minor >= 15 {
            Field::CompressionByte
        } else {
            Field::CompressionInt
        };
        Ok(None)
    }

    /// Stores a number and goes on; true at the end of a TOC without entries.
    fn number_done(&mut self, value: i64, at: u64) -> Result<bool, ArchiveError> {
        self.field = match self.field {
            Field::CompressionInt => {
                self.header.compression = if value == 0 { Compression::None } else { Compression::Some(value) };
                Field::Time(0)
            }
            Field::Time(n) => {
                self.header.time[n] = value;
                if n + 1 < self.header.time.len() {
                    Field::Time(n + 1)
                } else {
                    Field::Database
                }
            }
            Field::Count => {
                self.count = u64::try_from(value).map_err(|_| malformed(at, &format!("a table of contents of {value} entries")))?;
                self.left = self.count;
                Field::DumpId
            }
            Field::DumpId => {
                self.entry.dump_id = value;
                Field::HasData
            }
            Field::HasData => {
                self.entry.has_data = match value {
                    0 => false,
                    1 => true,
                    _ => return Err(malformed(at, &format!("{value} where 0 or 1 says whether an entry has data"))),
                };
                Field::TableOid
            }
            Field::Section => {
                self.entry.section = value;
                Field::Definition
            }
            // The only number that is left.
            _ => {
                self.entry.relkind = value;
                Field::Owner
            }
        };
        Ok(self.field == Field::DumpId && self.left == 0)
    }

    fn text_done(&mut self, text: Option<Vec<u8>>, at: u64) -> Result<(), ArchiveError> {
        let entry = &mut self.entry;
        self.field = match self.field {
            Field::Database => {
                self.header.database = text.unwrap_or_default();
                Field::ServerVersion
            }
            Field::ServerVersion => {
                self.header.server_version = text.unwrap_or_default();
                Field::ToolVersion
            }
            Field::ToolVersion => {
                self.header.tool_version = text.unwrap_or_default();
                Field::Count
            }
            Field::TableOid => {
                entry.table_oid = text;
                Field::Oid
            }
            Field::Oid => {
                entry.oid = text;
                Field::Tag
            }
            Field::Tag => {
                entry.tag = text;
                Field::Desc
            }
            Field::Desc => {
                entry.desc = text;
                Field::Section
            }
            Field::Definition => {
                entry.definition = text;
                Field::Drop
            }
            Field::Drop => {
                entry.drop = text;
                Field::Copy
            }
            Field::Copy => {
                entry.copy = text;
                Field::Namespace
            }
            Field::Namespace => {
                entry.namespace = text;
                Field::Tablespace
            }
            Field::Tablespace => {
                entry.tablespace = text;
                Field::AccessMethod
            }
            Field::AccessMethod => {
                entry.access_method = text;
                if self.header.version.minor >= 16 {
                    Field::Relkind
                } else {
                    Field::Owner
                }
            }
            Field::Owner => {
                entry.owner = text;
                Field::WithOids
            }
            Field::WithOids => {
                entry.with_oids = text;
                Field::Dependency
            }
            // The only string that is left: the list ends where there is none.
            _ => match text {
                None => Field::Offset,
                Some(id) if id.is_empty() || !id.iter().all(u8::is_ascii_digit) => {
                    return Err(malformed(at, "a dependency is not a number"));
                }
                Some(id) => {
                    if self.keep != Keep::DataNames {
                        entry.dependencies.push(id);
                    }
                    Field::Dependency
                }
            },
        };
        Ok(())
    }

    /// Stores the entry; true if it was the last.
    fn entry_done(&mut self) -> Result<bool, ArchiveError> {
        let entry = std::mem::take(&mut self.entry);
        if entry.has_data || self.keep != Keep::DataNames {
            let size = entry.size();
            self.check_limit(size)?;
            self.kept_bytes += size;
            self.entries.push(entry);
        }
        self.left -= 1;
        self.field = Field::DumpId;
        Ok(self.left == 0)
    }
}

pub(super) fn malformed(offset: u64, what: &str) -> ArchiveError {
    ArchiveError::Malformed {
        offset,
        what: what.to_owned(),
    }
}
