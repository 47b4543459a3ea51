//! Header and table of contents.

use super::ArchiveError;
use super::primitive::{Number, Taken, Text};

/// The version of the archive format, not of the tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Always 1 so far.
    pub major: u8,
    /// 14 for tools of PostgreSQL 12–15, 15 for 16, 16 for 17 and 18.
    pub minor: u8,
}

impl Version {
    /// The versions whose grammar is known here.
    pub const fn is_known(self) -> bool {
        self.major == 1 && matches!(self.minor, 14..=16)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// How the blocks are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all (`-Z0`): rows can be counted.
    None,
    /// Somehow; the number is what the header holds. The structure can still be checked.
    Some(i64),
}

/// What stands before the TOC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Version of the format.
    pub version: Version,
    /// Third number of the version; says nothing about the grammar.
    pub revision: u8,
    /// Bytes of a number, without its sign.
    pub int_size: u8,
    /// Bytes of an offset, without its flag.
    pub offset_size: u8,
    /// Compression of the blocks.
    pub compression: Compression,
    /// Seconds, minutes, hours, day, month (from 0), year (from 1900), daylight saving: the tool's local time.
    pub time: [i64; 7],
    /// The database that was dumped.
    pub database: Vec<u8>,
    /// The server's version, as it says it.
    pub server_version: Vec<u8>,
    /// The version of the tool that wrote the archive.
    pub tool_version: Vec<u8>,
}

/// An entry of the TOC. Strings are in the encoding of the dump (see the entry `ENCODING`), `None` where the archive has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// The id by which blocks and dependencies name this entry.
    pub dump_id: i64,
    /// Whether a block with data follows the TOC.
    pub has_data: bool,
    /// Oid of the catalogue table, as text.
    pub table_oid: Option<Vec<u8>>,
    /// Oid of the object, as text.
    pub oid: Option<Vec<u8>>,
    /// The object's name.
    pub tag: Option<Vec<u8>>,
    /// The kind of entry: `TABLE`, `TABLE DATA`, `ACL`, `DATABASE PROPERTIES`, …
    pub desc: Option<Vec<u8>>,
    /// 1 none, 2 pre-data, 3 data, 4 post-data.
    pub section: i64,
    /// SQL that makes it.
    pub definition: Option<Vec<u8>>,
    /// SQL that drops it.
    pub drop: Option<Vec<u8>>,
    /// The COPY statement of a table's data.
    pub copy: Option<Vec<u8>>,
    /// Schema.
    pub namespace: Option<Vec<u8>>,
    /// Tablespace.
    pub tablespace: Option<Vec<u8>>,
    /// Table access method.
    pub access_method: Option<Vec<u8>>,
    /// Kind of relation (from 1.16).
    pub relkind: i64,
    /// Owner's role.
    pub owner: Option<Vec<u8>>,
    /// Always `false`: whether the table has oids.
    pub with_oids: Option<Vec<u8>>,
    /// Ids, as text, of the entries that must come first.
    pub dependencies: Vec<Vec<u8>>,
    /// Flag and bytes of the offset as they stand.
    pub offset: Vec<u8>,
}

impl Entry {
    /// The entry's name for people: `schema.name`, or the name alone.
    pub fn qualified_name(&self) -> String {
        let tag = lossy(self.tag.as_deref());
        match self.namespace.as_deref() {
            Some(namespace) if !namespace.is_empty() => format!("{}.{tag}", String::from_utf8_lossy(namespace)),
            _ => tag,
        }
    }

    /// The kind of entry for comparison: `TABLE DATA`, `ACL`, …
    pub fn kind(&self) -> &[u8] {
        self.desc.as_deref().unwrap_or_default()
    }

    fn size(&self) -> usize {
        let texts = [
            &self.table_oid,
            &self.oid,
            &self.tag,
            &self.desc,
            &self.definition,
            &self.drop,
            &self.copy,
        ];
        let names = [&self.namespace, &self.tablespace, &self.access_method, &self.owner, &self.with_oids];
        let texts = texts.into_iter().chain(names).flatten().map(Vec::len).sum::<usize>();
        size_of::<Self>() + texts + self.dependencies.iter().map(|id| id.len() + size_of::<Vec<u8>>()).sum::<usize>()
    }
}

fn lossy(bytes: Option<&[u8]>) -> String {
    String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
}

/// Which entries, and which of their strings, stay in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Name and kind of the entries with data: enough to check a stream.
    DataNames,
    /// Everything, up to so many bytes: to plan a restore.
    Everything {
        /// Bytes.
        limit: usize,
    },
}

/// Header and entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toc {
    /// The header.
    pub header: Header,
    /// The entries in the order of the archive; with [`Keep::DataNames`] only those with data.
    pub entries: Vec<Entry>,
    /// How many entries the archive has.
    pub count: u64,
    /// Length in bytes of header and TOC.
    pub length: u64,
}

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
