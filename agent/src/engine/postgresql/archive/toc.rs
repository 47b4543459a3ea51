//! Header and table of contents.

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

    pub(super) fn size(&self) -> usize {
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
